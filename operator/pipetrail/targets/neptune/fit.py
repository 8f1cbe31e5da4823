"""What Neptune can hold, and what becomes of the rest. Pure, and idempotent.

Every difference is a :class:`Change`, and the tracker says so too, in a tag about the attribute:
``pipetrail.name.<path>`` holds a name as it was, ``pipetrail.exact.<path>`` a number as it was,
``pipetrail.more.<path>`` values whose step another has, ``pipetrail.cut.<path>`` length and sha256 of a text that was
cut.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Final

from msgspec.structs import replace

from pipetrail.record import Number
from pipetrail.targets.changes import Changes, Item
from pipetrail.targets.neptune import numbers, paths
from pipetrail.targets.neptune.limits import FILE_MOST, STEP_MOST, TEXT_MOST, TIME_MOST_MS
from pipetrail.targets.target import File, Metric, Plot, TrackerRun

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
OWN_TAGS: Final = {"user": "pipetrail.user", "source_name": "pipetrail.source", "commit": "pipetrail.commit"}
_BROKEN: Final = re.compile("[\x00\ud800-\udfff]")


def fit(run: TrackerRun) -> TrackerRun:
    """`run` as Neptune can hold it, with every difference in `changes`."""
    fitting = _Fitting()
    own = fitting.own(run)
    tags = fitting.texts("tag", run.tags) | {OWN_TAGS[field]: value for field, value in own.items()}
    params = fitting.texts("param", run.params)
    for name, value in params.items():
        if numbers.needs_text(value):
            fitting.say("exact", paths.of("param", name), value)
    return replace(
        run,
        name=fitting.text("name", "run", "", run.name) or run.key,
        note=fitting.text("note", "", paths.NOTE, run.note),
        started=fitting.time("started", run.started),
        finished=None if run.finished is None else fitting.time("finished", run.finished),
        params=params,
        metrics=fitting.metrics(run.metrics),
        files=tuple(f for f in map(fitting.file, run.files) if f is not None),
        figures=fitting.figures(run.figures),
        tags={**tags, **fitting.tags},
        changes=tuple(dict.fromkeys((*run.changes, *fitting.changes.all(run.name)))),
        **own,
    )


class _Fitting:
    """One run while it is fitted: what has changed, and the tags that say so."""

    def __init__(self) -> None:
        self.tags: dict[str, str] = {}
        self.changes = Changes()
        self._told: set[tuple[Item, str]] = set()

    def say(self, what: str, path: str, text: str) -> None:
        """The tag that says something about the attribute at `path`."""
        self.tags[paths.about(f"pipetrail.{what}.", path)] = _BROKEN.sub("\ufffd", text)[:TEXT_MOST]

    def own(self, run: TrackerRun) -> dict[str, str]:
        """What has a tag of its own, by the run's field."""
        return {
            field: self.text("tag", tag, paths.of("tag", tag), value)
            for field, tag in OWN_TAGS.items()
            if (value := getattr(run, field))
        }

    def texts(self, kind: paths.Kind, wanted: Mapping[str, str]) -> dict[str, str]:
        names = paths.Names(wanted)
        return {
            name: self.text(kind, key, paths.of(kind, name), value)
            for key, value in wanted.items()
            for name in (self._renamed(kind, key, names),)
        }

    def text(self, item: Item, key: str, path: str, value: str) -> str:
        """A text without NUL and lone surrogates (no UTF-8 holds them), cut where the client would cut it."""
        text = value
        if _BROKEN.search(text):
            text = _BROKEN.sub("\ufffd", text.replace("\x00", ""))
            self.changes.add(item, key, "CharactersReplaced", "NUL is left out, half a surrogate pair is U+FFFD")
        if len(text) > TEXT_MOST:
            about = f"{len(value)} characters, sha256 {_sha256(value)}"
            self.changes.add(item, key, "ValueCut", f"{about}; Neptune holds {TEXT_MOST}")
            if path:
                self.say("cut", path, about)
            text = text[:TEXT_MOST]
        return text

    def time(self, what: str, time: datetime) -> datetime:
        if time >= EPOCH:
            return time
        self.changes.add("run", what, "TimeOutOfRange", f"{time.isoformat()} is before 1970")
        return EPOCH

    def metrics(self, points: Iterable[Metric]) -> tuple[Metric, ...]:
        """In the order of their steps: Neptune takes a series only so (operation_error_processor.py of the client)."""
        every = tuple(points)
        names = paths.Names(p.key for p in every)
        fitted: dict[tuple[str, int], Metric] = {}
        exact: dict[str, dict[int, str]] = {}
        more: dict[str, dict[int, list[str]]] = {}
        for point in every:
            name = self._renamed("metric", point.key, names)
            if abs(point.step) > STEP_MOST:
                self.changes.add(
                    "metric", point.key, "StepOutOfRange", f"step {point.step:.3g} is beyond float64: left out"
                )
                continue
            value, reason = _number(point.value)
            if reason:
                held = "left out" if value is None else f"stored as {value!r}"
                self.changes.add("metric", point.key, reason, f"{_shown(point.value)} is {held}")
                exact.setdefault(name, {}).setdefault(point.step, _spelled(point.value))
            if value is None:
                continue
            time_ms = min(max(point.time_ms, 0), TIME_MOST_MS)
            if time_ms != point.time_ms:
                self.changes.add("metric", point.key, "TimeOutOfRange", f"time {point.time_ms} is stored as {time_ms}")
            if (name, point.step) in fitted:
                self.changes.add("metric", point.key, "StepTaken", "one point of a step: the first is kept")
                more.setdefault(name, {}).setdefault(point.step, []).append(_spelled(point.value))
                continue
            fitted[name, point.step] = Metric(key=name, value=value, step=point.step, time_ms=time_ms)
        for what, found in (("exact", exact), ("more", more)):
            for name, by_step in found.items():
                self.say(what, paths.of("metric", name), _by_step(by_step))
        order = {name: n for n, name in enumerate(dict.fromkeys(name for name, _ in fitted))}
        return tuple(sorted(fitted.values(), key=lambda m: (order[m.key], m.step)))

    def file(self, file: File) -> File | None:
        if len(file.data) > FILE_MOST:
            self.changes.add("file", file.path, "TooLarge", f"{len(file.data)} bytes; {FILE_MOST} are sent: left out")
            return None
        path = paths.clean(file.path)
        if path != file.path:
            self.changes.add("file", file.path, "Renamed", f"is called {path}")
        return file if path == file.path else replace(file, path=path)

    def figures(self, plots: Iterable[Plot]) -> tuple[Plot, ...]:
        every = tuple(plots)
        names = paths.Names(p.path for p in every)
        for plot in every:
            if names.of(plot.path) != plot.path:
                self.changes.add("figure", plot.path, "Renamed", f"is called {names.of(plot.path)}")
        return tuple(p if names.of(p.path) == p.path else replace(p, path=names.of(p.path)) for p in every)

    def _renamed(self, kind: paths.Kind, key: str, names: paths.Names) -> str:
        name = names.of(key)
        if name != key:
            if (kind, key) not in self._told:  # once for a metric, however many points it has
                self.changes.add(kind, key, "Renamed", f"is called {name}")
            self._told.add((kind, key))
            self.say("name", paths.of(kind, name), key)
        return name


