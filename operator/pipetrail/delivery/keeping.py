"""The keeper: puts a finished record aside when its tracker does not take it at once and its source may go.

The rule: a run that has ended and that a target does not have yet is kept for that target if its object was deleted, is
being deleted or has a time to live (``ttlStrategy``; of KFP's runs always, whose agent deletes them), or if its pods go
(``podGC``). Anything else still stands after an outage and is read again.

It works beside the lanes: a tracker that is down holds them up, and a record must not wait for it. So while that is so
it also reads what live runs give whose pods go. A key a run, a few at a time; what it holds of a run is what the run's
state holds.
"""

import asyncio
import datetime as dt
from collections.abc import Callable
from typing import Final

from pipetrail import observe
from pipetrail.api import TargetRef
from pipetrail.delivery import outbox
from pipetrail.delivery.book import Book
from pipetrail.delivery.copies import Copies, Kept, look
from pipetrail.delivery.delivery import Deliveries, run_name
from pipetrail.delivery.lane import Done, Lane, Later, Verdict
from pipetrail.delivery.ledger import UNKEPT, Entry, Ledger, Lost
from pipetrail.delivery.namespaces import Namespaces
from pipetrail.delivery.outbox import Copy, Cover
from pipetrail.delivery.recall import Found, Recall
from pipetrail.delivery.refusals import Refusals
from pipetrail.delivery.roster import Roster
from pipetrail.delivery.runs import Runs, RunState
from pipetrail.delivery.seat import Seat
from pipetrail.delivery.secret_chunks import NotKept
from pipetrail.kube import Kube, KubeError
from pipetrail.readers import argo as objects
from pipetrail.readers.overflow import OverflowFailed
from pipetrail.sources import argo

KEEP_AFTER_S: Final = 5.0
"""How long a tracker has for a run that ended, before it is put aside."""
KEEP_GONE_AFTER_S: Final = 1.0
"""The same where the object is gone. A target that is known to take nothing has no time at all."""
AT_ONCE: Final = 8
"""Some of them may wait long for an artifact store that does not answer; the others must not."""
AGAIN_S: Final = 60.0
"""After what nobody foresaw, and while copies could not all be looked at; also the longest pause after the API
server failed us. When a run is due whose copy is refused or lacks something, `refusals.py` says."""
LOOK_EVERY_S: Final = 600.0


