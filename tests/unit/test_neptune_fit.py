"""What Neptune can hold, and what becomes of the rest: names, numbers, texts, steps; and params as numbers."""

import math
from datetime import UTC, datetime

import pytest
from msgspec.structs import replace

from pipetrail.record import Markdown
from pipetrail.targets.neptune import numbers, paths
from pipetrail.targets.neptune.fit import fit
from pipetrail.targets.neptune.limits import FILE_MOST, PATH_MOST, STEP_MOST, TEXT_MOST
from pipetrail.targets.target import File, Metric, Plot, TrackerRun

START = datetime(2025, 11, 3, 9, 30, tzinfo=UTC)


def run(**fields) -> TrackerRun:
    made = TrackerRun(
        key="c/1", root="c/1", experiment="churn", name="churn-1", status="Finished", started=START, finished=START
    )
    return replace(made, **fields)


def point(key: str, value, step: int = 0, time_ms: int = 7) -> Metric:
    return Metric(key=key, value=value, step=step, time_ms=time_ms)


def told(fitted: TrackerRun) -> set[tuple[str, str, str]]:
    return {(c.item, c.key, c.reason) for c in fitted.changes}


def test_what_fits_stays_as_it_is():
    whole = run(
        params={"depth": "4", "a/b": "x"}, tags={"team": "a", "pipetrail.run": "churn-1"},
        metrics=(point("train/loss", 0.5, 0), point("train/loss", 0.25, 1)),
    )  # fmt: skip
    assert fit(whole) == whole


def test_user_source_and_commit_become_tags():
    assert fit(run(user="ada", source_name="churn", commit="0a1b")).tags == {
        "pipetrail.user": "ada", "pipetrail.source": "churn", "pipetrail.commit": "0a1b",
    }  # fmt: skip


def test_what_is_no_finite_float64_is_left_out_and_said():
    values = {"nan": math.nan, "inf": math.inf, "minus": -math.inf, "huge": 10**400, "odd": 2**53 + 1}
    fitted = fit(run(metrics=tuple(point(k, v) for k, v in values.items())))
    assert [(m.key, m.value) for m in fitted.metrics] == [("odd", float(2**53))]
    assert told(fitted) == {
        ("metric", "nan", "NotFinite"), ("metric", "inf", "NotFinite"), ("metric", "minus", "NotFinite"),
        ("metric", "huge", "OutOfRange"), ("metric", "odd", "IntegerRounded"),
    }  # fmt: skip
    assert {k: v for k, v in fitted.tags.items() if len(v) < 20} == {
        "pipetrail.exact.metrics/nan": "NaN", "pipetrail.exact.metrics/inf": "Infinity",
        "pipetrail.exact.metrics/minus": "-Infinity", "pipetrail.exact.metrics/odd": str(2**53 + 1),
    }  # fmt: skip
    assert fitted.tags["pipetrail.exact.metrics/huge"] == str(10**400)


def test_a_step_has_one_point_and_the_others_are_said():
    points = (point("loss", 1.0, 1), point("loss", 0.5, 0), point("loss", 0.25, 1), point("loss", 0.125, 1))
    fitted = fit(run(metrics=points))
    assert fitted.metrics == (points[1], points[0])
    assert fitted.tags == {"pipetrail.more.metrics/loss": '{"1": ["0.25", "0.125"]}'}
    (change,) = fitted.changes
    assert (change.reason, change.detail) == ("StepTaken", "one point of a step: the first is kept (2 points)")


def test_steps_and_times_out_of_range_are_said():
    fitted = fit(run(metrics=(point("a", 1.0, STEP_MOST + 1), point("b", 1.0, -3, time_ms=-5))))
    assert fitted.metrics == (point("b", 1.0, -3, time_ms=0),)
    assert told(fitted) == {("metric", "a", "StepOutOfRange"), ("metric", "b", "TimeOutOfRange")}


def test_a_name_that_is_a_namespace_too_gets_digits_in_the_order_in_which_they_came():
    first = fit(run(metrics=(point("a", 1.0), point("a/b", 2.0))))
    assert [m.key for m in first.metrics] == ["a", "a.b-" + first.metrics[1].key[-4:]]
    assert first.tags == {f"pipetrail.name.metrics/{first.metrics[1].key}": "a/b"}
    second = fit(run(metrics=(point("a/b", 2.0), point("a", 1.0))))
    assert second.metrics[0].key == "a/b"
    assert second.metrics[1].key.startswith("a-")


