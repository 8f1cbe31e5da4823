"""The courier: brings one run's tracker runs to one target, from wherever delivery stands.

Order matters, since we may be killed between any two lines: the intent stands in the ledger before the first call;
look-up by key comes before a create whenever one may have happened; children are complete before the parent says
Finished; the ledger is settled last. Everything that is doubtful is looked at again, before settling and 60 s later:
a create can commit after a look-up said that there is none (measured on MLflow).
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from msgspec.structs import replace

from pipetrail.delivery import ledger as ledgers
from pipetrail.delivery import plan as plans
from pipetrail.delivery.lane import Limiter
from pipetrail.delivery.ledger import Entry, Ledger
from pipetrail.delivery.plan import Delivered
from pipetrail.delivery.progress import Progress
from pipetrail.record import Record
from pipetrail.targets.target import (
    Batch,
    Handle,
    Held,
    Refused,
    Retry,
    Target,
    TargetError,
    TrackerRun,
    Tree,
)

LOOK_AGAIN_S: Final = 60.0
OUTCOME_TAG: Final = "pipetrail.outcome"
NAMESPACE_TAG: Final = "pipetrail.namespace"


class Differs(Exception):
    """The run was retried with other values than those that the tracker already holds and cannot change."""


class Courier:
    """Delivers to one target. `tree` is always the whole picture; what is sent is the difference."""

    def __init__(
        self, target: Target, ledger: Ledger, limiter: Limiter, count: Callable[[str, int], None] | None = None
    ) -> None:
        self._target = target
        self._ledger = ledger
        self._limiter = limiter
        self._count = count or (lambda _name, _n: None)

    async def deliver(
        self, progress: Progress, tree: Tree, record: Record, *, reopened: bool = False, waits: bool = False
    ) -> bool:
        """Bring the tracker to `tree`. True if the run is settled, false if more is to come.

        `waits` says that something could not be read yet (a store is away): all else is delivered, nothing is settled.
        Raises :class:`Differs` before anything is written if `reopened` and a param or point would change.
        """
        fitted = Tree(
            parent=self._target.fit(tree.parent), children=tuple(self._target.fit(child) for child in tree.children)
        )
        for run in fitted.runs:
            progress.note(run, run.changes)
        if progress.unsure or self._late(progress, record):
            await self._look(progress, fitted)
        if reopened and self._differs(progress, fitted):
            raise Differs
        parent = await self._opened(progress, fitted.parent, None)
        for child in fitted.children:
            await self._opened(progress, child, parent)
        for run in (*fitted.children, fitted.parent):
            await self._bring(progress, run, self._note(progress, run, fitted))
        if not record.outcome.settled:
            return False
        if waits:
            await self._say_missing(progress, record)
            return False
        if progress.doubtful_at is not None and self._clock() - progress.doubtful_at < LOOK_AGAIN_S:
            await self._look(progress, fitted)
        await self._settle(progress, fitted, record)
        return True

    async def close_lost(self, progress: Progress, run: TrackerRun) -> str:
        """Close what is there of a run that vanished unseen: Killed, at no time that we could know.

        A parent is told its end last. So where it has one, all has arrived and only the ledger does not know it: then
        nothing is touched, and the outcome that the tracker shows is returned (else an empty text).

        All that says which run it was is a TrackedRun, which a tenant may have written: if what carries the key is of
        another namespace, nothing is touched either (:class:`Refused`).
        """
        await self._found_of(progress.entry, run)
        await self._look(progress, Tree(parent=run))
        parent = progress.delivered.get(run.key)
        if parent is not None and parent.status not in (None, "Running"):
            shown = parent.tags.get(OUTCOME_TAG, "")
            return "" if shown == "deleted" else shown
        for key, handle in progress.handles.items():
            if progress.delivered[key].status == "Running":
                await self._limiter.acquire()
                await self._target.write(handle, Batch(tags={OUTCOME_TAG: "deleted"}, status="Killed"))
        return ""

    async def undouble(self, entry: Entry, run: TrackerRun) -> None:
        """Delete what a create that committed late left of a settled run of which we have no record any more.

        Nobody has written to such a double, so it is still Running, and of several under one key those go. Which one is
        the oldest is no matter here: what is deleted could not be sent again to the one that stays. Raises
        :class:`Refused` if what carries the key is of another namespace.
        """
        several: dict[str, list[Held]] = {}
        for held in await self._found_of(entry, run):
            several.setdefault(held.key, []).append(held)
        for found in several.values():
            ended = [held for held in found if held.status != "Running" or held.handle.id == entry.status.external_id]
            for held in found:
                if ended and held not in ended:
                    await self._limiter.acquire()
                    await self._target.discard(held.handle)
                    self._count("doubles", 1)

    async def _found_of(self, entry: Entry, run: TrackerRun) -> Sequence[Held]:
        """What carries the key of `run`. Raises :class:`Refused` if any of it is of another namespace than `entry`."""
        await self._limiter.acquire()
        found = await self._target.find(run)
        if any(held.tags.get(NAMESPACE_TAG, entry.namespace) != entry.namespace for held in found):
            raise Refused("NotOurs", "what the tracker has under its key is a run of another namespace: left alone")
        return found

    @property
    def _counts_repeats(self) -> bool:
        """A point that is sent again is there twice: what is there must be read, not guessed from latest values."""
        return self._target.capabilities.replay == "ReadBack"

    def _clock(self) -> float:
        return asyncio.get_running_loop().time()

    def _late(self, progress: Progress, record: Record) -> bool:
        """A doubt is a minute old: what committed late is there by now."""
        return (
            progress.doubtful_at is not None
            and self._clock() - progress.doubtful_at >= LOOK_AGAIN_S
            and record.outcome.settled
        )

    async def _look(self, progress: Progress, tree: Tree) -> None:
        """Take what carries our key as what is there; delete doubles, of which the oldest stays."""
        await self._limiter.acquire()
        found = await self._target.find(tree.parent)
        first: dict[str, Held] = {}
        for held in found:
            if held.key not in first:
                first[held.key] = held
                continue
            await self._limiter.acquire()
            await self._target.discard(held.handle)
            self._count("doubles", 1)
        wanted = {run.key: run for run in tree.runs}
        for key, held in first.items():
            whole = held
            unread = key in wanted and not held.whole
            if unread and (self._counts_repeats or wanted[key].figures or plans.series_keys(wanted[key])):
                await self._limiter.acquire()
                whole = await self._target.read(held.handle)
            progress.handles[key] = held.handle
            before = progress.delivered.get(key, Delivered())
            there = plans.from_held(whole)
            figures = {**before.figures, **there.figures}
            progress.delivered[key] = replace(there, files=before.files, figures=figures)
            unknown = [f for f in wanted[key].files if f.path not in before.files] if key in wanted else []
            if unknown:
                await self._limiter.acquire()
                kept = await self._target.kept(held.handle, unknown)
                progress.delivered[key] = plans.with_files(
                    progress.delivered[key], [f for f in unknown if f.path in kept]
                )
        if progress.doubtful_at is not None and self._clock() - progress.doubtful_at >= LOOK_AGAIN_S:
            progress.doubtful_at = None
        progress.unsure = False

    async def _opened(self, progress: Progress, run: TrackerRun, parent: Handle | None) -> Handle:
        there = progress.handles.get(run.key)
        if there is None:
            await self._limiter.acquire()
            try:
                there = await self._target.open(run, parent)
            except Retry as trouble:
                if trouble.doubtful:
                    progress.unsure = True
                    progress.doubtful_at = self._clock()
                raise
            except (TargetError, asyncio.CancelledError):
                progress.unsure = True
                raise
            progress.handles[run.key] = there
            progress.delivered[run.key] = plans.opened(run)
        status = progress.entry.status
        if parent is None and (status.external_id != there.id or status.phase in ("Pending", "Stopped")):
            progress.entry = await self._ledger.write(
                progress.entry, phase="Tracking", external_id=there.id, experiment_id=there.experiment_id,
                url=there.url, opened_at=ledgers.now(), reason="", message="",
            )  # fmt: skip
        return there

    def _note(self, progress: Progress, run: TrackerRun, tree: Tree) -> str:
        if run is not tree.parent:
            return run.note
        children = [progress.handles[c.key] for c in tree.children]
        return self._target.describe(run, children)

    def _differs(self, progress: Progress, tree: Tree) -> bool:
        for run in tree.runs:
            delivered = progress.delivered.get(run.key)
            if delivered is None:
                continue
            made = plans.plan(run, self._note_or_empty(progress, run, tree), delivered)
            if any(c.reason == "Corrected" for c in made.changes):
                return True
        return False

    def _note_or_empty(self, progress: Progress, run: TrackerRun, tree: Tree) -> str:
        known = all(c.key in progress.handles for c in tree.children)
        return self._note(progress, run, tree) if known else run.note

    async def _bring(self, progress: Progress, run: TrackerRun, note: str) -> None:
        made = plans.plan(run, note, progress.delivered[run.key])
        progress.note(run, made.changes)
        if made.batch.empty:
            return
        batch = plans.as_tried(made.batch, progress.tried.get(run.key, {}))
        await self._limiter.acquire()
        try:
            receipt = await self._target.write(progress.handles[run.key], batch)
        except Retry as trouble:
            # What arrived is read back, unless sending it again is the same as once. A write is several requests: some
            # were taken before one was turned away, about which there is no doubt itself.
            progress.unsure |= self._counts_repeats
            if trouble.doubtful and self._counts_repeats:
                progress.doubtful_at = self._clock()  # it may come after the read, and be there twice
            progress.delivered[run.key] = plans.doubted(progress.delivered[run.key], batch)
            progress.tried[run.key] = plans.times(batch)
            raise
        except (TargetError, asyncio.CancelledError):  # also when our token ran out in the middle of it
            progress.unsure = True
            progress.tried[run.key] = plans.times(batch)
            raise
        progress.tried.pop(run.key, None)
        progress.note(run, receipt.changes)
        progress.delivered[run.key] = plans.applied(progress.delivered[run.key], batch, receipt)
        progress.writes += 1
        self._count("points", len(batch.metrics))

    async def _say_missing(self, progress: Progress, record: Record) -> None:
        """The run has ended and is delivered but for what could not be read: say what, once."""
        missing = ledgers.partials(record.partial)
        status = progress.entry.status
        if (status.partial, status.outcome) != (missing, record.outcome.status):
            first = missing[0] if missing else None
            progress.entry = await self._ledger.write(
                progress.entry, outcome=record.outcome.status, partial=missing,
                reason=first.reason if first else "", message=first.message if first else "",
            )  # fmt: skip

    async def _settle(self, progress: Progress, tree: Tree, record: Record) -> None:
        notes = [(run, self._note(progress, run, tree)) for run in tree.runs]
        progress.sent_digest = plans.digest(notes)
        status = progress.entry.status
        doubt = "" if progress.doubtful_at is None else status.doubtful_at or ledgers.now()
        now_so = (progress.sent_digest, record.key.generation, doubt)
        if status.phase == "Synced" and (status.digest, status.generation, status.doubtful_at) == now_so:
            return
        points = sum(len(run.metrics) for run in tree.runs)
        progress.entry = await self._ledger.write(
            progress.entry, phase="Synced", reason="", message="", digest=progress.sent_digest,
            outcome=record.outcome.status, generation=record.key.generation, steps=len(record.steps), metrics=points,
            changes=ledgers.changes(progress.changes), partial=ledgers.partials(record.partial),
            settled_at=ledgers.now(), doubtful_at=doubt, last_error="",
        )  # fmt: skip
        self._count("runs_synced", 1)
        self._count("changes", len(progress.changes))
