"""What MLflow can hold, and what becomes of the rest (targets.md §1.2, measured on 3.17). Pure, and idempotent.

Every difference is a :class:`Change`, and the tracker says so too: ``pipetrail.name.<key>`` holds a name as it was,
``pipetrail.exact.<key>`` a number as it was, ``pipetrail.cut.<key>`` the length and sha256 of a text that was cut.
Lengths are in characters, as MLflow counts them.
"""

import hashlib
import json
import math
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Final

from msgspec.structs import replace

from pipetrail.record import Number
from pipetrail.targets.changes import Changes, Item, marked
from pipetrail.targets.mlflow.figures import logged_tables
from pipetrail.targets.mlflow.limits import (
    EXPERIMENT_MOST,
    FLOAT_MOST,
    INT64_MOST,
    KEY_MOST,
    NAME_MOST,
    NOTE_MOST,
    PARAM_MOST,
    TAG_MOST,
)
from pipetrail.targets.target import File, Metric, Plot, TrackerRun

KEY_TAG: Final = "pipetrail.key"
ROOT_TAG: Final = "pipetrail.root"
OPENED_TAG: Final = "pipetrail.opened"
PARENT_TAG: Final = "pipetrail.parent"
NOTE_TAG: Final = "pipetrail.note"
MLFLOW_NOTE: Final = "mlflow.note.content"
MLFLOW_PARENT: Final = "mlflow.parentRunId"
TABLES_TAG: Final = "mlflow.loggedArtifacts"
RESERVED: Final = frozenset({OPENED_TAG, PARENT_TAG, NOTE_TAG, MLFLOW_NOTE, MLFLOW_PARENT, "mlflow.runName"})
OWN_TAGS: Final = {"user": "mlflow.user", "source_name": "mlflow.source.name", "commit": "mlflow.source.git.commit"}
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_LEGAL: Final = re.compile(r"[/\w.\- :]+")
_ILLEGAL: Final = re.compile(r"[^/\w.\- :]")
_BROKEN: Final = re.compile("[\x00\ud800-\udfff]")
_UNSAFE: Final = re.compile(r"[^/\w.\- ]")
_SPELLED: Final = {"@": "_at_", "%": "_pct"}


def fit(run: TrackerRun) -> TrackerRun:
    """`run` as MLflow can hold it, with every difference in `changes`."""
    names = Names([*run.params, *dict.fromkeys(m.key for m in run.metrics), *(_free(t) for t in run.tags)])
    changes = Changes()
    tags: dict[str, str] = {}
    for key, value in run.tags.items():
        name = names.of(_free(key))
        _renamed(changes, tags, "tag", key, name)
        tags[name] = _text(changes, tags, "tag", key, name, value, TAG_MOST)
    params: dict[str, str] = {}
    for key, value in run.params.items():
        name = names.of(key)
        _renamed(changes, tags, "param", key, name)
        params[name] = _text(changes, tags, "param", key, name, value, PARAM_MOST)
    metrics = _metrics(run.metrics, names, changes, tags)
    own = {}
    for field, key in OWN_TAGS.items():
        if value := getattr(run, field):
            own[field] = tags[key] = _text(changes, tags, "tag", key, key, value, TAG_MOST)
    figures = tuple(_figures(changes, run.figures))
    if tables := logged_tables(figures, TAG_MOST):
        tags[TABLES_TAG] = tables
    tags |= {KEY_TAG: run.key, ROOT_TAG: run.root}
    return replace(
        run,
        experiment=_experiment(changes, run.experiment),
        name=_text(changes, tags, "name", "run", "run", run.name, NAME_MOST) or run.key,
        note=_text(changes, tags, "note", "", "", run.note, NOTE_MOST),
        started=_time(changes, "started", run.started),
        finished=None if run.finished is None else _time(changes, "finished", run.finished),
        params=params,
        tags=tags,
        metrics=metrics,
        files=tuple(_file(changes, f) for f in run.files),
        figures=figures,
        changes=tuple(dict.fromkeys((*run.changes, *changes.all(run.name)))),
        **own,
    )


