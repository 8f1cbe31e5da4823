"""The judge is judged: what is planted in a tracker it finds, each thing as what it is, and nothing besides.

Runs are brought to real trackers otherwise than they were submitted: one point less, one value off by its last bit, one
time by a millisecond, a child that is gone. MLflow is its own client on a database, Neptune the contract server.
"""

import asyncio
import copy
import json
import math
import random
import shutil
import struct
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from tests.chaos import generating
from tests.chaos.judge import Finding, Timeline, judged, timeline
from tests.chaos.reading import Fits, Place, fits, read
from tests.chaos.submitting import Submitted
from tests.e2e import oracle
from tests.real import neptune

from pipetrail import api, shape
from pipetrail.settings import Places
from pipetrail.sources import argo
from pipetrail.targets.neptune.target import NeptuneTarget
from pipetrail.targets.target import Batch, Metric, Target, TrackerRun
from pipetrail.targets.tensorboard.target import TensorboardTarget

TWICE = ("a run is there twice", "a child is there twice")  # of which a target of ours makes no second one
STRAY = "of.another.parent"
NEVER = Timeline(up=((0.0, math.inf),))
SHAPE = {"a value of an attempt that failed": "made-retried"}
Runs = list[TrackerRun]


def submitted(plant: str) -> Submitted:
    """A run under the plant's name, as the submitter would have written it down."""
    kind = SHAPE.get(plant, "made-sweep")
    made = generating.made(kind, random.Random(plant))
    name = plant.replace(" ", "-")
    text = json.dumps(made.events[-1].body).replace(f"uid-of-{kind}-abcde", f"uid-{name}")
    body = json.loads(text.replace(f"{kind}-abcde", name))
    record = argo.read(body, argo.RunFacts(), cluster="c").record
    tree = shape.shape(record, api.Policy(), places=Places(), cluster_target=False)
    curve = tuple(
        Metric(key="curve", value=math.ldexp(1 + n / 7, -n), step=n, time_ms=1_795_000_003_000 + n) for n in range(4)
    )
    tree = replace(tree, parent=replace(tree.parent, metrics=(*tree.parent.metrics, *curve)))
    return Submitted(
        name=name, namespace="team-a", shape=kind, fate="stands", tree=tree, values=made.values, withheld=made.withheld,
        final_at=10.0,
    )  # fmt: skip


def point(runs: Runs, which: int, change: Callable[[Metric], Sequence[Metric]], *, key: str = "curve") -> Runs:
    """`runs` with one point of one run replaced."""
    run = runs[which]
    at = next(n for n, m in enumerate(run.metrics) if m.key == key)
    runs[which] = replace(run, metrics=(*run.metrics[:at], *change(run.metrics[at]), *run.metrics[at + 1 :]))
    return runs


def next_float(value: float, *, single: bool) -> float:
    """The next number that the tracker can hold."""
    if not single:
        return math.nextafter(value, math.inf)
    bits = struct.unpack("<I", struct.pack("<f", value))[0] + 1
    return struct.unpack("<f", struct.pack("<I", bits))[0]


def planted(plant: str, run: Submitted, wanted: Runs, *, single: bool, idempotent: bool) -> Runs:
    """What is brought to the tracker instead of `wanted`, parent first."""
    match plant:
        case "nothing":
            return wanted
        case "a point is gone":
            return point(wanted, 0, lambda _: ())
        case "a child is gone":
            return wanted[:-1]
        case "a param is gone":
            return [replace(wanted[0], params={k: v for k, v in wanted[0].params.items() if k != "lr"}), *wanted[1:]]
        case "a point is there twice":  # MLflow keeps one of two that are equal to the millisecond
            return point(wanted, 0, lambda m: (m, replace(m, time_ms=m.time_ms + idempotent)))
        case "a point of a child is there twice":
            return point(wanted, 2, lambda m: (m, replace(m, time_ms=m.time_ms + idempotent)), key="loss")
        case "a run is there twice":
            return [*wanted, wanted[0]]
        case "a child is there twice":
            return [*wanted, wanted[2]]
        case "a value is off by its last bit":
            return point(wanted, 0, lambda m: (replace(m, value=next_float(m.value, single=single)),))
        case "a value of a child is off by its last bit":
            return point(wanted, 1, lambda m: (replace(m, value=next_float(m.value, single=single)),), key="loss")
        case "a time is off by a millisecond":
            return point(wanted, 0, lambda m: (replace(m, time_ms=m.time_ms + 1),))
        case "a step is another":
            return point(wanted, 0, lambda m: (replace(m, step=9),))
        case "a param is another":
            return [replace(wanted[0], params={**wanted[0].params, "data": "s3://data/grosse"}), *wanted[1:]]
        case "a status is another":
            return [replace(wanted[0], status="Failed"), *wanted[1:]]
        case "a child hangs on another run":
            return [wanted[0], wanted[1], replace(wanted[2], tags={**wanted[2].tags, STRAY: "yes"}), wanted[3]]
        case "a value of an attempt that failed":
            return point(wanted, 0, lambda m: (replace(m, value=run.withheld[0]),), key="eval/loss")
        case "nobody submitted it":
            stranger = replace(wanted[0], key="c/stranger", root="c/stranger")
            return [*wanted, replace(stranger, tags={**stranger.tags, "pipetrail.key": "c/stranger"})]
    raise AssertionError(plant)


