"""Takers: which targets might still want something of a run, from its header, its entries and its copies alone."""

from pipetrail import policy
from pipetrail.delivery.book import Book
from pipetrail.delivery.copies import Copies
from pipetrail.delivery.namespaces import Namespaces
from pipetrail.delivery.roster import Roster
from pipetrail.delivery.runs import Runs, RunState
from pipetrail.delivery.seat import Seat
from pipetrail.delivery.templates import Templates
from pipetrail.sources import argo


class Takers:
    """Each target's decision on a run, and what is settled of it."""

    def __init__(
        self, *, runs: Runs, book: Book, copies: Copies, roster: Roster, namespaces: Namespaces, templates: Templates
    ) -> None:
        self._runs = runs
        self._book = book
        self._copies = copies
        self._roster = roster
        self._namespaces = namespaces
        self._templates = templates

    def decide(self, seat: Seat, header: argo.Header, *, earlier: bool = False) -> policy.Decision:
        """Does a target take a run, and by which rule? With `earlier`, or if a backfill took it up, also an old one."""
        state = self._runs.get(header.uid)
        earlier |= state is not None and seat.ref in state.earlier_for and state.header.namespace == header.namespace
        run = policy.facts(header, self._namespaces.of(header.namespace), self._templates.of(header))
        others = [s.found for s in self._roster.seats() if s is not seat]
        return policy.decide(run, seat.found, others=others, earlier=earlier)

    def of(self, header: argo.Header) -> list[Seat]:
        """Targets for which something of this run is not settled: cheap, from the header alone."""
        remembered = self._runs.get(header.uid) is not None
        return [
            seat for seat in self._roster.over(header.namespace) if self._takes(seat, header, remembered=remembered)
        ]

    def untaken(self, state: RunState) -> list[Seat]:
        """Targets that do not have the run yet, or that gave it up and may be asked again."""
        seats = self._roster.over(state.header.namespace)
        entries = ((seat, self._book.get(state.id, seat.ref)) for seat in seats)
        return [
            seat
            for seat, entry in entries
            if self._takes(seat, state.header, remembered=False)
            or (entry is not None and entry.status.phase == "Failed" and self._copies.of(state.id, seat.ref) is None)
        ]

    def waits(self, state: RunState, *, remembered: bool) -> bool:
        """Might a target still want something of the run? A settled one is `remembered` for a while."""
        seats = self._roster.over(state.header.namespace)
        return any(self._takes(seat, state.header, remembered=remembered) for seat in seats)

    def only_from_us(self, state: RunState) -> bool:
        """Is something still to be sent of a run that was deleted, and does our memory alone have it?

        What a copy has does not count, nor a doubt of what was delivered: for that its key is enough (`doubts.py`).
        """
        for seat in self._roster.over(state.header.namespace):
            if not self._takes(seat, state.header, remembered=False):
                continue
            entry, kept = self._book.get(state.id, seat.ref), self._copies.of(state.id, seat.ref)
            delivered = entry is not None and entry.settled and not entry.reopened(state.header.generation)
            if not delivered and (kept is None or not kept.whole):
                return True
        return False

    def _takes(self, seat: Seat, header: argo.Header, *, remembered: bool) -> bool:
        entry = self._book.get((header.namespace, header.uid), seat.ref)
        state = self._runs.get(header.uid)
        if state is not None and state.only_kept:
            remembered = False
            if self._copies.of(state.id, seat.ref) is None:
                return False
            if entry is None:
                return True
        if entry is None:
            return isinstance(self.decide(seat, header), policy.Taken)
        # The survey looks at doubts of what was given up: no run has to be remembered for them.
        doubted = bool(entry.status.doubtful_at) and entry.status.phase == "Synced"
        open_still = not entry.settled or doubted or entry.reopened(header.generation)
        return remembered or open_still
