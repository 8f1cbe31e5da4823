"""What event files can hold, by example; and what folders are called, whatever a user called a run."""

import math
from datetime import UTC, datetime

import pytest
from msgspec.structs import replace

from pipetrail.record import Markdown
from pipetrail.targets.target import File, Metric, Plot, TrackerRun
from pipetrail.targets.tensorboard import events, links, paths
from pipetrail.targets.tensorboard.fit import fit, number
from pipetrail.targets.tensorboard.limits import FLOAT_MOST
from pipetrail.targets.tensorboard.page import plain, table

START = datetime(2025, 11, 3, 9, 30, tzinfo=UTC)
RUN = TrackerRun(key="c/u", root="c/u", experiment="churn", name="churn-x7k2p", status="Finished", started=START)


def point(key: str, value: float = 1.0, step: int = 0) -> Metric:
    return Metric(key=key, value=value, step=step, time_ms=1_762_162_200_000)


def reasons(run: TrackerRun) -> set[tuple[str, str, str]]:
    return {(c.item, c.key, c.reason) for c in run.changes}


@pytest.mark.parametrize(
    ("value", "stored", "reason"),
    [
        (0.1, 0.10000000149011612, ""), (1 / 3, 0.3333333432674408, ""), (4, 4.0, ""), (-0.0, -0.0, ""),
        (16_777_217, 16_777_216.0, ""), (2**53 + 1, float(2**53), "IntegerRounded"), (1e300, FLOAT_MOST, "OutOfRange"),
        (-(10**400), -FLOAT_MOST, "OutOfRange"), (1e-300, 0.0, "RoundedToZero"), (math.inf, math.inf, ""),
    ],
)  # fmt: skip
def test_numbers_are_float32(value: float, stored: float, reason: str) -> None:
    assert number(value) == (stored, reason)
    assert math.copysign(1, number(value)[0]) == math.copysign(1, stored)


def test_nan_stays_nan() -> None:
    value, reason = number(math.nan)
    assert math.isnan(value)
    assert reason == ""


def test_a_number_that_is_more_than_rounded_is_on_record() -> None:
    fitted = fit(replace(RUN, metrics=(point("n", 2**53 + 1), point("s", 1e300, 1), point("s", 1.0, 2))))
    assert reasons(fitted) == {("metric", "n", "IntegerRounded"), ("metric", "s", "OutOfRange")}
    assert fitted.tags["pipetrail.exact.n"] == "9007199254740993"
    assert fitted.tags["pipetrail.exact.s"] == '{"1": "1e+300"}'


def test_fitting_twice_is_fitting_once() -> None:
    odd = replace(
        RUN, name="n" * 300, note="m" * 20_000, user="ada", params={"a\nb": "x" * 9000, "a\tb": "1"},
        metrics=(point("a\nb", 2**60 + 1), point("_hparams_/session_start_info"), point("x" * 600, 0.1)),
        files=(File(path="../../evil.md", media_type="text/markdown", data=b"x"),),
    )  # fmt: skip
    once = fit(odd)
    assert fit(once) == once


def test_a_metric_never_takes_the_place_of_what_tensorboard_or_we_look_for() -> None:
    keys = ("_hparams_/session_start_info", "pipetrail/state", "pipetrail/run", "report", "report/text", "loss")
    plot = Plot(path="report", figure=Markdown(text="x"), time_ms=0)
    fitted = fit(replace(RUN, metrics=tuple(point(k) for k in keys), figures=(plot,)))
    names = [m.key for m in fitted.metrics]
    assert names[-1] == "loss"
    assert not set(names) & set(keys[:-1])
    assert not any(name.startswith("_hparams_/") for name in names)
    assert fitted.figures == (plot,)
    assert {("metric", key, "Renamed") for key in keys[:-1]} == reasons(fitted)


def test_a_file_too_large_for_the_folder_is_a_change() -> None:
    fitted = fit(replace(RUN, files=(File(path="a.bin", media_type="x/y", data=bytes((8 << 20) + 1)),)))
    assert (fitted.files, reasons(fitted)) == ((), {("file", "a.bin", "TooLarge")})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4", 4.0), ("0.1", 0.1), ("1e3", 1000.0), ("-7", -7.0), ("0", 0.0), ("007", "007"), ("true", "true"), ("", ""),
        ("NaN", "NaN"), ("inf", "inf"), (str(2**53 + 1), str(2**53 + 1)), ("9" * 400, "9" * 400), ("1_0", "1_0"),
    ],
)  # fmt: skip
def test_a_param_is_a_number_for_hparams_only_if_it_is_one_strictly(text: str, value: float | str) -> None:
    assert events.hparam(text) == value


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("churn-x7k2p", "churn-x7k2p"), ("train depth=4", "train depth=4"), ("outer/inner", "outer.inner"),
        ("..", "_."), (".", "_"), ("../../etc", "_.....etc"), (".hidden", "_hidden"), ("a\x00b\nc", "a_b_c"), ("", "_"),
        ("größe 🚀", "größe 🚀"), ("a\\b", "a.b"), ("\u202egnp.exe", "_gnp.exe"),
        ("  x  ", "x"), ("half\ud800", "half_"),
        ("/abs", "_abs"), (".pipetrail", "_pipetrail"),
    ],
)  # fmt: skip
def test_a_name_is_one_folder_that_is_seen(name: str, folder: str) -> None:
    assert paths.part(name) == folder
    assert paths.part(folder) == folder


@pytest.mark.parametrize("name", ["x" * 300, "é" * 300, "🚀" * 300])
def test_a_long_name_is_cut_to_what_file_systems_take_and_stays_apart(name: str) -> None:
    first, second = paths.part(name + "1"), paths.part(name + "2")
    assert first != second
    assert max(len(n.encode()) for n in paths.candidates(name + "1", "key")) <= 255
    assert paths.part(first) == first


def test_an_experiment_of_a_cluster_target_is_two_folders() -> None:
    assert paths.experiment("team-a/churn") == ("team-a", "churn")
    assert paths.experiment("//../x/") == ("_.", "x")
    assert paths.experiment("/") == ("_",)
    assert len(paths.experiment("/".join("abcdefghij"))) == 6


@pytest.mark.parametrize(
    "handle", ["", "x", "../x", "a/../../b", "a//b", "/etc/passwd", "a/.pipetrail", "a/b\x00", "a/" * 9]
)
def test_a_handle_that_would_leave_the_folder_is_none(handle: str) -> None:
    assert paths.parts(handle) is None


def test_a_file_never_lies_outside_its_run_or_looks_like_an_event_file() -> None:
    assert paths.file("../../etc/passwd") == ("etc", "passwd")
    assert paths.file("pipetrail/artifacts.json") == ("pipetrail", "artifacts.json")
    assert paths.file("events.out.tfevents.1.x") == ("events.out.tf_events.1.x",)
    assert paths.file("..") == ("file",)


def test_no_sign_in_a_cell_means_anything() -> None:
    text = "a|b *c* <script>alert(1)</script> [x](javascript:y) `z` # é\n"
    assert not set(plain(text)) & set("|*<>[]()`\n")
    assert plain("x" * 1000) == "x" * 300 + "… 1000 characters"
    assert table(("k", "v"), {}) == ""


def test_the_link_filters_for_the_run_and_its_children() -> None:
    url = links.run_page("https://tb.example.com", "churn/x (1)")
    assert url == "https://tb.example.com/?runFilter=%28%5E%7C%2F%29churn%2Fx%20%5C%281%5C%29%28%2F%7C%24%29#timeseries"
    assert links.run_page("", "churn/x") == ""
