"""Reading JSON bodies that may be anything: each accessor gives the type that it names, whatever is there.

A body comes from users and from controllers of many versions; nothing in it is taken on trust, and nothing raises.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

Json = Mapping[str, Any]

EMPTY: Final[Json] = {}


def obj(value: Any, *keys: str) -> Json:
    """The object under `keys`, or an empty one."""
    # These run some hundred times a node: `type is dict` spares the abstract class's look-up.
    for key in keys:
        value = value.get(key) if type(value) is dict or isinstance(value, Mapping) else None
    return value if type(value) is dict or isinstance(value, Mapping) else EMPTY


def seq(value: Any) -> Sequence[Any]:
    """A list, or an empty one."""
    return value if isinstance(value, list | tuple) else ()


def objs(value: Any) -> Iterator[Json]:
    """The objects in a list; what is none is left out."""
    return (item for item in seq(value) if type(item) is dict or isinstance(item, Mapping))


def text(value: Any) -> str | None:
    """A scalar as text, None for null; numbers and booleans as JSON writes them, objects and lists as JSON.

    Argo's ``AnyString`` takes numbers and booleans on input; its controller rewrites them as text.
    """
    if isinstance(value, str):
        return value if value.isascii() else _encodable(value)
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    try:
        return _encodable(json.dumps(value, ensure_ascii=False))
    except (TypeError, ValueError, RecursionError):
        return None


def _encodable(value: str) -> str:
    """Lone surrogates (``"\\ud800"`` in JSON) can't be written anywhere; they become a question mark."""
    return value.encode("utf-8", "replace").decode("utf-8")


def word(value: Any) -> str:
    """A text that is one already, else ""."""
    if not isinstance(value, str):
        return ""
    return value if value.isascii() else _encodable(value)


def flag(value: Any) -> bool | None:
    """A boolean, or None."""
    return value if isinstance(value, bool) else None


def whole(value: Any) -> int | None:
    """An integer, also as decimal text (``exitCode``), or None."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and len(value) <= 18 and value.isascii() and value.removeprefix("-").isdigit():
        return int(value)
    return None


def moment(value: Any) -> datetime | None:
    """An RFC 3339 time in UTC. Go's zero time (year 1) and what is no time are None."""
    if not isinstance(value, str) or len(value) > 40:
        return None
    try:
        at = datetime.fromisoformat(value)
        if at.tzinfo is None or at.year < 1970:
            return None
        return at.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def texts(value: Any) -> dict[str, str]:
    """An object of texts (labels, annotations)."""
    found = ((text(k), text(v)) for k, v in obj(value).items())
    return {k: v for k, v in found if k is not None and v is not None}


def named(items: Any) -> dict[str, Json]:
    """A list of objects with ``name``, by name; the last of two wins, as in Argo."""
    if not items:
        return {}
    return {name: item for item in objs(items) if (name := word(item.get("name")))}
