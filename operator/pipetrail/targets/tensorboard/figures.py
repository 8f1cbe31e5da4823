"""What becomes of a figure: an image where it is a plot, and always a text (the numbers, or what a user wrote).

HTML is a page in the run's folder beside its text: TensorBoard shows none, and its text dashboard keeps plain elements.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final

from pipetrail.record import ConfusionMatrix, Html, Markdown, RocCurve, Table
from pipetrail.targets import drawing, sanitise
from pipetrail.targets.drawing import CannotDraw
from pipetrail.targets.target import Change, File, Plot, Retry
from pipetrail.targets.tensorboard.page import Drawn, plain

ROWS_MOST: Final = 500
COLUMNS_MOST: Final = 50
TEXT_MOST: Final = 200_000
MARKDOWN_MOST: Final = 1 << 20


async def draw(plots: Iterable[Plot]) -> Sequence[Drawn]:
    """Each figure. One that can't be drawn has its text and a change; raises :class:`Retry` if a later try may."""
    return [await _drawn(plot) for plot in plots]


async def _drawn(plot: Plot) -> Drawn:
    try:
        match plot.figure:
            case ConfusionMatrix() | RocCurve() as figure:
                rows, cut = _numbers(figure)
                try:
                    return _with(plot, rows, cut, image=await drawing.png(figure))
                except CannotDraw as trouble:
                    return _with(plot, rows, cut, "NotDrawn", _said(trouble))
            case Table(header=header, rows=rows):
                text, cut = _table(header, rows)
                return _with(plot, text, cut)
            case Markdown(text=text):
                made = await asyncio.to_thread(sanitise.markdown, text[:MARKDOWN_MOST])
                removed = made.said if made.removed else ""
                return _with(plot, *_cut(made.text, len(text) > MARKDOWN_MOST), "Sanitised" if removed else "", removed)
            case Html() as figure:
                page = await drawing.page(figure)
                part = page.text.partition("<body>")[2].rpartition("</body>")[0].strip()
                file = File(path=f"pipetrail/figures/{plot.path}.html", media_type="text/html", data=page.text.encode())
                removed = page.said if page.removed else ""
                return _with(plot, *_cut(part), "Sanitised" if removed else "", removed, file=file)
    except (CannotDraw, sanitise.TooMuchMarkup) as trouble:
        return _with(plot, "", "", "NotDrawn", _said(trouble))


def _said(trouble: Exception) -> str:
    if isinstance(trouble, CannotDraw) and trouble.again:
        raise Retry("DrawingBusy", str(trouble)) from None
    return f"{trouble.reason}: {trouble}" if isinstance(trouble, CannotDraw) else str(trouble)


def _with(
    plot: Plot, text: str, cut: str, reason: str = "", detail: str = "", *,
    image: bytes | None = None, file: File | None = None,
) -> Drawn:  # fmt: skip
    said = {"TextCut": cut, reason: detail}
    changes = tuple(Change(item="figure", key=plot.path, reason=r, detail=d) for r, d in said.items() if r and d)
    return Drawn(path=plot.path, time_ms=plot.time_ms, text=text, image=image, file=file, changes=changes)


def _numbers(figure: ConfusionMatrix | RocCurve) -> tuple[str, str]:
    match figure:
        case ConfusionMatrix(labels=labels, rows=rows):
            lines = [(label, *map(str, row)) for label, row in zip(labels, rows, strict=False)]
            return _table(("true, predicted", *labels), lines)
        case RocCurve(fpr=fpr, tpr=tpr, threshold=threshold):
            lines = [tuple(map(str, row)) for row in zip(fpr, tpr, threshold, strict=False)]
            return _table(("fpr", "tpr", "threshold"), lines)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[str, str]:
    """A table in markdown, and what of it is left out."""
    width = max([len(header), *(len(row) for row in rows)], default=0)
    shown = [header, ["---"] * width, *rows[:ROWS_MOST]]
    columns = min(width, COLUMNS_MOST)
    lines = []
    for n, row in enumerate(shown):
        cells = [*row, *[""] * width][:columns]
        lines.append("| " + " | ".join(cells if n == 1 else map(plain, cells)) + " |")
    cut = f"{len(rows)} rows and {width} columns; the text shows {min(len(rows), ROWS_MOST)} and {columns}"
    return "\n".join(lines), cut if len(rows) > ROWS_MOST or width > COLUMNS_MOST else ""


def _cut(text: str, before: bool = False) -> tuple[str, str]:
    cut = before or len(text) > TEXT_MOST
    return text[:TEXT_MOST], f"the text shows the first {TEXT_MOST} characters" if cut else ""
