"""Closing: the last word on a run that vanished, in its tracker and on its TrackedRun."""

import datetime as dt

from pipetrail import observe
from pipetrail.api import TargetRef
from pipetrail.delivery import ledger as ledgers
from pipetrail.delivery.book import Book
from pipetrail.delivery.ledger import MAX_TEXT, Entry, Ledger, Lost
from pipetrail.delivery.progress import Progress
from pipetrail.delivery.roster import Roster
from pipetrail.kube import KubeError
from pipetrail.shape.names import root_key
from pipetrail.targets.target import Refused, TargetError, TrackerRun


class Closing:
    """Closes runs of which nothing more can be known; `cluster` is the name in the keys that this operator gives."""

    def __init__(self, ledger: Ledger, book: Book, roster: Roster, cluster: str) -> None:
        self._ledger = ledger
        self._book = book
        self._roster = roster
        self._cluster = cluster

    async def close(self, entry: Entry, unanswered: set[TargetRef]) -> None:
        """Close one run for one target.

        Targets that failed a call in this pass stand in `unanswered`: one is enough. One that fails now is added.
        """
        run = entry.spec.run
        if not key_is_ours(entry, self._cluster):
            # Written by someone else, or under another name of this cluster: no tracker is asked about that key.
            said = "its key is none that this operator gives: nothing was sent, and nothing in the tracker was touched"
            await self._end(entry, phase="Stopped", reason="NotOurs", message=said, settled_at=ledgers.now())
            return
        seat = self._roster.get(entry.spec.target)
        if seat is None or seat.courier is None or seat.ref in unanswered:
            return
        said = "the run's object was deleted while nobody watched: closed as killed, how it ended is not known"
        try:
            outcome = await seat.courier.close_lost(Progress(entry, unsure=True), parent_of(entry))
        except Refused as refusal:  # someone deleted it in the tracker: there is nothing to close
            outcome, said = "", f"the run's object was deleted while nobody watched; {refusal.message}"[:MAX_TEXT]
        except TargetError as error:
            unanswered.add(seat.ref)
            observe.log().warning("not closed yet", run=run.name, target=str(seat.ref), cause=str(error))
            return
        status: dict[str, str] = (
            {"phase": "Synced", "outcome": outcome, "reason": "", "message": "", "generation": run.generation}
            if outcome
            else {"phase": "Stopped", "outcome": "deleted", "reason": _why(entry), "message": said}
        )
        if not await self._end(entry, **status, settled_at=ledgers.now()) or outcome:
            return
        observe.count("lost")
        observe.log().warning("lost", run=f"{entry.namespace}/{run.name}", target=str(seat.ref), cause=said)

    async def _end(self, entry: Entry, **status: str) -> bool:
        """Write down how a run that vanished was left."""
        try:
            self._book.add(await self._ledger.write(entry, **status))
        except (KubeError, Lost) as error:
            target = str(entry.spec.target)
            observe.log().warning("not closed yet", run=entry.spec.run.name, target=target, cause=str(error))
            return False
        return True


def key_is_ours(entry: Entry, cluster: str) -> bool:
    """Whether an operator of `cluster` gives such a key to such a run; a TrackedRun may have been written by others."""
    run = entry.spec.run
    return run.key == f"{cluster}/{run.uid}"


def parent_of(entry: Entry) -> TrackerRun:
    """What can be said of a run's tracker run when nothing is left but its TrackedRun: enough to find it by its key."""
    run = entry.spec.run
    key = root_key(run.key, entry.spec.attempt)
    return TrackerRun(
        key=key, root=key, experiment=entry.spec.experiment, name=run.name, status="Killed",
        started=dt.datetime.now(dt.UTC),
    )  # fmt: skip


def _why(entry: Entry) -> str:
    """Why a run that vanished is lost: nothing was kept of it, or what was kept is torn."""
    return "OutboxTorn" if entry.status.reason == "OutboxTorn" else "SourceDeleted"