class Keeper:
    """Keeps and removes copies; `takers` names the targets that do not have a run yet."""

    def __init__(
        self, kube: Kube, ledger: Ledger, *, book: Book, runs: Runs, roster: Roster, namespaces: Namespaces,
        copies: Copies, recall: Recall, deliveries: Deliveries, takers: Callable[[RunState], list[Seat]],
    ) -> None:  # fmt: skip
        self._kube = kube
        self._ledger = ledger
        self._book = book
        self._runs = runs
        self._roster = roster
        self._namespaces = namespaces
        self._copies = copies
        self._recall = recall
        self._deliveries = deliveries
        self._takers = takers
        self._refusals = Refusals(kube, ledger, book)
        self._garbage_met: set[str] = set()
        self._queue = Lane(self._work, concurrency=AT_ONCE, requests_per_second=50)

    def working(self, uid: str) -> bool:
        """True while a run is being put aside."""
        return self._queue.working(uid)

    def offer(self, state: RunState) -> None:
        """A run has news. If it has ended, its targets have a moment to take it."""
        if state.only_kept or state.archived:
            return
        seats = self._roster.over(state.header.namespace)
        # A target that was not looked at yet, as after a start, is in no trouble that we know of.
        troubled = any((not seat.ready and seat.conditions) or seat.lane.breaker != "Closed" for seat in seats)
        if not (state.last_body is not None or state.header.completed or state.header.deletion):
            if troubled and (state.lifetime is None or state.lifetime.pods_go):
                self._queue.offer(state.uid, group=state.header.namespace, priority="Backfill")
            return
        patience_s = KEEP_AFTER_S if state.last_body is None else KEEP_GONE_AFTER_S
        self._queue.offer(state.uid, after_s=0.0 if troubled else patience_s, group=state.header.namespace)

    @property
    def idle(self) -> bool:
        """True if nothing is being kept, and nothing is to be kept now."""
        return self._queue.idle

    def drain(self) -> None:
        """We are to go: put aside at once what only we know, and nothing else."""
        only = {state.uid: state for state in self._runs.all() if state.only_here}
        self._queue.drain(only.keys())
        for uid, state in only.items():
            self._queue.offer(uid, group=state.header.namespace)

    async def run(self) -> None:
        """Keep, and look now and then at what is kept, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._queue.run(), name="keep")
            tasks.create_task(self._look_forever(), name="look at copies")

    # --- one run ------------------------------------------------------------------------------------------------

    async def _work(self, uid: str) -> Verdict:
        state = self._runs.get(uid)
        if state is None or state.only_kept:
            return Done()
        try:
            return await self._turn(state)
        except (KubeError, Lost, OverflowFailed) as error:
            observe.log().warning("not kept yet", run=run_name(state), cause=str(error))
            return Later(after_s=_pause_s(state), trouble=False)
        except Exception as error:  # noqa: BLE001  one poison run must not stop the keeper
            observe.count("handler_errors")
            observe.log().error("not kept", run=run_name(state), error=observe.where(error))
            return Later(after_s=AGAIN_S, trouble=False)

    async def _turn(self, state: RunState) -> Verdict:
        if self._refusals.shut(state.uid):
            for seat in self._takers(state):
                await self._refusals.tell(seat, state)
            return Later(after_s=self._refusals.again_s(state.uid), trouble=False)
        whole = True
        for seat in self._takers(state):
            whole &= await self._one(seat, state)
        if not whole:
            return Later(after_s=self._refusals.again_s(state.uid), trouble=False)
        if state.last_body is not None:
            async with state.capturing:
                seats = self._takers(state)
                if seats and all(self._copies.of(state.id, seat.ref) is not None for seat in seats):
                    state.release()
        return Done()

    async def _one(self, seat: Seat, state: RunState) -> bool:
        """Keep a run for one target. False if a later try may give more."""
        found = await self._deliveries.find(seat, state)
        if found is None or not found.record.outcome.settled:
            return True
        lifetime = state.lifetime
        if state.last_body is None and (lifetime is None or not (lifetime.object_goes or lifetime.pods_go)):
            return True
        entry = (await self._deliveries.begun(seat, state, found)).entry
        self._book.add(entry)
        if entry.status.phase == "Synced" and not entry.reopened(found.record.key.generation):
            return True  # its tracker has it after all
        copy = Copy(spec=found.spec or entry.spec, record=found.record)
        data = await asyncio.to_thread(outbox.pack, copy)
        try:
            written = await self._copies.keep(self._cover(state, seat.ref, found, data), data)
        except NotKept as refusal:
            await self._refusals.add(seat, state, refusal)
            return False
        if written:
            observe.log().info("kept", run=run_name(state), target=str(seat.ref), bytes=len(data))
        told = await self._refusals.over(seat, state)
        return found.unread.nothing and told

    def _cover(self, state: RunState, ref: TargetRef, found: Found, data: bytes) -> Cover:
        return Cover(
            namespace=state.header.namespace, run=state.header.name, uid=state.uid, target=ref,
            digest=outbox.digest(data), bytes=len(data), chunks=self._copies.chunks(data),
            generation=found.record.key.generation, version=state.header.version,
            pods_go=state.lifetime is not None and state.lifetime.pods_go,
            namespace_uid=self._namespaces.uid(state.header.namespace), kept_at=dt.datetime.now(dt.UTC).isoformat(),
        )  # fmt: skip

    # --- all of them --------------------------------------------------------------------------------------------

    async def resume(self) -> None:
        """Take up what is in the outbox, as if its runs were there. The ledger and the namespaces are known."""
        if not await look(self._copies):
            return
        await self.sweep()
        await self.say_garbage()
        for kept in self._copies.all():
            entry = self._book.get((kept.cover.namespace, kept.cover.uid), kept.cover.target)
            if entry is not None and entry.status.phase == "Failed":
                continue  # until someone asks
            if kept.whole or not await self._stands(kept.cover):
                self._met(kept)
        observe.log().info("outbox read", copies=sum(1 for _ in self._copies.all()))

    def kept(self, entry: Entry) -> RunState | None:
        """The state of a run whose object is gone and whose record is in the outbox for the entry's target, or None."""
        found = self._copies.of((entry.namespace, entry.spec.run.uid), entry.spec.target)
        if found is None:
            return None
        state = self._met(found)
        state.only_kept = state.last_body is None
        return state

    async def _stands(self, cover: Cover) -> bool:
        """Of a copy that was not written to its end the run may still be there: then it is read again."""
        body = await objects.workflow(self._kube, cover.namespace, cover.run)
        return argo.header(body).uid == cover.uid

    def _met(self, kept: Kept) -> RunState:
        """The state of a run of which we have a copy; all that we have if nothing has shown the run itself."""
        cover = kept.cover
        state = self._runs.get(cover.uid)
        if state is None:
            state = self._runs.upsert(
                argo.Header(
                    uid=cover.uid, name=cover.run, namespace=cover.namespace, version=cover.version,
                    generation=cover.generation, completed=True,
                )
            )  # fmt: skip
            state.only_kept = True
        return state

    async def sweep(self) -> None:
        """Remove copies that have done their service, or that nobody is left to take."""
        self._refusals.forget(self._runs)
        for kept in self._copies.all():
            stranded = self._stranded(kept.cover)
            if not stranded and not self._over(kept):
                continue
            try:
                await self._copies.remove(kept)
            except (KubeError, OverflowFailed) as error:
                observe.log().warning("copy not removed", run=kept.cover.run, cause=str(error))
                continue
            if stranded:
                run, target = f"{kept.cover.namespace}/{kept.cover.run}", str(kept.cover.target)
                observe.count("lost")
                observe.log().warning("lost", run=run, target=target, cause="its target went with its namespace")

    def _stranded(self, cover: Cover) -> bool:
        """Its target went with its namespace. What has that name now, if anything, may be someone else's."""
        now = self._namespaces.uid(cover.namespace)
        return bool(cover.target.namespace and cover.namespace_uid) and cover.namespace_uid != now

    def _over(self, kept: Kept) -> bool:
        entry = self._book.get((kept.cover.namespace, kept.cover.uid), kept.cover.target)
        if entry is None:
            return kept.half_gone  # it was settled
        if not entry.settled or entry.status.phase == "Failed" or entry.status.doubtful_at:
            return False
        return not entry.reopened(kept.cover.generation)

    async def _look_forever(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S if self._copies.complete else AGAIN_S)
            try:
                await look(self._copies)
                await self.say_garbage()
            except (KubeError, OverflowFailed) as error:
                observe.log().warning("outbox not looked at", cause=str(error))

    async def say_garbage(self) -> None:
        """Secrets with our label that are no copies: said on the TrackedRun that the label means, and removed."""
        if not self._copies.garbage:
            return
        entries = {outbox.copy_id(e.namespace, e.spec.run.uid, e.spec.target): e for e in self._book.all()}
        share, met = self._copies.share, self._garbage_met
        self._garbage_met = set(self._copies.garbage)
        for id_ in list(self._copies.garbage):
            entry = entries.get(id_)
            if entry is None and share.of > 1 and (share.number or id_ not in met):
                continue  # its shard says it; the first one removes, another time, what nobody knew
            entry = None if entry is None or entry.settled or entry.version == UNKEPT else entry
            await self._recall.say_torn(entry, None if entry is None else entry.spec.target, "its cover is unreadable")
            await self._copies.discard(id_)


def _pause_s(state: RunState) -> float:
    """The pause after the API server failed us: 1 s, doubling with each failure of this run in a row, up to 60 s."""
    state.api_failures += 1
    return min(AGAIN_S, 2.0 ** min(state.api_failures - 1, 16))
