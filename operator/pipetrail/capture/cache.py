"""What was fetched for a run that is still going, so that each update fetches only what is new."""

from collections import OrderedDict
from typing import Final

from pipetrail.formats import Note
from pipetrail.formats.executor_output import LauncherLog
from pipetrail.record import ALL_READ, Figure, Frozen, Point, Unread


class Got(Frozen, frozen=True):
    """What one fetch came to."""

    points: tuple[Point, ...] = ()
    figures: tuple[Figure, ...] = ()
    notes: tuple[Note, ...] = ()
    present: bool | None = None
    size: int | None = None
    digest: str | None = None
    media_type: str | None = None
    tail: str | None = None
    launcher: LauncherLog | None = None


class FileCache:
    """What was fetched for one live run, so that each update fetches only what is new.

    Kept by node, pod, artifact and place: another attempt or an ``argo retry`` is another content under the same key in
    the store. `unread` is what the last capture missed and a later one may get.
    """

    MAX: Final = 10_000

    def __init__(self) -> None:
        self._got: OrderedDict[bytes, Got] = OrderedDict()
        self.unread: Unread = ALL_READ

    def get(self, key: bytes) -> Got | None:
        """What is known under `key`."""
        return self._got.get(key)

    def items(self) -> tuple[tuple[bytes, Got], ...]:
        """All that is known, the oldest first."""
        return tuple(self._got.items())

    def put(self, key: bytes, got: Got) -> None:
        """Remember it; the oldest goes if there are too many."""
        self._got[key] = got
        while len(self._got) > self.MAX:
            self._got.popitem(last=False)
