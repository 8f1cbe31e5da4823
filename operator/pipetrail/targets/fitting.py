"""What the `fit` of every target does alike: texts of bounded length, names that stay apart, tags about what changed.

Pure. A target's own module knows what its tracker holds; this one knows how a difference is said: a :class:`Change`,
and a tag in the tracker: ``pipetrail.name.<key>`` holds a name as it was, ``pipetrail.exact.<key>`` a number as it was,
``pipetrail.cut.<key>`` the length and sha256 of a text that was cut.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Final

from pipetrail.record import Number
from pipetrail.targets.changes import Changes, Item, marked
from pipetrail.targets.target import TrackerRun

BROKEN: Final = re.compile("[\x00\ud800-\udfff]")
"""NUL (PostgreSQL refuses it) and lone surrogates (no UTF-8 holds them)."""
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SHOWN: Final = 60  # characters of a number in a sentence


class Fitting:
    """One run while it is fitted: what has changed, and the tags that say so.

    `most` is how many characters a tag's text may have, `about` names the tag with a prefix that is about a key.
    """

    def __init__(self, tracker: str, most: int, about: Callable[[str, str], str]) -> None:
        self.tags: dict[str, str] = {}
        self.changes = Changes()
        self._tracker = tracker
        self._most = most
        self._about = about
        self._told: set[tuple[Item, str]] = set()

    def say(self, what: str, key: str, text: str) -> None:
        """The tag that says something about `key`."""
        self.tags[self._about(f"pipetrail.{what}.", key)] = BROKEN.sub("\ufffd", text)[: self._most]

    def text(self, item: Item, key: str, about: str, value: str, most: int = 0) -> str:
        """`value` in at most `most` characters (by default a tag's). A tag about `about`, if any, says what was cut."""
        most = most or self._most
        text = value
        if BROKEN.search(text):
            text = BROKEN.sub("\ufffd", text.replace("\x00", ""))
            self.changes.add(item, key, "CharactersReplaced", "NUL is left out, half a surrogate pair is U+FFFD")
        if len(text) > most:
            digest = hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()
            said = f"{len(value)} characters, sha256 {digest}"
            self.changes.add(item, key, "ValueCut", f"{said}; {self._tracker} holds {most}")
            if about:
                self.say("cut", about, said)
            text = text[:most]
        return text

    def renamed(self, item: Item, key: str, name: str, about: str = "") -> str:
        """`name`, and that it is not `key`, said once: of a metric too, however many points it has."""
        if name != key and (item, key) not in self._told:
            self._told.add((item, key))
            self.changes.add(item, key, "Renamed", f"is called {name}")
            if item in ("param", "metric", "tag"):
                self.say("name", about or name, key)
        return name

    def time(self, what: str, time: datetime) -> datetime:
        """A time that no tracker takes for a duration."""
        if time >= EPOCH:
            return time
        self.changes.add("run", what, "TimeOutOfRange", f"{time.isoformat()} is before 1970")
        return EPOCH

    def ended(self, time: datetime | None) -> datetime | None:
        """The end of a run, if it has one."""
        return None if time is None else self.time("finished", time)

    def point_time(self, key: str, time_ms: int, most: int) -> int:
        """Milliseconds of a point, between 0 and `most`."""
        held = min(max(time_ms, 0), most)
        if held != time_ms:
            self.changes.add("metric", key, "TimeOutOfRange", f"time {time_ms} is stored as {held}")
        return held

    def own(self, run: TrackerRun, tags: Mapping[str, str]) -> dict[str, str]:
        """Texts of the run's fields that have a tag of their own, by field; `tags` names it."""
        return {f: self.text("tag", tag, tag, value) for f, tag in tags.items() if (value := getattr(run, f))}


class Names:
    """One name for each key. A key that is legal keeps its name whoever else wants it, unless it is `taken`.

    Of others the first gets the plain one and a later one of the same four hex digits, or as many as it needs.
    """

    def __init__(
        self, keys: Iterable[str], legal: Callable[[str], bool], clean: Callable[[str], str], most: int,
        taken: Iterable[str] = (),
    ) -> None:  # fmt: skip
        every, reserved = dict.fromkeys(keys), frozenset(taken)
        self._names = {key: key for key in every if legal(key) and key not in reserved}
        used = set(reserved | self._names.keys())
        for key in every:
            if key in self._names:
                continue
            name, digits = clean(key), 4
            while name in used:
                name, digits = marked(clean(key), key, most, digits), digits + 4
            self._names[key] = name
            used.add(name)

    def of(self, key: str) -> str:
        """The name that the tracker gets."""
        return self._names[key]


def tag_about(most: int, prefix: str, key: str) -> str:
    """The tag that says something about `key`: ``pipetrail.name.loss``. Beyond `most` characters it is marked."""
    return prefix + (key if len(prefix) + len(key) <= most else marked(key, key, most - len(prefix)))


def by_step(texts: Mapping[int, object], most: int, *, alone: bool) -> str:
    """What is said of points: the text itself for the only point of a metric, else JSON by step, as many as fit."""
    if alone:
        return str(next(iter(texts.values())))[:most]
    kept = dict(texts)
    text = json.dumps(kept)
    while len(text) > most and kept:
        for step in list(kept)[len(kept) * 3 // 4 :]:
            del kept[step]
        text = json.dumps({**kept, "…": f"{len(texts) - len(kept)} more"}, ensure_ascii=False)
    return text


def spelled(value: Number) -> str:
    """A number with all its digits."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return repr(value)


def shown(value: Number) -> str:
    """A number as a sentence shows it."""
    text = spelled(value)
    return text if len(text) <= _SHOWN else f"{text[:40]}… ({len(text)} digits)"
