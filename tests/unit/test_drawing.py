"""Pictures of figures: what they show, what can't be drawn and why, and the process that draws them."""

import asyncio
import os
import re
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipetrail.record import ConfusionMatrix, Html, Markdown, RocCurve, Table
from pipetrail.targets import drawing
from pipetrail.targets.drawing import CannotDraw, artist, sketch, worker
from pipetrail.targets.drawing.artist import Artist, Patience
from pipetrail.targets.drawing.sketch import FULL_SHADE, NO_SHADE

NAN, INF = float("nan"), float("inf")
IRIS = ConfusionMatrix(labels=("setosa", "versicolor", "virginica"), rows=((10, 0, 0), (0, 8, 1), (0, 2, 9)))
ROC = RocCurve(fpr=(0, 0.1, 0.4, 1), tpr=(0, 0.6, 0.9, 1), threshold=(INF, 0.8, 0.5, 0.1))


def matrix(labels: int, *rows: tuple[float, ...], name: str | None = None) -> ConfusionMatrix:
    return ConfusionMatrix(labels=tuple(f"c{n}" for n in range(labels)), rows=rows, name=name)


def size(png: bytes) -> tuple[int, int]:
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", png[16:24])


# --- what a picture shows ---------------------------------------------------------------------------------------------


def test_a_cell_has_its_number_and_the_shade_of_its_share_of_the_row():
    shown = sketch.sketch(IRIS)
    assert shown.texts == ("10", "0", "0", "0", "8", "1", "0", "2", "9")
    assert list(shown.shades) == [round(FULL_SHADE * x) for x in (1, 0, 0, 0, 8 / 9, 1 / 9, 0, 2 / 11, 9 / 11)]
    assert (shown.labels, shown.title) == (IRIS.labels, "Confusion matrix")


def test_the_title_is_the_figures_name_and_its_kind():
    assert sketch.sketch(matrix(1, (1,), name="cls")).title == "cls: confusion matrix"
    assert sketch.sketch(matrix(1, (1,), name="Confusion by day")).title == "Confusion by day"
    assert sketch.sketch(RocCurve(fpr=(0,), tpr=(1,), threshold=(), name="val\n1")).title == "val 1: ROC curve"


def test_a_matrix_that_is_filled_in_part_has_empty_cells():
    shown = sketch.sketch(matrix(3, (1, 1, 2), (4,)))
    assert shown.texts == ("1", "1", "2", "4", "", "", "", "", "")
    assert list(shown.shades) == [64, 64, 127, FULL_SHADE, *[NO_SHADE] * 5]


@pytest.mark.parametrize("odd", [INF, -1, 10**400])
def test_a_row_that_has_no_sum_has_numbers_without_shades(odd):
    assert list(sketch.sketch(matrix(2, (odd, 1), (1, 0))).shades) == [NO_SHADE, NO_SHADE, FULL_SHADE, 0]


def test_a_cell_that_is_no_number_has_no_shade_and_the_others_keep_theirs():
    shown = sketch.sketch(matrix(2, (NAN, 1), (0, 0)))
    assert (list(shown.shades), shown.texts[0]) == ([NO_SHADE, FULL_SHADE, 0, 0], "nan")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (999_999, "999999"),
        (1_000_000, "1e+06"),
        (0.123456, "0.123"),
        (10**400, "inf"),
        (-(10**400), "-inf"),
        (-0.0, "-0"),
    ],
)
def test_a_number_fits_its_cell(value, text):
    assert sketch.number(value) == text


def test_a_large_matrix_has_no_numbers_and_every_nth_label():
    shown = sketch.sketch(ConfusionMatrix(labels=tuple(map(str, range(1000))), rows=((1,) * 1000,) * 1000))
    assert (shown.texts, shown.size, len(shown.shades)) == ((), 1000, 1_000_000)
    assert shown.labels == tuple(map(str, range(0, 1000, 25)))


def test_labels_are_cut_and_have_no_signs_without_a_shape():
    shown = sketch.sketch(ConfusionMatrix(labels=("x" * 50, "a\u202eb\n", "\ud800"), rows=((1,),)))
    assert shown.labels == ("x" * 19 + "…", "a b", "")


def test_a_curve_keeps_its_points_and_tells_the_area_below_it():
    shown = sketch.sketch(ROC)
    assert (shown.x, shown.y) == ((0, 0.1, 0.4, 1), (0, 0.6, 0.9, 1))
    assert shown.area == pytest.approx(0.03 + 0.225 + 0.57)


def test_a_curve_written_from_the_other_end_has_the_same_area():
    turned = RocCurve(fpr=ROC.fpr[::-1], tpr=ROC.tpr[::-1], threshold=())
    assert sketch.sketch(turned).area == pytest.approx(sketch.sketch(ROC).area)


