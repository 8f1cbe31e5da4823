"""What a shard says in its Lease of how far it is, for the others to see; and from where who begins has to watch."""

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from pipetrail.api import GROUP
from pipetrail.controller import bookmarks
from pipetrail.controller.bookmarks import Versions
from pipetrail.controller.lease import Beside
from pipetrail.record import Frozen
from pipetrail.shards import Share

ANNOTATION: Final = f"{GROUP}/shard"
POLL_S: Final = 1.0
"""So often who waits for the others looks at their Leases."""
STALE_S: Final = 300.0
"""Where a Lease's watches stood is of no use any more: the API server has forgotten it."""


class Stand(Frozen, frozen=True):
    """What a shard says in its Lease.

    It sends nothing under epochs before `epoch`; the one it began last is `term`. `left` is where its watches stood
    when it let go. `shards` is 1 if it looks after everything; it has met up to `span` others. `free`: it has nothing.
    """

    epoch: int = 0
    term: int = 0
    shards: int = 0
    span: int = 1
    free: bool = False
    left: Mapping[str, str] = {}


class Beginning(Frozen, frozen=True):
    """What a shard may begin with: its share, and from where to watch."""

    share: Share
    start_at: Mapping[str, str] = {}


def name_of(lease: str, number: int) -> str:
    """A shard's Lease. The first one's is that of an operator without shards: so these two never work at once."""
    return f"{lease}-{number}" if number else lease


def earliest(found: Sequence[Versions]) -> dict[str, str]:
    """Of each collection the earliest version that any of them names."""
    least: dict[str, str] = {}
    for versions in found:
        for path, version in versions.items():
            if path not in least or int(version) < int(least[path]):
                least[path] = version
    return least


def fresh(beside: Beside) -> Versions:
    """Where the watches of a Lease stood, unless that is too long ago."""
    try:
        age = dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(beside.renewed)
    except ValueError:
        return {}
    return bookmarks.read(beside.annotations) if age.total_seconds() < STALE_S else {}


def stand_of(annotations: Mapping[str, Any]) -> Stand | None:
    """What a Lease says of its shard; null if nothing, or nothing that we can read."""
    try:
        return msgspec.json.decode(annotations.get(ANNOTATION) or "", type=Stand)
    except msgspec.DecodeError:
        return None


def text_of(stand: Stand) -> str:
    """`stand` as an annotation's value."""
    return msgspec.json.encode(stand).decode()