EXPECTED: dict[str, set[str]] = {
    "nothing": set(),
    "a point is gone": {"lost"},
    "a child is gone": {"lost"},
    "a param is gone": {"lost"},
    "a point is there twice": {"doubled"},
    "a point of a child is there twice": {"doubled"},
    "a run is there twice": {"doubled"},
    "a child is there twice": {"doubled"},
    "a value is off by its last bit": {"changed"},
    "a value of a child is off by its last bit": {"changed", "lost"},  # its number is also not where it was told apart
    "a time is off by a millisecond": {"changed"},
    "a step is another": {"lost", "unexplained"},
    "a param is another": {"changed"},
    "a status is another": {"changed"},
    "a child hangs on another run": {"changed"},
    "a value of an attempt that failed": {"changed", "lost", "unexplained"},
    "nobody submitted it": {"unexplained"},
}


def found(place: Place, runs: Sequence[Submitted]) -> dict[str, set[str]]:
    """What the judge finds, by plant."""
    kinds: dict[str, set[str]] = defaultdict(set)
    kinds |= {run.name: set() for run in runs}
    for finding in judged(place, runs, read(place), NEVER).findings:
        kinds[_plant(finding)].add(finding.kind)
    return {name.replace("-", " "): set(what) for name, what in kinds.items()}


def _plant(finding: Finding) -> str:
    return finding.run.removeprefix("team-a/") or "nobody-submitted-it"


def everything(target: Fits, *, single: bool, idempotent: bool) -> Iterator[tuple[str, Submitted, Runs]]:
    for plant in EXPECTED:
        run = submitted(plant)
        wanted = [target.fit(each) for each in run.tree.runs]
        yield plant, run, planted(plant, run, copy.copy(wanted), single=single, idempotent=idempotent)


async def _brought(target: Target, runs: Runs) -> list[str]:
    """Brought by a target of ours, child after parent; the ids."""
    ids: list[str] = []
    parent = None
    for run in runs:
        above = parent
        if STRAY in run.tags:
            tags = {**runs[0].tags, "pipetrail.key": "c/other"}
            above = await target.open(replace(runs[0], key="c/other", root="c/other", name="other", tags=tags), None)
        handle = await target.open(run, above)
        parent = parent or handle
        ids.append(handle.id)
        batch = Batch(
            params=run.params, tags=run.tags, metrics=run.metrics, note=run.note, status=run.status,
            finished=run.finished,
        )  # fmt: skip
        await target.write(handle, batch)
    return ids


def test_what_is_planted_in_tensorboard_is_found(tmp_path: Path) -> None:
    place = Place("tensorboard", "tensorboard", str(tmp_path), "", ("team-a",))
    target, directory = TensorboardTarget(str(tmp_path), ("team-a",)), tmp_path / "team-a"
    runs: list[Submitted] = []

    async def bring() -> None:
        try:
            for plant, run, mutated in everything(target, single=True, idempotent=False):
                runs.append(run)
                twice = plant in TWICE
                ids = await _brought(target, mutated[:-1] if twice else mutated)
                if twice:
                    (file,) = (directory / ids[mutated.index(mutated[-1])]).glob("events.out.*")
                    again = directory / f"again {run.name}"
                    again.mkdir()
                    shutil.copy(file, again / file.name)
        finally:
            await target.close()

    asyncio.run(bring())
    assert found(place, runs) == EXPECTED


def test_what_is_planted_in_neptune_is_found() -> None:
    with neptune.serving() as server:
        place = Place("neptune", "neptune", server.url, server.url, ("team-a",))
        target = NeptuneTarget(server.url, server.project, server.token())
        runs: list[Submitted] = []

        async def bring() -> None:
            try:
                for plant, run, mutated in everything(target, single=False, idempotent=False):
                    runs.append(run)
                    twice = plant in TWICE
                    await _brought(target, mutated[:-1] if twice else mutated)
                    if twice:
                        _again(server, mutated[-1].key)
            finally:
                await target.close()

        asyncio.run(bring())
        assert found(place, runs) == EXPECTED


