"""The plan: what is still to be sent to one tracker run. A pure function of what is wanted and what was delivered.

A point is told apart by key, step and value, never by its time: a time that became more exact after a restart (a pod
that is gone) must not make a second point. Where one key and step carry several values (a curve that was printed
twice) they are counted, so that each arrives as often as the record has it.

A value that was delivered stays: trackers can't take back a point or a param. If the record says otherwise later (the
node corrects what a task result said) the new value is sent beside it and the difference is a ``Corrected`` change.
"""

import hashlib
import math
import struct
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from msgspec.structs import replace

from pipetrail.record import Frozen, Number, packed
from pipetrail.targets.target import Batch, Change, File, Held, Metric, Plot, Receipt, RunStatus, TrackerRun

PointId = tuple[str, int]
Sent = tuple[str, int, str]  # key, step, value_id


class Delivered(Frozen, frozen=True):
    """What one tracker run holds as far as we know. `points` counts the values that a key and step already have.

    `figures` maps a path to a digest, to "" where only the tracker says that it is there.
    """

    params: Mapping[str, str] = {}
    tags: Mapping[str, str] = {}
    points: Mapping[PointId, Mapping[str, int]] = {}
    files: Mapping[str, str] = {}
    figures: Mapping[str, str] = {}
    note: str | None = None
    status: RunStatus | None = None
    finished_ms: int | None = None


class Plan(Frozen, frozen=True):
    """What to send, and what is known before sending to arrive otherwise."""

    batch: Batch
    changes: tuple[Change, ...] = ()


def value_id(value: Number) -> str:
    """The value as the trackers compare it: float64, bit for bit, all NaN alike, 0.0 and -0.0 apart."""
    try:
        as_float = float(value)
    except OverflowError:
        return str(value)
    return "nan" if math.isnan(as_float) else struct.pack(">d", as_float).hex()


def plan(wanted: TrackerRun, note: str, delivered: Delivered) -> Plan:
    """All of `wanted` (with its final `note`) that `delivered` lacks; empty if the two agree."""
    params = {k: v for k, v in wanted.params.items() if k not in delivered.params}
    changes = [
        Change(item="param", key=k, reason="Corrected", detail="the tracker keeps the first value", run=wanted.name)
        for k, v in wanted.params.items()
        if delivered.params.get(k, v) != v
    ]
    metrics, corrected = _missing(wanted.metrics, delivered.points)
    changes += [
        Change(
            item="metric",
            key=k,
            reason="Corrected",
            detail=f"step {s}: another value was sent before it",
            run=wanted.name,
        )
        for k, s in corrected
    ]
    finished = wanted.finished
    finished_ms = None if finished is None else round(finished.timestamp() * 1000)
    closes = wanted.status != delivered.status or (finished_ms != delivered.finished_ms and finished_ms is not None)
    return Plan(
        batch=Batch(
            params=params,
            tags={k: v for k, v in wanted.tags.items() if delivered.tags.get(k) != v},
            metrics=metrics,
            files=tuple(f for f in wanted.files if delivered.files.get(f.path) != _digest(f)),
            figures=tuple(p for p in wanted.figures if delivered.figures.get(p.path) not in ("", _drawn(p))),
            note=note if note != delivered.note else None,
            status=wanted.status if closes else None,
            finished=finished if closes else None,
        ),
        changes=tuple(changes),
    )


def _missing(
    wanted: Iterable[Metric], there: Mapping[PointId, Mapping[str, int]]
) -> tuple[tuple[Metric, ...], list[PointId]]:
    left: dict[PointId, Counter[str]] = {}
    missing = []
    for metric in wanted:
        point = (metric.key, metric.step)
        counts = left.setdefault(point, Counter(there.get(point, {})))
        identity = value_id(metric.value)
        if counts[identity] > 0:
            counts[identity] -= 1
        else:
            missing.append(metric)
    again = {(m.key, m.step) for m in missing}
    corrected = [p for p, counts in left.items() if p in again and counts.total() > 0]
    return tuple(missing), corrected


def times(batch: Batch) -> dict[Sent, list[int]]:
    """The times of a batch's points, by key, step and value."""
    found: dict[Sent, list[int]] = {}
    for m in batch.metrics:
        found.setdefault((m.key, m.step, value_id(m.value)), []).append(m.time_ms)
    return found


