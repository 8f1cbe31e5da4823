"""Submits runs as Argo's controller would, and keeps what the judge may know: what was submitted, and nothing else.

Recordings of tests/data and made runs are played onto the API server. What a tracker should show of a run is taken from
the objects that were written, all at once and with no delivery in between (tests/e2e/oracle.py does the same).
"""

import asyncio
import pickle
import random
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from msgspec.structs import replace
from tests.chaos import generating
from tests.chaos.steps import AT_THE_END, Planned
from tests.e2e.stage import RECORDINGS, Stage, until

from pipetrail import api, capture, policy, recording, redact, replay, shape
from pipetrail.kube import ARGO, ApiError
from pipetrail.readers import argo as objects
from pipetrail.readers.live import LiveReader
from pipetrail.record import Frozen
from pipetrail.recording import Event
from pipetrail.settings import Places
from pipetrail.sources import argo
from pipetrail.targets.target import Tree

SUBMITTED: Final = "submitted.pickle"
GONE_S: Final = 60.0
KNOWN_WITHIN_S: Final = 600.0
BY_HAND_WITHIN_S: Final = 8.0
"""A run that ended may be kept 5 s after its end: some are deleted before, some after."""
TTL: Final = {"ttlStrategy": {"secondsAfterCompletion": 0}}


class Submitted(Frozen, frozen=True):
    """One run as it was submitted; times are Unix seconds.

    `tree` is what a tracker that can hold anything would show. `values` are numbers that must be there whatever the
    tree says, `withheld` such as must not. `final_at` is when its last state could first be read, `deleted_at` when
    nobody could any more.
    """

    name: str
    namespace: str
    shape: str
    fate: str
    tree: Tree
    values: tuple[float, ...] = ()
    withheld: tuple[float, ...] = ()
    final_at: float = 0.0
    deleted_at: float = 0.0


def save(runs: Sequence[Submitted], folder: Path) -> None:
    """For the judge: NaN and integers of any size as they are, which JSON would not keep."""
    (folder / SUBMITTED).write_bytes(pickle.dumps(tuple(runs)))


def load(folder: Path) -> tuple[Submitted, ...]:
    """What :func:`save` wrote."""
    found: tuple[Submitted, ...] = pickle.loads((folder / SUBMITTED).read_bytes())
    return found


