"""Values as KFP keeps them: numbers are doubles there, and the metadata store cuts those of properties (README 1).

KFP's spec names a parameter's type; with it a double becomes the integer that it was.
"""

import base64
import binascii
import json
import math
from collections.abc import Mapping
from typing import Any, Final

from pipetrail.formats import protobuf
from pipetrail.record import MAX_DIGITS, Number
from pipetrail.sources.argo.body import word

TOLERANCE: Final = 5.000001e-7
"""Half of the sixth decimal, which the store's SQLite backend keeps, and what binary fractions add to it."""
MAX_JSON_CHARS: Final = 8 << 20
MAX_DEPTH: Final = 100

_STRUCT: Final = "mlmd-struct::"
_MAX_VALUES: Final = 500_000


def parsed(text: Any) -> Any:
    """The value of a JSON text; null if it is none, or longer or deeper than is read."""
    if not isinstance(text, str) or not text or len(text) > MAX_JSON_CHARS:
        return None
    try:
        return json.loads(text, parse_int=_integer)
    except (ValueError, RecursionError):
        return None


def _integer(text: str) -> int | None:
    return int(text) if len(text) <= MAX_DIGITS else None


def struct(value: Any) -> Any:
    """A stored value as a JSON value: MLMD's backends keep objects as ``mlmd-struct::`` and base64 (README 1)."""
    if not isinstance(value, str) or not value.startswith(_STRUCT):
        return value
    try:
        raw = base64.b64decode(value.removeprefix(_STRUCT), validate=True)
        return protobuf.json_object(raw, protobuf.Budget(_MAX_VALUES))
    except (binascii.Error, protobuf.Malformed, protobuf.TooMuch):
        return None


def unwrapped(value: Any) -> Any:
    """An artifact's property as the component wrote it: lists and objects are wrapped (sources.md §4.4)."""
    value = struct(value)
    if isinstance(value, Mapping) and len(value) == 1:
        for key, kind in (("list", list), ("struct", Mapping)):
            if isinstance(value.get(key), kind):
                return ordered(value[key])
    return ordered(value)


def ordered(value: Any) -> Any:
    """`value` with the keys of objects in order: protobuf's maps keep none, and texts are made of it."""
    return _plain(value, 0, whole=False)


def typed(value: Any, kind: str) -> Any:
    """`value`, whose numbers may be doubles, as its declared type `kind` (NUMBER_INTEGER, ...; "" if not known).

    What nobody declares (numbers in lists and objects, too) is as KFP itself prints it: 2.0 is 2.
    """
    if isinstance(value, int) and not isinstance(value, bool) and kind in ("NUMBER_DOUBLE", "DOUBLE"):
        return float(value) if abs(value) <= 1 << 53 else value
    return value if isinstance(value, float) and kind in ("NUMBER_DOUBLE", "DOUBLE") else _plain(value, 0, whole=True)


def _plain(value: Any, depth: int, *, whole: bool) -> Any:
    match value:
        case str():
            return word(value)
        case float() if whole and value.is_integer() and abs(value) < 1e16:
            return int(value)
        case Mapping() | list() | tuple() if depth > MAX_DEPTH:
            return None
        case Mapping():
            entries = sorted(((word(k), v) for k, v in value.items()), key=lambda entry: entry[0])
            return {k: _plain(v, depth + 1, whole=whole) for k, v in entries}
        case list() | tuple():
            return [_plain(v, depth + 1, whole=whole) for v in value]
        case _:
            return value


def number(value: Any) -> Number | None:
    """A metric's value: a number, or a bool as 0 or 1 (design §4); null for anything else."""
    match value:
        case bool():
            return int(value)
        case int() | float():
            return value
        case _:
            return None


def agree(stored: Any, logged: Any, depth: int = 0) -> bool:
    """Whether `logged` may be what the store cut to `stored`: equal, numbers within half of the sixth decimal."""
    whole, given = number(stored), number(logged)
    if whole is not None and given is not None:
        return _close(whole, given)
    match stored, logged:
        case (Mapping(), Mapping()) if depth <= MAX_DEPTH:
            return stored.keys() == logged.keys() and all(agree(v, logged[k], depth + 1) for k, v in stored.items())
        case (list() | tuple(), list() | tuple()) if depth <= MAX_DEPTH:
            pairs = zip(stored, logged, strict=False)
            return len(stored) == len(logged) and all(agree(one, other, depth + 1) for one, other in pairs)
        case _:
            return type(stored) is type(logged) and bool(stored == logged)


def _close(stored: Number, logged: Number) -> bool:
    try:
        one, other = float(stored), float(logged)
    except OverflowError:
        return stored == logged
    return one == other or (math.isfinite(one) and math.isfinite(other) and abs(one - other) <= TOLERANCE)
