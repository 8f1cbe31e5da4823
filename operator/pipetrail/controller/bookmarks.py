"""Bookmarks: where the watches stand, kept for the process after us, so that it hears of what went in between.

They are an annotation of the Lease, which the one operator that works writes every few seconds anyway: no further
object, right or write. Without a Lease none are kept: several operators may then share a namespace, and nothing tells
whose place this would be.

A run that was deleted is known to this process alone until its trackers have it. So a bookmark never passes a deletion
whose run still waits: the process after us is told of it again. The API server forgets, though: what has waited for
longer than `HOLD_S` holds nothing back.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from pipetrail import observe
from pipetrail.api import GROUP
from pipetrail.controller.lease import Lease
from pipetrail.controller.stream import Pulse

ANNOTATION: Final = f"{GROUP}/watches"
HOLD_S: Final = 60.0
"""The API server remembers for 75 s. A place that it has forgotten helps nobody: not the run that holds it, and none of
those that were deleted since."""
LOOK_S: Final = 0.2
MAX_CHARS: Final = 64 << 10
"""All annotations of an object may have 256 KiB together, and this one is written with each renewal of the Lease."""

Versions = Mapping[str, str]
"""resourceVersion by collection (the path of its list)."""


class Bookmarks:
    """What :meth:`annotations` gives is asked for with each renewal; `saved` is what the process before us had left.

    `pulses` says how the watches stand, `waiting` when (in the loop's time) each run was deleted that still waits.
    """

    def __init__(
        self, saved: Versions, pulses: Callable[[], Sequence[Pulse]], waiting: Callable[[], Sequence[float]]
    ) -> None:
        self._pulses = pulses
        self._waiting = waiting
        self._known: deque[tuple[float, Versions]] = deque([(_now(), saved)])
        self._told = False
        self._last: dict[str, str] | None = None

    def freeze(self) -> None:
        """From now on say what is true now: we are ending, and soon no target will be there to wait for."""
        self._last = self.annotations()

    def versions(self) -> Versions:
        """From where the next process is to watch; of a watch that has not caught up yet, where it began."""
        now, last = _now(), self._known[-1][1]
        reached = {p.path: p.version if p.version and p.listed else last.get(p.path, "") for p in self._pulses()}
        if reached:
            self._known.append((now, {path: version for path, version in reached.items() if version}))
        while len(self._known) > 1 and self._known[0][0] < now - HOLD_S:
            self._known.popleft()
        held = min((at for at in self._waiting() if at > self._known[0][0]), default=float("inf"))
        return next(versions for at, versions in reversed(self._known) if at < held)

    def annotations(self) -> dict[str, str]:
        """The same as the Lease carries it."""
        if self._last is not None:
            return self._last
        found = text(self.versions())
        if found:
            return {ANNOTATION: found}
        if not self._told:
            self._told = True
            cause = f"{len(self._known[-1][1])} watches are more than an annotation holds: name fewer namespaces"
            observe.log().warning("bookmarks not kept", cause=cause)
        return {ANNOTATION: ""}


async def leave_early(lease: Lease, pulses: Callable[[], Sequence[Pulse]]) -> None:
    """Have the Lease say where the watches stand as soon as one more of them has listed all, until all have.

    The next renewal may be 5 s away. Of an operator that does not live for so long, again and again, the place would be
    that of the first one before it, until the API server has forgotten it. Nor must one collection that can't be listed
    (yet) cost the others their place.
    """
    said = 0
    while True:
        now = pulses()
        listed = sum(pulse.listed for pulse in now)
        if listed > said:
            await lease.say()
            said = listed
        if now and listed == len(now):
            return
        await asyncio.sleep(LOOK_S)


def text(versions: Versions) -> str:
    """`versions` as an annotation's value; empty if they are more than one holds."""
    made = msgspec.json.encode(versions, order="sorted").decode()
    return made if len(made) <= MAX_CHARS else ""


def read(annotations: Mapping[str, str]) -> Versions:
    """What :meth:`Bookmarks.annotations` wrote; empty if there is nothing that we can use."""
    try:
        found = msgspec.json.decode(annotations.get(ANNOTATION) or "{}", type=dict[str, str])
    except msgspec.DecodeError:
        return {}
    return {path: version for path, version in found.items() if version.isdecimal()}


def _now() -> float:
    return asyncio.get_running_loop().time()