def as_tried(batch: Batch, tried: Mapping[Sent, Sequence[int]]) -> Batch:
    """`batch` with the times that its points had in a write that failed, of which some may have arrived.

    A tracker takes a point for the same only if its time is the same too, and a time may have become more exact since.
    """
    if not tried:
        return batch
    left = {point: list(ms) for point, ms in tried.items()}
    kept = []
    for m in batch.metrics:
        before = left.get((m.key, m.step, value_id(m.value)))
        if before:
            index = before.index(m.time_ms) if m.time_ms in before else 0
            kept.append(replace(m, time_ms=before.pop(index)))
        else:
            kept.append(m)
    return replace(batch, metrics=tuple(kept))


def opened(run: TrackerRun) -> Delivered:
    """What a tracker run holds right after it was created: its tags and note, and that it runs."""
    return Delivered(tags=dict(run.tags), note=run.note, status="Running")


def applied(delivered: Delivered, batch: Batch, receipt: Receipt) -> Delivered:
    """`delivered` after `batch` was written. Rejected items count as delivered: they are not tried again."""
    del receipt  # what it names was refused for good and stands in status.changes
    points = {**delivered.points}
    for metric in batch.metrics:
        point = (metric.key, metric.step)
        counts = dict(points.get(point, {}))
        identity = value_id(metric.value)
        counts[identity] = counts.get(identity, 0) + 1
        points[point] = counts
    finished_ms = None if batch.finished is None else round(batch.finished.timestamp() * 1000)
    return Delivered(
        params={**delivered.params, **batch.params},
        tags={**delivered.tags, **batch.tags},
        points=points,
        files={**delivered.files, **{f.path: _digest(f) for f in batch.files}},
        figures={**delivered.figures, **{p.path: _drawn(p) for p in batch.figures}},
        note=delivered.note if batch.note is None else batch.note,
        status=batch.status or delivered.status,
        finished_ms=finished_ms if batch.status else delivered.finished_ms,
    )


def doubted(delivered: Delivered, batch: Batch) -> Delivered:
    """`delivered` after a write of `batch` that may or may not have taken effect: of what it would have replaced
    nothing is known any more, so that it is sent again even if the run went back to how it was before.

    Points and params stay as they were known: they are sent again as they were tried (:func:`as_tried`) or read back.
    """
    return replace(
        delivered,
        tags={k: v for k, v in delivered.tags.items() if k not in batch.tags},
        files={k: v for k, v in delivered.files.items() if k not in {f.path for f in batch.files}},
        note=delivered.note if batch.note is None else None,
        status=delivered.status if batch.status is None else None,
        finished_ms=delivered.finished_ms if batch.status is None else None,
    )


def from_held(held: Held) -> Delivered:
    """What a look-up or a read says is there. Files are not listed (:func:`with_files`)."""
    points: dict[PointId, dict[str, int]] = {}
    for metric in held.metrics:
        counts = points.setdefault((metric.key, metric.step), {})
        identity = value_id(metric.value)
        counts[identity] = counts.get(identity, 0) + 1
    return Delivered(
        params=dict(held.params), tags=dict(held.tags), points=points, note=held.note, status=held.status,
        finished_ms=held.finished_ms, figures=dict.fromkeys(held.figures, ""),
    )  # fmt: skip


def with_files(delivered: Delivered, files: Iterable[File]) -> Delivered:
    """`delivered`, where the tracker holds `files` as they are."""
    return replace(delivered, files={**delivered.files, **{f.path: _digest(f) for f in files}})


def series_keys(run: TrackerRun) -> frozenset[str]:
    """Keys that have more than one point, so that a tracker's latest value does not tell what it holds."""
    counts = Counter(m.key for m in run.metrics)
    return frozenset(k for k, n in counts.items() if n > 1)


def digest(runs: Iterable[tuple[TrackerRun, str]]) -> str:
    """Names what was delivered: equal for equal tracker runs and notes (16 hex digits)."""
    total = hashlib.sha256()
    for run, note in runs:
        parts = [
            run.key,
            run.name,
            run.status,
            note,
            str(run.finished),
            *(f"{k}={v}" for k, v in sorted(run.params.items())),
        ]
        parts += [f"{k}={v}" for k, v in sorted(run.tags.items())]
        parts += sorted(f"{m.key}@{m.step}={value_id(m.value)}" for m in run.metrics)
        parts += [f"{f.path}={_digest(f)}" for f in run.files]
        parts += [f"{p.path}={_drawn(p)}" for p in run.figures]
        total.update("\0".join(parts).encode())
    return total.hexdigest()[:16]


def _digest(file: File) -> str:
    return hashlib.sha256(file.data).hexdigest()[:16]


def _drawn(plot: Plot) -> str:
    return hashlib.sha256(packed(plot.figure)).hexdigest()[:16]
