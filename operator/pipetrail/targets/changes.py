"""Collecting what a target's `fit` changes, and names that stay apart when they are cut. Pure."""

import hashlib
from collections.abc import Iterator
from typing import Literal

from pipetrail.targets.target import Change

Item = Literal["param", "metric", "tag", "name", "note", "file", "figure", "run"]


class Changes:
    """One change for an item, key and reason, however many points it is about."""

    def __init__(self) -> None:
        self._found: dict[tuple[Item, str, str], tuple[str, int]] = {}

    def add(self, item: Item, key: str, reason: str, detail: str) -> None:
        """One more; the first detail stays."""
        said, times = self._found.get((item, key, reason), (detail, 0))
        self._found[item, key, reason] = (said, times + 1)

    def all(self, run: str) -> Iterator[Change]:
        """What was found, in its order."""
        for (item, key, reason), (detail, times) in self._found.items():
            count = f" ({times} points)" if times > 1 else ""
            yield Change(item=item, key=key, reason=reason, detail=detail + count, run=run)


def marked(text: str, original: str, most: int, digits: int = 4) -> str:
    """`text` in at most `most` characters, ended by a dash and `digits` hex digits of the original's sha256."""
    digest = hashlib.sha256(original.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{text[: most - digits - 1]}-{digest[:digits]}"
