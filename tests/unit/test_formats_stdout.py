"""Which printed lines are points."""

import math
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipetrail.formats import Content, stdout
from pipetrail.formats.points import Limits

DATA = Path(__file__).parents[1] / "data" / "formats"


def values(text: str) -> list[tuple[str, float, int | None]]:
    return [(p.key, p.value, p.step) for p in stdout.read(text.encode()).points]


def test_the_log_of_a_real_step_with_odd_values():
    points = stdout.read((DATA / "odd-values.log").read_bytes()).points
    found = {(p.key, p.step): p.value for p in points}
    assert math.isnan(found.pop(("loss", 2)))
    assert math.isnan(found.pop(("loss", 5)))
    assert found == {
        ("loss", 1): 0.75, ("acc", 1): 0.5, ("acc", 2): 0.625, ("loss", 3): math.inf, ("acc", 3): -math.inf,
        ("loss", 9007199254740993): 1e-320, ("loss", 6): math.inf, ("lr", 6): 1e-05,
    }  # fmt: skip
    assert points[0].time == datetime(2026, 11, 23, 19, 42, 6, 950953, tzinfo=UTC)


def test_argos_own_lines_are_no_points():
    assert stdout.read((DATA / "argo-v4.log").read_bytes()) == Content()
    lines = [
        'time="2026-11-23T20:00:58.425Z" level=info msg="capturing logs" argo=true',
        'time="2026-11-23T20:00:58.425Z" level=info msg="sub-process exited" argo=true error="<nil>"',
        'time="2026-11-23T20:00:58.425Z" level=info msg="Taring /tmp/metrics.json"',
        "time=2026-11-23T20:00:59.547Z level=INFO msg=tarring argo=true step=5 loss=1",
        "Error: exit status 143",
    ]
    assert values("\n".join(lines)) == []


@pytest.mark.parametrize(
    "line",
    [
        "epoch=3 loss=0.5",
        "epoch=3, loss=0.5",
        "loss=0.5\tepoch=3",
        '{"epoch": 3, "loss": 0.5}',
        "epoch=3 loss=0.5 note=ok\r",
    ],
)
def test_a_line_with_a_step_and_another_number_is_a_point(line):
    assert values(line + "\n") == [("loss", 0.5, 3)]


@pytest.mark.parametrize(
    "line",
    [
        "warning: epoch=7 loss=0.1 looks odd", "\x1b[32mepoch=8\x1b[0m loss=0.2", 'not json {"step": 4, "loss": 1}',
        "epoch=3", "epoch=3 step=4", "epoch=0.5 note=x", "a=x b=2", "token=abc", "loss: 0.5", "x = 1 = 2",
        "=", "a=", "=1",
        '{"step": 1}', '{"level": "info", "ts": 1.5, "step": "x"}', "[1, 2]", '{"a": {"b": [}', "1",
        "epoch=1_000 loss=x",
    ],
)  # fmt: skip
def test_other_lines_are_none(line):
    assert values(line + "\n") == []


def test_a_pair_without_step_is_a_single_value():
    assert values("accuracy=0.93\nauc = 0.5\n") == [("accuracy", 0.93, None), ("auc", 0.5, None)]
    assert values('{"f1": 0.5, "n": 7}') == [("f1", 0.5, None), ("n", 7, None)]


def test_a_pair_that_is_printed_again_is_a_series():
    assert values("loss=3\nloss=2\nloss=1\nacc=0.5\n") == [
        ("loss", 3, 0),
        ("loss", 2, 1),
        ("loss", 1, 2),
        ("acc", 0.5, None),
    ]


def test_a_stamp_gives_the_time_in_utc_and_lines_without_have_none():
    data = b"2026-11-23T20:42:06.123456789+01:00 epoch=1 loss=0.5\nepoch=2 loss=0.25\n"
    data += b"2026-11-23T19:42:06Z epoch=3 loss=1\n"
    assert [p.time for p in stdout.read(data).points] == [
        datetime(2026, 11, 23, 19, 42, 6, 123456, tzinfo=UTC), None, datetime(2026, 11, 23, 19, 42, 6, tzinfo=UTC),
    ]  # fmt: skip


def test_a_stamp_that_is_no_time_is_no_time():
    assert [p.time for p in stdout.read(b"2026-99-23T19:42:06Z epoch=1 loss=0.5\n").points] == [None]


def test_bytes_that_are_not_utf8_hurt_only_their_line():
    assert values("epoch=1 loss=2\n") == [
        (p.key, p.value, p.step) for p in stdout.read(b"\xff\xfe\x00\nepoch=1 loss=2\n\xc3\x28=\x00\n").points
    ]


def test_long_lines_are_counted_and_points_are_cut():
    content = stdout.read(b"epoch=1 loss=" + b"1" * 70_000 + b"\nepoch=2 loss=1\n")
    assert ([p.step for p in content.points], [n.reason for n in content.notes]) == ([2], ["LongLines"])
    cut = stdout.read(b"epoch=1 loss=1\n" * 10, Limits(points=4))
    assert (len(cut.points), cut.notes[0].message) == (
        4, "the first 4 points are kept, 0 more and the last 6 lines are left out",
    )  # fmt: skip
    single = stdout.read(b"loss=1\n" * 10, Limits(points=4))
    assert (len(single.points), single.notes[0].reason) == (4, "TooManyPoints")
