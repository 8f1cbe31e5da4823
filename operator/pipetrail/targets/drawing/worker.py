"""The process that draws: orders on stdin, pictures and pages on stdout. ``python -m pipetrail.targets.drawing.worker``

Each message is four bytes with its length (big-endian) and msgpack. The process ends when stdin does, that is also when
the operator was killed, and kills itself if one picture takes longer than :data:`OWN_ALARM_S`.
"""

import functools
import io
import os
import resource
import signal
import sys
import tempfile
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import msgspec

from pipetrail.record import Frozen
from pipetrail.targets import sanitise
from pipetrail.targets.drawing.sketch import FULL_SHADE, NO_SHADE, Curve, Heatmap, Page, Sketch

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MEMORY_BYTES: Final = 1 << 30  #: of addresses; 320 MiB are mapped after matplotlib's import, about 100 MiB used
OWN_ALARM_S: Final = 60  #: for one order

_DPI: Final = 100
_BLUE: Final = "#0072B2"  # of Okabe and Ito, whose colours stay apart for colour-blind eyes
_GREY: Final = "#6b6b6b"
_EMPTY: Final = "#ececec"


class Drawn(Frozen, frozen=True):
    """A picture or page, or why there is none. `removed` is what was taken out of a page."""

    data: bytes = b""
    error: str = ""
    removed: tuple[str, ...] = ()


def main() -> int:
    """Draw what comes until nothing comes any more."""
    answers, sys.stdout = sys.stdout.buffer, sys.stderr  # what libraries print is no answer
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    decoder = msgspec.msgpack.Decoder(Sketch | Page)
    while (order := _receive(sys.stdin.buffer)) is not None:
        signal.alarm(OWN_ALARM_S)
        _send(answers, _draw(decoder.decode(order)))
        signal.alarm(0)
    return 0


@functools.cache
def _load() -> None:
    """Import matplotlib. It writes a list of fonts to a folder that it is told; afterwards the folder is not needed."""
    with tempfile.TemporaryDirectory(prefix="pipetrail-drawing-") as folder:
        os.environ["MPLCONFIGDIR"] = folder
        import matplotlib as mpl
        import matplotlib.font_manager
        from matplotlib.backends import backend_agg

        assert backend_agg
        mpl.rcParams.update(mpl.rcParamsDefault)
        mpl.rcParams["font.family"] = ["DejaVu Sans"]  # matplotlib brings it: the same picture on every machine
        mpl.rcParams["text.parse_math"] = False  # a label may hold a $


def _receive(stream: BinaryIO) -> bytes | None:
    head = stream.read(4)
    return stream.read(int.from_bytes(head, "big")) if len(head) == 4 else None


def _send(stream: BinaryIO, drawn: Drawn) -> None:
    body = msgspec.msgpack.encode(drawn)
    stream.write(len(body).to_bytes(4, "big") + body)
    stream.flush()


def _draw(order: Sketch | Page) -> Drawn:
    try:
        match order:
            case Page(title=title, html=text):
                clean = sanitise.html(text)
                whole = sanitise.page(title, clean.text)
                return Drawn(data=whole.encode("utf-8", "replace"), removed=clean.removed)
            case Heatmap():
                return _picture(_heatmap(order))
            case Curve():
                return _picture(_curve(order))
    except MemoryError:
        return Drawn(error="it takes more memory than it may")
    except sanitise.TooMuchMarkup as error:
        return Drawn(error=str(error))
    except Exception as error:  # noqa: BLE001  a figure that can't be drawn must not end the process
        return Drawn(error=type(error).__name__)


def _picture(figure: "Figure") -> Drawn:
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})  # a version would make it another file
    return Drawn(data=out.getvalue())


def _canvas(title: str, kind: str, width: float, height: float) -> "tuple[Figure, Axes]":
    _load()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI, layout="compressed")
    axes = figure.subplots()
    axes.set_title(_glyphs(title, kind), fontsize=12, pad=10)
    return figure, axes


def _heatmap(sketch: Heatmap) -> "Figure":
    side = min(max(0.42 * sketch.size, 3.6), 9.0)
    figure, axes = _canvas(sketch.title, "Confusion matrix", side + 1.9, side + 1.0)
    import numpy as np
    from matplotlib import colormaps

    shades = np.frombuffer(sketch.shades, dtype=np.uint8).reshape(sketch.size, sketch.size)
    cells = np.ma.masked_equal(shades, NO_SHADE) / float(FULL_SHADE)
    map_ = colormaps["Blues"].with_extremes(bad=_EMPTY)
    image = axes.imshow(cells, cmap=map_, vmin=0.0, vmax=1.0, interpolation="nearest")
    bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03)
    bar.set_label("share of the true label", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    labels = [_glyphs(text, f"#{at + 1}") for at, text in zip(sketch.ticks, sketch.labels, strict=True)]
    size = 10 if sketch.size <= 12 else 8
    # Short labels stand below their columns, long ones need to lean.
    leaning = max(map(len, labels)) * len(labels) > 36
    axes.set_xticks(sketch.ticks, labels, fontsize=size)
    if leaning:
        for label in axes.get_xticklabels():
            label.set(rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(sketch.ticks, labels, fontsize=size)
    axes.set_xlabel("predicted label")
    axes.set_ylabel("true label")
    for at, text in enumerate(sketch.texts):
        row, column = divmod(at, sketch.size)
        dark = shades[row, column] != NO_SHADE and shades[row, column] > FULL_SHADE * 0.55
        shown: dict[str, Any] = {"color": "white" if dark else "black", "ha": "center", "va": "center"}
        axes.text(column, row, text, fontsize=_cell(sketch), **shown)
    if sketch.texts and sketch.size > 1:
        edges = np.arange(0.5, sketch.size - 1)
        axes.hlines(edges, -0.5, sketch.size - 0.5, colors="white", linewidth=1)
        axes.vlines(edges, -0.5, sketch.size - 0.5, colors="white", linewidth=1)
    return figure


def _cell(sketch: Heatmap) -> float:
    """The size of numbers in points: the longest has to fit its cell."""
    side = min(max(0.42 * sketch.size, 3.6), 9.0) / sketch.size * 72
    longest = max(map(len, sketch.texts), default=1)
    return float(min(13.0, max(5.0, 1.2 * side / max(longest, 2))))


def _curve(sketch: Curve) -> "Figure":
    figure, axes = _canvas(sketch.title, "ROC curve", 5.4, 4.8)
    said = "curve" if sketch.area is None else f"curve (area {sketch.area:.3f})"
    marker = "o" if len(sketch.x) <= 30 else ""
    axes.plot([0, 1], [0, 1], color=_GREY, linestyle="--", linewidth=1, label="chance")
    axes.plot(sketch.x, sketch.y, color=_BLUE, linewidth=2, marker=marker, markersize=4, label=said, clip_on=False)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="false positive rate", ylabel="true positive rate")
    axes.set_aspect("equal")
    axes.grid(visible=True, color="#dddddd", linewidth=0.6)
    axes.legend(loc="lower right", fontsize=9)
    return figure


def _glyphs(text: str, instead: str) -> str:
    """`text`, or `instead` of it where the font lacks a sign: boxes would all look alike."""
    from matplotlib.font_manager import findfont, get_font

    font = get_font([findfont("DejaVu Sans")])
    return text if all(font.get_char_index(ord(c)) for c in text) else instead


if __name__ == "__main__":
    sys.exit(main())
