"""Records and tracker runs as tables for people, at most 120 columns wide."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipetrail.cli.console import console
from pipetrail.record import FromFile, FromLog, FromMlmd, FromParameter, FromResult, FromStdout, Point, Record, Step
from pipetrail.shape.figures import kind
from pipetrail.shape.names import text
from pipetrail.targets.target import TrackerRun

MAX_ROWS: Final = 40


def record(shown: Record) -> None:
    """A record: the run, its steps, their points, and what could not be known."""
    out = console()
    out.print(Text(f"{shown.namespace}/{shown.name}: {_outcome(shown.outcome.status, shown.outcome.reason)}"))
    times = " to ".join(_time(t) for t in (shown.started, shown.finished) if t) or "not started"
    out.print(Text(f"pipeline {shown.pipeline}, {times}"))
    _pairs(out, "PARAM", ((k, text(v)) for k, v in shown.params.items()))
    steps = _table("STEP", "OUTCOME", "ATTEMPTS", "PARAMS", "POINTS", "ARTIFACTS")
    for step in shown.steps:
        params = " ".join(f"{k}={_cut(text(v))}" for k, v in step.params.items())
        artifacts = " ".join(a.name for a in step.artifacts)
        outcome = _outcome(step.outcome.status, step.outcome.reason)
        steps.add_row(_label(step), outcome, str(len(step.attempts)), params, str(len(step.points)), artifacts)
    out.print(steps)
    points = _table("STEP", "KEY", "AT", "VALUE", "FROM")
    rows = [(step, point) for step in shown.steps for point in step.points]
    for step, point in rows[:MAX_ROWS]:
        at = "" if point.step is None else str(point.step)
        points.add_row(_label(step), point.key, at, repr(point.value), _source(point))
    if rows:
        out.print()
        out.print(points)
    if len(rows) > MAX_ROWS:
        out.print(f"and {len(rows) - MAX_ROWS} more points (-o json shows all)")
    for partial in shown.partial:
        out.print(Text(f"not known: {partial.step or 'the run'}: {partial.reason}: {partial.message}"))


def runs(shown: Iterable[TrackerRun]) -> None:
    """Tracker runs as they would be sent, with each value that a rule changes."""
    out = console()
    for run in shown:
        out.print(Text(f"{run.experiment} / {run.name}: {run.status}", style="bold"))
        _pairs(out, "PARAM", run.params.items())
        metrics = _table("METRIC", "STEP", "VALUE")
        for metric in run.metrics[:MAX_ROWS]:
            metrics.add_row(metric.key, str(metric.step), repr(metric.value))
        if run.metrics:
            out.print(metrics)
        if len(run.metrics) > MAX_ROWS:
            out.print(f"and {len(run.metrics) - MAX_ROWS} more points (-o json shows all)")
        _pairs(out, "TAG", run.tags.items())
        if run.note:
            out.print("DESCRIPTION")
            out.print(Text("\n".join(f"  {line}" for line in run.note.splitlines())))
            out.print()
        _figures(out, run)
        for file in run.files:
            out.print(Text(f"file {file.path}, {len(file.data)} bytes"))
        for change in run.changes:
            out.print(Text(f"changed: {change.item} {change.key}: {change.reason}: {change.detail}"))
        out.print()


def _figures(out: Console, run: TrackerRun) -> None:
    rows = _table("FIGURE", "KIND")
    for plot in run.figures[:MAX_ROWS]:
        rows.add_row(Text(plot.path), kind(plot.figure))
    if run.figures:
        out.print(rows)
        if len(run.figures) > MAX_ROWS:
            out.print(f"and {len(run.figures) - MAX_ROWS} more figures (-o json shows all, with their data)")
        out.print()


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _pairs(out: Console, head: str, pairs: Iterable[tuple[str, str]]) -> None:
    table = _table(head, "VALUE")
    for key, value in pairs:
        table.add_row(Text(key), Text(_cut(value, 200)))
    if table.row_count:
        out.print(table)
        out.print()


def _label(step: Step) -> str:
    items = "".join(f"[{_cut(_item(turn.item), 40)}]" for turn in step.iteration or ())
    return f"{step.path or '(the run)'}{items}"


def _item(item: object) -> str:
    return " ".join(f"{k}={text(v)}" for k, v in item.items()) if isinstance(item, Mapping) else text(item)


def _time(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _outcome(status: str, reason: str | None) -> str:
    return f"{status} ({reason})" if reason else status


def _source(point: Point) -> str:
    match point.source:
        case FromFile(artifact=artifact, file=file):
            return f"{artifact}/{file}"
        case FromParameter(parameter=parameter):
            return f"parameter {parameter}"
        case FromResult():
            return "result"
        case FromStdout():
            return "stdout"
        case FromMlmd() | FromLog():
            return "metadata"


def _cut(whole: str, length: int = 60) -> str:
    line = whole.replace("\n", "⏎")
    return line if len(line) <= length else line[: length - 1] + "…"