def _number(value: Number) -> tuple[Number | None, str]:
    """`value` as a float64 series holds it, None if it holds none, and the reason if it differs.

    The client drops NaN and infinities with a warning that nobody reads: they are left out here, and said.
    """
    if isinstance(value, int):
        try:
            rounded = float(value)
        except OverflowError:
            return None, "OutOfRange"
        return (value, "") if int(rounded) == value else (rounded, "IntegerRounded")
    return (value, "") if math.isfinite(value) else (None, "NotFinite")


def _by_step(texts: Mapping[int, str] | Mapping[int, list[str]]) -> str:
    """The numbers as they were: the text itself if there is one, else by step, as many as fit."""
    kept = dict(texts)
    first = next(iter(kept.values()))
    if len(kept) == 1 and isinstance(first, str):
        return first[:TEXT_MOST]
    text = json.dumps(kept)
    while len(text) > TEXT_MOST and kept:
        for step in list(kept)[len(kept) * 3 // 4 :]:
            del kept[step]
        text = json.dumps({**kept, "more": len(texts) - len(kept)})
    return text


def _spelled(value: Number) -> str:
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else "Infinity" if value == math.inf else (
            "-Infinity" if value == -math.inf else repr(value)
        )  # fmt: skip
    return str(value)


def _shown(value: Number) -> str:
    text = _spelled(value)
    return text if len(text) <= 60 else f"{text[:40]}… ({len(text)} digits)"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