def _again(server: neptune.Server, key: str) -> None:
    """The same attributes in one more run; a client that names its own id can't make one."""
    board = "/api/leaderboard/v1"
    (run,) = (r for r in server.runs() if r["attributes"].get("pipetrail/key", ("", ""))[1] == key)
    made = _post(server, f"{board}/experiments", {})
    verbs = {"string": "assignString", "int": "assignInt", "float": "assignFloat", "bool": "assignBool"}
    operations: list[dict[str, Any]] = []
    for path, (kind, value) in run["attributes"].items():
        if kind in verbs and not path.startswith("sys/id"):
            operations.append({"path": path, verbs[kind]: {"value": value}})
        elif kind == "datetime":
            operations.append({"path": path, "assignDatetime": {"valueMilliseconds": value}})
        elif kind == "floatSeries":
            entries = [
                {"value": p["value"], "step": p["step"], "timestampMilliseconds": p["timestampMillis"]} for p in value
            ]
            operations.append({"path": path, "logFloats": {"entries": entries}})
    assert _post(server, f"{board}/attributes/operations?experimentId={made['id']}", operations) == []


def _post(server: neptune.Server, path: str, body: Any) -> Any:
    headers = {"Authorization": "Bearer any", "Content-Type": "application/json"}
    request = urllib.request.Request(server.url + path, json.dumps(body).encode(), headers, method="POST")
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


@pytest.mark.mlflow
def test_what_is_planted_in_mlflow_is_found(tmp_path: Path) -> None:
    place = Place("mlflow", "mlflow", f"sqlite:///{tmp_path}/mlflow.db", "http://127.0.0.1:9", ("team-a",))
    client = oracle.client(place.url)
    target = fits(place)
    runs: list[Submitted] = []
    for _, run, mutated in everything(target, single=False, idempotent=True):
        runs.append(run)
        _bring_to_mlflow(client, target, mutated)
    assert found(place, runs) == EXPECTED


def _bring_to_mlflow(client: Any, target: Fits, runs: Runs) -> None:
    from mlflow.entities import Metric as Point
    from mlflow.entities import Param, RunTag

    from pipetrail.targets.target import Handle

    ended = {"Finished": "FINISHED", "Failed": "FAILED", "Killed": "KILLED"}
    ids: dict[str, Handle] = {}
    parents: list[str] = []
    for run in runs:
        is_child = run.key not in (runs[0].key, "c/stranger")
        above = {"mlflow.parentRunId": "another" if STRAY in run.tags else parents[0]} if is_child else {}
        known = client.get_experiment_by_name(run.experiment)
        experiment = known.experiment_id if known else client.create_experiment(run.experiment)
        made = client.create_run(experiment, start_time=_ms(run.started), run_name=run.name).info.run_id
        ids.setdefault(run.key, Handle(id=made, experiment_id=experiment))
        client.log_batch(
            made,
            [Point(m.key, m.value, m.time_ms, m.step) for m in run.metrics],
            [Param(k, v) for k, v in run.params.items()],
            [RunTag(k, v) for k, v in {**run.tags, **above}.items()],
        )
        if run.key == runs[0].key:
            parents.append(made)
        else:
            client.set_tag(made, "mlflow.note.content", run.note)
        client.set_terminated(made, ended[run.status], _ms(run.finished))
    children = [handle for key, handle in ids.items() if key.startswith(runs[0].root) and key != runs[0].key]
    for parent in parents:
        client.set_tag(parent, "mlflow.note.content", target.describe(runs[0], children))


def _ms(time: Any) -> int:
    return round(time.timestamp() * 1000)


def test_an_excuse_takes_half_a_minute_without_any_operator_and_nothing_readable_before() -> None:
    times = timeline([
        {"what": "operator up", "at": 0.0}, {"what": "operator down", "at": 100.0}, {"what": "fault", "at": 101.0},
        {"what": "operator up", "at": 140.0}, {"what": "operator down", "at": 200.0},
        {"what": "operator up", "at": 210.0}, {"what": "fault", "text": "kill -9 of shard 1", "at": 300.0},
    ])  # fmt: skip
    assert times.down_s(110.0, 120.0) == 40.0
    assert times.down_s(99.0, 120.0) is None  # it could be read for a second
    assert times.down_s(110.0, 141.0) is None
    assert times.down_s(202.0, 204.0) == 10.0
    assert times.down_s(310.0, 350.0) is None  # of two shards one was up
    place = Place("tensorboard", "tensorboard", "/nowhere", "", ("team-a",))
    excuses: dict[float, str] = {}
    for deleted_at in (120.0, 204.0):
        run = replace(submitted("nothing"), final_at=deleted_at - 1, deleted_at=deleted_at)
        tally = judged(place, [run], read(place), times)
        excuses[deleted_at] = tally.findings[0].excuse
        assert tally.count("lost") == (0 if deleted_at == 120.0 else len(tally.findings))
    assert "while no operator was up, for 40 s" in excuses[120.0]
    assert excuses[204.0] == ""
