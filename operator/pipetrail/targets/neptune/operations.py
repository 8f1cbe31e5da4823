"""A batch as operations on a run's attributes, cut into requests; and what of them has landed. Pure."""

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime

from pipetrail.record import Number
from pipetrail.targets.neptune import numbers, paths
from pipetrail.targets.neptune.limits import BYTES_A_CALL, ITEMS_A_CALL, STEP_MOST, TIME_MOST_MS
from pipetrail.targets.neptune.wire import (
    Append,
    AssignFlag,
    AssignNumber,
    AssignText,
    AssignTime,
    Attribute,
    Delete,
    Operation,
)
from pipetrail.targets.target import Batch, Change, Metric, RunStatus, TrackerRun

Point = tuple[float, float, int]  # value, step, milliseconds since 1970


def opening(run: TrackerRun, parent: str) -> tuple[Operation, ...]:
    """What a new run is told first: its root, name, tags and note, and that it runs."""
    made: list[Operation] = [
        AssignText(path=paths.ROOT, value=paths.custom_id(run.root)),
        AssignText(path=paths.EXPERIMENT, value=run.experiment),
        AssignText(path=paths.NAME, value=run.name),
        AssignTime(path=paths.STARTED, ms=milliseconds(run.started)),
        AssignText(path=paths.STATUS, value="Running"),
        AssignFlag(path=paths.FAILED, value=False),
    ]
    if parent:
        made.append(AssignText(path=paths.PARENT, value=parent))
    made += [AssignText(path=paths.of("tag", k), value=v) for k, v in run.tags.items()]
    return (*made, *noting(run.note)) if run.note else tuple(made)


def claiming(key: str) -> tuple[Operation, ...]:
    """What a new run is told last: whose it is. One that has a key of ours has all that :func:`opening` says."""
    return (AssignText(path=paths.KEY, value=key),)


def noting(note: str) -> tuple[Operation, ...]:
    """The note, and a digest by which a person's edit is seen."""
    return (AssignText(path=paths.NOTE, value=note), AssignText(path=paths.NOTE_DIGEST, value=digest(note)))


def content(batch: Batch) -> tuple[list[Operation], list[Change]]:
    """Params, tags and points, and what may not be sent since it was not fitted."""
    made: list[Operation] = []
    for name, text in batch.params.items():
        value = numbers.typed(text)
        path = paths.of("param", name)
        made.append(AssignText(path=path, value=text) if value is None else AssignNumber(path=path, value=value))
    made += [AssignText(path=paths.of("tag", k), value=v) for k, v in batch.tags.items()]
    unfit = []
    series: dict[str, list[Point]] = defaultdict(list)
    for metric in batch.metrics:
        if (point := _point(metric)) is None:
            why = f"step {metric.step}: it was not fitted to Neptune"
            unfit.append(Change(item="metric", key=metric.key, reason="Rejected", detail=why))
        else:
            series[metric.key].append(point)
    made += [
        Append(path=paths.of("metric", key), points=tuple(sorted(points, key=lambda p: p[1])))
        for key, points in series.items()
    ]
    return made, unfit


def ending(status: RunStatus, finished: datetime | None, *, was_finished: bool) -> tuple[Operation, ...]:
    """Status and end. A reopened run has no end any more."""
    made: list[Operation] = []
    if finished is not None:
        made.append(AssignTime(path=paths.FINISHED, ms=milliseconds(finished)))
    elif was_finished:
        made.append(Delete(path=paths.FINISHED))
    made.append(AssignFlag(path=paths.FAILED, value=status in ("Failed", "Killed")))
    made.append(AssignText(path=paths.STATUS, value=status))
    return tuple(made)


