"""What becomes of what MLflow can't hold, by example; tests/property/test_mlflow_fit.py has the laws."""

import re
from datetime import UTC, datetime

import pytest

from pipetrail.record import Number
from pipetrail.targets.fitting import Names
from pipetrail.targets.mlflow.fit import clean, fit, legal, number
from pipetrail.targets.mlflow.limits import KEY_MOST
from pipetrail.targets.target import Change, Metric, TrackerRun

START = datetime(2026, 1, 1, tzinfo=UTC)


def run(**fields) -> TrackerRun:
    return TrackerRun(key="c/u", root="c/u", experiment="e", name="n", status="Running", started=START, **fields)


def point(key: str = "loss", value: Number = 1.0, step: int = 0, time_ms: int = 5) -> Metric:
    return Metric(key=key, value=value, step=step, time_ms=time_ms)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("precision@10", "precision_at_10"), ("top_5%", "top_5_pct"), ("f1 (macro)", "f1 _macro_"), ("a[0]", "a_0_"),
        ("/loss", "loss"), ("train//loss", "train/loss"), ("loss/", "loss"), ("a/../b", "a/__/b"), ("./a", "_/a"),
        (".", "_"), ("..", "__"), ("..a", "_.a"), ("", "_"), ("///", "_"), ("a\nb", "a_b"), ("größe", "größe"),
        ("a b:c-d.e_f", "a b:c-d.e_f"), ("🚀", "_"),
    ],
)  # fmt: skip
def test_a_name_becomes_the_nearest_that_mlflow_takes(key: str, name: str) -> None:
    assert clean(key) == name
    assert legal(name)
    assert legal(key) == (key == name)


def test_names_that_would_become_one_get_four_hex_digits() -> None:
    names = Names(["a(b", "a)b", "a_b"], legal, clean, KEY_MOST)
    assert names.of("a_b") == "a_b"
    assert re.fullmatch("a_b-[0-9a-f]{4}", names.of("a(b"))
    assert re.fullmatch("a_b-[0-9a-f]{4}", names.of("a)b"))
    assert names.of("a(b") != names.of("a)b")


def test_names_that_differ_beyond_250_characters_stay_apart() -> None:
    one, other = fit(run(params={"x" * 300 + "1": "a", "x" * 300 + "2": "b"})).params
    assert (len(one), len(other)) == (250, 250)
    assert one != other


def test_the_original_name_stands_in_a_tag() -> None:
    fitted = fit(run(metrics=(point("p@10"),)))
    assert fitted.tags["pipetrail.name.p_at_10"] == "p@10"
    assert fitted.changes == (Change(item="metric", key="p@10", reason="Renamed", detail="is called p_at_10", run="n"),)


def test_a_tag_that_decides_what_people_see_is_ours_to_write() -> None:
    fitted = fit(run(tags={"mlflow.note.content": "x", "mlflow.parentRunId": "y", "team": "churn"}))
    assert fitted.tags["tag.mlflow.note.content"] == "x"
    assert fitted.tags["tag.mlflow.parentRunId"] == "y"
    assert "mlflow.note.content" not in fitted.tags
    assert fitted.tags["team"] == "churn"


@pytest.mark.parametrize(
    ("value", "stored", "reason"),
    [
        (1, 1, ""), (2**53, 2**53, ""), (2**53 + 1, 2.0**53, "IntegerRounded"), (2**60, 2**60, ""), (0.1, 0.1, ""),
        (float("inf"), 1.7976931348623157e308, "InfinityClamped"),
        (float("-inf"), -1.7976931348623157e308, "InfinityClamped"), (10**400, 1.7976931348623157e308, "OutOfRange"),
        (-(10**400), -1.7976931348623157e308, "OutOfRange"), (-0.0, 0.0, "NegativeZero"),
    ],
)  # fmt: skip
def test_a_number_is_stored_as_it_is_or_by_rule(value: Number, stored: Number, reason: str) -> None:
    assert number(value) == (stored, reason)


def test_an_integer_of_400_digits_keeps_its_text() -> None:
    fitted = fit(run(metrics=(point("n", 10**400),)))
    assert fitted.tags["pipetrail.exact.n"] == str(10**400)
    assert "401 digits" in fitted.changes[0].detail


def test_a_series_keeps_the_texts_by_step_as_many_as_a_tag_holds() -> None:
    fitted = fit(run(metrics=tuple(point("n", 2**60 + 1 + i, step=i) for i in range(2000))))
    text = fitted.tags["pipetrail.exact.n"]
    assert len(text) <= 8000
    assert text.startswith('{"0": "1152921504606846977"')
    assert re.search(r'"…": "\d+ more"', text)
    (change,) = (c for c in fitted.changes if c.reason == "IntegerRounded")
    assert change.detail.endswith("points)")


def test_two_points_of_one_step_time_and_value_are_one_and_that_is_said() -> None:
    fitted = fit(run(metrics=(point(), point(), point(time_ms=6), point(value=2.0))))
    assert fitted.metrics == (point(), point(time_ms=6), point(value=2.0))
    assert [c.reason for c in fitted.changes] == ["SamePoint"]


def test_a_step_beyond_64_bits_leaves_its_point_out_and_a_time_is_bounded() -> None:
    fitted = fit(run(metrics=(point(step=2**63), point(time_ms=-1, step=1))))
    assert fitted.metrics == (point(time_ms=0, step=1),)
    assert [c.reason for c in fitted.changes] == ["StepOutOfRange", "TimeOutOfRange"]


def test_key_and_root_are_tags_whatever_the_tags_say() -> None:
    fitted = fit(run(tags={"pipetrail.key": "forged"}, user="ada", source_name="churn", commit="abc"))
    assert fitted.tags == {
        "pipetrail.key": "c/u", "pipetrail.root": "c/u", "mlflow.user": "ada", "mlflow.source.name": "churn",
        "mlflow.source.git.commit": "abc",
    }  # fmt: skip


def test_a_run_that_fits_is_not_changed() -> None:
    assert fit(run(params={"a": "1"}, metrics=(point(),), note="hi")).changes == ()
