"""What counts as a metric (mapping.md §4): which of a step's points are sent, and which outputs become tags.

The record keeps all bounded points; here a config, a vocabulary or a dataset is kept out of the tracker. The order of
the rules for a file:

1. ``capture.files.exclude``, then ``include``, globs on ``artifact/file``, decide before all else (settings of a
   recognised file are never sent).
2. A format that the content told is sent. A KFP artifact of type Dataset or Model is not.
3. Names that are never metrics (config, vocabulary, ...) are not sent.
4. A name that says metrics is, and so is the shape: a table with a step column, JSON of at most 50 numbers and 64 KiB,
   of which lists are left out.
5. Over 200 keys or 10 000 points in a file none is sent.
"""

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Final

from pipetrail.api import Capture
from pipetrail.record import (
    Artifact,
    FromFile,
    FromLog,
    FromMlmd,
    FromParameter,
    FromResult,
    FromStdout,
    Frozen,
    Number,
    Point,
    Step,
)
from pipetrail.shape.changes import Changes

MAX_KEYS: Final = 200
MAX_POINTS: Final = 10_000
MAX_SHAPED_NUMBERS: Final = 50
MAX_SHAPED_BYTES: Final = 64 << 10
TOO_BIG_FOR_A_METRIC: Final = 10**9

_NAMED: Final = ("metric", "score", "eval", "result", "history", "log", "report", "loss", "acc")
_NEVER: Final = (
    "*config*", "*param*", "*vocab*", "*schema*", "*predict*", "*sample*", "*label*", "*dataset*",
    "model-card*", "tokenizer*", "package*.json",
)  # fmt: skip
_NEVER_TYPES: Final = ("Dataset", "Model")
_NOT_MEASURED: Final = ("*id", "*seed*", "*port", "*timestamp*", "*version*", "*date*", "*batch*")
# Words of everyday metrics that those globs would catch: conversion_rate, grid, support, n_updates, candidates, valid.
_MEASURED: Final = (
    "conversion", "inversion", "valid", "grid", "hybrid", "centroid", "fluid", "support", "report", "export", "import",
    "transport", "update", "candidate",
)  # fmt: skip


class Selected(Frozen, frozen=True):
    """What of one step is sent: points, and outputs that are tags."""

    points: tuple[Point, ...] = ()
    outputs: Mapping[str, str] = {}


def select(step: Step, capture: Capture, changes: Changes) -> Selected:
    """What of `step` is sent under `capture`; what is left out by a rule is said in `changes`."""
    files: dict[tuple[str, str], list[Point]] = {}
    points: list[Point] = []
    numeric: set[str] = set()
    tags: dict[str, str] = {}
    for point in step.points:
        match point.source:
            case FromFile(artifact=artifact, file=file):
                files.setdefault((artifact, file), []).append(point)
            case FromParameter(parameter=name):
                if measured(name, point.value):
                    numeric.add(name)
                    points.append(point)
            case FromResult():
                if not _too_big(point.value):
                    numeric.add("")
                    points.append(point)
            case FromStdout():
                if capture.stdout == "On":
                    points.append(point)
            case FromMlmd() | FromLog():
                points.append(point)
    if capture.params == "All":
        tags = {name: value for name, value in step.outputs.parameters.items() if name not in numeric}
        if step.outputs.result is not None and "" not in numeric:
            tags["result"] = step.outputs.result
    if capture.metrics == "None":
        return Selected(outputs=tags)
    artifacts = {a.name: a for a in step.artifacts}
    of_files = [
        p
        for (artifact, file), found in files.items()
        for p in _file(artifact, file, found, artifacts.get(artifact), capture, changes)
    ]
    return Selected(points=(*of_files, *points), outputs=tags)


def measured(name: str, value: Number) -> bool:
    """Whether an output parameter that is a number is a metric, and not an id, a seed, a port, a date (§4.5)."""
    lower = name.lower()
    for word in _MEASURED:
        lower = lower.replace(word, "")
    return not _too_big(value) and not any(fnmatchcase(lower, glob) for glob in _NOT_MEASURED)


def _too_big(value: Number) -> bool:
    return isinstance(value, int) and abs(value) >= TOO_BIG_FOR_A_METRIC


def _file(
    artifact: str, file: str, found: Sequence[Point], about: Artifact | None, capture: Capture, changes: Changes
) -> Iterable[Point]:
    place = f"{artifact}/{file}"

    def left_out(reason: str, why: str) -> Iterable[Point]:
        changes.say("metric", place, reason, f"{why}; capture.files.include: [{place!r}] sends it")
        return ()

    if any(fnmatchcase(place, glob) for glob in capture.files.exclude):
        changes.say("metric", place, "Excluded", "capture.files.exclude names it")
        return ()
    points = [p for p in found if not (isinstance(p.source, FromFile) and p.source.setting)]
    if len(points) < len(found):
        n = len(found) - len(points)
        changes.say("metric", place, "Settings", f"{n} numbers are settings of the file, not what was measured")
    if any(fnmatchcase(place, glob) for glob in capture.files.include):
        return points
    verdict, why = _verdict(artifact, file, points, about)
    match verdict:
        case "no":
            return left_out("NotAMetricFile", why)
        case "shape":
            lists = sum(p.step is not None for p in points)
            if lists:
                left_out("ListInUnnamedFile", f"{lists} numbers in lists of a file whose name does not say metrics")
            points = [p for p in points if p.step is None]
    keys = len({p.key for p in points})
    if keys > MAX_KEYS or len(points) > MAX_POINTS:
        return left_out("TooManyPoints", f"{keys} keys and {len(points)} points; the limits are 200 and 10 000")
    return points


def _verdict(artifact: str, file: str, points: Sequence[Point], about: Artifact | None) -> tuple[str, str]:
    recognised = {p.source.recognised for p in points if isinstance(p.source, FromFile)} - {None}
    names = (artifact.lower(), *file.lower().split("/"))
    if about is not None and about.type is not None and about.type.rpartition(".")[2] in _NEVER_TYPES:
        return "no", f"the artifact is a {about.type}"
    if recognised - {"step-table"}:
        return "yes", ""
    for glob in _NEVER:
        if any(fnmatchcase(name, glob) for name in names):
            return "no", f"names like {glob} are not taken for metrics"
    if any(word in name for name in names for word in _NAMED) or recognised:
        return "yes", ""
    size = 0 if about is None or about.size is None else about.size
    if not file.lower().endswith((".json", ".jsonl", ".ndjson")) and "." in file.rpartition("/")[2]:
        return "no", "neither its name nor its shape says metrics"
    if len(points) > MAX_SHAPED_NUMBERS or size > MAX_SHAPED_BYTES:
        return "no", f"its name does not say metrics and it is big ({len(points)} numbers)"
    return "shape", ""
