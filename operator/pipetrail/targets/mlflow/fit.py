"""What MLflow can hold, and what becomes of the rest (targets.md §1.2, measured on 3.17). Pure, and idempotent.

How a difference is said is in fitting.py. Lengths are in characters, as MLflow counts them.
"""

import math
import posixpath
import re
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Final

from msgspec.structs import replace

from pipetrail.record import Number
from pipetrail.targets.changes import marked
from pipetrail.targets.fitting import BROKEN, Fitting, Names, by_step, shown, spelled, tag_about
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

_LEGAL: Final = re.compile(r"[/\w.\- :]+")
_ILLEGAL: Final = re.compile(r"[^/\w.\- :]")
_UNSAFE: Final = re.compile(r"[^/\w.\- ]")
_SPELLED: Final = {"@": "_at_", "%": "_pct"}


def fit(run: TrackerRun) -> TrackerRun:
    """`run` as MLflow can hold it, with every difference in `changes`."""
    # One name over params, metrics and tags alike, so that one tag can hold what it was.
    keys = [*run.params, *dict.fromkeys(m.key for m in run.metrics), *(_free(t) for t in run.tags)]
    names = Names(keys, legal, clean, KEY_MOST)
    fitting = Fitting("MLflow", TAG_MOST, partial(tag_about, KEY_MOST))
    tags: dict[str, str] = {}
    for key, value in run.tags.items():
        name = fitting.renamed("tag", key, names.of(_free(key)))
        tags[name] = fitting.text("tag", key, name, value)
    params: dict[str, str] = {}
    for key, value in run.params.items():
        name = fitting.renamed("param", key, names.of(key))
        params[name] = fitting.text("param", key, name, value, PARAM_MOST)
    metrics = _metrics(run.metrics, names, fitting)
    own = fitting.own(run, OWN_TAGS)
    tags |= {OWN_TAGS[field]: value for field, value in own.items()}
    figures = tuple(_figures(fitting, run.figures))
    if tables := logged_tables(figures, TAG_MOST):
        tags[TABLES_TAG] = tables
    return replace(
        run,
        experiment=_experiment(fitting, run.experiment),
        name=fitting.text("name", "run", "run", run.name, NAME_MOST) or run.key,
        note=fitting.text("note", "", "", run.note, NOTE_MOST),
        started=fitting.time("started", run.started),
        finished=fitting.ended(run.finished),
        params=params,
        metrics=metrics,
        files=tuple(_file(fitting, f) for f in run.files),
        figures=figures,
        tags={**tags, **fitting.tags, KEY_TAG: run.key, ROOT_TAG: run.root},
        changes=tuple(dict.fromkeys((*run.changes, *fitting.changes.all(run.name)))),
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


def _free(tag: str) -> str:
    """Tags that decide how MLflow or we see a run are ours to write."""
    return f"tag.{tag}" if tag in RESERVED else tag


def _experiment(fitting: Fitting, name: str) -> str:
    text = BROKEN.sub("_", name) or "Default"
    if len(text) > EXPERIMENT_MOST:
        text = marked(text, name, EXPERIMENT_MOST)
    if text != name:
        fitting.changes.add("name", "experiment", "Renamed", f"is called {text}")
    return text


def _file(fitting: Fitting, file: File) -> File:
    """A path that stays below the run's own, of characters that neither MLflow's server nor a store's rules refuse."""
    return replace(file, path=fitting.renamed("file", file.path, _below(file.path) or "file"))


def _below(path: str) -> str:
    return "/".join(s for s in _UNSAFE.sub("_", path).split("/") if s.strip("."))


def _figures(fitting: Fitting, plots: Iterable[Plot]) -> Iterator[Plot]:
    """Paths as those of files, and still one for each figure."""
    taken: set[str] = set()
    for plot in plots:
        path = _below(plot.path) or "figure"
        for digits in range(4, 68, 4):
            if path not in taken:
                break
            path = marked(_below(plot.path), plot.path, KEY_MOST, digits)
        taken.add(path)
        yield replace(plot, path=fitting.renamed("figure", plot.path, path))


def _metrics(points: Iterable[Metric], names: Names, fitting: Fitting) -> tuple[Metric, ...]:
    fitted: dict[tuple[str, int, int, Number | str], Metric] = {}
    exact: dict[str, dict[int, str]] = {}
    steps: dict[str, set[int]] = {}
    changes = fitting.changes
    for point in points:
        name = fitting.renamed("metric", point.key, names.of(point.key))
        if abs(point.step) > INT64_MOST:
            changes.add(
                "metric", point.key, "StepOutOfRange", f"step {point.step:.3g} does not fit in 64 bits: left out"
            )
            continue
        value, reason = number(point.value)
        if reason:
            changes.add("metric", point.key, reason, f"{shown(point.value)} is stored as {value!r}")
            if reason != "NegativeZero":
                exact.setdefault(name, {})[point.step] = spelled(point.value)
        time_ms = fitting.point_time(point.key, point.time_ms, INT64_MOST)
        steps.setdefault(name, set()).add(point.step)
        same = (name, point.step, time_ms, "nan" if math.isnan(value) else value)
        if same in fitted:
            changes.add("metric", point.key, "SamePoint", "MLflow holds one point of a step, time and value")
            continue
        fitted[same] = Metric(key=name, value=value, step=point.step, time_ms=time_ms)
    for name, texts in exact.items():
        fitting.say("exact", name, by_step(texts, TAG_MOST, alone=len(steps[name]) == 1))
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
