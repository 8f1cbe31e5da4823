"""One delivery: read the run as it stands, make the record, shape it under the pinned policy, hand it over."""

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from pipetrail import api, observe, policy, shape
from pipetrail.delivery import ledger as ledgers
from pipetrail.delivery.book import Book
from pipetrail.delivery.copies import Copies, Kept
from pipetrail.delivery.courier import LOOK_AGAIN_S, Courier, Differs
from pipetrail.delivery.lane import Done, Later, Verdict
from pipetrail.delivery.ledger import Entry, Ledger
from pipetrail.delivery.namespaces import Namespaces
from pipetrail.delivery.progress import Progress
from pipetrail.delivery.readings import Readings
from pipetrail.delivery.recall import Found, Recall
from pipetrail.delivery.runs import RunState
from pipetrail.delivery.seat import Seat
from pipetrail.kube import KubeError
from pipetrail.readers.overflow import OverflowFailed
from pipetrail.record import ALL_READ, Record, Unread
from pipetrail.settings import Settings
from pipetrail.sources import argo
from pipetrail.targets.target import TrackerRun, Tree

OLD_RUN_S: Final = 60.0
"""A run that is older than this when we first write its intent may have been recorded before: look first. So may one
that a backfill took up."""


class Deliveries:
    """Makes what a courier carries, of a run as it stands or of its copy. It holds no run's state of its own."""

    def __init__(
        self, ledger: Ledger, readings: Readings, settings: Settings, *, book: Book, copies: Copies,
        namespaces: Namespaces, decide: Callable[[Seat, argo.Header], policy.Decision],
        learn: Callable[[argo.Header], Awaitable[None]], recall: Recall,
    ) -> None:  # fmt: skip
        self._ledger = ledger
        self._readings = readings
        self._settings = settings
        self._book = book
        self._copies = copies
        self._recall = recall
        self._namespaces = namespaces
        self._decide = decide
        self._learn = learn

    async def deliver(self, seat: Seat, courier: Courier, state: RunState) -> Verdict:
        """Bring one run to one target, as far as it can be brought now."""
        entry = self._book.get(state.id, seat.ref)
        reopened = entry is not None and entry.reopened(state.header.generation)
        if entry is not None and entry.repolicy and entry.settled:
            return await self._repolicied(seat, state, entry)
        if entry is not None and entry.settled and not reopened and not _unfinished(seat, state, entry):
            return await self._rest(seat, state)
        found = await self.find(seat, state)
        if found is None:
            kept = state.only_kept and self._copies.of(state.id, seat.ref) is not None
            return Later(after_s=0.05, trouble=False) if kept else Done()  # it was put aside while we looked
        record = found.record
        progress = await self.begun(seat, state, found)
        unread = found.unread
        if not unread.nothing and progress.missing_for_s() >= api.seconds(seat.spec.delivery.max_elapsed):
            unread = ALL_READ  # it will not come: what there is goes as it is
        waits = not unread.nothing
        try:
            tree = self._tree(seat, progress.entry, record, unread)
            settled = await courier.deliver(progress, tree, record, reopened=reopened, waits=waits)
        except Differs:
            await self._next_attempt(seat, state, progress, record)
            return Later(after_s=0.05, trouble=False)
        finally:
            self._book.add(progress.entry)
        if waits:
            return Later(after_s=progress.wait_s(), trouble=False)
        progress.has_all()
        sent, progress.writes = progress.writes > 0, 0
        progress.written |= sent
        if not settled:
            return Done(sent=sent)
        if progress.entry.repolicy:
            return Later(after_s=0.05, trouble=False)
        if progress.doubtful_at is not None:
            return Later(after_s=LOOK_AGAIN_S + 1.0, trouble=False)
        return await self._rest(seat, state, sent=sent)

    async def find(self, seat: Seat, state: RunState) -> Found | None:
        """The record as it is to be delivered now: of the run as it stands or, where that is gone, of its copy.

        None if there is none (yet): the target leaves the run alone, it has not begun, or it runs again.
        """
        entry = self._book.get(state.id, seat.ref)
        kept = self._copies.of(state.id, seat.ref)
        if state.only_kept:
            return None if kept is None else await self._recall.found(state, kept)
        if entry is None:
            await self._learn(state.header)  # a run whose template opts out is not even read
        pinned = self._pinned(seat, state, entry)
        read = None if pinned is None else await self._readings.read(state)
        if entry is None and read is not None:
            await self._learn(state.header)
            pinned = self._pinned(seat, state, entry)  # the survey knew its metadata alone
        if pinned is None or read is None:
            return None
        reading, moment = read
        if entry is None and (left := policy.tracked_already(reading.record, seat.spec)) is not None:
            observe.log().debug("left", run=run_name(state), target=str(seat.ref), rule=left.rule, why=left.why)
            state.left_by = left.rule
            return None
        if kept is not None and _holds_more(kept, state):
            found = await self._recall.found(state, kept)
            if found is not None:
                return found
        outcome = reading.record.outcome
        if reading.record.started is None and not outcome.settled:
            return None  # a tracker fixes a run's start when it is made, so we wait until it has one
        if entry is not None and entry.reopened(state.header.generation) and not outcome.settled:
            return None  # whether a retried run changes what was delivered is known when it has ended
        record, unread = await self._readings.record(state, reading, moment, pinned)
        return Found(record=record, policy=pinned, unread=unread)

    async def begun(self, seat: Seat, state: RunState, found: Found) -> Progress:
        """How far the delivery is; its intent stands."""
        async with state.capturing:  # a lane and the keeper may begin it at once
            progress = state.progress.get(seat.ref)
            if progress is None:
                entry = self._book.get(state.id, seat.ref)
                progress = state.progress[seat.ref] = await self._begin(seat, state, entry, found)
            return progress

    def _pinned(self, seat: Seat, state: RunState, entry: Entry | None) -> api.Policy | None:
        """The policy that this run has for this target; None if the target leaves it alone."""
        if entry is not None:
            return entry.spec.policy
        match self._decide(seat, state.header):
            case policy.Left(rule=rule, why=why):
                observe.log().debug("left", run=run_name(state), target=str(seat.ref), rule=rule, why=why)
                return None
            case policy.Taken(policy=pinned):
                return pinned

    async def _begin(self, seat: Seat, state: RunState, entry: Entry | None, found: Found) -> Progress:
        """Where a delivery starts from: its intent, written now if it wasn't."""
        fresh, record = False, found.record
        if entry is None:
            entry, fresh = await self._intent(seat, state, found)
            self._book.add(entry)
        lost = seat.ref in state.lost
        state.lost = tuple(ref for ref in state.lost if ref != seat.ref)
        recorded_before = seat.ref in state.earlier_for or _age_s(record) > OLD_RUN_S
        progress = Progress(entry, unsure=not fresh or lost or recorded_before)
        if not fresh or lost:
            progress.doubtful_at = _now()  # a create of the process before us may still commit
        return progress

    async def _intent(self, seat: Seat, state: RunState, found: Found) -> tuple[Entry, bool]:
        record, spec = found.record, found.spec
        if spec is None:
            stub = self._shape(seat, record, found.policy)
            return await self._ledger.intent(
                record.namespace, _run_ref(state, record), seat.ref, found.policy, experiment=stub.parent.experiment
            )
        kept = self._copies.of(state.id, seat.ref)
        if kept is None or kept.cover.namespace_uid != self._namespaces.uid(record.namespace):
            return ledgers.unkept(record.namespace, spec), False  # what has that name now need not know of the run
        return await self._ledger.intent(
            record.namespace, spec.run, seat.ref, spec.policy, experiment=spec.experiment, attempt=spec.attempt,
            supersedes=spec.supersedes,
        )  # fmt: skip

    async def _rest(self, seat: Seat, state: RunState, *, sent: bool = False) -> Verdict:
        """The target has all of it: the copy, if there is one, has done its service."""
        if state.settled_at is None:
            state.settled_at = _now()
        kept, entry = self._copies.of(state.id, seat.ref), self._book.get(state.id, seat.ref)
        if kept is not None and entry is not None and entry.status.phase != "Failed":
            try:
                await self._copies.remove(kept)
            except (KubeError, OverflowFailed) as error:
                observe.log().warning("copy not removed", run=run_name(state), cause=str(error))  # tried again
        return Done(sent=sent)

    async def _next_attempt(self, seat: Seat, state: RunState, old: Progress, record: Record) -> None:
        """An ``argo retry`` changed what a tracker can't change: the new generation gets a tracker run of its own."""
        spec = old.entry.spec
        entry, fresh = await self._ledger.intent(
            record.namespace, _run_ref(state, record), seat.ref, spec.policy, experiment=spec.experiment,
            attempt=spec.attempt + 1, supersedes=old.entry.status.external_id,
        )  # fmt: skip
        state.progress[seat.ref] = Progress(entry, unsure=not fresh)
        old.entry = entry

    async def _repolicied(self, seat: Seat, state: RunState, old: Entry) -> Verdict:
        """Someone asked for the run under the target's policy of today: it gets another tracker run."""
        pinned = policy.pin(seat.spec)
        found = await self._anew(seat, state, pinned)
        if found is None:
            return Done()
        if not found.record.outcome.settled:
            return Done()  # a retry of it runs: it has its turn when that ends
        new = old
        if pinned != old.spec.policy:
            record = found.record
            stub = self._shape(seat, record, pinned)
            new, _ = await self._ledger.intent(
                record.namespace, _run_ref(state, record), seat.ref, pinned, experiment=stub.parent.experiment,
                attempt=old.spec.attempt + 1, supersedes=old.status.external_id,
            )  # fmt: skip
        state.progress.pop(seat.ref, None)
        # The intent stands first: killed in between we would find it, and the old wish on what is not the newest.
        if new is old:
            said: dict[str, str] = {"phase": "Pending", "message": "asked to send it again; the policy is the same"}
        else:
            said = {"message": f"sent again under another policy: {new.name}"}
            if old.status.phase == "Failed":
                said |= {"phase": "Stopped", "reason": "Superseded"}
        done = await self._ledger.write(old, **said, resent=old.resend)
        self._book.add(done if new is old else new)
        return Later(after_s=0.05, trouble=False)

    async def _anew(self, seat: Seat, state: RunState, pinned: api.Policy) -> Found | None:
        """The record under another policy: of what the outbox holds no file can be read again for it."""
        kept = self._copies.of(state.id, seat.ref)
        if state.only_kept:
            return None if kept is None else await self._recall.found(state, kept, pinned)
        read = await self._readings.read(state)
        if read is None:
            return None
        record, unread = await self._readings.record(state, *read, pinned)
        return Found(record=record, policy=pinned, unread=unread)

    def _tree(self, seat: Seat, entry: Entry, record: Record, unread: Unread) -> Tree:
        """The tracker runs, in the experiment that was named when the run was first seen."""
        spec = entry.spec
        tree = self._shape(seat, record, spec.policy, attempt=spec.attempt, supersedes=spec.supersedes, unread=unread)
        if not spec.experiment or tree.parent.experiment == spec.experiment:
            return tree

        def pin(run: TrackerRun) -> TrackerRun:
            return msgspec.structs.replace(run, experiment=spec.experiment)

        return Tree(parent=pin(tree.parent), children=tuple(pin(child) for child in tree.children))

    def _shape(
        self, seat: Seat, record: Record, pinned: api.Policy, *, attempt: int = 1, supersedes: str = "",
        unread: Unread = ALL_READ,
    ) -> Tree:  # fmt: skip
        return shape.shape(
            record, pinned, places=self._settings.places, cluster_target=seat.ref.kind == "ClusterTrackingTarget",
            attempt=attempt, supersedes=supersedes, unread=unread,
        )  # fmt: skip


