"""The roster: every target that exists, with its lane and the task that looks after it."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import msgspec

from pipetrail import api
from pipetrail.api import TargetRef
from pipetrail.delivery import standing
from pipetrail.delivery.attendant import Attendant
from pipetrail.delivery.lane import Lane, Permit, Verdict, always
from pipetrail.delivery.seat import Seat
from pipetrail.delivery.status import StatusWriter
from pipetrail.shards import WHOLE, Share
from pipetrail.targets.target import TargetError

Work = Callable[[Seat, str], Awaitable[Verdict]]


class Roster:
    """Keeps a seat, a lane and a task of the attendant per target. `work` delivers one run for one seat."""

    def __init__(
        self, attendant: Attendant, status: StatusWriter, work: Work, permit: Permit = always, share: Share = WHOLE
    ) -> None:
        self._attendant = attendant
        self._status = status
        self._work = work
        self._permit = permit
        self._share = share
        self._seats: dict[TargetRef, Seat] = {}
        self._tasks: dict[TargetRef, asyncio.Task[None]] = {}
        self._invalid: dict[TargetRef, tuple[str, int]] = {}  # of which edit we said so

    def seats(self) -> tuple[Seat, ...]:
        """All targets, namespaced ones first: they take a run before a cluster's target of the same address."""
        return tuple(sorted(self._seats.values(), key=lambda s: s.ref.kind, reverse=True))

    def over(self, namespace: str) -> tuple[Seat, ...]:
        """Targets that might take runs of `namespace`."""
        return tuple(s for s in self.seats() if s.ref.namespace in ("", namespace))

    def get(self, ref: TargetRef) -> Seat | None:
        """One target, if it exists."""
        return self._seats.get(ref)

    def upsert(self, found: api.FoundTarget) -> bool:
        """A target was added or changed. True if runs have to be looked at again."""
        seat = self._seats.get(found.ref)
        if seat is None:
            seat = self._seats[found.ref] = self._seated(found)
            self._tasks[found.ref] = asyncio.create_task(self._attendant.serve(seat), name=f"target {found.ref}")
            return True
        if not _newer(found, seat.found):
            return False
        seat.found = found
        concurrency, rate = standing.part(found.spec.delivery, self._share.of if seat.shared else 1)
        seat.lane.limit(concurrency=concurrency, requests_per_second=rate)
        seat.lane.halt()
        seat.courier = seat.trouble = None
        seat.stir.set()
        return True

    def confirms(self, found: api.FoundTarget) -> bool:
        """True if someone confirmed, on the edit of a target that we know, that what is held is to be closed.

        Annotations are no edit of their own; so the wish for a backfill is taken in here as well.
        """
        seat = self._seats.get(found.ref)
        if seat is None or (found.uid, found.generation) != (seat.found.uid, seat.found.generation):
            return False
        before = seat.close_confirmed
        seat.found = msgspec.structs.replace(seat.found, confirmed=found.confirmed, backfill=found.backfill)
        return seat.close_confirmed and not before

    def _seated(self, found: api.FoundTarget) -> Seat:
        seat: Seat
        concurrency, rate = standing.part(found.spec.delivery, 1 if found.ref.namespace else self._share.of)
        lane = Lane(
            lambda key: self._work(seat, key), concurrency=concurrency, requests_per_second=rate, permit=self._permit,
            turned=lambda: seat.stir.set(),
        )  # fmt: skip
        lane.halt()
        seat = Seat(found, lane, self._share)
        return seat

    async def invalid(self, invalid: api.InvalidTarget, ending: Coroutine[Any, Any, None]) -> None:
        """A target that no version of ours can read: say so on the object, once. `ending` is :meth:`remove`'s."""
        told = (invalid.uid, invalid.generation)
        if self._invalid.get(invalid.ref) == told:
            ending.close()
            return  # what we wrote on it came back as an event
        self._invalid[invalid.ref] = told
        await ending
        if self._seats.get(invalid.ref) is not None:
            return  # mended meanwhile
        if not await self._status.refuse(invalid):
            self._invalid.pop(invalid.ref, None)

    def remove(self, ref: TargetRef) -> Coroutine[Any, Any, None]:
        """A target is gone: from now on nothing is started for it. What is returned waits for what is under way.

        It is gone at once, not when someone has waited: one that is made anew meanwhile has a seat of its own.
        """
        seat, task = self._seats.pop(ref, None), self._tasks.pop(ref, None)
        if task is not None:
            task.cancel()
            self._invalid.pop(ref, None)
        return self._end(seat, task)

    async def _end(self, seat: Seat | None, task: asyncio.Task[None] | None) -> None:
        if task is not None:
            await asyncio.wait([task], timeout=5)
        if seat is not None and seat.target is not None:
            await seat.target.close()

    async def close(self) -> None:
        """Stop every lane and give the connections back."""
        for ref in list(self._seats):
            await self.remove(ref)

    def troubled(self, seat: Seat, trouble: TargetError) -> None:
        """A delivery met something that concerns the whole target: look after it now."""
        seat.trouble = trouble
        seat.courier = None
        seat.lane.halt()
        seat.stir.set()


def _newer(found: api.FoundTarget, known: api.FoundTarget) -> bool:
    """Events of one object come in order, those of two that had one name after another may not."""
    if found.uid == known.uid:
        return found.generation > known.generation
    return found.created >= known.created
