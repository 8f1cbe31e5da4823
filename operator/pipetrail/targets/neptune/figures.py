"""Figures as files of a run: a picture and its data beside it, tables as data, markdown and HTML sanitised.

A file that is sent again stands where it stood. One that can't be drawn has its data, and a :class:`Change`.
"""

import json
from typing import Any, Final

from pipetrail.record import ConfusionMatrix, Frozen, Html, Markdown, RocCurve, Table, plain
from pipetrail.targets import drawing, sanitise
from pipetrail.targets.neptune import paths
from pipetrail.targets.target import Change, File, Plot, Retry

_MEDIA: Final = {"png": "image/png", "json": "application/json", "md": "text/markdown", "html": "text/html"}


class Filed(Frozen, frozen=True):
    """One figure's files, and what is not in them as the step had it."""

    files: tuple[File, ...]
    changes: tuple[Change, ...] = ()


async def filed(plot: Plot) -> Filed:
    """The files of `plot`. Raises :class:`Retry` where it may be drawn later."""
    match plot.figure:
        case ConfusionMatrix() | RocCurve():
            data = _file(plot, "json", _json(plain(plot.figure)))
            try:
                return Filed(files=(_file(plot, "png", await drawing.png(plot.figure)), data))
            except drawing.CannotDraw as error:
                return Filed(files=(data,), changes=(_change(plot, error, "its data is sent without a picture"),))
        case Table():
            return Filed(files=(_file(plot, "json", _json(plain(plot.figure))),))
        case Markdown(text=text):
            clean = sanitise.markdown(text)
            return Filed(files=(_file(plot, "md", _bytes(clean.text)),), changes=_sanitised(plot, clean))
        case Html() as page:
            try:
                clean = await drawing.page(page)
            except drawing.CannotDraw as error:
                source = _file(plot, "html.txt", _bytes(page.text))
                return Filed(files=(source,), changes=(_change(plot, error, "its source is sent as text"),))
            return Filed(files=(_file(plot, "html", _bytes(clean.text)),), changes=_sanitised(plot, clean))


def _change(plot: Plot, error: drawing.CannotDraw, instead: str) -> Change:
    if error.again:
        raise Retry(error.reason, error.message) from None
    return Change(item="figure", key=plot.path, reason=error.reason, detail=f"{error.message}: {instead}")


def _sanitised(plot: Plot, clean: sanitise.Sanitised) -> tuple[Change, ...]:
    if not clean.removed:
        return ()
    return (Change(item="figure", key=plot.path, reason="Sanitised", detail=clean.said),)


def _file(plot: Plot, ending: str, data: bytes) -> File:
    return File(path=f"{paths.FIGURES}{plot.path}.{ending}", media_type=_MEDIA.get(ending, "text/plain"), data=data)


def _json(value: Any) -> bytes:
    return _bytes(json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")
