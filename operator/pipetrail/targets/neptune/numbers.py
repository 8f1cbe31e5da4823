"""Params as what they are: Neptune sorts and filters a column as numbers only if its values are. Pure.

A param that is strictly a number is stored as one if reading it back gives its text again ("4", "0.1"); else the number
is stored all the same and the text beside it ("1e-3" and 0.001), so that nothing is changed.
"""

import math

from pipetrail.record import number
from pipetrail.targets.neptune.limits import INT_MOST


def typed(text: str) -> int | float | None:
    """The number that `text` is to Neptune: 32-bit integers, else finite float64; None if it stays a text."""
    value = number(text) if len(text) <= 400 else None
    if isinstance(value, int) and abs(value) > INT_MOST:
        try:
            as_float = float(value)
        except OverflowError:
            return None
        return as_float if int(as_float) == value else None
    return value if value is not None and math.isfinite(value) else None


def spelled(value: object) -> str:
    """What is read back of a param, as text."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case _:
            return str(value)


def needs_text(text: str) -> bool:
    """True if `text` is stored as a number that would be spelt otherwise."""
    value = typed(text)
    return value is not None and spelled(value) != text
