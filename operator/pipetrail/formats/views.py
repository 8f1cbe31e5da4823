"""What steps of KFP v1 say of how their results are to be shown (``mlpipeline-ui-metadata``), to figures.

The file lists outputs, each with a type, a format and a source: text in the file itself, or the address of another one
(sources.md §3.3). :func:`listed` gives the outputs, :func:`figure` makes one of an output and its text. Rules are those
of KFP's own page (frontend/src/lib/OutputArtifactLoader.ts), but for what it refuses: rows that are missing are zeros,
and labels that are not told are those of the rows.
"""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from pipetrail.formats import Content, Note
from pipetrail.record import ConfusionMatrix, Figure, Frozen, Html, Markdown, Number, RocCurve, Table, number

MAX_BYTES: Final = 8 << 20  #: of the file
MAX_VIEWS: Final = 50  #: of one file
MAX_SOURCE_CHARS: Final = 4 << 20
MAX_CELLS: Final = 200_000  #: of one table or curve
MAX_LABELS: Final = 500

DRAWN: Final = frozenset({"confusion_matrix", "roc", "table", "markdown", "web-app"})


class View(Frozen, frozen=True):
    """One output: `text` if it stands in the file, else the address where it lies. Neither: it is only named."""

    kind: str
    text: str | None = None
    address: str = ""
    labels: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    header: tuple[str, ...] = ()


def listed(data: bytes) -> tuple[tuple[View, ...], tuple[Note, ...]]:
    """The outputs in the file `data`, and what of it could not be read. Never raises."""
    if len(data) > MAX_BYTES:
        return (), (Note(reason="TooLarge", message=f"{len(data)} bytes; up to {MAX_BYTES} are read"),)
    try:
        value = json.loads(data)
        if isinstance(value, str):
            value = json.loads(value)  # written twice: KFP's page takes that too
    except (ValueError, RecursionError) as error:
        return (), (Note(reason="Unreadable", message=f"not JSON: {type(error).__name__}"),)
    outputs = value.get("outputs") if isinstance(value, dict) else None
    if not isinstance(outputs, list):
        return (), (Note(reason="Unreadable", message="it lists no outputs"),)
    notes = []
    if len(outputs) > MAX_VIEWS:
        said = f"{len(outputs)} outputs; the first {MAX_VIEWS} are read"
        notes.append(Note(reason="TooManyViews", message=said))
    return tuple(_view(o) for o in outputs[:MAX_VIEWS] if isinstance(o, dict)), tuple(notes)


def figure(view: View, text: str) -> Content:
    """The figure that `view` shows of `text`; a note where there is none."""
    if len(text) > MAX_SOURCE_CHARS:
        said = f"{view.kind}: {len(text)} characters; up to {MAX_SOURCE_CHARS} are read"
        return Content(notes=(Note(reason="TooLarge", message=said),))
    try:
        return Content(figures=(_figure(view, text),))
    except (csv.Error, _Malformed) as error:
        return Content(notes=(Note(reason="ViewUnreadable", message=f"{view.kind}: {error}"),))


class _Malformed(Exception):
    """The text is no figure of its kind; the message says why."""


def _view(output: Mapping[str, Any]) -> View:
    source = output.get("source")
    source = source if isinstance(source, str) else ""
    inline = output.get("storage") == "inline"
    schema = output.get("schema")
    names = [f.get("name") if isinstance(f, dict) else f for f in schema] if isinstance(schema, list) else []
    return View(
        kind=_text(output.get("type"))[:40], text=source if inline else None, address="" if inline else source,
        labels=_texts(output.get("labels")), columns=_texts(names), header=_texts(output.get("header")),
    )  # fmt: skip


def _texts(values: Any) -> tuple[str, ...]:
    return tuple(_text(v) for v in values) if isinstance(values, list) else ()


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)


def _figure(view: View, text: str) -> Figure:
    match view.kind:
        case "confusion_matrix":
            return _matrix(view, text)
        case "roc":
            return _curve(view, text)
        case "table":
            return Table(header=view.header or view.columns, rows=tuple(tuple(row) for row in _rows(text)))
        case "markdown":
            return Markdown(text=text)
        case "web-app":
            return Html(text=text)
        case _:
            raise _Malformed("views of this kind are not known")


def _rows(text: str) -> Iterator[list[str]]:
    cells = 0
    for row in csv.reader(io.StringIO(text, newline="")):
        cells += len(row)
        if cells > MAX_CELLS:
            raise _Malformed(f"more than {MAX_CELLS} cells")
        if any(cell.strip() for cell in row):
            yield [cell.strip() for cell in row]


def _matrix(view: View, text: str) -> ConfusionMatrix:
    """Rows ``target,predicted,count``; true labels are the matrix's rows."""
    counts = [(row[0], row[1], found) for row in _rows(text) if len(row) > 2 and (found := number(row[2])) is not None]
    labels = view.labels or tuple(dict.fromkeys(name for row in counts for name in row[:2]))
    if not counts or len(labels) > MAX_LABELS:
        raise _Malformed("no row is target,predicted,count" if not counts else f"more than {MAX_LABELS} labels")
    at = {label.strip(): index for index, label in enumerate(labels)}
    rows: list[list[Number]] = [[0] * len(labels) for _ in labels]
    for target, predicted, count in counts:
        if target not in at or predicted not in at:
            raise _Malformed(f"{(predicted if target in at else target)[:60]!r} is none of its labels")
        rows[at[target]][at[predicted]] = count
    return ConfusionMatrix(labels=labels, rows=tuple(tuple(row) for row in rows))


def _curve(view: View, text: str) -> RocCurve:
    """Columns by the names of the schema, else ``fpr,tpr,threshold``; a first row of names is no point."""
    order = [_column(view.columns, name, position) for position, name in enumerate(("fpr", "tpr", "threshold"))]
    points: list[Sequence[Number]] = []
    for index, row in enumerate(_rows(text)):
        found = [number(row[at]) if at < len(row) else None for at in order]
        values = [v for v in found if v is not None]
        if len(values) < len(found):
            if index:
                raise _Malformed(f"row {index + 1} is not fpr,tpr,threshold")
            continue
        points.append(values)
    if not points:
        raise _Malformed("no row is fpr,tpr,threshold")
    fpr, tpr, threshold = (tuple(column) for column in zip(*points, strict=True))
    return RocCurve(fpr=fpr, tpr=tpr, threshold=threshold)


def _column(columns: Sequence[str], name: str, position: int) -> int:
    return next((n for n, column in enumerate(columns) if column.startswith(name)), position)
