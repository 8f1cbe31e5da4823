"""What is held of a run that has ended and waits for its tracker: little, whatever its size, and all that is needed."""

import gc
import sys
from collections.abc import Iterable
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import msgspec
import pytest

from pipetrail import api, capture, recording
from pipetrail.delivery.book import Book
from pipetrail.delivery.ledger import Entry
from pipetrail.delivery.plan import Delivered
from pipetrail.delivery.progress import Progress
from pipetrail.delivery.runs import RunState
from pipetrail.sources import argo
from pipetrail.targets.target import Handle

DATA = Path(__file__).parents[1] / "data"
FOLDERS = sorted(f"{p.parent.name}/{p.name}" for kind in ("argo", "kfp") for p in (DATA / kind).iterdir() if p.is_dir())
MOST_BYTES = 4096
REF = api.TargetRef(kind="TrackingTarget", name="mlflow", namespace="team")


def size(root: Any) -> int:
    """Bytes of all that `root` alone holds: no types, modules, functions, and nothing twice."""
    seen: set[int] = set()
    waiting, total = [root], 0
    while waiting:
        held = waiting.pop()
        if id(held) in seen or isinstance(held, type | ModuleType | FunctionType):
            continue
        seen.add(id(held))
        total += sys.getsizeof(held)
        waiting += _parts(held)
    return total


def _parts(held: Any) -> Iterable[Any]:
    if isinstance(held, msgspec.Struct):  # the collector is told nothing of some
        return [getattr(held, name) for name in held.__struct_fields__]
    return gc.get_referents(held)


def entry(policy: api.Policy) -> Entry:
    run = api.RunRef(source="argo", name="run", uid="u", key="c/u")
    return Entry(
        name=api.tracked_run_name("run", "u", REF), namespace="team", version="1",
        spec=api.TrackedRunSpec(run=run, target=REF, policy=policy), status=api.TrackedRunStatus(phase="Tracking"),
    )  # fmt: skip


async def tried(folder: str) -> RunState:
    """A run that has ended, as it is held after it was read for a target and its tracker did not answer."""
    recorded = recording.load(DATA / folder)
    body, facts = recorded.fold()
    state = RunState(argo.header(body))
    state.facts = facts
    reader = recorded.reader()
    reading = await capture.reading(body, state.facts, state.said.at(body, reader), cluster="c")
    await capture.capture(reading, reader, capture.wants(api.Policy()), state.files)
    state.progress[REF] = Progress(entry(api.Policy()), unsure=False)
    return state


@pytest.mark.parametrize("folder", FOLDERS)
async def test_a_run_that_rests_takes_at_most_4_kib(folder: str) -> None:
    state = await tried(folder)
    before = size(state)
    state.rest()
    state.progress[REF].rest()
    held = size(state) - size(state.progress[REF].entry)  # that is the book's
    print(f"{folder}: {before:,} bytes, at rest {held:,}")
    pods = len(recording.load(DATA / folder).fold()[1].pods)
    assert held <= MOST_BYTES + max(0, pods - 10) * 200
    assert not state.awake


@pytest.mark.parametrize("folder", FOLDERS)
async def test_a_run_that_wakes_knows_its_pods_and_what_was_small_of_the_rest(folder: str) -> None:
    state = await tried(folder)
    before, files = state.facts, repr(state.files.items())  # NaN is not equal to itself
    state.rest()
    assert state.facts.pods == before.pods
    assert state.facts.results in (before.results, {})
    assert repr(state.files.items()) in (files, "()")
    assert state.awake


async def test_annotations_that_no_rule_looks_at_are_not_held() -> None:
    meta = {
        "uid": "u",
        "name": "run",
        "namespace": "team",
        "annotations": {"notes": "x" * 9999, api.TARGETS_ANNOTATION: "a"},
    }
    state = RunState(argo.header({"metadata": meta}))
    state.rest()
    assert state.header.annotations == {api.TARGETS_ANNOTATION: "a"}


async def test_a_tracker_run_that_was_forgotten_is_looked_for_and_one_that_never_was_is_not() -> None:
    begun, made = (Progress(entry(api.Policy()), unsure=False) for _ in range(2))
    made.handles["c/u"] = Handle(id="7")
    made.delivered["c/u"] = Delivered()
    for progress in (begun, made):
        progress.rest()
    assert (begun.unsure, made.unsure, made.handles, made.delivered) == (False, True, {}, {})


def test_equal_policies_are_held_once() -> None:
    book = Book()
    for n in range(3):
        mine = entry(
            msgspec.json.decode(msgspec.json.encode(api.Policy(naming=api.Naming(layout="Flat"))), type=api.Policy)
        )
        run = msgspec.structs.replace(mine.spec.run, uid=f"u{n}")
        book.add(msgspec.structs.replace(mine, spec=msgspec.structs.replace(mine.spec, run=run)))
    assert len({id(one.spec.policy) for one in book.all()}) == 1
    assert {one.spec.policy.naming.layout for one in book.all()} == {"Flat"}
