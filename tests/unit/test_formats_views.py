"""Figures that steps of KFP v1 list in ``mlpipeline-ui-metadata``."""

import json

import pytest

from pipetrail.formats import views
from pipetrail.formats.views import View
from pipetrail.record import ConfusionMatrix, Html, Markdown, RocCurve, Table

MATRIX = {
    "type": "confusion_matrix", "format": "csv", "storage": "inline", "labels": ["cat", "dog"],
    "source": "cat,cat,12\ncat,dog,3\ndog,cat,1\ndog,dog,14",
    "schema": [{"name": "target"}, {"name": "predicted"}, {"name": "count"}],
}  # fmt: skip


def shown(*outputs):
    found, notes = views.listed(json.dumps({"version": 1, "outputs": outputs}).encode())
    made = [views.figure(view, view.text or "") for view in found]
    figures = [figure for content in made for figure in content.figures]
    return figures, [n.reason for n in (*notes, *(n for content in made for n in content.notes))]


def test_rows_of_a_confusion_matrix_are_the_true_labels():
    assert shown(MATRIX) == ([ConfusionMatrix(labels=("cat", "dog"), rows=((12, 3), (1, 14)))], [])


@pytest.mark.parametrize(
    ("changes", "labels", "rows"),
    [
        ({"source": "dog,dog,14\ncat, cat ,12.5\n\n"}, ("cat", "dog"), ((12.5, 0), (0, 14))),
        ({"labels": [0, 1], "source": "0,1,7"}, ("0", "1"), ((0, 7), (0, 0))),
        ({"labels": None}, ("cat", "dog"), ((12, 3), (1, 14))),
        ({"source": 'target,predicted,count\n"cat","dog",2'}, ("cat", "dog"), ((0, 2), (0, 0))),
    ],
)
def test_a_matrix_is_read_whatever_its_rows_leave_out(changes, labels, rows):
    assert shown(MATRIX | changes) == ([ConfusionMatrix(labels=labels, rows=rows)], [])


def test_columns_of_a_roc_curve_go_by_the_schema_else_by_their_order():
    curve = {"type": "roc", "storage": "inline", "source": "fpr,tpr,threshold\n0.0,0.5,inf\n1,1.0,0.1"}
    swapped = {
        "source": "inf,0.5,0.0\n0.1,1.0,1", "schema": [{"name": "thresholds"}, {"name": "tpr"}, {"name": "fpr"}]
    }  # fmt: skip
    expected = RocCurve(fpr=(0.0, 1), tpr=(0.5, 1.0), threshold=(float("inf"), 0.1))
    assert shown(curve, curve | swapped) == ([expected, expected], [])


def test_tables_pages_and_markdown_are_as_they_were_written():
    table = {"type": "table", "storage": "inline", "header": ["id", "note"], "source": '1,"a\nb"\n2,\n'}
    assert shown(
        table,
        table | {"header": None, "schema": [{"name": "x"}, "y"]},
        {"type": "markdown", "storage": "inline", "source": "# T"},
        {"type": "web-app", "storage": "inline", "source": "<h1>T</h1>"},
    )[0] == [
        Table(header=("id", "note"), rows=(("1", "a\nb"), ("2", ""))),
        Table(header=("x", "y"), rows=(("1", "a\nb"), ("2", ""))), Markdown(text="# T"), Html(text="<h1>T</h1>"),
    ]  # fmt: skip


def test_a_file_that_was_encoded_twice_is_read_all_the_same():
    twice = json.dumps(json.dumps({"outputs": [MATRIX]})).encode()
    assert [v.kind for v in views.listed(twice)[0]] == ["confusion_matrix"]


@pytest.mark.parametrize(
    "broken",
    [
        MATRIX | {"source": "cat,horse,1"}, MATRIX | {"source": "cat"}, MATRIX | {"source": "cat,dog,many"},
        MATRIX | {"source": 7}, {"type": "roc", "storage": "inline", "source": "0,0,1\n0.5,x,1"},
        {"type": "roc", "storage": "inline", "source": ""}, {"type": "hologram", "storage": "inline", "source": "x"},
        {"type": "table", "storage": "inline", "source": '"' + "x" * 200_000}, {},
        {"type": "table", "storage": "inline", "source": "," * (views.MAX_CELLS + 1)},
        {"type": "markdown", "storage": "inline", "source": "x" * (views.MAX_SOURCE_CHARS + 1)},
    ],
)  # fmt: skip
def test_what_is_no_figure_is_said_and_the_others_count(broken):
    figures, notes = shown(broken, MATRIX)
    assert ([type(f) for f in figures], len(notes)) == ([ConfusionMatrix], 1)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b'{"outputs": 3}', b"\xff", b"[" * 200_000, b" " * (views.MAX_BYTES + 1)]
)
def test_a_file_that_lists_nothing_says_so(data):
    found, notes = views.listed(data)
    assert (found, len(notes)) == ((), 1)


def test_only_so_many_are_read():
    found, notes = views.listed(json.dumps({"outputs": [MATRIX] * 1000}).encode())
    assert (len(found), [n.reason for n in notes]) == (views.MAX_VIEWS, ["TooManyViews"])


def test_what_lies_elsewhere_has_an_address_and_no_text():
    (found,) = views.listed(b'{"outputs": [{"type": "table", "storage": "gcs", "source": "gs://b/t.csv"}]}')[0]
    assert found == View(kind="table", address="gs://b/t.csv")