def requests(operations: Iterable[Operation]) -> Iterator[tuple[Operation, ...]]:
    """`operations` in requests of bounded size; a long series is cut."""
    chunk: list[Operation] = []
    items = size = 0
    for operation in _pieces(operations):
        more, heavy = _items(operation), _size(operation)
        if chunk and (items + more > ITEMS_A_CALL or size + heavy > BYTES_A_CALL):
            yield tuple(chunk)
            chunk, items, size = [], 0, 0
        chunk.append(operation)
        items, size = items + more, size + heavy
    if chunk:
        yield tuple(chunk)


def lacking(operations: Iterable[Operation], there: Mapping[str, Attribute]) -> list[Operation]:
    """Those whose attribute does not show what they were to do. Of a series its last value is compared."""
    found = []
    for operation in operations:
        attribute = there.get(operation.path)
        match operation:
            case AssignText(value=value) | AssignFlag(value=value):
                landed = attribute is not None and attribute.value == value
            case AssignNumber(value=number):
                landed = attribute is not None and same(attribute.value, number)
            case AssignTime(ms=ms):
                landed = attribute is not None and attribute.value == ms
            case Append():
                landed = attribute is not None and attribute.type == "floatSeries"
            case Delete():
                landed = attribute is None
        if not landed:
            found.append(operation)
    return found


def missing(wanted: Sequence[Point], held: Sequence[Point]) -> list[Point]:
    """Points of `wanted` whose step `held` does not have."""
    steps = {step for _, step, _ in held}
    return [p for p in wanted if p[1] not in steps]


def mended(wanted: Sequence[Point], held: Sequence[Point]) -> list[Point]:
    """One point of each step, the held one where there is one, in the order of steps."""
    by_step: dict[float, Point] = {}
    for point in (*held, *wanted):
        by_step.setdefault(point[1], point)
    return [by_step[step] for step in sorted(by_step)]


def doubled(held: Sequence[Point]) -> bool:
    """True if a step is there twice: an append that was sent again, and both came through."""
    return len({step for _, step, _ in held}) < len(held)


def refused(operation: Operation, text: str) -> Change:
    """The change that stands for an operation that Neptune does not take."""
    match paths.named(operation.path):
        case (kind, name):
            return Change(item=kind, key=name, reason="Rejected", detail=text)
        case None if operation.path in (paths.NOTE, paths.NOTE_DIGEST):
            return Change(item="note", key="", reason="Rejected", detail=text)
        case None:
            return Change(item="run", key=operation.path, reason="Rejected", detail=text)


def same(held: object, wanted: Number) -> bool:
    """Equal as float64, 0.0 and -0.0 apart."""
    if isinstance(held, bool) or not isinstance(held, int | float):
        return False
    return held == wanted and math.copysign(1.0, held) == math.copysign(1.0, wanted)


def digest(note: str) -> str:
    """Names a note that we wrote."""
    return hashlib.sha256(note.encode()).hexdigest()[:16]


def milliseconds(time: datetime) -> int:
    """Since 1970, whole."""
    return round(time.timestamp() * 1000)


def _point(metric: Metric) -> Point | None:
    try:
        value = float(metric.value)
    except OverflowError:
        return None
    fits = math.isfinite(value) and abs(metric.step) <= STEP_MOST and 0 <= metric.time_ms <= TIME_MOST_MS
    return (value, float(metric.step), metric.time_ms) if fits else None


def _pieces(operations: Iterable[Operation]) -> Iterator[Operation]:
    for operation in operations:
        if isinstance(operation, Append) and len(operation.points) > ITEMS_A_CALL:
            points = operation.points
            for start in range(0, len(points), ITEMS_A_CALL):
                yield Append(path=operation.path, points=points[start : start + ITEMS_A_CALL])
        else:
            yield operation


def _items(operation: Operation) -> int:
    return len(operation.points) if isinstance(operation, Append) else 1


def _size(operation: Operation) -> int:
    """Bytes in JSON at most, nearly."""
    match operation:
        case Append(path=path, points=points):
            return 60 + 4 * len(path) + 100 * len(points)
        case AssignText(path=path, value=value):
            return 60 + 4 * (len(path) + len(value))
        case _:
            return 160 + 4 * len(operation.path)
