"""The demo's comparison: what it takes for equal, for different, for doubled."""

import pytest
from deploy.demo import rows
from deploy.demo.rows import Held, Place

HELD = {
    "": Held("Churn sweep", {"epochs": "5"}, {"prepare/rows": [(0, 1000.0)]}),
    "train depth=2": Held(
        "train depth=2", {"depth": "2"}, {"loss": [(0, 0.5), (1, 0.25)], "loss.final": [(0, 0.2499)]}
    ),
}


@pytest.mark.parametrize(("display", "label"), [("train(0:2)", "train depth=2"), ("prepare", "prepare")])
def test_a_turn_is_called_by_its_item(display, label):
    assert rows.label(display) == label


def test_numbers_of_a_file_keep_their_digits():
    found = dict(rows.file_values("train", b'{"a": 0.10, "roc": {"auc": 1e-3}, "ok": true, "note": "9", "list": [1]}'))
    assert found == {Place("train", "a"): "0.10", Place("train", "roc.auc"): "1e-3"}


def test_a_log_gives_curves_and_results_and_no_line_of_argos_own():
    log = '2026-11-23T19:57:08.6Z time=x level=INFO msg="a" error=<nil>\n'
    log += "2026-11-23T19:57:08.7Z epoch=0 loss=0.5\n0.8725\n"
    found = dict(rows.log_values("train", log))
    assert found == {Place("train", "loss", 0): "0.5", Place("train", "result"): "0.8725"}


@pytest.mark.parametrize(
    ("place", "text"),
    [
        (Place("", "epochs"), "5"),
        (Place("prepare", "rows"), "1000.0"),
        (Place("train depth=2", "depth"), "2"),
        (Place("train depth=2", "loss", 1), "0.25"),
        (Place("train depth=2", "loss"), "0.2499"),
        (Place("train depth=2", "loss", 2), None),
        (Place("evaluate", "result"), None),
    ],
)
def test_a_value_is_found_where_the_mapping_puts_it(place, text):
    assert rows.held_text(place, HELD) == text


@pytest.mark.parametrize(
    ("wrote", "equal"), [("1000", True), ("1e3", True), ("1000.0000000000001", False), ("x", False)]
)
def test_values_are_compared_as_float64(wrote, equal):
    place = Place("prepare", "rows")
    (row,) = rows.rows({place: wrote}, {place: "1000"}, HELD)
    assert row.equal is equal


def test_a_value_that_mlflow_lacks_is_not_equal():
    (row,) = rows.rows({Place("evaluate", "result"): "1"}, {}, HELD)
    assert (row.mlflow, row.equal) == (None, False)


def test_doubles_are_named():
    twice = Held("train", {}, {"loss": [(0, 0.5), (0, 0.5), (1, 0.25)]})
    assert rows.doubles(["a", "b", "a"], [twice]) == ["2 runs have the key a", "train: loss has 2 points at step 0"]
    assert rows.doubles(["a", "b"], HELD.values()) == []
