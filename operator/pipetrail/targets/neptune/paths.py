"""Where things stand in a Neptune run: its attributes are a tree, with names in the leaves. Pure.

A path can't be an attribute and a namespace at once (the client refuses to read such a run), so no path that we give is
the beginning of another. All keys of one kind stand below one namespace; keys of two kinds never meet.
"""

import hashlib
import re
from collections.abc import Iterable
from typing import Final, Literal

from pipetrail.targets.figures import FOLDER
from pipetrail.targets.neptune.limits import PATH_MOST

Kind = Literal["param", "metric", "tag"]

NAME: Final = "sys/name"
NOTE: Final = "sys/description"
FAILED: Final = "sys/failed"
KEY: Final = "pipetrail/key"
ROOT: Final = "pipetrail/root"
PARENT: Final = "pipetrail/parent"
EXPERIMENT: Final = "pipetrail/experiment"
STATUS: Final = "pipetrail/status"
STARTED: Final = "pipetrail/started"
FINISHED: Final = "pipetrail/finished"
NOTE_DIGEST: Final = "pipetrail/note"

PARAMS: Final = "parameters/"
METRICS: Final = "metrics/"
OTHER_TAGS: Final = "tags/"
OUR_TAGS: Final = "pipetrail/"
FIGURES: Final = f"{FOLDER}/"
OWN: Final = frozenset({KEY, ROOT, PARENT, EXPERIMENT, STATUS, STARTED, FINISHED, NOTE_DIGEST})
"""Attributes of ours that are no tag; a tag of such a name stands below ``tags/``."""

_BROKEN: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff`\\\\]")
_ROOM: Final = PATH_MOST - 64
"""What a key may have: the longest namespace, and the digits of a collision, fit beside it."""


def custom_id(key: str) -> str:
    """The id that we choose for a run: 32 hex digits. (The client ignores one of more than 36 characters.)"""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def of(kind: Kind, name: str) -> str:
    """The attribute of a fitted key."""
    match kind:
        case "param":
            return PARAMS + name
        case "metric":
            return METRICS + name
        case "tag":
            rest = name.removeprefix("pipetrail.")
            ours = OUR_TAGS + rest
            free = rest and rest != name and not rest.startswith("/") and not OWN & {ours, *_above(ours)}
            return ours if free else OTHER_TAGS + name


def named(path: str) -> tuple[Kind, str] | None:
    """The other way: kind and fitted key of an attribute, None if it is neither param, metric nor tag."""
    if path in OWN:
        return None
    for prefix, kind, before in (
        (PARAMS, "param", ""), (METRICS, "metric", ""), (OTHER_TAGS, "tag", ""), (OUR_TAGS, "tag", "pipetrail."),
    ):  # fmt: skip
        if path.startswith(prefix):
            return kind, before + path.removeprefix(prefix)  # type: ignore[return-value]
    return None


def clean(key: str) -> str:
    """`key` as a path that Neptune takes and that stays itself when it is split at / and joined again."""
    parts = [s.strip() for s in _BROKEN.sub("_", key).split("/")]
    text = "/".join(s.replace(".", "_") if s in (".", "..") else s for s in parts if s) or "_"
    return text if _size(text) <= _ROOM else marked(text, key)


def marked(text: str, original: str, digits: int = 4) -> str:
    """`text`, cut so that a dash and `digits` hex digits of the original's sha256 fit behind it."""
    digest = hashlib.sha256(original.encode("utf-8", "surrogatepass")).hexdigest()[:digits]
    kept = text.encode()[: _ROOM - digits - 1].decode("utf-8", "ignore")
    return f"{kept.rstrip('/ ')}-{digest}"


def about(prefix: str, name: str) -> str:
    """The tag that says something about `name`: ``pipetrail.name.loss``."""
    text = prefix + name
    return text if _size(text) <= _ROOM else marked(text, name)


class Names:
    """One name for each original of one kind. The first that asks gets the plain one, a later one hex digits.

    In the order in which keys came to the run, so that a live run's names stay.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._names: dict[str, str] = {}
        self._leaves: set[str] = set()
        self._namespaces: set[str] = set()
        for key in dict.fromkeys(keys):
            name, digits = clean(key), 4
            while self._taken(name):
                # With / left in it a name could stay below an attribute however many digits it has.
                name, digits = marked(clean(key).replace("/", "."), key, digits), digits + 4
            self._names[key] = name
            self._leaves.add(name)
            self._namespaces |= _above(name)

    def of(self, key: str) -> str:
        """The name that Neptune gets."""
        return self._names[key]

    def _taken(self, name: str) -> bool:
        return name in self._leaves or name in self._namespaces or bool(_above(name) & self._leaves)


def _above(name: str) -> set[str]:
    parts = name.split("/")
    return {"/".join(parts[:n]) for n in range(1, len(parts))}


def _size(text: str) -> int:
    return len(text.encode())
