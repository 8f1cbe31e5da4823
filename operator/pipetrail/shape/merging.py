"""Two sources, one key, one step (mapping.md §4.6): one point where they agree, two names where they do not.

- Equal values are one point: a file's before a parameter's, a result's, a log's, the metadata store's, stdout's.
- A single value beside a series of its key is ``<key>.final``.
- Values that differ: the lower source's get ``<artifact or parameter>.`` before their key, a series as a whole. Two
  series agree if one is a part of the other: a file per epoch and lines per batch are no one curve.
- Files of one step that share keys and disagree are both prefixed, so that ``accuracy`` is never by chance that of
  ``train_metrics``; a file that agrees in all that it shares is a copy and adds only what it has beside that.

All sources of a step arrive together, since capture reads a step when it has ended: a point that was sent is not
renamed by a source that comes later.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pipetrail.record import FromFile, FromLog, FromMlmd, FromParameter, FromResult, FromStdout, Number, Point
from pipetrail.shape.changes import Changes

SourceId = tuple[int, str, str]


@dataclass(slots=True)
class _Group:
    """The points of one source under one key, all single or all of a series; `key` is what they are sent as."""

    source: SourceId
    key: str
    series: bool
    points: list[Point] = field(default_factory=list)

    @property
    def label(self) -> str:
        return self.source[1]


def merge(points: Iterable[Point], changes: Changes, *, step: str) -> tuple[tuple[str, Point], ...]:
    """What of one step's `points` is sent, each with its key; renamed keys are said once for all turns."""
    groups = _groups(points)

    def rename(group: _Group, new: str, reason: str, why: str) -> None:
        name = f"{step}: {group.key}" if step else group.key
        changes.say(
            "metric", name, reason, f"{why}, e.g. {new}" if reason == "FilesDiffer" else f"{why}: sent as {new}"
        )
        group.key = new

    for group, new in _files_apart(groups):
        rename(group, new, "FilesDiffer", "files of the step differ: each puts its name before the key")
    series = {g.key for g in groups if g.series}
    for group in groups:
        if not group.series and group.key in series:
            rename(group, f"{group.key}.final", "FinalOfSeries", "a single value beside a series")
    sent: list[tuple[str, Point]] = []
    placed: dict[str, tuple[bool, dict[int | None, list[Number]]]] = {}
    for group in sorted(groups, key=lambda g: g.source[0]):
        while (fresh := _fresh(group, placed)) is None:
            rename(group, f"{group.label}.{group.key}", "SourcesDiffer", "a source before it has another value")
        _, slots = placed.setdefault(group.key, (group.series, {}))
        for point in fresh:
            slots.setdefault(point.step, []).append(point.value)
            sent.append((group.key, point))
    return tuple(sent)


def _groups(points: Iterable[Point]) -> Sequence[_Group]:
    groups: dict[tuple[SourceId, str, bool], _Group] = {}
    for point in points:
        source = _source(point)
        key = "result" if isinstance(point.source, FromResult) else point.key or source[1]
        kind = (source, key, point.step is not None)
        groups.setdefault(kind, _Group(source, key, point.step is not None)).points.append(point)
    return list(groups.values())


def _source(point: Point) -> SourceId:
    """Rank (lower counts more), the label that a renamed key gets, and which of several under that label."""
    match point.source:
        case FromFile(artifact=artifact, file=file, recognised="tensorboard"):
            return 0, artifact, file.rpartition("/")[0]  # event files of one folder are one log
        case FromFile(artifact=artifact, file=file):
            return 0, artifact, file.rpartition(".")[0] or file
        case FromParameter(parameter=name):
            return 1, name, ""
        case FromResult():
            return 2, "result", ""
        case FromLog(artifact=artifact):
            return 3, artifact or "log", ""
        case FromMlmd(artifact=artifact):
            return 4, artifact, ""
        case FromStdout():
            return 5, "stdout", ""


def _files_apart(groups: Sequence[_Group]) -> list[tuple[_Group, str]]:
    """Groups of files (or artifacts of one rank) that share keys with others and disagree, each with its new key."""
    sharing: dict[tuple[int, str], list[_Group]] = {}
    for group in groups:
        sharing.setdefault((group.source[0], group.key), []).append(group)
    shared = [found for found in sharing.values() if len({g.source for g in found}) > 1]
    apart = {g.source for found in shared if _disagree(found) for g in found}
    renamed = []
    for found in shared:
        by_artifact = len({g.label for g in found}) == len({g.source for g in found})
        renamed += [
            (g, f"{g.label if by_artifact else g.source[2] or g.label}.{g.key}") for g in found if g.source in apart
        ]
    return renamed


def _disagree(groups: Sequence[_Group]) -> bool:
    placed: dict[str, tuple[bool, dict[int | None, list[Number]]]] = {}
    for group in groups:
        fresh = _fresh(group, placed)
        if fresh is None:
            return True
        _, slots = placed.setdefault(group.key, (group.series, {}))
        for point in fresh:
            slots.setdefault(point.step, []).append(point.value)
    return False


def _fresh(group: _Group, placed: dict[str, tuple[bool, dict[int | None, list[Number]]]]) -> list[Point] | None:
    """The points of `group` that `placed` lacks; None if the two are not the same thing."""
    there = placed.get(group.key)
    if there is None:
        return group.points
    series, slots = there
    if series != group.series:
        return None
    fresh = [p for p in group.points if p.step not in slots]
    if fresh and not slots.keys() <= {p.step for p in group.points}:
        return None
    agree = all(any(same(p.value, value) for value in slots[p.step]) for p in group.points if p.step in slots)
    return fresh if agree else None


def same(one: Number, other: Number) -> bool:
    """Equal numbers; NaN is NaN."""
    both = isinstance(one, float) and isinstance(other, float)
    return one == other or (both and math.isnan(one) and math.isnan(other))
