"""What event files can hold, and what becomes of the rest. Pure, and idempotent.

How a difference is said is in fitting.py. Numbers come out as the float32 that the file will hold, so that what is read
back is equal.
"""

import math
import re
import struct
from collections.abc import Iterable
from functools import partial
from typing import Final

from msgspec.structs import replace

from pipetrail.record import Number
from pipetrail.targets.changes import marked
from pipetrail.targets.fitting import BROKEN, Fitting, Names, by_step, shown, spelled, tag_about
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

_CONTROL: Final = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


def fit(run: TrackerRun) -> TrackerRun:
    """`run` as event files can hold it, with every difference in `changes`."""
    fitting = Fitting("TensorBoard", TEXT_MOST, partial(tag_about, KEY_MOST))
    files = tuple(f for f in (_file(fitting, file) for file in run.files) if f is not None)
    taken = {STATE_TAG, PAGE_TAG, *(tag for f in files if (tag := shown_as(f)))}
    plots, figures = Names([p.path for p in run.figures], legal, clean, KEY_MOST, taken), []
    for plot in run.figures:
        path = fitting.renamed("figure", plot.path, plots.of(plot.path))
        figures.append(replace(plot, path=path))
        taken |= {path, text_tag(path)}
    keys = [*run.params, *dict.fromkeys(m.key for m in run.metrics), *run.tags]
    names = Names(keys, legal, clean, KEY_MOST, taken)
    tags: dict[str, str] = {}
    for key, value in run.tags.items():
        name = fitting.renamed("tag", key, names.of(key))
        tags[name] = fitting.text("tag", key, name, value)
    params: dict[str, str] = {}
    for key, value in run.params.items():
        name = fitting.renamed("param", key, names.of(key))
        params[name] = fitting.text("param", key, name, value)
    metrics = _metrics(run.metrics, names, fitting)
    own = fitting.own(run, OWN_TAGS)
    tags |= {OWN_TAGS[field]: value for field, value in own.items()}
    return replace(
        run,
        experiment=BROKEN.sub("_", run.experiment) or "Default",
        name=fitting.text("name", "run", "run", run.name, NAME_MOST) or run.key,
        note=fitting.text("note", "", "", run.note, NOTE_MOST),
        started=fitting.time("started", run.started),
        finished=fitting.ended(run.finished),
        params=params,
        metrics=metrics,
        files=files,
        figures=tuple(figures),
        tags={**tags, **fitting.tags, KEY_TAG: run.key, ROOT_TAG: run.root},
        changes=tuple(dict.fromkeys((*run.changes, *fitting.changes.all(run.name)))),
        **own,
    )


def shown_as(file: File) -> str:
    """The tag of the text that a markdown file is shown as; empty for others."""
    return file.path.removesuffix(".md") if file.path.endswith(".md") else ""


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


def _metrics(points: Iterable[Metric], names: Names, fitting: Fitting) -> tuple[Metric, ...]:
    fitted: list[Metric] = []
    exact: dict[str, dict[int, str]] = {}
    steps: dict[str, set[int]] = {}
    changes = fitting.changes
    for point in points:
        name = fitting.renamed("metric", point.key, names.of(point.key))
        if abs(point.step) > STEP_MOST:
            changes.add("metric", point.key, "StepOutOfRange", f"step {point.step:.3g} is beyond 64 bits: left out")
            continue
        value, reason = number(point.value)
        if reason:
            changes.add("metric", point.key, reason, f"{shown(point.value)} is stored as {value!r}")
            exact.setdefault(name, {})[point.step] = spelled(point.value)
        time_ms = fitting.point_time(point.key, point.time_ms, TIME_MOST_MS)
        steps.setdefault(name, set()).add(point.step)
        fitted.append(Metric(key=name, value=value, step=point.step, time_ms=time_ms))
    for name, texts in exact.items():
        fitting.say("exact", name, by_step(texts, TEXT_MOST, alone=len(steps[name]) == 1))
    return tuple(fitted)


def _file(fitting: Fitting, file: File) -> File | None:
    """A file under a path that stays in the run's folder; None if it is too large to lie there."""
    if len(file.data) > FILE_MOST:
        said = f"{len(file.data)} bytes; {FILE_MOST} are kept: left out"
        fitting.changes.add("file", file.path, "TooLarge", said)
        return None
    return replace(file, path=fitting.renamed("file", file.path, "/".join(paths.file(file.path))))