class Submitting:
    """All that is submitted into one namespace, whose targets pin one policy."""

    def __init__(self, stage: Stage, cluster: str, pinned: api.Policy, seed: int) -> None:
        self.stage = stage
        self._cluster = cluster
        self._policy = pinned
        self._seed = seed
        self._scripts: dict[str, replay.Script] = {}
        self._reader = LiveReader(stage.kube)
        self._deleting = 0
        self._may_delete = asyncio.Event()
        self._may_delete.set()
        self.done: dict[str, Submitted] = {}
        self.final_at: dict[str, float] = {}
        self.gone_at: dict[str, float] = {}  # of those that were deleted
        self.safe: set[str] = set()  # of these what every target or the outbox was seen to have
        self.planned: dict[str, Planned] = {}

    async def submit(self, run: Planned) -> None:
        """Play a run to its end; if it is to go then, it does: at once by its TTL, or some seconds later by hand."""
        script = self._script(run)
        self.planned[run.name] = run

        async def uploaded() -> bool:
            if run.shape not in generating.SHAPES:
                await replay.upload(RECORDINGS / run.shape, script, self.stage.kube, name=run.name)
            return True

        await until(f"the artifacts of {run.name} are in the store", uploaded)  # the API server may be restarting

        def moved(_: replay.Played) -> None:
            self.final_at[run.name] = time.time()

        speed = script.duration_s / run.lasts_s
        await replay.replay(script, self.stage.kube, name=run.name, speed=speed, on_move=moved)
        if run.fate in AT_THE_END:
            if run.fate == "deleted after its end":
                await asyncio.sleep(random.Random(f"{self._seed} {run.name}").uniform(0, BY_HAND_WITHIN_S))
            await self._delete(run)

    async def submit_and_delete(self, run: Planned) -> None:
        """Play a run, and delete it in the midst, once a target has begun with it."""
        playing = asyncio.create_task(self.submit(run))

        async def begun() -> bool:
            return bool(await self.stage.tracked(run.name))

        try:
            await until(f"{run.name} is known to a target", begun, within_s=KNOWN_WITHIN_S, every_s=0.5)
        finally:
            playing.cancel()
            with suppress(asyncio.CancelledError):
                await playing
        await self._delete(run)

    async def hold(self) -> None:
        """Let nothing be deleted from now on, and wait until what is being deleted is gone."""
        self._may_delete.clear()

        async def none() -> bool:
            return not self._deleting

        await until("nothing is being deleted", none, within_s=2 * GONE_S)

    def go_on(self) -> None:
        """Runs may be deleted again."""
        self._may_delete.set()

    async def targets(self) -> list[str]:
        """The names of the namespace's targets."""
        found = await self.stage.kube.get(self.stage._targets)
        return [str(item["metadata"]["name"]) for item in found["items"]]

    async def collect(self) -> None:
        """Read what was written of all runs that still stand."""
        for run in self.planned.values():
            if run.name not in self.done:
                self.done[run.name] = await self._submitted(run)

    async def close(self) -> None:
        """Give connections back."""
        await self._reader.close()

    async def _delete(self, run: Planned) -> None:
        """Delete the Workflow as it stands, keep what stood, and take along what hangs on it, as Kubernetes would."""
        while not self._may_delete.is_set():
            await self._may_delete.wait()
        self._deleting += 1
        try:
            body = await self._gone(run)
            self.gone_at[run.name] = deleted_at = time.time()
            self.done[run.name] = replace(await self._submitted(run, body), deleted_at=deleted_at)
            await until(f"what {run.name} left is gone", lambda: self._collected(run), within_s=GONE_S)
        finally:
            self._deleting -= 1

    async def _gone(self, run: Planned) -> Any:
        """Delete the Workflow; its last body."""
        path = f"{ARGO}/namespaces/{self.stage.namespace}/workflows/{run.name}"
        body: Any = {}

        async def gone() -> bool:
            nonlocal body
            there = await objects.workflow(self.stage.kube, self.stage.namespace, run.name)
            if not there:
                return bool(body)
            body = there
            with suppress(ApiError):  # someone wrote it meanwhile, and there is another last state
                version = {"preconditions": {"resourceVersion": there["metadata"]["resourceVersion"]}}
                await self.stage.kube.delete(path, version)
            return False

        await until(f"{run.name} is deleted", gone, within_s=GONE_S, every_s=0.02)
        return body

    async def _collected(self, run: Planned) -> bool:
        """Pods and results of a run that was deleted: the tier has no collector of garbage."""
        here, left = f"/namespaces/{self.stage.namespace}", 0
        for path in (f"/api/v1{here}/pods", f"{ARGO}{here}/workflowtaskresults"):
            found = await self.stage.kube.get(path, labelSelector=f"workflows.argoproj.io/workflow={run.name}")
            for item in found["items"]:
                left += 1
                with suppress(ApiError):
                    await self.stage.kube.delete(f"{path}/{item['metadata']['name']}", {"gracePeriodSeconds": 0})
        return not left

    async def _submitted(self, run: Planned, last: Any = None) -> Submitted:
        """What is known of a run; `last` is the last body of one that was deleted."""
        known = self._made(run) if run.shape in generating.SHAPES else None

        async def tree() -> Tree:
            return await self._tree(run, last)

        whole = known is not None and run.fate != "deleted while it runs"
        return Submitted(
            name=run.name, namespace=self.stage.namespace, shape=run.shape, fate=run.fate,
            tree=await until(f"{run.name} is read", tree), final_at=self.final_at.get(run.name, 0.0),
            values=known.values if known is not None and whole else (),
            withheld=known.withheld if known is not None else (),
        )  # fmt: skip

    async def _tree(self, run: Planned, last: Any) -> Tree:
        body = last or await self.stage.kube.get(f"{ARGO}/namespaces/{self.stage.namespace}/workflows/{run.name}")
        facts = await objects.facts(self.stage.kube, argo.header(body))
        reading = await capture.reading(body, facts.gone() if last else facts, self._reader, cluster=self._cluster)
        captured = await capture.capture(reading, self._reader, capture.wants(self._policy))
        record = redact.redact(captured, additional_keys=self._policy.redact.additional_keys)
        return shape.shape(record, self._policy, places=Places(), cluster_target=False)

    def _made(self, run: Planned) -> generating.Made:
        return generating.made(run.shape, random.Random(f"{self._seed} {run.name}"))

    def _script(self, run: Planned) -> replay.Script:
        if run.shape in generating.SHAPES:
            return self._scripted(run, self._made(run).events)
        key = f"{run.shape} {run.fate == 'TTL 0'}"
        if key not in self._scripts:
            self._scripts[key] = self._scripted(run, recording.load(RECORDINGS / run.shape).events())
        return self._scripts[key]

    def _scripted(self, run: Planned, events: Iterable[Event]) -> replay.Script:
        if run.fate == "TTL 0":
            events = [
                replace(event, body={**event.body, "spec": {**event.body.get("spec", {}), **TTL}})
                if event.kind == "Workflow" else event
                for event in events
            ]  # fmt: skip
        store = None if run.shape in generating.SHAPES else self.stage.store
        return replay.script(events, namespace=self.stage.namespace, store=store, thin=True)


async def policy_of(stage: Stage, target: str) -> api.Policy:
    """What a target of the namespace pins for a run."""
    body: Any = await stage.kube.get(f"{stage._targets}/{target}")
    found = api.decode_target(body)
    assert isinstance(found, api.FoundTarget), found
    return policy.pin(found.spec)
