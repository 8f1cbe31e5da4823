"""Lines that a program printed, to points.

A line counts if it is a JSON object or consists of ``key=value`` pairs only. With a step key (step, global_step,
iteration, epoch) and another number it is a point of a curve; without one it counts only if every value is a number
(``accuracy=0.93``): as a single value, or, if the same name is printed again, as a series whose steps are 0, 1, 2, ...
A number is one strictly, or nan, inf and Infinity as Python, Go and JavaScript print them. Argo's own lines
(``time=... level=info msg=... argo=true``), coloured lines and prose never count.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from pipetrail.formats import Content
from pipetrail.formats.json_numbers import decoder
from pipetrail.formats.points import STEP_KEYS, Limits, Points, best_step_key, is_number, whole
from pipetrail.formats.recognised import add_row
from pipetrail.record import Number, number

LIMITS: Final = Limits(points=100_000, keys=2_000, line_bytes=64 << 10)

_STAMP = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d) ")
_PAIR = re.compile(r"([^\s=\"'{}\[\]():,;]+)=(\"[^\"]*\"|[^\s=\"'{}\[\],;]+)")
_SPACED = re.compile(r"([\w./|@%-]+)\s+=\s+(\S+)")
_ARGO = re.compile(r"time=\S+ level=\w+ msg=")


def read(data: bytes, limits: Limits = LIMITS) -> Content:
    """The points of a log; `time` is the stamp that leads a line (``kubectl logs --timestamps``), if there is one."""
    points = Points(limits)
    log = _Log(points, data)
    at, end, long = 0, len(data), 0
    while at < end:
        if points.full or log.full:
            points.left_out(data.count(b"\n", at) + (not data.endswith(b"\n")))
            break
        stop = data.find(b"\n", at)
        stop = end if stop < 0 else stop
        if stop - at > limits.line_bytes:
            long += 1
        elif data.find(b"=", at, stop) >= 0 or data.find(b"{", at, stop) >= 0:
            log.line(data[at:stop])
        at = stop + 1
    log.finish()
    if long:
        points.note("LongLines", f"{long} lines are longer than {limits.line_bytes} bytes")
    return points.content()


class _Log:
    """Reads line by line; `waiting` holds values without step until it is known whether they stay single."""

    def __init__(self, points: Points, data: bytes) -> None:
        self._points = points
        self._decode = decoder(points, data).decode
        self._waiting: dict[str, list[tuple[Number, datetime | None]]] = {}
        self._left = points.limits.points

    @property
    def full(self) -> bool:
        return self._left <= 0

    def line(self, raw: bytes) -> None:
        time = None
        if match := _STAMP.match(raw):
            raw = raw[match.end() :]
            time = _time(match)
        text = raw.decode("utf-8", "replace").strip()
        row = _object(text, self._decode) if text.startswith("{") else _pairs(text)
        if not row:
            return
        key = best_step_key([row])
        if key is not None:
            add_row(row, "", whole(row[key]), self._points, time=time, without=key)
            return
        if all(is_number(value) for value in row.values()) and not row.keys() <= set(STEP_KEYS):
            for name, value in row.items():
                self._waiting.setdefault(name, []).append((value, time))
                self._left -= 1

    def finish(self) -> None:
        for name, values in self._waiting.items():
            for index, (value, time) in enumerate(values):
                self._points.add(name, value, index if len(values) > 1 else None, time=time)


def _object(text: str, decode: Any) -> Mapping[str, Any] | None:
    try:
        value = decode(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _pairs(text: str) -> dict[str, Any] | None:
    if _ARGO.match(text):
        return None
    if match := _SPACED.fullmatch(text):
        found = {match[1]: match[2]}
    else:
        found = {}
        at = 0
        while at < len(text):
            match = _PAIR.match(text, at)
            if match is None:
                return None
            found[match[1]] = match[2]
            at = match.end()
            rest = len(text) - at
            if rest:
                if not text[at].isspace() and text[at] != ",":
                    return None
                at = len(text) - len(text[at:].lstrip(" \t,"))
    return {key: text if (value := number(text)) is None else value for key, text in found.items()}


def _time(match: re.Match[bytes]) -> datetime | None:
    fraction = (match[2] or b"0").decode()[:6].ljust(6, "0")
    try:
        return datetime.fromisoformat(f"{match[1].decode()}.{fraction}{match[3].decode()}").astimezone(UTC)
    except (ValueError, OverflowError):
        return None
