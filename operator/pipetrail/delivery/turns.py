"""A lane's turn: one run for one target, and what becomes of it where it does not get through."""

import asyncio
from collections.abc import Callable
from typing import Final

from pipetrail import api, observe
from pipetrail.delivery import ledger as ledgers
from pipetrail.delivery.book import Book
from pipetrail.delivery.delivery import Deliveries, run_name
from pipetrail.delivery.keeping import Keeper
from pipetrail.delivery.lane import Done, Halt, Later, Verdict
from pipetrail.delivery.ledger import Ledger, Lost
from pipetrail.delivery.notices import of_run
from pipetrail.delivery.roster import Roster
from pipetrail.delivery.runs import Runs, RunState
from pipetrail.delivery.seat import Seat
from pipetrail.kube import Kube, KubeError
from pipetrail.readers.overflow import OverflowFailed
from pipetrail.targets.target import Refused, Retry, TargetError, Unauthorised, Unusable

POISON_PAUSE_S: Final = 60.0
API_PAUSE_MOST_S: Final = 60.0
OF_ONE_RUN: Final = frozenset({"PermissionDenied", "NotMlflow"})
"""What a tracker, or a proxy before it, may hold against one run alone (its experiment, one odd body). Only when runs
fail one after another is it the target's trouble: else one run that names another's experiment would stop all."""


class Turns:
    """Has a run delivered. `settled` is told that a target has all of one, `worked` how each turn ended."""

    def __init__(
        self, kube: Kube, ledger: Ledger, *, book: Book, runs: Runs, roster: Roster, keeper: Keeper,
        deliveries: Deliveries, worked: Callable[[Seat, str, Verdict], None], settled: Callable[[], None],
    ) -> None:  # fmt: skip
        self._kube = kube
        self._ledger = ledger
        self._book = book
        self._runs = runs
        self._roster = roster
        self._keeper = keeper
        self._deliveries = deliveries
        self._worked = worked
        self._settled = settled

    async def work(self, seat: Seat, uid: str) -> Verdict:
        """One run for one target. Whatever happens to this run, the lane goes on."""
        try:
            verdict = await self._turn(seat, uid)
        except Exception as error:  # noqa: BLE001  one poison run must not stop the lane; it is said, and tried again
            observe.count("handler_errors")
            observe.log().error("delivery failed", uid=uid, target=str(seat.ref), error=observe.where(error))
            return Later(after_s=POISON_PAUSE_S, trouble=False)
        self._worked(seat, uid, verdict)
        return verdict

    async def _turn(self, seat: Seat, uid: str) -> Verdict:
        state = self._runs.get(uid)
        if state is None:
            return Done()
        courier = seat.courier
        if courier is None:
            return Halt()
        run, target = run_name(state), str(seat.ref)
        try:
            verdict = await self._deliveries.deliver(seat, courier, state)
        except Retry as error:
            return await self._failing(seat, state, error, error.after_s)
        except (Unauthorised, Unusable) as error:
            if error.reason in OF_ONE_RUN and seat.lane.breaker == "Closed":
                return await self._failing(seat, state, error)
            if seat.courier is courier:
                self._roster.troubled(seat, error)
            return Halt() if seat.courier is None else Later(after_s=1.0, trouble=False)
        except Refused as error:
            return await self._dead(seat, state, error.reason, error.message)
        except Lost as error:
            observe.log().warning("claim lost", run=run, target=target, cause=str(error))
            await self._let_go(seat, state)
            return Later(after_s=5.0, trouble=False)
        except (KubeError, OverflowFailed) as error:
            observe.log().warning("api server", run=run, target=target, cause=str(error))
            state.api_failures += 1
            return Later(after_s=min(API_PAUSE_MOST_S, 2.0 ** min(state.api_failures, 16)), trouble=False)
        state.api_failures = 0
        progress = state.progress.get(seat.ref)
        if progress is not None:
            progress.failing_since = None
        if state.settled_at is not None:
            self._settled()
        return verdict

    async def _let_go(self, seat: Seat, state: RunState) -> None:
        """Someone else wrote the TrackedRun: go on from what they left, and look first at what they may have made."""
        state.progress.pop(seat.ref, None)
        state.lost = (*state.lost, seat.ref)
        entry = self._book.get(state.id, seat.ref)
        if entry is None:
            return
        try:
            there = await self._ledger.again(entry)
        except KubeError:
            return  # what we hold is out of date: its next write is lost too, and leads here again
        if there is None:
            self._book.drop(entry)
        else:
            self._book.add(there)

    async def _failing(self, seat: Seat, state: RunState, error: TargetError, after_s: float | None = None) -> Verdict:
        progress = state.progress.get(seat.ref)
        observe.count("retries")
        if progress is None:
            return Later(after_s=after_s)
        now = _now()
        if progress.failing_since is None or progress.failing_since < seat.lane.resumed_at:
            # While the lane was halted nothing was tried: that time is not held against the run.
            progress.failing_since = now
            run = run_name(state)
            observe.log().warning("retrying", run=run, target=str(seat.ref), reason=error.reason, cause=error.message)
        elif now - progress.failing_since > api.seconds(seat.spec.delivery.max_elapsed):
            said = f"tried for {seat.spec.delivery.max_elapsed}: {error.message}"
            return await self._dead(seat, state, "MaxElapsed", said)
        return Later(after_s=after_s)

    async def _dead(self, seat: Seat, state: RunState, reason: str, message: str) -> Verdict:
        """A dead letter: the TrackedRun says why, and stays until it is sent again or deleted."""
        observe.count("failed")
        run = run_name(state)
        observe.log().error("refused", run=run, target=str(seat.ref), reason=reason, cause=message)
        progress = state.progress.get(seat.ref)
        if progress is None:
            return Done()
        doubt = "" if progress.doubtful_at is None else progress.entry.status.doubtful_at or ledgers.now()
        try:
            progress.entry = await self._ledger.write(
                progress.entry, phase="Failed", reason=reason, message=message[: ledgers.MAX_TEXT],
                changes=ledgers.changes(progress.changes), doubtful_at=doubt,
            )  # fmt: skip
        except (KubeError, Lost) as error:
            # Not said is not settled: nothing would look at it again.
            observe.log().warning("dead letter not written", run=run, cause=str(error))
            if isinstance(error, Lost):
                await self._let_go(seat, state)
            return Later(after_s=POISON_PAUSE_S, trouble=False)
        entry = progress.entry
        self._book.add(entry)
        await of_run(self._kube, entry, "Warning", reason, message)
        state.settled_at = _now()
        self._keeper.offer(state)
        return Later(after_s=1.0, trouble=False) if entry.repolicy else Done()


def _now() -> float:
    return asyncio.get_running_loop().time()
