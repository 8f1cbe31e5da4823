"""What the readers of formats share: where points are gathered, under limits, and which key tells a step.

Keys are nested names joined with dots. A key that is empty at the top of a file (or a file that is one bare number or
list) is named after the file: its name up to the first dot.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final, TypeGuard

from pipetrail.formats import Content, Note, RawPoint
from pipetrail.record import Frozen, Number

#: Keys that tell a point's step, by precedence. The others of them in the same row stay metrics.
STEP_KEYS: Final = ("step", "global_step", "iteration", "epoch")


class Limits(Frozen, frozen=True):
    """Bounds of one file or log. What is beyond them is cut, counted and noted."""

    points: int = 200_000
    keys: int = 20_000
    depth: int = 64  #: of nested objects and lists
    document_bytes: int = 8 << 20  #: a JSON document, which is parsed as a whole
    document_values: int = 1_000_000  #: commas, brackets and braces in it: they bound the memory a parse takes
    yaml_bytes: int = 1 << 20
    line_bytes: int = 1 << 20
    key_chars: int = 4096


DEFAULT: Final = Limits()


def is_number(value: Any) -> TypeGuard[Number]:
    """An int or a float; a bool is none."""
    return type(value) is float or type(value) is int


def whole(value: Any) -> int | None:
    """`value` as a step: an int, or a float without fraction."""
    if type(value) is int:
        return value
    return int(value) if type(value) is float and value.is_integer() else None


def stem(name: str) -> str:
    """The file's name up to its first dot."""
    base = name.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return base.split(".")[0] or base


def best_step_key(rows: Iterable[Mapping[str, Any]]) -> str | None:
    """The step key that most of `rows` hold a whole number under, beside at least one other number."""
    counts = dict.fromkeys(STEP_KEYS, 0)
    for row in rows:
        if any(is_number(v) or isinstance(v, dict) for k, v in row.items() if k not in counts):
            for key in STEP_KEYS:
                counts[key] += whole(row.get(key)) is not None
    best = max(STEP_KEYS, key=lambda k: counts[k])
    return best if counts[best] else None


class Points:
    """Gathers the points of one file. A single value given twice is a duplicate: the last wins."""

    def __init__(self, limits: Limits = DEFAULT) -> None:
        self.limits = limits
        self._points: list[RawPoint] = []
        self._keys: set[str] = set()
        self._single: dict[str, int] = {}
        self._notes: dict[str, Note] = {}
        self._too_many = 0
        self._too_many_keys = 0
        self._unread_lines = 0
        self._duplicates: dict[str, None] = {}

    @property
    def full(self) -> bool:
        """True if no further point will be kept."""
        return len(self._points) >= self.limits.points

    def __bool__(self) -> bool:
        return bool(self._points)

    def add(
        self,
        key: str,
        value: Number,
        step: int | None = None,
        *,
        time: datetime | None = None,
        recognised: str | None = None,
        setting: bool = False,
    ) -> None:
        """Keep a point, or count it as too many."""
        if key not in self._keys:
            if len(self._keys) >= self.limits.keys or len(key) > self.limits.key_chars:
                self._too_many_keys += 1
                return
            self._keys.add(key)
        point = RawPoint(key=key, value=value, step=step, time=time, recognised=recognised, setting=setting)
        if step is None:
            if (at := self._single.get(key)) is not None:
                self.duplicate(key)
                self._points[at] = point
                return
            self._single[key] = len(self._points)
        if self.full:
            self._too_many += 1
            if step is None:
                del self._single[key]
            return
        self._points.append(point)

    def left_out(self, lines: int) -> None:
        """Count lines that were not even read, because no further point is kept."""
        self._unread_lines += lines

    def duplicate(self, key: str) -> None:
        """Remember that `key` came twice."""
        if len(self._duplicates) < 1000:
            self._duplicates[key] = None

    def note(self, reason: str, message: str) -> None:
        """Keep a note; one of each reason is enough."""
        self._notes.setdefault(reason, Note(reason=reason, message=message))

    def content(self) -> Content:
        """All that was gathered."""
        if self._duplicates:
            some = ", ".join(repr(k[:60]) for k in list(self._duplicates)[:5])
            self.note("DuplicateKey", f"{len(self._duplicates)} keys stand there more than once, the last wins: {some}")
        if self._too_many or self._unread_lines:
            unread = f" and the last {self._unread_lines} lines" if self._unread_lines else ""
            self.note(
                "TooManyPoints",
                f"the first {self.limits.points} points are kept, {self._too_many} more{unread} are left out",
            )
        if self._too_many_keys:
            self.note(
                "TooManyKeys",
                f"the first {self.limits.keys} keys of up to {self.limits.key_chars} characters are kept, "
                f"{self._too_many_keys} values under others are left out",
            )
        return Content(points=tuple(self._points), notes=tuple(self._notes.values()))