def legal(key: str) -> bool:
    """True if MLflow takes `key` as it is (mlflow/utils/validation.py: characters, and a path that stays itself)."""
    if len(key) > KEY_MOST or not _LEGAL.fullmatch(key):
        return False
    return posixpath.normpath(key) == key and key != "." and not key.startswith(("..", "/"))


def clean(key: str) -> str:
    """`key` made legal, without a look at others: @ is _at_, % is _pct, any other _; no empty or dotted segments."""
    text = _ILLEGAL.sub(lambda m: _SPELLED.get(m[0], "_"), key)
    segments = [re.sub(r"\.", "_", s) if s in (".", "..") else s for s in text.split("/") if s]
    text = "/".join(segments)
    if text.startswith(".."):
        text = "_" + text[1:]
    return marked(text, key, KEY_MOST) if len(text) > KEY_MOST else text or "_"


def tag_about(prefix: str, key: str) -> str:
    """The tag that says something about `key`: ``pipetrail.name.loss``; a long key is cut and marked."""
    return prefix + (key if len(prefix) + len(key) <= KEY_MOST else marked(key, key, KEY_MOST - len(prefix)))


class Names:
    """One name for each original, over params, metrics and tags alike, so that one tag can hold what it was.

    A key that is legal keeps its name whoever else wants it; of others the first gets the plain one and a later one
    four hex digits.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        every = dict.fromkeys(keys)
        self._names = {k: k for k in every if legal(k)}
        taken = set(self._names)
        for key in every:
            if key in self._names:
                continue
            name, digits = clean(key), 4
            while name in taken:
                name, digits = marked(clean(key), key, KEY_MOST, digits), digits + 4
            self._names[key] = name
            taken.add(name)

    def of(self, key: str) -> str:
        """The name that MLflow gets."""
        return self._names[key]


def _free(tag: str) -> str:
    """Tags that decide how MLflow or we see a run are ours to write."""
    return f"tag.{tag}" if tag in RESERVED else tag


def _renamed(changes: Changes, tags: dict[str, str], item: Item, key: str, name: str) -> None:
    if name != key:
        changes.add(item, key, "Renamed", f"is called {name}")
        tags[tag_about("pipetrail.name.", name)] = _BROKEN.sub("\ufffd", key)[:TAG_MOST]


def _text(
    changes: Changes, tags: dict[str, str], item: Item, key: str, name: str, value: str, most: int
) -> str:  # fmt: skip
    """A text without NUL (PostgreSQL refuses it) and lone surrogates (no UTF-8 holds them), of at most `most`."""
    text = value
    if _BROKEN.search(text):
        text = _BROKEN.sub("\ufffd", text.replace("\x00", ""))
        changes.add(item, key, "CharactersReplaced", "NUL is left out, half a surrogate pair is U+FFFD")
    if len(text) > most:
        digest = hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()
        changes.add(item, key, "ValueCut", f"{len(value)} characters, sha256 {digest}; MLflow holds {most}")
        if name:
            tags[tag_about("pipetrail.cut.", name)] = f"{len(value)} characters, sha256 {digest}"
        text = text[:most]
    return text


def _experiment(changes: Changes, name: str) -> str:
    text = _BROKEN.sub("_", name) or "Default"
    if len(text) > EXPERIMENT_MOST:
        text = marked(text, name, EXPERIMENT_MOST)
    if text != name:
        changes.add("name", "experiment", "Renamed", f"is called {text}")
    return text


def _time(changes: Changes, what: str, time: datetime) -> datetime:
    if time >= EPOCH:
        return time
    changes.add("run", what, "TimeOutOfRange", f"{time.isoformat()} is before 1970")
    return EPOCH


def _file(changes: Changes, file: File) -> File:
    """A path that stays below the run's own, of characters that neither MLflow's server nor a store's rules refuse."""
    path = _below(file.path) or "file"
    if path == file.path:
        return file
    changes.add("file", file.path, "Renamed", f"is called {path}")
    return replace(file, path=path)


