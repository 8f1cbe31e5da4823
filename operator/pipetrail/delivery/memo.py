"""The newest record of a few runs, for their other targets: a run that goes to three trackers is read once."""

from collections import OrderedDict
from typing import Final

from pipetrail.record import Record

MEMO_RECORDS: Final = 64
MEMO_POINTS: Final = 100_000

Moment = tuple[str, int]
"""Of a reading: the version of its body, the edition of the facts beside it."""


class Memo:
    """The newest record of a few runs, for their other targets of the same policy. Bounded in records and points."""

    def __init__(self) -> None:
        self._made: OrderedDict[tuple[str, str], tuple[Moment, Record, int]] = OrderedDict()
        self._points = 0

    def get(self, uid: str, policy: str, moment: Moment) -> Record | None:
        """The record of the run as it was at `moment` (version, edition), if that is the one we have."""
        made = self._made.get((uid, policy))
        return made[1] if made is not None and made[0] == moment else None

    def put(self, uid: str, policy: str, moment: Moment, record: Record) -> None:
        """Keep `record` instead of an earlier one; the oldest go."""
        _, _, before = self._made.pop((uid, policy), (moment, record, 0))
        points = sum(len(step.points) for step in record.steps)
        self._made[uid, policy] = (moment, record, points)
        self._points += points - before
        while len(self._made) > MEMO_RECORDS or (self._points > MEMO_POINTS and self._made):
            _, (_, _, gone) = self._made.popitem(last=False)
            self._points -= gone
