"""Submits runs as Argo's controller would, and keeps what the judge may know: what was submitted, and nothing else.

Recordings of tests/data and made runs are played onto the API server. What a tracker should show of a run is taken from
the objects that were written, all at once and with no delivery in between (tests/e2e/oracle.py does the same).
"""

import asyncio
import pickle
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from msgspec.structs import replace
from tests.chaos import generating
from tests.chaos.steps import Planned
from tests.e2e.stage import Stage, until

from pipetrail import api, capture, policy, redact, replay, shape
from pipetrail.kube import ARGO, ApiError
from pipetrail.readers import argo as objects
from pipetrail.readers.live import LiveReader
from pipetrail.record import Frozen
from pipetrail.settings import Places
from pipetrail.sources import argo
from pipetrail.targets.target import Tree

SUBMITTED: Final = "submitted.pickle"
GONE_S: Final = 30.0


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
        self.done: dict[str, Submitted] = {}
        self.final_at: dict[str, float] = {}
        self.planned: dict[str, Planned] = {}

    @property
    def under_way(self) -> int:
        """Runs that are being played."""
        return len(self.planned) - len(self.final_at)

    async def submit(self, run: Planned) -> None:
        """Play a run to its end; if its fate is to be deleted at its end, that follows at once."""
        script = self._script(run)
        self.planned[run.name] = run
        if run.shape in generating.SHAPES:
            await replay.replay(script, self.stage.kube, name=run.name, speed=script.duration_s / run.lasts_s)
        else:
            await self.stage.play(run.shape, run=run.name, speed=script.duration_s / run.lasts_s)
        self.final_at[run.name] = time.time()
        if run.fate == "deleted at its end":
            await self._delete(run)

    async def submit_and_delete(self, run: Planned, *, in_all: bool = True) -> None:
        """Play a run, and delete it in the midst, once each target has opened it (or one has heard of it)."""
        playing = asyncio.create_task(self.submit(run))

        async def opened() -> bool:
            found = await self.stage.tracked(run.name)
            if not in_all:
                return bool(found)
            phases = [(t.get("status") or {}).get("phase") for t in found]
            targets = await self.stage.kube.get(self.stage._targets)
            return len(phases) == len(targets["items"]) and set(phases) <= {"Tracking", "Synced"}

        try:
            await until(f"{run.name} is open in all trackers", opened, within_s=120)
        finally:
            playing.cancel()
            with suppress(asyncio.CancelledError):
                await playing
        self.final_at.setdefault(run.name, time.time())
        await self._delete(run)

    async def collect(self) -> None:
        """Read what was written of all runs that still stand."""
        for run in self.planned.values():
            if run.name not in self.done:
                self.done[run.name] = await self._submitted(run)

    async def close(self) -> None:
        """Give connections back."""
        await self._reader.close()

    async def _delete(self, run: Planned) -> None:
        """Delete the Workflow as it stands, and keep what stood."""
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
        self.done[run.name] = replace(await self._submitted(run, body), deleted_at=time.time())

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
            return replay.script(self._made(run).events, namespace=self.stage.namespace, thin=True)
        if run.shape not in self._scripts:
            self._scripts[run.shape] = self.stage.script(run.shape)
        return self._scripts[run.shape]


async def policy_of(stage: Stage, target: str) -> api.Policy:
    """What a target of the namespace pins for a run."""
    body: Any = await stage.kube.get(f"{stage._targets}/{target}")
    found = api.decode_target(body)
    assert isinstance(found, api.FoundTarget), found
    return policy.pin(found.spec)
