"""Figures as files of a run: what MLflow's page of artifacts shows best, and the data beside each picture.

A confusion matrix and a ROC curve are ``figures/<path>.png`` and ``figures/<path>.json``; a table is MLflow's own JSON
of one; markdown and HTML are sanitised. One that can't be drawn still has its data, and a :class:`Change`. Equal
figures make equal files, and a file that is sent again overwrites itself.
"""

import asyncio
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

from msgspec.structs import replace

from pipetrail.record import ConfusionMatrix, Frozen, Html, Markdown, RocCurve, Table, plain
from pipetrail.targets import drawing, sanitise
from pipetrail.targets.mlflow.files import upload
from pipetrail.targets.mlflow.wire import Wire
from pipetrail.targets.target import Change, File, Plot, Retry

FOLDER: Final = "figures"
_LAST: Final = re.compile(rf"{FOLDER}/(.+?)(?:\.json|\.md|\.html(?:\.txt)?)")
AT_ONCE: Final = 10  #: figures whose files are in memory at a time


class Filed(Frozen, frozen=True):
    """One figure's files, and what is not in them as the step had it."""

    files: tuple[File, ...]
    changes: tuple[Change, ...] = ()


async def send(wire: Wire, root: str, plots: Sequence[Plot], worker: asyncio.Semaphore | None) -> list[Change]:
    """Make the files of `plots` and bring them to the artifact address `root`, some at a time (:func:`upload`)."""
    changes: list[Change] = []
    for at in range(0, len(plots), AT_ONCE):
        made = [await filed(plot) for plot in plots[at : at + AT_ONCE]]
        changes += [change for one in made for change in one.changes]
        refused = await upload(wire, root, [file for one in made for file in one.files], worker)
        changes += [replace(change, item="figure") for change in refused]
    return changes


async def filed(plot: Plot) -> Filed:
    """The files of `plot`. Raises :class:`Retry` where it may be drawn later."""
    match plot.figure:
        case ConfusionMatrix() | RocCurve():
            return await _drawn(plot)
        case Table() as table:
            return Filed(files=(_file(plot, "json", "application/json", _lines(_as_table(table))),))
        case Markdown(text=text):
            clean = sanitise.markdown(text)
            return Filed(files=(_file(plot, "md", "text/markdown", clean.text),), changes=_sanitised(plot, clean))
        case Html() as page:
            return await _page(plot, page)


async def _drawn(plot: Plot) -> Filed:
    data = _file(plot, "json", "application/json", _lines(plain(plot.figure)))
    try:
        picture = await drawing.png(plot.figure)
    except drawing.CannotDraw as error:
        return Filed(files=(data,), changes=(_change(plot, error, "its data is sent without a picture"),))
    return Filed(files=(File(path=_path(plot, "png"), media_type="image/png", data=picture), data))


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


def there(paths: Iterable[str]) -> frozenset[str]:
    """The figures of whose files the last is among `paths`: a picture without its data was cut off on the way."""
    found = map(_LAST.fullmatch, paths)
    return frozenset(match[1] for match in found if match is not None)


def logged_tables(plots: Iterable[Plot], most: int) -> str:
    """The tag ``mlflow.loggedArtifacts``, which has MLflow show a JSON as a table; as many as fit `most` characters."""
    said: list[dict[str, str]] = []
    for plot in plots:
        if isinstance(plot.figure, Table):
            said.append({"path": _path(plot, "json"), "type": "table"})
            if len(json.dumps(said)) > most:
                said.pop()
                break
    return json.dumps(said) if said else ""


def _path(plot: Plot, ending: str) -> str:
    return f"{FOLDER}/{plot.path}.{ending}"


def _file(plot: Plot, ending: str, media_type: str, text: str) -> File:
    return File(path=_path(plot, ending), media_type=media_type, data=text.encode("utf-8", "replace"))


def _as_table(table: Table) -> dict[str, Any]:
    """MLflow's JSON of a table: pandas' orient "split". Rows that are shorter or longer than the header are evened."""
    width = max(len(table.header), max(map(len, table.rows), default=0))
    columns = [*table.header, *(f"column {n + 1}" for n in range(len(table.header), width))]
    return {"columns": columns, "data": [[*row, *[""] * (width - len(row))] for row in table.rows]}


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