def run_name(state: RunState) -> str:
    """namespace/name, for logs."""
    return f"{state.header.namespace}/{state.header.name}"


def _unfinished(seat: Seat, state: RunState, entry: Entry) -> bool:
    """A settled run that we still hold: late outputs of killed nodes, or a doubt that is to be looked at."""
    return entry.status.phase == "Synced" and (seat.ref in state.progress or bool(entry.status.doubtful_at))


def _holds_more(kept: Kept, state: RunState) -> bool:
    """A copy from before a restart counts, unless the run still stands, in another version and with its pods.

    Files and logs were read for it that may be gone. So it is where this process read them, and holds them no more.
    """
    cover = kept.cover
    if not (kept.whole and (kept.inherited or state.files_dropped)) or cover.generation != state.header.generation:
        return False
    pods_go = state.lifetime is not None and state.lifetime.pods_go
    return cover.version == state.header.version or pods_go or state.last_body is not None


def _run_ref(state: RunState, record: Record) -> api.RunRef:
    return api.RunRef(
        source=record.source, name=record.name, uid=state.uid, key=record.key.run, pipeline=record.pipeline,
        generation=record.key.generation,
    )  # fmt: skip


def _age_s(record: Record) -> float:
    since = record.created or record.started
    return 0.0 if since is None else (dt.datetime.now(dt.UTC) - since).total_seconds()


def _now() -> float:
    return asyncio.get_running_loop().time()
