"""Figures as files of a run, for trackers that hold files: a picture and its data beside it, the rest as text.

A confusion matrix and a ROC curve are ``figures/<path>.png`` and, after it, ``figures/<path>.json``; a table is JSON of
columns and data, as MLflow and pandas (orient "split") have it; markdown and HTML are sanitised. One that can't be
drawn still has its data, and a :class:`Change`. Equal figures make equal files.

What takes long for a large figure is done in a thread, so that other runs go on.
"""

import asyncio
import json
import re
from collections.abc import Iterable
from typing import Any, Final

from pipetrail.record import ConfusionMatrix, Frozen, Html, Markdown, RocCurve, Table, plain
from pipetrail.targets import drawing, sanitise
from pipetrail.targets.target import Change, File, Plot, Retry

FOLDER: Final = "figures"
EVENED_CELLS: Final = 1_000_000
_LAST: Final = re.compile(rf"{FOLDER}/(.+?)(?:\.json|\.md|\.html(?:\.txt)?)")


class Filed(Frozen, frozen=True):
    """One figure's files, and what is not in them as the step had it."""

    files: tuple[File, ...]
    changes: tuple[Change, ...] = ()


async def filed(plot: Plot) -> Filed:
    """The files of `plot`. Raises :class:`Retry` where it may be drawn later."""
    match plot.figure:
        case ConfusionMatrix() | RocCurve():
            return await _drawn(plot)
        case Table():
            return Filed(files=(await asyncio.to_thread(_data, plot),))
        case Markdown(text=text):
            clean = await asyncio.to_thread(sanitise.markdown, text)
            return Filed(files=(_file(plot, "md", "text/markdown", clean.text),), changes=_sanitised(plot, clean))
        case Html() as page:
            return await _page(plot, page)


def whole(paths: Iterable[str]) -> frozenset[str]:
    """The figures of whose files the last is among `paths`: a picture without its data was cut off on the way."""
    found = map(_LAST.fullmatch, paths)
    return frozenset(match[1] for match in found if match is not None)


async def _drawn(plot: Plot) -> Filed:
    data = await asyncio.to_thread(_data, plot)
    try:
        picture = await drawing.png(plot.figure)
    except drawing.CannotDraw as error:
        return Filed(files=(data,), changes=(_change(plot, error, "its data is sent without a picture"),))
    return Filed(files=(File(path=path_of(plot, "png"), media_type="image/png", data=picture), data))


async def _page(plot: Plot, figure: Html) -> Filed:
    try:
        clean = await drawing.page(figure)
    except drawing.CannotDraw as error:
        source = _file(plot, "html.txt", "text/plain", figure.text)
        return Filed(files=(source,), changes=(_change(plot, error, "its source is sent as text"),))
    return Filed(files=(_file(plot, "html", "text/html", clean.text),), changes=_sanitised(plot, clean))


def _change(plot: Plot, error: drawing.CannotDraw, instead: str) -> Change:
    if error.again:
        raise Retry(error.reason, error.message) from None
    return Change(item="figure", key=plot.path, reason=error.reason, detail=f"{error.message}: {instead}")


def _sanitised(plot: Plot, clean: sanitise.Sanitised) -> tuple[Change, ...]:
    if not clean.removed:
        return ()
    return (Change(item="figure", key=plot.path, reason="Sanitised", detail=clean.said),)


def path_of(plot: Plot, ending: str) -> str:
    """Where a file of `plot` is."""
    return f"{FOLDER}/{plot.path}.{ending}"


def _file(plot: Plot, ending: str, media_type: str, text: str) -> File:
    return File(path=path_of(plot, ending), media_type=media_type, data=text.encode("utf-8", "replace"))


def _data(plot: Plot) -> File:
    figure = plot.figure
    return _file(
        plot, "json", "application/json", _lines(_table(figure) if isinstance(figure, Table) else plain(figure))
    )


def _table(table: Table) -> dict[str, Any]:
    """Rows that are shorter or longer than the header are evened, unless that would make a small table a huge one."""
    width = max(len(table.header), max(map(len, table.rows), default=0))
    columns = [*table.header, *(f"column {n + 1}" for n in range(len(table.header), width))]
    room = width if width * len(table.rows) <= EVENED_CELLS else 0
    return {"columns": columns, "data": [[*row, *[""] * (room - len(row))] for row in table.rows]}


def _lines(value: dict[str, Any]) -> str:
    """JSON that people can read: a line for each entry, and for each row of one that has rows."""
    return "{\n" + ",\n".join(f" {_json(k)}: {_rows(v)}" for k, v in value.items() if v is not None) + "\n}\n"


def _rows(value: Any) -> str:
    match value:
        case [list(), *_]:
            return "[\n" + ",\n".join(f"  {_json(row)}" for row in value) + "\n ]"
        case _:
            return _json(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
