"""What Neptune can hold, and what becomes of the rest. Pure, and idempotent.

How a difference is said is in fitting.py; the tags are about attributes, by their paths. Beside those
``pipetrail.more.<path>`` holds values whose step another has.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Final

from msgspec.structs import replace

from pipetrail.record import Number
from pipetrail.targets.fitting import Fitting, by_step, shown, spelled
from pipetrail.targets.neptune import numbers, paths
from pipetrail.targets.neptune.limits import FILE_MOST, STEP_MOST, TEXT_MOST, TIME_MOST_MS
from pipetrail.targets.target import File, Metric, TrackerRun

OWN_TAGS: Final = {"user": "pipetrail.user", "source_name": "pipetrail.source", "commit": "pipetrail.commit"}


def fit(run: TrackerRun) -> TrackerRun:
    """`run` as Neptune can hold it, with every difference in `changes`."""
    fitting = Fitting("Neptune", TEXT_MOST, paths.about)
    own = fitting.own(run, OWN_TAGS)
    tags = _texts(fitting, "tag", run.tags) | {OWN_TAGS[field]: value for field, value in own.items()}
    params = _texts(fitting, "param", run.params)
    for name, value in params.items():
        if numbers.needs_text(value):
            fitting.say("exact", paths.of("param", name), value)
    figures = paths.Names(p.path for p in run.figures)
    return replace(
        run,
        name=fitting.text("name", "run", "", run.name) or run.key,
        note=fitting.text("note", "", paths.NOTE, run.note),
        started=fitting.time("started", run.started),
        finished=fitting.ended(run.finished),
        params=params,
        metrics=_metrics(fitting, run.metrics),
        files=tuple(f for f in (_file(fitting, file) for file in run.files) if f is not None),
        figures=tuple(replace(p, path=fitting.renamed("figure", p.path, figures.of(p.path))) for p in run.figures),
        tags={**tags, **fitting.tags},
        changes=tuple(dict.fromkeys((*run.changes, *fitting.changes.all(run.name)))),
        **own,
    )


def _texts(fitting: Fitting, kind: paths.Kind, wanted: Mapping[str, str]) -> dict[str, str]:
    names = paths.Names(wanted)
    found = {}
    for key, value in wanted.items():
        name = _renamed(fitting, kind, key, names)
        found[name] = fitting.text(kind, key, paths.of(kind, name), value)
    return found


def _renamed(fitting: Fitting, kind: paths.Kind, key: str, names: paths.Names) -> str:
    name = names.of(key)
    return fitting.renamed(kind, key, name, about=paths.of(kind, name))


def _metrics(fitting: Fitting, points: Iterable[Metric]) -> tuple[Metric, ...]:
    """In the order of their steps: Neptune takes a series only so (operation_error_processor.py of the client)."""
    every = tuple(points)
    names = paths.Names(p.key for p in every)
    changes = fitting.changes
    fitted: dict[tuple[str, int], Metric] = {}
    exact: dict[str, dict[int, str]] = {}
    more: dict[str, dict[int, list[str]]] = {}
    steps: dict[str, set[int]] = {}
    for point in every:
        name = _renamed(fitting, "metric", point.key, names)
        if abs(point.step) > STEP_MOST:
            changes.add("metric", point.key, "StepOutOfRange", f"step {point.step:.3g} is beyond float64: left out")
            continue
        steps.setdefault(name, set()).add(point.step)
        value, reason = _number(point.value)
        if reason:
            held = "left out" if value is None else f"stored as {value!r}"
            changes.add("metric", point.key, reason, f"{shown(point.value)} is {held}")
            exact.setdefault(name, {}).setdefault(point.step, spelled(point.value))
        if value is None:
            continue
        time_ms = fitting.point_time(point.key, point.time_ms, TIME_MOST_MS)
        if (name, point.step) in fitted:
            changes.add("metric", point.key, "StepTaken", "one point of a step: the first is kept")
            more.setdefault(name, {}).setdefault(point.step, []).append(spelled(point.value))
            continue
        fitted[name, point.step] = Metric(key=name, value=value, step=point.step, time_ms=time_ms)
    for name, texts in exact.items():
        fitting.say("exact", paths.of("metric", name), by_step(texts, TEXT_MOST, alone=len(steps[name]) == 1))
    for name, others in more.items():
        fitting.say("more", paths.of("metric", name), by_step(others, TEXT_MOST, alone=False))
    order = {name: n for n, name in enumerate(dict.fromkeys(name for name, _ in fitted))}
    return tuple(sorted(fitted.values(), key=lambda m: (order[m.key], m.step)))


def _file(fitting: Fitting, file: File) -> File | None:
    if len(file.data) > FILE_MOST:
        said = f"{len(file.data)} bytes; {FILE_MOST} are sent: left out"
        fitting.changes.add("file", file.path, "TooLarge", said)
        return None
    return replace(file, path=fitting.renamed("file", file.path, paths.clean(file.path)))


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
