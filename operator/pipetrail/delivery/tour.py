"""A tour: one backfill under way, what it has counted, and which of its runs are in the lane."""

import asyncio
from collections import Counter
from datetime import UTC, datetime

from pipetrail import api
from pipetrail.api import BackfillWish
from pipetrail.api.backfill import BackfillPhase
from pipetrail.delivery.ledger import Entry
from pipetrail.delivery.seat import Seat


class Tour:
    """One backfill under way: what it has counted, and which of its runs are in the lane."""

    def __init__(self, seat: Seat, text: str, wish: BackfillWish) -> None:
        self.seat = seat
        self.text = text
        self.wish = wish
        self.waiting: set[str] = set()
        self.changed = asyncio.Event()
        self.said_at = float("-inf")
        self.namespaces: dict[str, datetime | None] = {}  # since when they are there
        self.start_over()

    def start_over(self) -> None:
        """Count from the beginning. What stands in the lane stays there, and is found again."""
        self.waiting.clear()
        self.chosen = self.sent = self.already = self.failed = 0
        self.left: Counter[str] = Counter()

    def settled(self, entry: Entry, *, written: bool | None = None) -> None:
        """A run of which nothing more is to be sent: the tracker had it, has it since the wish, or it was given up.

        `written` says whether anything was sent for it, where that is known.
        """
        new = _since(entry.status.settled_at, self.wish.asked) if written is None else written
        match entry.status.phase:
            case "Synced" if new:
                self.sent += 1
            case "Synced":
                self.already += 1
            case "Failed":
                self.failed += 1
            case phase:
                self.leave(entry.status.reason or phase)
                return
        self.chosen += 1

    def leave(self, rule: str) -> None:
        """A run that the target does not take."""
        self.left[rule[:63]] += 1

    def said(self, phase: BackfillPhase, message: str = "") -> api.Backfill:
        """How far it is, as the target's status shows it."""
        left = tuple(api.LeftOut(rule=rule, runs=n) for rule, n in sorted(self.left.most_common(20)))
        return api.Backfill(
            asked=self.wish.number, phase=phase, message=message, chosen=self.chosen, sent=self.sent,
            already=self.already, failed=self.failed, left=left,
        )  # fmt: skip


def _since(settled_at: str, asked: datetime) -> bool:
    """A status tells whole seconds."""
    try:
        return datetime.fromisoformat(settled_at) >= asked.astimezone(UTC).replace(microsecond=0)
    except (ValueError, TypeError):
        return False
