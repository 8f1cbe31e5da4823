"""CSV and TSV to points, row by row.

The first row names the columns. A cell counts if it is strictly a number; an empty one is no point. With a step column
(``step``, ``global_step``, ``iteration``, ``epoch``, in any case; or a first column without name, as pandas writes its
index) each row is at that step; without one a single row holds single values and more rows are at their index. A table
of two columns, ``metric``/``name``/``key`` and ``value``, holds a single value a row.
"""

import csv
from collections.abc import Iterator

from pipetrail.formats.points import STEP_KEYS, Points, whole
from pipetrail.record import Number, number

_NAMES = ("metric", "name", "key", "metric_name")
_VALUES = ("value", "score")


def table(data: bytes, points: Points, *, delimiter: str | None) -> None:
    """Add all numbers of `data`, UTF-8. `delimiter` None: comma, semicolon or tab, by the first line."""
    if delimiter is None:
        first = data[: data.find(b"\n") if b"\n" in data else None][: 1 << 16]
        delimiter = max(",;\t", key=lambda d: first.count(d.encode()))
    rows = csv.reader(_lines(data, points), delimiter=delimiter)
    try:
        header = [cell.strip() for cell in next(rows, [])]
        if not header or all(number(cell) is not None for cell in header if cell):
            points.note("NoHeader", "a table whose first row does not name its columns")
            return
        _rows(header, (row for row in rows if any(row)), points)
    except csv.Error as error:
        points.note("Unreadable", f"not a table from row {rows.line_num} on: {error}")
    except UnicodeDecodeError:
        points.note("NotUtf8", f"not UTF-8 from row {rows.line_num} on; what stands before it counts")


def _lines(data: bytes, points: Points) -> Iterator[str]:
    at, end = 0, len(data)
    while at < end:
        stop = data.find(b"\n", at)
        stop = end if stop < 0 else stop + 1
        if stop - at > points.limits.line_bytes:
            raise csv.Error(f"a line of more than {points.limits.line_bytes} bytes")
        yield data[at:stop].decode()
        at = stop


def _rows(header: list[str], rows: Iterator[list[str]], points: Points) -> None:
    lower = [name.lower() for name in header]
    if len(header) == 2 and lower[0] in _NAMES and lower[1] in _VALUES:
        for row in rows:
            if len(row) == 2 and (value := number(row[1].strip())) is not None:
                points.add(row[0].strip(), value)
        return
    first = next(rows, None)
    if first is None:
        return
    second = next(rows, None)
    step_at = _step_column(lower, first)
    recognised = None
    if step_at is not None:
        recognised = "lightning" if lower[step_at] == "step" and "epoch" in lower else "step-table"
    columns: dict[str, int] = {}
    for at, name in enumerate(header):
        if name in columns:
            points.duplicate(name)
        if at != step_at and name:
            columns[name] = at
    without = 0
    index = -1
    for row in _again(first, second, rows):
        index += 1
        if points.full:
            points.left_out(1 + sum(1 for _ in rows))
            break
        step: int | None
        if step_at is None:
            step = None if second is None else index
        else:
            step = _whole(row[step_at]) if step_at < len(row) else None
            if step is None:
                without += 1
                continue
        for name, at in columns.items():
            if at < len(row) and (cell := row[at].strip()) and (value := number(cell)) is not None:
                points.add(name, value, step, recognised=recognised)
    if without:
        points.note("RowsWithoutStep", f"{without} rows have no whole number as their {header[step_at or 0]!r}")


def _again(first: list[str], second: list[str] | None, rest: Iterator[list[str]]) -> Iterator[list[str]]:
    yield first
    if second is not None:
        yield second
    yield from rest


def _step_column(lower: list[str], row: list[str]) -> int | None:
    for name in (*STEP_KEYS, ""):
        if name in lower and (at := lower.index(name)) < len(row) and _whole(row[at]) is not None and (name or at == 0):
            return at
    return None


def _whole(cell: str) -> int | None:
    value: Number | None = number(cell.strip())
    return whole(value)
