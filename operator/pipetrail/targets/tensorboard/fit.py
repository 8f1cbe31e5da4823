"""What event files can hold, and what becomes of the rest. Pure, and idempotent.

Every difference is a :class:`Change`, and the text says so too: ``pipetrail.name.<key>`` holds a name as it was,
``pipetrail.exact.<key>`` a number as it was, ``pipetrail.cut.<key>`` the length and sha256 of a text that was cut.
Numbers come out as the float32 that the file will hold, so that what is read back is equal.
"""

import hashlib
import json
import math
import re
import struct
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Final

from msgspec.structs import replace

from pipetrail.record import Number
from pipetrail.targets.changes import Changes, Item, marked
from pipetrail.targets.target import File, Metric, TrackerRun
from pipetrail.targets.tensorboard import paths
from pipetrail.targets.tensorboard.events import STATE_TAG
from pipetrail.targets.tensorboard.limits import (
    FILE_MOST,
    FLOAT_MOST,
    KEY_MOST,
    NAME_MOST,
    NOTE_MOST,
    STEP_MOST,
    TEXT_MOST,
    TIME_MOST_MS,
)
from pipetrail.targets.tensorboard.page import PAGE_TAG, text_tag

KEY_TAG: Final = "pipetrail.key"
ROOT_TAG: Final = "pipetrail.root"
OWN_TAGS: Final = {"user": "pipetrail.user", "source_name": "pipetrail.source", "commit": "pipetrail.commit"}
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
EXACT_MOST: Final = 100

_CONTROL: Final = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
_BROKEN: Final = re.compile("[\x00\ud800-\udfff]")


def fit(run: TrackerRun) -> TrackerRun:
    """`run` as event files can hold it, with every difference in `changes`."""
    changes = Changes()
    files = tuple(f for f in (_file(changes, file) for file in run.files) if f is not None)
    taken = {STATE_TAG, PAGE_TAG, *(tag for f in files if (tag := shown_as(f)))}
    plots, figures = Names([p.path for p in run.figures], taken), []
    for plot in run.figures:
        figures.append(replace(plot, path=plots.of(plot.path)))
        taken |= {figures[-1].path, text_tag(figures[-1].path)}
        if figures[-1].path != plot.path:
            changes.add("figure", plot.path, "Renamed", f"is called {figures[-1].path}")
    names = Names([*run.params, *dict.fromkeys(m.key for m in run.metrics), *run.tags], taken)
    tags: dict[str, str] = {}
    for key, value in run.tags.items():
        name = names.of(key)
        _renamed(changes, tags, "tag", key, name)
        tags[name] = _text(changes, tags, "tag", key, name, value, TEXT_MOST)
    params: dict[str, str] = {}
    for key, value in run.params.items():
        name = names.of(key)
        _renamed(changes, tags, "param", key, name)
        params[name] = _text(changes, tags, "param", key, name, value, TEXT_MOST)
    metrics = _metrics(run.metrics, names, changes, tags)
    own = {}
    for field, key in OWN_TAGS.items():
        if value := getattr(run, field):
            own[field] = tags[key] = _text(changes, tags, "tag", key, key, value, TEXT_MOST)
    tags |= {KEY_TAG: run.key, ROOT_TAG: run.root}
    return replace(
        run,
        experiment=_BROKEN.sub("_", run.experiment) or "Default",
        name=_text(changes, tags, "name", "run", "run", run.name, NAME_MOST) or run.key,
        note=_text(changes, tags, "note", "", "", run.note, NOTE_MOST),
        started=_time(changes, "started", run.started),
        finished=None if run.finished is None else _time(changes, "finished", run.finished),
        params=params,
        tags=tags,
        metrics=metrics,
        files=files,
        figures=tuple(figures),
        changes=tuple(dict.fromkeys((*run.changes, *changes.all(run.name)))),
        **own,
    )


def shown_as(file: File) -> str:
    """The tag of the text that a markdown file is shown as; empty for others."""
    return file.path.removesuffix(".md") if file.path.endswith(".md") else ""


class Names:
    """One name for each key. A key that is legal keeps its name; of others a later one of the same gets hex digits."""

    def __init__(self, keys: Iterable[str], taken: Iterable[str]) -> None:
        every, reserved = dict.fromkeys(keys), set(taken)
        self._names = {k: k for k in every if legal(k) and k not in reserved}
        used = reserved | self._names.keys()
        for key in every:
            if key in self._names:
                continue
            name, digits = clean(key), 4
            while name in used:
                name, digits = marked(clean(key), key, KEY_MOST, digits), digits + 4
            self._names[key] = name
            used.add(name)

    def of(self, key: str) -> str:
        """The name that TensorBoard gets."""
        return self._names[key]


def legal(key: str) -> bool:
    """True if `key` is a tag as it is."""
    return 0 < len(key) <= KEY_MOST and not _CONTROL.search(key) and not key.startswith("_hparams_/")


