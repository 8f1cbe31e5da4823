"""What the outbox refused: said once of a run and target, on the TrackedRun, by an Event, in the log and in a count."""

import asyncio
from typing import Final

from pipetrail import observe
from pipetrail.api import TargetRef
from pipetrail.delivery import ledger as ledgers
from pipetrail.delivery.book import Book
from pipetrail.delivery.delivery import run_name
from pipetrail.delivery.ledger import Ledger
from pipetrail.delivery.notices import of_run
from pipetrail.delivery.runs import Runs, RunState
from pipetrail.delivery.seat import Seat
from pipetrail.delivery.secret_chunks import NotKept
from pipetrail.kube import Kube

SHUT_S: Final = 60.0
"""While the outbox refuses, runs that it has refused are not read again for it."""
AGAIN_S: Final = 1.0
"""When a reason is written that could not be, because the lane was writing to the TrackedRun itself."""


class Refusals:
    """For which targets the outbox took no copy of which runs, and which of that is still to be said."""

    def __init__(self, kube: Kube, ledger: Ledger, book: Book) -> None:
        self._kube = kube
        self._ledger = ledger
        self._book = book
        self._known: dict[str, dict[TargetRef, tuple[str, str] | None]] = {}  # by uid; reason and message until said
        self._shut_until = 0.0

    def shut(self, uid: str) -> bool:
        """True if the run was refused, and there is no use in asking again yet."""
        return uid in self._known and _now() < self._shut_until

    def again_s(self, uid: str) -> float:
        """When the keeper's next look at a run is due whose copy is refused or lacks something."""
        return AGAIN_S if any(self._known.get(uid, {}).values()) else SHUT_S

    async def add(self, seat: Seat, state: RunState, refusal: NotKept) -> None:
        """The outbox took no copy of the run for a target."""
        self._shut_until = _now() + SHUT_S
        of_uid = self._known.setdefault(state.uid, {})
        if seat.ref in of_uid:
            return
        of_uid[seat.ref] = (refusal.reason, refusal.message)
        observe.count(f"outbox_refused {refusal.reason}")
        observe.log().error(
            "not kept", run=run_name(state), target=str(seat.ref), reason=refusal.reason, cause=refusal.message
        )
        await self.tell(seat, state)

    async def tell(self, seat: Seat, state: RunState) -> None:
        """Write the reason on the TrackedRun, if that is still to be done and can be."""
        of_uid = self._known.get(state.uid, {})
        unsaid = of_uid.get(seat.ref)
        if unsaid is None or seat.lane.working(state.uid):
            return
        reason, message = unsaid
        waits = await self._write(seat, state, reason, message[: ledgers.MAX_TEXT])
        of_uid[seat.ref] = None
        entry = self._book.get(state.id, seat.ref)
        if waits and entry is not None:
            await of_run(self._kube, entry, "Warning", reason, message)

    async def over(self, seat: Seat, state: RunState) -> bool:
        """The outbox has it now. False if the TrackedRun could not be told yet."""
        of_uid = self._known.get(state.uid, {})
        if seat.ref in of_uid:
            if seat.lane.working(state.uid):
                return False
            await self._write(seat, state, "", "")
            of_uid.pop(seat.ref, None)
        return True

    def forget(self, runs: Runs) -> None:
        """Drop what nobody asks for any more."""
        for uid in [uid for uid, of_uid in self._known.items() if not of_uid or runs.get(uid) is None]:
            del self._known[uid]

    async def _write(self, seat: Seat, state: RunState, reason: str, message: str) -> bool:
        """The reason on the TrackedRun, if the run still waits. Its lane must not be at it: it writes there itself."""
        progress = state.progress.get(seat.ref)
        if progress is None or progress.entry.status.phase not in ("Pending", "Tracking"):
            return False
        progress.entry = await self._ledger.write(progress.entry, reason=reason, message=message)
        self._book.add(progress.entry)
        return True


def _now() -> float:
    return asyncio.get_running_loop().time()
