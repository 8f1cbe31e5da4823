"""How far the delivery of one run to one target is: what the tracker holds, what is in doubt, what is missing."""

import asyncio
from collections.abc import Sequence

from msgspec.structs import replace

from pipetrail.delivery import plan as plans
from pipetrail.delivery.ledger import Entry
from pipetrail.delivery.plan import Delivered
from pipetrail.targets.target import Change, Handle, TrackerRun


class Progress:
    """The only mutable state of a delivery.

    `unsure` is true while tracker runs may exist that we have no handle of: nothing is created before a look-up.
    """

    __slots__ = (
        "_missing_since", "_try_at", "_waits", "changes", "delivered", "doubtful_at", "entry", "failing_since",
        "handles", "sent_digest", "tried", "unsure", "writes", "written",
    )  # fmt: skip

    def __init__(self, entry: Entry, *, unsure: bool) -> None:
        self.entry = entry
        self.unsure = unsure
        self.doubtful_at: float | None = None  # loop time of the last call whose effect we don't know
        self.handles: dict[str, Handle] = {}
        self.delivered: dict[str, Delivered] = {}
        self.tried: dict[str, dict[plans.Sent, list[int]]] = {}  # the points of a failed write, and their times
        self.changes: dict[tuple[str, str, str, str], Change] = {}
        self.failing_since: float | None = None
        self._missing_since: float | None = None
        self._waits = 0
        self._try_at = 0.0
        self.sent_digest = ""
        self.writes = 0  # since the last turn that ended well
        self.written = False  # in any turn

    def missing_for_s(self) -> float:
        """For how long something could not be read that a later try may give."""
        now = asyncio.get_running_loop().time()
        if self._missing_since is None:
            self._missing_since = now
        return now - self._missing_since

    def wait_s(self) -> float:
        """The pause before it is tried again: 2 s, doubling up to 5 minutes. News of the run lengthens none."""
        now = asyncio.get_running_loop().time()
        if now >= self._try_at:
            self._waits += 1
            self._try_at = now + min(300.0, 2.0 ** min(self._waits, 9))
        return self._try_at - now

    def has_all(self) -> None:
        """Nothing is missing (any more)."""
        self._missing_since, self._waits, self._try_at = None, 0, 0.0

    def rest(self) -> None:
        """Forget what the tracker holds: it is away, and will be looked at first when it is back."""
        if self.handles or self.tried:
            self.unsure = True
        self.handles, self.delivered, self.tried = {}, {}, {}

    def note(self, run: TrackerRun, changes: Sequence[Change]) -> None:
        """Remember what arrives otherwise."""
        for change in changes:
            named = change if change.run else replace(change, run=run.name)
            self.changes[named.run, named.item, named.key, named.reason] = named