@pytest.mark.parametrize("fpr", [(0, 0.5, 0.4, 1), (0.1, 0.2, 0.3, 1), (0, 0.2, 0.3, 0.9), (0, NAN, 0.3, 1)])
def test_no_area_is_told_of_a_curve_that_does_not_go_from_end_to_end(fpr):
    assert sketch.sketch(RocCurve(fpr=fpr, tpr=(0, 0.5, 0.6, 1), threshold=())).area is None


def test_a_long_curve_is_thinned_and_keeps_its_ends():
    many = tuple(n / 50_000 for n in range(50_001))
    shown = sketch.sketch(RocCurve(fpr=many, tpr=many, threshold=()))
    assert (len(shown.x), shown.x[0], shown.x[-1]) == (sketch.POINTS_DRAWN, 0, 1)
    assert shown.area == pytest.approx(0.5)


UNDRAWABLE = {
    "NotAPicture": [Table(header=("a",), rows=()), Markdown(text="x"), Html(text="x")],
    "EmptyFigure": [
        matrix(0), matrix(2), matrix(2, (), ()), RocCurve(fpr=(), tpr=(), threshold=()),
        RocCurve(fpr=(NAN,), tpr=(INF,), threshold=()),
    ],
    "MalformedFigure": [
        matrix(1, (1,), (1,)), matrix(2, (1, 2, 3)), RocCurve(fpr=(0, 1), tpr=(0,), threshold=()),
        RocCurve(fpr=(0, 1.5), tpr=(0, 1), threshold=()),
    ],
    "FigureTooLarge": [
        matrix(sketch.LABELS_MOST + 1, (1,)),
        RocCurve(fpr=(0,) * (sketch.POINTS_MOST + 1), tpr=(0,) * (sketch.POINTS_MOST + 1), threshold=()),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("reason", "figure"), [(r, f) for r, figures in UNDRAWABLE.items() for f in figures])
def test_what_can_not_be_drawn_has_a_reason(reason, figure):
    with pytest.raises(CannotDraw) as told:
        sketch.sketch(figure)
    assert (told.value.reason, told.value.again) == (reason, False)


# --- the process that draws -------------------------------------------------------------------------------------------


ODD = [
    matrix(1, (0,)),
    matrix(25, *[(999_999,) * 25] * 25),
    matrix(60, *[(1,) * 60] * 60),
    ConfusionMatrix(labels=("a$b$", "{\\frac", "日本語", "x" * 50), rows=((1, NAN, INF, 10**400), (-1, 0.25))),
    ConfusionMatrix(labels=("", "", "", ""), rows=((0,) * 4,) * 4, name="日本 $x_1$"),
    RocCurve(fpr=(0.3,), tpr=(0.7,), threshold=(INF,)),
]


async def test_equal_figures_are_equal_files_also_from_another_process():
    first = [await drawing.png(figure) for figure in (IRIS, ROC, *ODD)]
    again = [(await Artist().draw(sketch.sketch(figure))).data for figure in (IRIS, ROC)]
    assert first[:2] == again
    assert [await drawing.png(figure) for figure in (IRIS, ROC, *ODD)] == first
    assert [(w, h) for w, h in map(size, first) if not (450 <= w <= 1100 and 450 <= h <= 1100)] == []


async def test_no_picture_tells_when_or_by_what_it_was_drawn():
    assert set(re.findall(rb"(tEXt|iTXt|zTXt|tIME)", await drawing.png(IRIS))) == set()


async def test_a_thousand_classes_are_drawn_in_time():
    rows = tuple(tuple(500 if a == b else (a * b) % 3 for b in range(1000)) for a in range(1000))
    size(await drawing.png(ConfusionMatrix(labels=tuple(map(str, range(1000))), rows=rows)))


def workers() -> list[int]:
    """The processes that draw for this process."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = stat.read_text().rpartition(")")[2].split()[1]
            command = (stat.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if int(parent) == os.getpid() and b"pipetrail.targets.drawing.worker" in command:
            found.append(int(stat.parent.name))
    return found


async def one_worker() -> int:
    (pid,) = workers()
    return pid


linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@linux
async def test_one_process_draws_them_all_sees_none_of_our_environment_and_has_bounded_memory(monkeypatch):
    monkeypatch.setenv("A_SECRET", "hunter2")
    await asyncio.gather(*(drawing.png(figure) for figure in (IRIS, ROC, IRIS)))
    process = Path("/proc", str(await one_worker()))
    names = {entry.partition(b"=")[0].decode() for entry in (process / "environ").read_bytes().split(b"\0")} - {""}
    assert names <= {"PYTHONPATH", "PYTHONHOME", "OPENBLAS_NUM_THREADS"}
    assert re.search(rf"Max address space +{worker.MEMORY_BYTES} ", (process / "limits").read_text())


@linux
def test_no_process_is_left_when_the_loop_ends():
    asyncio.run(drawing.png(IRIS))
    assert workers() == []


@linux
async def test_a_process_that_nobody_asks_for_pictures_ends_and_the_next_picture_starts_another():
    idle = Artist(Patience(idle_s=0.05))
    first = await idle.draw(sketch.sketch(IRIS))
    async with asyncio.timeout(10):
        while workers():  # noqa: ASYNC110  it ends without a word
            await asyncio.sleep(0.02)
    assert await idle.draw(sketch.sketch(IRIS)) == first


@linux
async def test_a_process_that_hangs_is_killed_and_only_its_picture_is_lost():
    patient = Artist(Patience(draw_s=0.5))
    first = await patient.draw(sketch.sketch(IRIS))
    os.kill(await one_worker(), signal.SIGSTOP)
    lost, drawn = await asyncio.gather(
        patient.draw(sketch.sketch(ROC)), patient.draw(sketch.sketch(IRIS)), return_exceptions=True
    )
    assert isinstance(lost, CannotDraw)
    assert (lost.reason, drawn) == ("DrawingTimedOut", first)


@linux
async def test_a_process_that_dies_is_followed_by_another():
    await drawing.png(ROC)
    os.kill(await one_worker(), signal.SIGKILL)
    with pytest.raises(CannotDraw) as told:
        await drawing.png(IRIS)
    assert told.value.reason == "DrawingFailed"
    size(await drawing.png(IRIS))


async def test_orders_of_those_who_went_away_are_not_drawn_and_harm_no_other():
    going = [asyncio.create_task(drawing.png(ROC)) for _ in range(5)]
    await asyncio.sleep(0.1)
    for task in going:
        task.cancel()
    size(await drawing.png(IRIS))
    assert all(task.cancelled() for task in going)


async def test_too_many_orders_are_turned_away_for_now():
    busy = Artist()
    page = sketch.Page(title="", html="x")
    orders = [asyncio.create_task(busy.draw(page)) for _ in range(artist.WAITING_MOST + 1)]
    done = await asyncio.gather(*orders, return_exceptions=True)
    turned_away = [e for e in done if isinstance(e, CannotDraw)]
    assert [(e.reason, e.again) for e in turned_away] == [("DrawingBusy", True)]
    assert len({e.data for e in done if not isinstance(e, CannotDraw)}) == 1


async def test_where_no_process_can_be_started_it_may_be_tried_again(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(CannotDraw) as told:
        await Artist().draw(sketch.sketch(IRIS))
    assert (told.value.reason, told.value.again) == ("DrawingFailed", True)


async def test_without_matplotlib_the_reason_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(CannotDraw, match=r"pipetrail\[figures\]") as told:
        await drawing.png(IRIS)
    assert told.value.reason == "DrawingNotInstalled"


@linux
def test_it_ends_with_a_parent_that_is_killed():
    code = (
        "import asyncio, os, signal\n"
        "from tests.unit.test_drawing import IRIS, workers\n"
        "from pipetrail.targets import drawing\n"
        "async def main():\n"
        "    await drawing.png(IRIS)\n"
        "    print(*workers(), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL
    pid = int(done.stdout)
    until = time.monotonic() + 10
    while Path("/proc", str(pid)).exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not Path("/proc", str(pid)).exists()


# --- pages ------------------------------------------------------------------------------------------------------------


async def test_a_page_of_html_is_made_harmless_and_whole():
    clean = await drawing.page(Html(text="<h1>R</h1><script>alert(1)</script>", name="a<b"))
    assert clean.removed == ("<script>",)
    assert clean.text.startswith("<!doctype html>")
    assert "<title>a&lt;b</title>" in clean.text
    assert "<body>\n<h1>R</h1>\n</body>" in clean.text


async def test_html_that_would_take_too_long_has_no_page():
    for text in ("<div>" * 30_000, "&" * 200_000, "x" * (artist.HTML_MOST + 1)):
        with pytest.raises(CannotDraw) as told:
            await drawing.page(Html(text=text))
        assert told.value.reason in ("DrawingFailed", "FigureTooLarge")


async def test_html_that_keeps_the_parser_busy_is_given_up():
    attributes = "<p " + " ".join(f"a{n}=1" for n in range(400_000)) + ">"
    patient = Artist(Patience(start_s=1))
    with pytest.raises(CannotDraw) as told:
        await patient.draw(sketch.Page(title="", html=attributes))
    assert told.value.reason == "DrawingTimedOut"