def clean(key: str) -> str:
    """`key` made legal, without a look at others."""
    text = _CONTROL.sub("_", key) or "_"
    if text.startswith("_hparams_/"):  # where HPARAMS looks for its own
        text = text.replace("/", ".", 1)
    return marked(text, key, KEY_MOST) if len(text) > KEY_MOST else text


def number(value: Number) -> tuple[float, str]:
    """`value` as float32, and the reason if it is more than rounded."""
    reason = ""
    try:
        wide = float(value)
    except OverflowError:
        return (FLOAT_MOST if value > 0 else -FLOAT_MOST), "OutOfRange"
    if isinstance(value, int) and int(wide) != value:
        reason = "IntegerRounded"
    try:
        narrow: float = struct.unpack("<f", struct.pack("<f", wide))[0]
    except OverflowError:
        return math.copysign(FLOAT_MOST, wide), "OutOfRange"
    if narrow == 0 and wide != 0:
        reason = "RoundedToZero"
    return narrow, reason


def _metrics(
    points: Iterable[Metric], names: Names, changes: Changes, tags: dict[str, str]
) -> tuple[Metric, ...]:  # fmt: skip
    fitted: list[Metric] = []
    exact: dict[str, dict[int, str]] = {}
    steps: dict[str, set[int]] = {}
    for point in points:
        name = names.of(point.key)
        _renamed(changes, tags, "metric", point.key, name)
        if abs(point.step) > STEP_MOST:
            changes.add("metric", point.key, "StepOutOfRange", f"step {point.step:.3g} is beyond 64 bits: left out")
            continue
        value, reason = number(point.value)
        if reason:
            changes.add("metric", point.key, reason, f"{_spelled(point.value)} is stored as {value!r}")
            exact.setdefault(name, {})[point.step] = _spelled(point.value)
        time_ms = min(max(point.time_ms, 0), TIME_MOST_MS)
        if time_ms != point.time_ms:
            changes.add("metric", point.key, "TimeOutOfRange", f"time {point.time_ms} is stored as {time_ms}")
        steps.setdefault(name, set()).add(point.step)
        fitted.append(Metric(key=name, value=value, step=point.step, time_ms=time_ms))
    for name, texts in exact.items():
        tags[_tag_about("pipetrail.exact.", name)] = _exact(texts, alone=len(steps[name]) == 1)
    return tuple(fitted)


def _exact(texts: Mapping[int, str], *, alone: bool) -> str:
    """The numbers as they were: the text itself for a single point, else by step, the first of many."""
    if alone:
        return next(iter(texts.values()))[:TEXT_MOST]
    kept = {str(step): text for step, text in list(texts.items())[:EXACT_MOST]}
    if len(texts) > EXACT_MOST:
        kept["…"] = f"{len(texts) - EXACT_MOST} more"
    return json.dumps(kept, ensure_ascii=False)


def _spelled(value: Number) -> str:
    text = str(value) if isinstance(value, int) else repr(value)
    return text if len(text) <= 60 else f"{text[:40]}… ({len(text)} digits)"


def _renamed(changes: Changes, tags: dict[str, str], item: Item, key: str, name: str) -> None:
    if name != key:
        changes.add(item, key, "Renamed", f"is called {name}")
        tags[_tag_about("pipetrail.name.", name)] = _BROKEN.sub("\ufffd", key)[:TEXT_MOST]


def _tag_about(prefix: str, key: str) -> str:
    return prefix + (key if len(prefix) + len(key) <= KEY_MOST else marked(key, key, KEY_MOST - len(prefix)))


def _text(
    changes: Changes, tags: dict[str, str], item: Item, key: str, name: str, value: str, most: int
) -> str:  # fmt: skip
    """A text without NUL and lone surrogates (no UTF-8 holds them), of at most `most` characters."""
    text = value
    if _BROKEN.search(text):
        text = _BROKEN.sub("\ufffd", text.replace("\x00", ""))
        changes.add(item, key, "CharactersReplaced", "NUL is left out, half a surrogate pair is U+FFFD")
    if len(text) > most:
        sha256 = hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()
        changes.add(item, key, "ValueCut", f"{len(value)} characters, sha256 {sha256}; {most} are kept")
        if name:
            tags[_tag_about("pipetrail.cut.", name)] = f"{len(value)} characters, sha256 {sha256}"
        text = text[:most]
    return text


def _time(changes: Changes, what: str, time: datetime) -> datetime:
    if time >= EPOCH:
        return time
    changes.add("run", what, "TimeOutOfRange", f"{time.isoformat()} is before 1970")
    return EPOCH


def _file(changes: Changes, file: File) -> File | None:
    """A file under a path that stays in the run's folder; None if it is too large to lie there."""
    if len(file.data) > FILE_MOST:
        changes.add("file", file.path, "TooLarge", f"{len(file.data)} bytes; {FILE_MOST} are kept: left out")
        return None
    path = "/".join(paths.file(file.path))
    if path != file.path:
        changes.add("file", file.path, "Renamed", f"is called {path}")
    return replace(file, path=path)
