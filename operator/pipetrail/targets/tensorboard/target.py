"""TensorBoard as a target: a directory of event files. The tracker is whatever reads them; nothing is called.

File work goes to a few threads of the target's own, each with a time-out, so that a file system that hangs holds up its
target alone. What was given up does not write later: a thread looks before it writes.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar, Final, TypeVar

from pipetrail.targets.target import (
    Batch,
    Capabilities,
    Handle,
    Health,
    Held,
    Receipt,
    Refused,
    Retry,
    Target,
    TrackerRun,
)
from pipetrail.targets.tensorboard import figures, links, paths
from pipetrail.targets.tensorboard.fit import fit
from pipetrail.targets.tensorboard.limits import CAPABILITIES
from pipetrail.targets.tensorboard.runs import Found, Parts, Runs
from pipetrail.targets.tensorboard.storage import Given, Storage, trouble

THREADS: Final = 4
CALL_S: Final = 120.0
FORMAT: Final = "brain.Event:2"

T = TypeVar("T")


class TensorboardTarget(Target):
    """The directory at `parts` below `root`. `ui_uri` is the address of a TensorBoard that shows it, if any does."""

    capabilities: ClassVar[Capabilities] = CAPABILITIES

    def __init__(self, root: str, parts: tuple[str, ...] = (), *, ui_uri: str = "", call_s: float = CALL_S) -> None:
        self._storage = Storage(root, parts)
        self._runs = Runs(self._storage)
        self._pages = ui_uri.rstrip("/")
        self._call_s = call_s
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="tensorboard")

    def __repr__(self) -> str:
        """The directory alone."""
        return f"TensorboardTarget({self._storage.where!r})"

    def fit(self, run: TrackerRun) -> TrackerRun:
        """See :func:`pipetrail.targets.tensorboard.fit.fit`."""
        return fit(run)

    def describe(self, run: TrackerRun, children: Sequence[Handle]) -> str:
        """The run's note, headed by the link to the table that compares its children."""
        return links.with_compare(run.note, self._pages, children)

    async def check(self) -> Health:
        """Write a little and delete it again."""
        await self._call(lambda _: self._storage.probe())
        return Health(version=FORMAT)

    async def find(self, run: TrackerRun) -> Sequence[Held]:
        """What carries the root key, read whole. A run that someone deleted is as one that never was."""
        return [self._held(found) for found in await self._call(lambda _: self._runs.find(run))]

    async def open(self, run: TrackerRun, parent: Handle | None) -> Handle:
        """A folder with the run's event file, key and tags in its first records. Children lie in their parent's."""
        above = None if parent is None else _parts(parent)
        return self._handle(await self._call(lambda given: self._runs.open(run, above, given)))

    async def write(self, handle: Handle, batch: Batch) -> Receipt:
        """Draw the figures, then append all of the batch and flush it to the disk."""
        parts = _parts(handle)
        if batch.figures:  # pictures cost CPU: none is drawn for a volume that is full
            await self._call(lambda _: self._storage.probe())
        drawn = await figures.draw(batch.figures)
        return Receipt(changes=await self._call(lambda given: self._runs.write(parts, batch, drawn, given)))

    async def discard(self, handle: Handle) -> None:
        """Delete the event file of ours that is there."""
        parts = _parts(handle)
        await self._call(lambda _: self._runs.discard(parts))

    async def read(self, handle: Handle) -> Held:
        """All that the event file holds."""
        parts = _parts(handle)
        return self._held(await self._call(lambda _: self._runs.read(parts)))

    async def close(self) -> None:
        """Start no more threads; those that write end by themselves."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _call(self, work: Callable[[Given], T]) -> T:
        given = Given()

        def run() -> T:
            try:
                return work(given)
            except OSError as error:
                raise trouble(error, self._storage.where) from None

        try:
            submitted: asyncio.Future[T] = asyncio.get_running_loop().run_in_executor(self._threads, run)
        except RuntimeError:
            raise Retry("Unreachable", "the target was given up: another has its place") from None
        try:
            async with asyncio.timeout(self._call_s):
                return await submitted
        except TimeoutError:
            given.up()
            said = f"{self._storage.where}: nothing came back for {self._call_s:.0f} s"
            raise Retry("StorageSlow", said, doubtful=True) from None
        except asyncio.CancelledError:
            given.up()
            raise

    def _handle(self, parts: Parts) -> Handle:
        where = "/".join(parts)
        return Handle(id=where, experiment_id="/".join(parts[:-1]), url=links.run_page(self._pages, where))

    def _held(self, found: Found) -> Held:
        state = found.state
        return Held(
            key=state.opening.key, handle=self._handle(found.parts), name=state.opening.name, status=state.status,
            started_ms=state.opening.started_ms, finished_ms=state.finished_ms, params=state.params, tags=state.tags,
            metrics=found.journal.metrics, note=state.note, figures=state.figures, whole=True,
        )  # fmt: skip


def _parts(handle: Handle) -> Parts:
    found = paths.parts(handle.id)
    if found is None:
        raise Refused("RunGone", f"{handle.id!r} is no folder of a run")
    return found
