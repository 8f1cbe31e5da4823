"""JSON documents and JSON lines to values, within limits.

Python's own parser reads them: it takes the bare NaN and Infinity that Python writes, keeps integers exact, and refuses
with an exception (never a crash) what is nested deeper than the interpreter's stack.
"""

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from pipetrail.formats.points import Points
from pipetrail.record import MAX_DIGITS

# What may be a float beyond float64; only where this is found is each float looked at, which costs time.
_BIG = re.compile(rb"[0-9][eE]\+?[0-9]{3}|[0-9]{309}")


class Unparsable(Exception):
    """Not JSON; the message says where."""


def decoder(points: Points, data: bytes) -> json.JSONDecoder:
    """A decoder for `data` or parts of it.

    Of keys that stand twice in one object the last wins, and `points` is told. Numbers that neither int nor float64
    can hold (1e400 is no infinity) are null, with a note.
    """

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(items)
        if len(result) != len(items):
            seen: set[str] = set()
            for key, _ in items:
                if key in seen:
                    points.duplicate(key)
                seen.add(key)
        return result

    def integer(text: str) -> int | None:
        if len(text) <= MAX_DIGITS:
            return int(text)
        points.note("NumberTooLong", f"an integer of more than {MAX_DIGITS} digits is left out")
        return None

    def real(text: str) -> float | None:
        value = float(text)
        if math.isfinite(value):
            return value
        points.note("NumberOutOfRange", f"{text[:40]} is beyond float64 and left out")
        return None

    parse_float = real if _BIG.search(data) else None
    return json.JSONDecoder(object_pairs_hook=pairs, parse_int=integer, parse_float=parse_float)


def document(data: bytes, points: Points) -> Any:
    """The value of a whole JSON document in UTF-8.

    Raises :class:`Unparsable` and UnicodeDecodeError; what is too big or too deep is noted and gives None.
    """
    limits = points.limits
    if len(data) > limits.document_bytes:
        points.note("TooLarge", f"a JSON document of {len(data)} bytes; up to {limits.document_bytes} are read")
        return None
    values = sum(map(data.count, (b",", b"[", b"{")))
    if values > limits.document_values:
        points.note("TooManyValues", f"a JSON document of {values} values; up to {limits.document_values} are read")
        return None
    try:
        return decoder(points, data).decode(data.decode())
    except RecursionError:
        points.note("TooDeep", f"nested deeper than {limits.depth}")
        return None
    except json.JSONDecodeError as error:
        raise Unparsable(str(error)) from None


def lines(data: bytes, limit: int) -> Iterator[str | None]:
    """The lines of UTF-8 `data` without their ends; None for one that is longer than `limit` bytes or not UTF-8."""
    at, end = 0, len(data)
    while at < end:
        stop = data.find(b"\n", at)
        stop = end if stop < 0 else stop
        if stop - at > limit:
            yield None
        else:
            try:
                yield data[at:stop].decode()
            except UnicodeDecodeError:
                yield None
        at = stop + 1
