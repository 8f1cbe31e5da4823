"""Whether a tracker holds what it was told, digit for digit. Pure; the command `verify` and the tests use it.

Numbers are compared as the trackers hold them: float64, bit for bit, every NaN equal to every other, 0.0 and -0.0
apart; an integer counts as the float64 that equals it, and as none if there is none (then :meth:`Target.fit` has said
what is stored instead: give the *fitted* tracker run). Params and tags that others have added are none of our business;
a point under a key of ours is, since it would be there twice or wrong.
"""

import math
import struct
from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import datetime
from typing import Literal

from pipetrail.record import Frozen, Number
from pipetrail.targets.target import Held, Metric, TrackerRun

ABSENT = "absent"


class Difference(Frozen, frozen=True):
    """One thing that is not as it should be. `step` is for points; `held` or `wanted` may be ``absent``."""

    item: Literal["run", "param", "tag", "metric", "time", "figure", "note"]
    key: str
    wanted: str
    held: str
    step: int | None = None


def differences(wanted: TrackerRun, held: Held, note: str | None = None) -> tuple[Difference, ...]:
    """All differences between the fitted `wanted` and the whole of what is `held`; empty if they agree.

    `note` is the final one (:meth:`Target.describe`); without it the note is not compared.
    """
    assert held.whole, "only what was read whole can be compared"
    found = [
        Difference(item="run", key=key, wanted=str(a), held=str(b))
        for key, a, b in (
            ("key", wanted.key, held.key), ("name", wanted.name, held.name), ("status", wanted.status, held.status),
            ("started", _ms(wanted.started), held.started_ms), ("finished", _ms(wanted.finished), held.finished_ms),
        )
        if a != b
    ]  # fmt: skip
    found += [
        Difference(item="param", key=k, wanted=v, held=held.params.get(k, ABSENT))
        for k, v in wanted.params.items()
        if held.params.get(k) != v
    ]
    found += [
        Difference(item="tag", key=k, wanted=v, held=held.tags.get(k, ABSENT))
        for k, v in wanted.tags.items()
        if held.tags.get(k) != v
    ]
    found += _points(wanted.metrics, held.metrics)
    found += [
        Difference(item="figure", key=plot.path, wanted=type(plot.figure).__name__, held=ABSENT)
        for plot in wanted.figures
        if plot.path not in held.figures
    ]
    if note is not None and note != held.note:
        found.append(Difference(item="note", key="", wanted=note, held=held.note))
    return tuple(found)


def bits(value: Number) -> str:
    """`value` as float64, so that equal texts are equal values; an integer that float64 can't hold stays itself."""
    if isinstance(value, int):
        try:
            as_float = float(value)
        except OverflowError:
            return str(value)
        if int(as_float) != value:
            return str(value)
        return struct.pack(">d", as_float).hex()
    return "nan" if math.isnan(value) else struct.pack(">d", value).hex()


def _points(wanted: Iterable[Metric], held: Iterable[Metric]) -> list[Difference]:
    """Values by key and step, counted; where they agree, their times."""
    ours, theirs = _by_step(wanted), _by_step(held)
    keys = {key for key, _ in ours}
    found = []
    for key, step in sorted(ours.keys() | {p for p in theirs if p[0] in keys}):
        a, b = ours.get((key, step), []), theirs.get((key, step), [])
        if Counter(bits(m.value) for m in a) != Counter(bits(m.value) for m in b):
            found.append(Difference(item="metric", key=key, step=step, wanted=_values(a), held=_values(b)))
        elif Counter((bits(m.value), m.time_ms) for m in a) != Counter((bits(m.value), m.time_ms) for m in b):
            found.append(Difference(item="time", key=key, step=step, wanted=_times(a), held=_times(b)))
    return found


def _by_step(metrics: Iterable[Metric]) -> dict[tuple[str, int], list[Metric]]:
    steps: dict[tuple[str, int], list[Metric]] = defaultdict(list)
    for metric in metrics:
        steps[metric.key, metric.step].append(metric)
    return steps


def _values(metrics: list[Metric]) -> str:
    return ", ".join(sorted(repr(m.value) for m in metrics)) or ABSENT


def _times(metrics: list[Metric]) -> str:
    return ", ".join(str(t) for t in sorted(m.time_ms for m in metrics))


def _ms(time: datetime | None) -> int | None:
    return None if time is None else round(time.timestamp() * 1000)
