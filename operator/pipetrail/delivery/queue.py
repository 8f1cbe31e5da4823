"""The queue of a lane: which key is next. Pure: it is told the time.

A key stands in it once. Keys that are due are taken live ones first, and among equals one of each group in turn, so
that a team with 5 000 waiting runs and a team with one wait equally long for their next; within a group the first
comes first.
"""

from collections import OrderedDict
from heapq import heappop, heappush
from itertools import count
from typing import Final, Literal

Priority = Literal["Live", "Backfill"]
ORDER: Final[tuple[Priority, ...]] = ("Live", "Backfill")


class Place:
    """Where a key stands: its group, its priority, when it is due (in the caller's time), and who came before it."""

    __slots__ = ("at", "group", "number", "priority", "ready")

    def __init__(self, group: str, priority: Priority, at: float, number: int) -> None:
        self.group = group
        self.priority = priority
        self.at = at
        self.number = number
        self.ready = False


class Queue:
    """Keys with a time from which each is due. What it keeps is a few words a key, whatever the key stands for."""

    def __init__(self) -> None:
        self._places: dict[str, Place] = {}
        self._came = count()
        self._later: list[tuple[float, int, str]] = []  # an index: an item counts if its key's place says the same
        # By priority: groups in the order of their turns, and of each its keys, the first to be due first.
        self._ready: dict[Priority, OrderedDict[str, OrderedDict[str, None]]] = {p: OrderedDict() for p in ORDER}

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def put(self, key: str, at: float, *, group: str, priority: Priority) -> bool:
        """`key` is due from `at` on. Of several calls the earliest time and the higher priority count. True if news."""
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = Place(group, priority, at, next(self._came))
            heappush(self._later, (at, place.number, key))
            return True
        lifted = ORDER.index(priority) < ORDER.index(place.priority)
        if lifted:
            if place.ready:
                self._leave(key, place)
                self._arrive(key, place, priority)
            place.priority = priority
        if place.ready or at >= place.at:
            return lifted
        place.at = at
        heappush(self._later, (at, place.number, key))
        self._prune()
        return True

    def drop(self, key: str) -> None:
        """Forget `key`."""
        place = self._places.pop(key, None)
        if place is not None and place.ready:
            self._leave(key, place)
        self._prune()

    def hasten(self, at: float) -> None:
        """Every key is due from `at` on, if it wasn't due earlier."""
        for place in self._places.values():
            if not place.ready:
                place.at = min(place.at, at)
        self._index()

    def next_at(self) -> float | None:
        """When the next key is due (a time that has passed: now); null if none waits."""
        if any(self._ready.values()):
            return float("-inf")
        self._skip()
        return self._later[0][0] if self._later else None

    def take(self, now: float) -> str | None:
        """The key whose turn it is; it no longer waits. None if none is due at `now`."""
        while True:
            self._skip()
            if not self._later or self._later[0][0] > now:
                break
            _, _, key = heappop(self._later)
            self._arrive(key, self._places[key], self._places[key].priority)
        for priority in ORDER:
            groups = self._ready[priority]
            if groups:
                group, keys = next(iter(groups.items()))
                key, _ = keys.popitem(last=False)
                groups.move_to_end(group)
                if not keys:
                    del groups[group]
                del self._places[key]
                return key
        return None

    def keys(self) -> tuple[str, ...]:
        """All that wait."""
        return tuple(self._places)

    def _prune(self) -> None:
        """What was dropped or put forward must not stay in the index until its old time comes."""
        if len(self._later) > 2 * len(self._places) + 64:
            self._index()

    def _index(self) -> None:
        self._later = sorted((p.at, p.number, k) for k, p in self._places.items() if not p.ready)

    def _skip(self) -> None:
        while self._later:
            at, number, key = self._later[0]
            place = self._places.get(key)
            if place is not None and not place.ready and (place.at, place.number) == (at, number):
                return
            heappop(self._later)

    def _arrive(self, key: str, place: Place, priority: Priority) -> None:
        place.ready = True
        self._ready[priority].setdefault(place.group, OrderedDict())[key] = None

    def _leave(self, key: str, place: Place) -> None:
        groups = self._ready[place.priority]
        keys = groups[place.group]
        del keys[key]
        if not keys:
            del groups[place.group]
