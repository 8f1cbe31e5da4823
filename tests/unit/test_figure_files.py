"""Figures as files: what stands in them."""

import json

import pytest

from pipetrail.record import ConfusionMatrix, Html, Markdown, RocCurve, Table
from pipetrail.targets.figures import EVENED_CELLS, filed, whole
from pipetrail.targets.target import Change, Plot


async def files(figure):
    made = await filed(Plot(path="eval/x", figure=figure, time_ms=1))
    return {file.path: file.data.decode() for file in made.files if file.media_type != "image/png"}, made.changes


async def test_a_matrix_has_a_line_for_each_row():
    found, _ = await files(ConfusionMatrix(labels=("a", "b"), rows=((1, 2), (3, float("nan"))), name="cls"))
    assert found == {
        "figures/eval/x.json": '{\n "kind": "confusion_matrix",\n "labels": ["a", "b"],\n'
        ' "rows": [\n  [1, 2],\n  [3, "NaN"]\n ],\n "name": "cls"\n}\n'
    }


async def test_integers_are_exact_at_any_size_and_infinities_have_names():
    found, _ = await files(RocCurve(fpr=(0,), tpr=(1,), threshold=(float("inf"), 10**30)))
    assert json.loads(found["figures/eval/x.json"])["threshold"] == ["Infinity", 10**30]


@pytest.mark.parametrize(
    ("header", "rows", "told"),
    [
        (("a", "b"), (("1", "2"),), {"columns": ["a", "b"], "data": [["1", "2"]]}),
        (("a",), (("1", "2"), ()), {"columns": ["a", "column 2"], "data": [["1", "2"], ["", ""]]}),
        ((), (), {"columns": [], "data": []}),
    ],
)
async def test_a_table_is_columns_and_rows_of_one_length(header, rows, told):
    found, _ = await files(Table(header=header, rows=rows))
    assert json.loads(found["figures/eval/x.json"]) == told


async def test_a_small_table_does_not_become_a_huge_one():
    found, _ = await files(Table(header=(), rows=(("",) * 2_000, *[()] * (EVENED_CELLS // 1_000))))
    assert len(found["figures/eval/x.json"]) < 100_000


async def test_half_a_surrogate_pair_is_replaced():
    assert (await files(Markdown(text="a\ud800b")))[0] == {"figures/eval/x.md": "a?b"}


async def test_html_that_has_no_page_is_text():
    found, changes = await files(Html(text="<div>" * 30_000))
    assert list(found) == ["figures/eval/x.html.txt"]
    assert changes == (
        Change(
            item="figure",
            key="eval/x",
            reason="DrawingFailed",
            detail="it could not be drawn: more than 20000 elements or 100000 ampersands: its source is sent as text",
        ),
    )


async def test_a_figure_is_whole_with_the_last_of_its_files_alone():
    figures = (
        ConfusionMatrix(labels=("a",), rows=((1,),)), Table(header=("a",), rows=()), Markdown(text="# hi"),
        Html(text="<p>hi</p>"),
    )  # fmt: skip
    for figure in figures:
        made = await filed(Plot(path="eval/x", figure=figure, time_ms=1))
        *first, last = (file.path for file in made.files)
        assert (whole(first), whole([last])) == (frozenset(), {"eval/x"})
