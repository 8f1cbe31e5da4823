"""Housekeeping: nothing is held longer than it is needed, and people see how many runs are where."""

import asyncio
from typing import Final

from pipetrail import observe
from pipetrail.delivery.book import Book
from pipetrail.delivery.copies import Copies
from pipetrail.delivery.keeping import Keeper
from pipetrail.delivery.ledger import Ledger
from pipetrail.delivery.roster import Roster
from pipetrail.delivery.runs import Runs, RunState
from pipetrail.delivery.status import STATUS_EVERY_S, StatusWriter
from pipetrail.delivery.takers import Takers
from pipetrail.kube import KubeError

KEEP_SETTLED_S: Final = 90.0
"""A settled run stays in memory this long: nodes of a killed run get outputs late, doubts are looked at after 60 s."""
REST_AFTER_S: Final = 10.0
RESTED_AT_ONCE: Final = 100


class Housekeeping:
    """Has runs rest, forgets those that are settled, retires TrackedRuns `history_ttl_s` after their runs are gone."""

    def __init__(
        self, ledger: Ledger, *, book: Book, runs: Runs, roster: Roster, status: StatusWriter, copies: Copies,
        keeper: Keeper, takers: Takers, history_ttl_s: float,
    ) -> None:  # fmt: skip
        self._ledger = ledger
        self._book = book
        self._runs = runs
        self._roster = roster
        self._status = status
        self._copies = copies
        self._keeper = keeper
        self._takers = takers
        self._history_ttl_s = history_ttl_s
        self.settled = asyncio.Event()
        """Set when a target has all of a run."""

    async def run(self) -> None:
        """Tidy and have runs rest, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._tidy_forever(), name="tidy")
            tasks.create_task(self._rest_forever(), name="rest")

    async def _rest_forever(self) -> None:
        while True:
            await asyncio.sleep(REST_AFTER_S)
            for number, state in enumerate(self._runs.all()):
                self.rest(state)
                if number % RESTED_AT_ONCE == 0:
                    await asyncio.sleep(0)  # deliveries have their turns meanwhile

    def rest(self, state: RunState) -> None:
        """A run that has ended, waits and had no news for a while holds little from now on. What settles goes soon."""
        now = _now()
        ended = state.header.completed or state.last_body is not None
        leaves = state.settled_at is not None and now - state.settled_at <= KEEP_SETTLED_S
        quiet = ended and not leaves and now - state.stirred_at > REST_AFTER_S
        seats = self._roster.over(state.header.namespace) if quiet and (state.awake or state.progress) else ()
        if not seats or self._keeper.working(state.uid) or any(seat.lane.working(state.uid) for seat in seats):
            return
        state.rest()
        for seat in seats:
            progress = state.progress.get(seat.ref)
            if progress is not None and (progress.failing_since is not None or seat.lane.breaker != "Closed"):
                progress.rest()

    async def _tidy_forever(self) -> None:
        while True:
            try:
                async with asyncio.timeout(STATUS_EVERY_S):
                    await self.settled.wait()  # the first run that settles after a pause shows at once
            except TimeoutError:
                pass
            self.settled.clear()
            await self.tidy()
            await asyncio.sleep(STATUS_EVERY_S)

    async def tidy(self) -> None:
        """Forget what is settled, retire TrackedRuns whose time is over, show counts."""
        now = _now()
        for state in self._runs.all():
            rested = state.settled_at is not None and now - state.settled_at > KEEP_SETTLED_S
            # One target has it all; another may still wait for its tracker, and for a last body that is only here.
            if not self._takers.waits(state, remembered=not rested):
                self._runs.forget(state.uid)
        await self._keeper.sweep()
        for entry in self._book.retired(now, self._history_ttl_s):
            if self._copies.of((entry.namespace, entry.spec.run.uid), entry.spec.target) is not None:
                continue  # its target may come back for it
            try:
                there = await self._ledger.forget(entry)
            except KubeError as error:
                observe.log().warning("not retired", tracked_run=entry.name, cause=str(error))
                continue
            if there is None:
                self._book.drop(entry)
            else:
                self._book.add(there)
        for seat in self._roster.seats():
            await self._status.count(seat, self._book.counts(seat.ref))


def _now() -> float:
    return asyncio.get_running_loop().time()
