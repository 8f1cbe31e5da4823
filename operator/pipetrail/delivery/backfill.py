"""Backfill: runs that had ended before their target was made, taken up behind everything that is live.

Someone asked for them by an annotation on the target (:mod:`pipetrail.api.backfill`). What is to be sent is found by a
list of all runs and the ledger, newest first, a run of each namespace in turn; a few at a time are put into the
target's lane, and from there they go the way of any run: an intent, a look at the tracker, one delivery. So the cursor
is what is there: whoever is killed starts over, and passes by what is settled.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec

from pipetrail import api, observe, policy
from pipetrail.api import TargetRef
from pipetrail.delivery.book import Book
from pipetrail.delivery.candidates import Candidates, Chosen, Decide, in_turns
from pipetrail.delivery.lane import Done, Limiter, Verdict
from pipetrail.delivery.roster import Roster
from pipetrail.delivery.runs import Runs
from pipetrail.delivery.seat import Seat
from pipetrail.delivery.status import StatusWriter
from pipetrail.delivery.tour import Tour
from pipetrail.kube import ApiError, Kube, KubeError
from pipetrail.readers.archive import ArchiveFailed, ArgoArchive
from pipetrail.shards import WHOLE, Share
from pipetrail.sources import argo

WAITING_MOST: Final = 100
"""Runs of one backfill that stand in their lane at a time: more would only fill memory."""
CHOSEN_MOST: Final = 100_000
"""Runs that one backfill takes, the newest; who asks again gets the next."""
SAY_EVERY_S: Final = 2.0
AGAIN_S: Final = 10.0
GONE: Final = "Gone"


class Backfills:
    """One tour at a time for each target that someone asked for older runs."""

    def __init__(
        self, kube: Kube, *, book: Book, runs: Runs, roster: Roster, status: StatusWriter, decide: Decide,
        learn: Callable[[argo.Header], Awaitable[None]], namespaces: Sequence[str] = (),
        archive: ArgoArchive | None = None, share: Share = WHOLE,
    ) -> None:  # fmt: skip
        self._book = book
        self._runs = runs
        self._roster = roster
        self._status = status
        self._decide = decide
        self._learn = learn
        self._share = share
        self._has_archive = archive is not None
        self._candidates = Candidates(
            kube, book=book, decide=decide, learn=learn, namespaces=namespaces, archive=archive
        )
        self._tours: dict[TargetRef, tuple[Tour, asyncio.Task[None]]] = {}
        self.due = asyncio.Event()
        """Set when a target came, changed or went."""

    async def run(self) -> None:
        """Begin and end tours as targets ask for them, until cancelled."""
        try:
            while True:
                await self.due.wait()
                self.due.clear()
                for ref, (tour, task) in list(self._tours.items()):
                    if self._roster.get(ref) is not tour.seat or tour.seat.found.backfill != tour.text:
                        task.cancel()
                        self._end(tour)
                        del self._tours[ref]
                for seat in self._roster.seats():
                    if seat.found.backfill and seat.ref not in self._tours:
                        await self._begin(seat)
        finally:
            for _, task in self._tours.values():
                task.cancel()

    async def _begin(self, seat: Seat) -> None:
        text, before = seat.found.backfill, seat.backfill
        if self._share.of > 1 and not seat.ref.namespace and not self._share.speaks_for(seat.ref.name):
            return  # the shard that does says that it is not done
        try:
            wish = api.backfill_wish(text)
        except (ValueError, msgspec.DecodeError) as error:
            if before is None or before.asked != text[:253]:
                said = f"the annotation {api.BACKFILL_ANNOTATION} can't be read: {error}; pipetrail backfill writes it"
                refused = api.Backfill(asked=text[:253], phase="Refused", message=said[:1000])
                await self._status.backfilled(seat, refused)
            return
        if before is not None and before.over and before.asked == wish.number:
            return
        if self._share.of > 1 and not seat.ref.namespace:
            said = "several operators share this target: ask targets of namespaces, or one operator alone"
            await self._status.backfilled(seat, api.Backfill(asked=wish.number, phase="Refused", message=said))
            return
        tour = Tour(seat, text, wish)
        task = asyncio.create_task(self._go(tour), name=f"backfill {seat.ref}")
        self._tours[seat.ref] = (tour, task)

    def _end(self, tour: Tour) -> None:
        """Its runs that have no intent yet are nobody's wish any more."""
        for uid in tour.waiting:
            state = self._runs.get(uid)
            if state is not None:
                state.earlier_for = tuple(ref for ref in state.earlier_for if ref != tour.seat.ref)

    async def _go(self, tour: Tour) -> None:
        """The tour to its end. An API server that is away is waited for; what is settled by then counts as such."""
        observe.log().info("backfill", target=str(tour.seat.ref), wish=tour.text[:500])
        while True:
            try:
                await self._once(tour)
            except ApiError as error:
                if error.status in (400, 403):
                    said = f"the runs can't be listed: {error}"
                    await self._status.backfilled(tour.seat, tour.said("Refused", said[:1000]))
                    return
                await self._pause(tour, error)
            except KubeError as error:
                await self._pause(tour, error)
            except ArchiveFailed as error:
                if not error.later:
                    await self._status.backfilled(tour.seat, tour.said("Refused", str(error)[:1000]))
                    return
                await self._pause(tour, error)
            except Exception as error:  # noqa: BLE001  live runs go on without a backfill; it is said, and tried again
                observe.count("handler_errors")
                observe.log().error("backfill failed", target=str(tour.seat.ref), error=observe.where(error))
                await asyncio.sleep(AGAIN_S)
            else:
                return

    async def _pause(self, tour: Tour, error: KubeError | ArchiveFailed) -> None:
        await self._status.backfilled(tour.seat, tour.said("Listing", f"it waits: {error}"[:1000]))
        observe.log().warning("backfill waits", target=str(tour.seat.ref), cause=str(error))
        await asyncio.sleep(AGAIN_S)

    async def _once(self, tour: Tour) -> None:
        tour.start_over()
        seat, wish = tour.seat, tour.wish
        places = self._candidates.places(tour)
        if not places:
            said = f"the operator does not watch namespace {wish.namespace or seat.ref.namespace}"
            await self._status.backfilled(seat, tour.said("Refused", said))
            return
        await self._status.backfilled(seat, tour.said("Listing"))
        if wish.sources == ("archive",) and not self._has_archive:
            said = "the operator was told of no archive: pipetrail run --argo-server URL"
            await self._status.backfilled(seat, tour.said("Refused", said))
            return
        found = await self._candidates.find(tour, places)
        more = len(found) - CHOSEN_MOST
        del found[CHOSEN_MOST:]
        tour.chosen += len(found)
        await self._say(tour)
        limiter = Limiter(wish.rate) if wish.rate else None
        for chosen in in_turns(found):
            while len(tour.waiting) >= WAITING_MOST:
                await self._changed(tour)
            if limiter is not None:
                await limiter.acquire()
            await self._take_up(tour, chosen)
        while tour.waiting:
            await self._changed(tour)
        said = f"{more} older runs were not taken up: ask again for them" if more > 0 else ""
        done = tour.said("Done", said)
        await self._status.backfilled(seat, done)
        observe.log().info(
            "backfilled", target=str(seat.ref), sent=done.sent, already=done.already, failed=done.failed,
            left=dict(tour.left),
        )  # fmt: skip

    async def _take_up(self, tour: Tour, chosen: Chosen) -> None:
        """Put one run into the lane, as it stands now."""
        seat, run = tour.seat, (chosen.namespace, chosen.uid)
        body = await self._candidates.body(chosen)
        header = argo.header(body)
        known = self._runs.get(chosen.uid)
        if header.uid != chosen.uid or (known is not None and known.id != run):
            self._leave(tour, GONE)
            return
        if chosen.archived and self._book.get(run, seat.ref) is None:
            await self._learn(header)
            decision = self._decide(seat, header, earlier=True)
            if not policy.wanted(header, tour.wish):
                tour.chosen -= 1
                return
            if isinstance(decision, policy.Left):
                self._leave(tour, decision.rule)
                return
        state = known or self._runs.upsert(header)
        if chosen.archived:
            state.bury(body, archived=True)
        if seat.ref not in state.earlier_for:
            state.earlier_for = (*state.earlier_for, seat.ref)
        tour.waiting.add(chosen.uid)
        seat.lane.offer(chosen.uid, group=chosen.namespace, priority="Backfill")

    def worked(self, seat: Seat, uid: str, verdict: Verdict) -> None:
        """A run had its turn in a lane: is it settled, or found to be none of the target's?"""
        running = self._tours.get(seat.ref)
        if running is None or uid not in running[0].waiting:
            return
        tour, state = running[0], self._runs.get(uid)
        entry = None if state is None else self._book.get(state.id, seat.ref)
        if state is None:
            self._leave(tour, GONE)
        elif entry is not None and entry.settled:
            progress = state.progress.get(seat.ref)
            tour.chosen -= 1  # it was counted when it was chosen
            tour.settled(entry, written=None if progress is None else progress.written)
        elif entry is None and isinstance(verdict, Done):
            decision = self._decide(seat, state.header, earlier=True)
            rule = decision.rule if isinstance(decision, policy.Left) else state.left_by or GONE
            self._leave(tour, rule)
        else:
            return
        if state is not None:
            state.earlier_for = tuple(ref for ref in state.earlier_for if ref != seat.ref)
        tour.waiting.discard(uid)
        tour.changed.set()

    def _leave(self, tour: Tour, rule: str) -> None:
        """A run that was chosen is none of the target's after all, or is gone."""
        tour.chosen -= 1
        tour.leave(rule)

    async def _changed(self, tour: Tour) -> None:
        """Wait until one of its runs is done, and show how far it is now and then."""
        try:
            async with asyncio.timeout(SAY_EVERY_S):
                await tour.changed.wait()
        except TimeoutError:
            for uid in [uid for uid in tour.waiting if self._runs.get(uid) is None]:
                tour.waiting.discard(uid)
                self._leave(tour, GONE)
        tour.changed.clear()
        await self._say(tour)

    async def _say(self, tour: Tour) -> None:
        now = asyncio.get_running_loop().time()
        if now - tour.said_at >= SAY_EVERY_S:
            tour.said_at = now
            await self._status.backfilled(tour.seat, tour.said("Sending"))