def _below(path: str) -> str:
    return "/".join(s for s in _UNSAFE.sub("_", path).split("/") if s.strip("."))


def _figures(changes: Changes, plots: Iterable[Plot]) -> Iterator[Plot]:
    """Paths as those of files, and still one for each figure."""
    taken: set[str] = set()
    for plot in plots:
        path = _below(plot.path) or "figure"
        for digits in range(4, 68, 4):
            if path not in taken:
                break
            path = marked(_below(plot.path), plot.path, KEY_MOST, digits)
        taken.add(path)
        if path != plot.path:
            changes.add("figure", plot.path, "Renamed", f"is called {path}")
        yield plot if path == plot.path else replace(plot, path=path)


def _metrics(
    points: Iterable[Metric], names: Names, changes: Changes, tags: dict[str, str]
) -> tuple[Metric, ...]:  # fmt: skip
    fitted: dict[tuple[str, int, int, Number | str], Metric] = {}
    exact: dict[str, dict[int, str]] = {}
    steps: dict[str, set[int]] = {}
    for point in points:
        name = names.of(point.key)
        _renamed(changes, tags, "metric", point.key, name)
        if abs(point.step) > INT64_MOST:
            changes.add(
                "metric", point.key, "StepOutOfRange", f"step {point.step:.3g} does not fit in 64 bits: left out"
            )
            continue
        value, reason = number(point.value)
        if reason:
            changes.add("metric", point.key, reason, f"{_shown(point.value)} is stored as {value!r}")
            if reason != "NegativeZero":
                exact.setdefault(name, {})[point.step] = _spelled(point.value)
        time_ms = min(max(point.time_ms, 0), INT64_MOST)
        if time_ms != point.time_ms:
            changes.add("metric", point.key, "TimeOutOfRange", f"time {point.time_ms} is stored as {time_ms}")
        steps.setdefault(name, set()).add(point.step)
        same = (name, point.step, time_ms, "nan" if math.isnan(value) else value)
        if same in fitted:
            changes.add("metric", point.key, "SamePoint", "MLflow holds one point of a step, time and value")
            continue
        fitted[same] = Metric(key=name, value=value, step=point.step, time_ms=time_ms)
    for name, texts in exact.items():
        tags[tag_about("pipetrail.exact.", name)] = _exact(texts, alone=len(steps[name]) == 1)
    return tuple(fitted.values())


def number(value: Number) -> tuple[Number, str]:
    """`value` as MLflow stores it (float64; SQLite knows no -0.0, no SQL infinity) and the reason if it differs."""
    if isinstance(value, int):
        try:
            rounded = float(value)
        except OverflowError:
            return (FLOAT_MOST if value > 0 else -FLOAT_MOST), "OutOfRange"
        return (value, "") if int(rounded) == value else (rounded, "IntegerRounded")
    if math.isinf(value):
        return math.copysign(FLOAT_MOST, value), "InfinityClamped"
    if value == 0 and math.copysign(1.0, value) < 0:
        return 0.0, "NegativeZero"
    return value, ""


def _exact(texts: Mapping[int, str], *, alone: bool) -> str:
    """The numbers as they were: the text itself for a single point, else by step, as many as fit."""
    if alone:
        return next(iter(texts.values()))[:TAG_MOST]
    text = json.dumps(texts)
    kept = dict(texts)
    while len(text) > TAG_MOST and kept:
        for step in list(kept)[len(kept) * 3 // 4 :]:
            del kept[step]
        text = json.dumps({**kept, "…": f"{len(texts) - len(kept)} more"}, ensure_ascii=False)
    return text


def _spelled(value: Number) -> str:
    if isinstance(value, float):
        return "Infinity" if value > 0 else "-Infinity"
    return str(value)


def _shown(value: Number) -> str:
    text = _spelled(value) if isinstance(value, int) or math.isinf(value) else repr(value)
    return text if len(text) <= 60 else f"{text[:40]}… ({len(text)} digits)"
