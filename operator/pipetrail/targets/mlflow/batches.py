"""What one log-batch carries: cut to MLflow's limits, and halved when MLflow refuses some of it. Pure.

Limits: 100 params, 100 tags, 1000 metrics, 1000 in all, 1 MB (documented; 3.17 does not enforce the last). A value that
MLflow's parser can't read makes it drop the rest of the body behind a 200 (targets.md §0.3), so metrics are checked
here once more: NaN is the string "NaN", infinities never leave, steps and times are 64-bit integers.
"""

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipetrail.record import Frozen
from pipetrail.targets.mlflow.limits import BYTES_A_BATCH, INT64_MOST, ITEMS_A_BATCH, PARAMS_A_BATCH, TAGS_A_BATCH
from pipetrail.targets.target import Batch, Change, Metric


class Param(Frozen, frozen=True):
    """A param as it is sent."""

    key: str
    value: str


class Tag(Frozen, frozen=True):
    """A tag as it is sent."""

    key: str
    value: str


class Point(Frozen, frozen=True):
    """A metric's point as it is sent."""

    key: str
    value: float | str
    timestamp: int
    step: int


Item = Param | Tag | Point


def items(batch: Batch, tags: Mapping[str, str]) -> tuple[list[Item], list[Change]]:
    """What `batch` has for log-batch, params and tags first, with `tags` beside its own; and what may not be sent."""
    found: list[Item] = [Param(key=k, value=v) for k, v in batch.params.items()]
    found += [Tag(key=k, value=v) for k, v in {**batch.tags, **tags}.items()]
    unfit = []
    for metric in batch.metrics:
        if (point := _point(metric)) is None:
            why = "it was not fitted to MLflow and would spoil the whole batch"
            unfit.append(Change(item="metric", key=metric.key, reason="Rejected", detail=f"step {metric.step}: {why}"))
        else:
            found.append(point)
    return found, unfit


def _point(metric: Metric) -> Point | None:
    """None for what :func:`fit` never gives."""
    try:
        value = float(metric.value)
    except OverflowError:
        return None
    if math.isinf(value) or abs(metric.step) > INT64_MOST or not 0 <= metric.time_ms <= INT64_MOST:
        return None
    said = "NaN" if math.isnan(value) else value
    return Point(key=metric.key, value=said, timestamp=metric.time_ms, step=metric.step)


def chunks(found: Sequence[Item]) -> Iterator[list[Item]]:
    """`found` in log-batches that keep all limits; the normal run is one."""
    limits = ((Param, PARAMS_A_BATCH), (Tag, TAGS_A_BATCH), (Point, ITEMS_A_BATCH))
    waiting = [(deque(i for i in found if isinstance(i, kind)), most) for kind, most in limits]
    while any(queue for queue, _ in waiting):
        chunk: list[Item] = []
        size = 0
        for queue, most in waiting:
            room = min(most, ITEMS_A_BATCH - len(chunk))
            while queue and room and (not chunk or size + _size(queue[0]) <= BYTES_A_BATCH):
                size += _size(queue[0])
                chunk.append(queue.popleft())
                room -= 1
        yield chunk


def _size(item: Item) -> int:
    """Bytes in JSON at most, nearly: a character is up to 4 bytes in UTF-8; those that JSON escapes to 6 are rare."""
    match item:
        case Point():
            return 120 + 4 * len(item.key)
        case _:
            return 30 + 4 * (len(item.key) + len(item.value))


def body(run_id: str, chunk: Sequence[Item]) -> dict[str, Any]:
    """The call's body."""
    parts: dict[str, Any] = {"run_id": run_id}
    for name, kind in (("params", Param), ("tags", Tag), ("metrics", Point)):
        if found := [i for i in chunk if isinstance(i, kind)]:
            parts[name] = found
    return parts


def halves(chunk: Sequence[Item]) -> list[Sequence[Item]]:
    """Two or more parts of a refused chunk: by kind if it has several (params are refused most), else its halves."""
    kinds = [[i for i in chunk if isinstance(i, kind)] for kind in (Param, Tag, Point)]
    if sum(1 for k in kinds if k) > 1:
        return [k for k in kinds if k]
    middle = len(chunk) // 2
    return [chunk[:middle], chunk[middle:]]


def refused(item: Item, text: str) -> Change:
    """The change that stands for an item which MLflow does not take."""
    match item:
        case Param():
            if "Changing param values is not allowed" in text:
                return Change(item="param", key=item.key, reason="ParamConflict", detail="MLflow keeps the first value")
            return Change(item="param", key=item.key, reason="Rejected", detail=text)
        case Tag():
            return Change(item="tag", key=item.key, reason="Rejected", detail=text)
        case Point():
            return Change(item="metric", key=item.key, reason="Rejected", detail=f"step {item.step}: {text}")
