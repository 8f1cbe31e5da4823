"""Which figures of a step are sent, and what they are called in a tracker run.

A figure's path is its step's place there and its own name, or its kind where it has none: ``evaluate/roc`` on the
parent, ``roc`` in a child. What it is called depends on its own step and on steps that ended earlier, so a path that
was once used stays.
"""

import hashlib
import itertools
import re
from collections.abc import Iterator, MutableMapping
from datetime import timedelta
from typing import Final

from pipetrail.record import Figure, packed
from pipetrail.shape.changes import Changes
from pipetrail.shape.layout import Identity, Place, identity
from pipetrail.targets.target import Plot

FIGURES_MOST: Final = 200  #: of a run
FIGURE_BYTES: Final = 4 << 20  #: as :func:`pipetrail.record.packed` has it
RUN_BYTES: Final = 16 << 20
MAX_SEGMENT: Final = 180  #: bytes of a part of a path, of which file systems take 255

_UNSAFE: Final = re.compile(r"[^\w.\- ]")


class Figures:
    """Counts the figures of one run while its tree is made."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._left = FIGURES_MOST
        self._bytes_left = RUN_BYTES

    def of(self, place: Place, owners: MutableMapping[str, Identity], at: timedelta, run: str) -> Iterator[Plot]:
        """The plots of one step, all of the time `at` (since 1970). `owners` are the paths that its run has already."""
        owner = identity(place.step.path, place.step.iteration)
        mine: set[str] = set()
        for figure in place.step.figures:
            plain = _path(place.prefix, figure)
            if self._fits(figure, plain, run):
                path = next(p for p in _names(plain, figure, owner) if p not in mine and owners.get(p, owner) == owner)
                owners[path] = owner
                mine.add(path)
                yield Plot(path=path, figure=figure, time_ms=at // timedelta(milliseconds=1))

    def _fits(self, figure: Figure, path: str, run: str) -> bool:
        size = len(packed(figure)) if self._left else 0
        if size > FIGURE_BYTES:
            said = f"{size >> 10} KiB; up to {FIGURE_BYTES >> 20} MiB are sent"
            self._changes.say("figure", path, "FigureTooLarge", said, run=run)
            return False
        if not self._left or size > self._bytes_left:
            self._left = 0  # those after it stay out too, small or not: what is sent are the first
            said = f"of a run the first {FIGURES_MOST} figures and {RUN_BYTES >> 20} MiB of them are sent"
            self._changes.say("figure", "", "TooManyFigures", said)
            return False
        self._left -= 1
        self._bytes_left -= size
        return True


def _path(prefix: str, figure: Figure) -> str:
    return "/".join(filter(None, [*map(_segment, prefix.split("/")), _segment(figure.name or "") or kind(figure)]))


def _segment(name: str) -> str:
    """One part of a path, without signs that a file system or an address has a use for; never ``.`` or ``..``."""
    short = _UNSAFE.sub("_", name).encode()[:MAX_SEGMENT].decode(errors="ignore")
    return short.strip(" .")


def _names(plain: str, figure: Figure, owner: Identity) -> Iterator[str]:
    """What a figure may be called, first choice first: an artifact may hold a matrix and a curve under one name."""
    yield plain
    of_kind = f"{plain}.{kind(figure)}"
    yield of_kind
    yield from (f"{of_kind}.{n}" for n in range(2, FIGURES_MOST + 2))
    mark = hashlib.sha256(repr(owner).encode("utf-8", "surrogatepass")).hexdigest()[:8]
    yield from (f"{of_kind}.{mark}.{n}" for n in itertools.count(1))


def kind(figure: Figure) -> str:
    """The kind as the record's JSON has it: ``confusion_matrix``."""
    return str(figure.__struct_config__.tag)