def test_keys_of_different_kinds_never_meet():
    fitted = fit(run(params={"loss": "1"}, tags={"loss": "x"}, metrics=(point("loss", 1.0),)))
    assert (dict(fitted.params), dict(fitted.tags), fitted.metrics[0].key) == ({"loss": "1"}, {"loss": "x"}, "loss")


@pytest.mark.parametrize(
    ("key", "clean"),
    [
        ("", "_"), ("/a//b/", "a/b"), ("a/../b", "a/__/b"), (".", "_"), ("a`b\\c", "a_b_c"), (" a / b ", "a/b"),
        ("tab\tbed\n", "tab_bed_"), ("half\ud800", "half_"), ("größe %@$(x)", "größe %@$(x)"),
    ],
)  # fmt: skip
def test_a_name_is_made_one_that_stays_itself(key: str, clean: str):
    assert paths.clean(key) == clean
    assert paths.clean(clean) == clean


def test_a_long_name_is_cut_by_bytes_and_told_apart():
    a, b = "é" * 600 + "1", "é" * 600 + "2"
    names = paths.Names([a, b])
    assert names.of(a) != names.of(b)
    assert all(len(paths.of("metric", names.of(k)).encode()) <= PATH_MOST for k in (a, b))


@pytest.mark.parametrize("tag", ["pipetrail.run", "team", "a/b", "pipetrail.key", "pipetrail.status/x", "output.a.b"])
def test_a_tag_is_found_again_under_its_name(tag: str):
    assert paths.named(paths.of("tag", tag)) == ("tag", tag)
    assert paths.of("tag", tag) not in paths.OWN


def test_texts_are_cut_where_the_client_would_cut_them_in_silence():
    fitted = fit(run(params={"p": "x" * (TEXT_MOST + 1)}, tags={"t": "a\x00b\ud800"}, name="", note="m" * 20_000))
    assert (len(fitted.params["p"]), fitted.tags["t"], fitted.name, len(fitted.note)) == (
        TEXT_MOST, "ab\ufffd", "c/1", TEXT_MOST,
    )  # fmt: skip
    assert told(fitted) == {
        ("param", "p", "ValueCut"), ("tag", "t", "CharactersReplaced"), ("note", "", "ValueCut"),
    }  # fmt: skip
    assert fitted.tags["pipetrail.cut.parameters/p"].startswith(f"{TEXT_MOST + 1} characters, sha256 ")


@pytest.mark.parametrize(
    ("text", "value", "beside"),
    [
        ("4", 4, False), ("-0", 0, True), ("0.1", 0.1, False), ("1e-3", 0.001, True), ("1.0", 1.0, False),
        ("1.50", 1.5, True), ("2147483648", 2147483648.0, True), ("9007199254740993", None, False),
        ("007", None, False), ("true", None, False), ("", None, False), ("NaN", None, False), ("1e400", None, False),
        ("4 ", None, False), ("1_000", None, False),
    ],
)  # fmt: skip
def test_a_param_that_is_strictly_a_number_is_one_and_its_text_is_kept(text: str, value, beside: bool):
    assert repr(numbers.typed(text)) == repr(value)
    assert numbers.needs_text(text) == beside
    assert fit(run(params={"p": text})).tags == ({"pipetrail.exact.parameters/p": text} if beside else {})


def test_files_and_figures_are_named_and_bounded():
    files = (
        File(path="a//b.json", media_type="", data=b"{}"),
        File(path="c", media_type="", data=b"x" * (FILE_MOST + 1)),
    )
    plots = (
        Plot(path="a/b", figure=Markdown(text="x"), time_ms=0),
        Plot(path="a//b", figure=Markdown(text="y"), time_ms=0),
    )
    fitted = fit(run(files=files, figures=plots))
    assert [f.path for f in fitted.files] == ["a/b.json"]
    assert fitted.figures[0].path == "a/b"
    assert len({p.path for p in fitted.figures}) == 2
    assert told(fitted) == {("file", "a//b.json", "Renamed"), ("file", "c", "TooLarge"), ("figure", "a//b", "Renamed")}


def test_fitting_again_changes_nothing():
    odd = run(
        params={"a": "1e-3", "a/b": "x" * 20_000, "": "\ud800"}, tags={"a`": "1", "a\t": "2", "é" * 700: "3"},
        metrics=(point("n", math.nan), point("n", 2**53 + 1, 1), point("n/x", 1.0), point("n", 3.0, 1)),
        note="m" * 20_000,
    )  # fmt: skip
    once = fit(odd)
    assert fit(once) == once
