"""What a picture of a figure shows, decided before anything is drawn. Pure.

A *sketch* is all that the process which draws has to know: texts that fit, shades as bytes, a bounded number of points.
So whatever a step logged is judged here, and the drawing itself can't be surprised by it. The figure's data is sent
beside its picture; what a picture leaves out (numbers in a matrix of 1 000 classes) is in there.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Final

from pipetrail.record import ConfusionMatrix, Figure, Frozen, Html, Markdown, Number, RocCurve, Table

LABELS_MOST: Final = 1_000  #: of a confusion matrix; it is drawn as a map of shades alone above NUMBERED_MOST
NUMBERED_MOST: Final = 25  #: labels of a matrix up to which each cell shows its number
TICKS_MOST: Final = 40  #: labels that are written at an axis; of more every n-th
POINTS_MOST: Final = 100_000  #: of a curve
POINTS_DRAWN: Final = 2_000  #: of a curve that has more, evenly chosen
LABEL_CHARS: Final = 20
TITLE_CHARS: Final = 60

NO_SHADE: Final = 255  #: of a cell without a share: absent, not a number, or in a row that adds up to nothing
FULL_SHADE: Final = 254


class CannotDraw(Exception):
    """There will be no picture. `reason` is CamelCase; `again` is true where a later try may succeed."""

    def __init__(self, reason: str, message: str, *, again: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.again = again


class Heatmap(Frozen, frozen=True, tag="heatmap"):
    """A square of cells, row by row. `shades` has a byte a cell: its share of the row, 0 to 254, or NO_SHADE.

    `labels` are those that are written, at the rows and columns `ticks`; `texts` is empty where cells have no numbers.
    """

    title: str
    size: int
    shades: bytes
    ticks: tuple[int, ...]
    labels: tuple[str, ...]
    texts: tuple[str, ...] = ()


class Curve(Frozen, frozen=True, tag="curve"):
    """A line through points of the unit square, and the area below it where it is one."""

    title: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    area: float | None = None


class Page(Frozen, frozen=True, tag="page"):
    """HTML that is to become a harmless page."""

    title: str
    html: str


Sketch = Heatmap | Curve


def sketch(figure: Figure) -> Sketch:
    """What `figure` looks like.

    Raises :class:`CannotDraw`: ``NotAPicture`` for kinds that are text, ``EmptyFigure``, ``MalformedFigure`` where its
    parts do not fit together, ``FigureTooLarge``.
    """
    match figure:
        case ConfusionMatrix():
            return _heatmap(figure)
        case RocCurve():
            return _curve(figure)
        case Table() | Markdown() | Html():
            raise CannotDraw("NotAPicture", "tables, markdown and HTML are text and sent as such")


def line(text: str, most: int) -> str:
    """`text` as one line of at most `most` characters, without signs that have no shape."""
    shown = "".join(c if c.isprintable() else " " for c in text[: 4 * most]).strip()
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def _title(name: str | None, kind: str) -> str:
    """The name with its kind, if it does not say that itself."""
    title = line(name or "", TITLE_CHARS)
    if not title or kind.partition(" ")[0].lower() in title.lower():
        return title or kind[0].upper() + kind[1:]
    return f"{title}: {kind}"


def number(value: Number) -> str:
    """`value` in the few signs that a cell has room for; counts up to six digits are exact."""
    if isinstance(value, int) and abs(value) < 1_000_000:
        return str(value)
    try:
        return f"{float(value):.3g}"
    except OverflowError:
        return "-inf" if value < 0 else "inf"


# --- confusion matrices -----------------------------------------------------------------------------------------------


def _heatmap(figure: ConfusionMatrix) -> Heatmap:
    """A matrix that is filled in part is drawn with empty cells; one that has more than its labels tell is not."""
    labels, rows = figure.labels, figure.rows
    if not labels or not any(rows):
        raise CannotDraw("EmptyFigure", f"a confusion matrix of {len(labels)} labels without a number")
    if len(rows) > len(labels) or any(len(row) > len(labels) for row in rows):
        widest = max(len(row) for row in rows)
        said = f"{len(labels)} labels, but {len(rows)} rows of up to {widest} numbers"
        raise CannotDraw("MalformedFigure", f"a confusion matrix with {said}")
    if len(labels) > LABELS_MOST:
        raise CannotDraw("FigureTooLarge", f"{len(labels)} labels; up to {LABELS_MOST} are drawn")
    size = len(labels)
    shades = bytearray()
    for row in rows:
        shades += bytes(_shades(row)).ljust(size, bytes([NO_SHADE]))
    texts: list[str] = []
    if size <= NUMBERED_MOST:
        for row in rows:
            texts += [*map(number, row), *[""] * (size - len(row))]
        texts += [""] * (size * size - len(texts))
    ticks = range(0, size, math.ceil(size / TICKS_MOST))
    return Heatmap(
        title=_title(figure.name, "confusion matrix"),
        size=size,
        shades=bytes(shades.ljust(size * size, bytes([NO_SHADE]))),
        ticks=tuple(ticks),
        labels=tuple(line(labels[t], LABEL_CHARS) for t in ticks),
        texts=tuple(texts),
    )


def _shades(row: Sequence[Number]) -> Iterator[int]:
    """Each cell's share of its row, so that a rare class shows as clearly as a common one."""
    values = [_float(v) for v in row]
    counts = [v for v in values if math.isfinite(v) and v >= 0]
    total = sum(counts)
    whole = len(counts) == len([v for v in values if not math.isnan(v)]) and math.isfinite(total)
    for value in values:
        if not whole or math.isnan(value):
            yield NO_SHADE
        else:
            yield round(FULL_SHADE * (value / total)) if total else 0


def _float(value: Number) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


# --- curves -----------------------------------------------------------------------------------------------------------


def _curve(figure: RocCurve) -> Curve:
    """Points that are no numbers are left out; thresholds (often infinite at one end) play no part in the picture."""
    if len(figure.fpr) != len(figure.tpr):
        said = f"{len(figure.fpr)} false and {len(figure.tpr)} true positive rates"
        raise CannotDraw("MalformedFigure", f"a ROC curve with {said}")
    if len(figure.fpr) > POINTS_MOST:
        raise CannotDraw("FigureTooLarge", f"{len(figure.fpr)} points; up to {POINTS_MOST} are drawn")
    pairs = [(_float(x), _float(y)) for x, y in zip(figure.fpr, figure.tpr, strict=True)]
    points = [(x, y) for x, y in pairs if math.isfinite(x) and math.isfinite(y)]
    if not points:
        raise CannotDraw("EmptyFigure", "a ROC curve without a point")
    if any(not (0 <= x <= 1 and 0 <= y <= 1) for x, y in points):
        raise CannotDraw("MalformedFigure", "a ROC curve with rates beyond 0 and 1")
    area = _area(points) if len(points) == len(pairs) else None
    if len(points) > POINTS_DRAWN:
        last = len(points) - 1
        points = [points[round(n * last / (POINTS_DRAWN - 1))] for n in range(POINTS_DRAWN)]
    return Curve(
        title=_title(figure.name, "ROC curve"),
        x=tuple(x for x, _ in points),
        y=tuple(y for _, y in points),
        area=area,
    )


def _area(points: Sequence[tuple[float, float]]) -> float | None:
    """The area below the curve by trapezoids, if the points go from one end of the x-axis to the other in order."""
    ordered = points if points[0][0] <= points[-1][0] else points[::-1]
    xs = [x for x, _ in ordered]
    if xs[0] != 0 or xs[-1] != 1 or any(a > b for a, b in itertools.pairwise(xs)):
        return None
    return math.fsum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(ordered))
