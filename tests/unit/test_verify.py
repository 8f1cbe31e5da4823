"""verify's comparison: digit for digit, and nothing else."""

from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from msgspec.structs import replace

from pipetrail.targets.target import Handle, Held, Metric, TrackerRun
from pipetrail.targets.verify import bits, differences

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
MS = 1772366400000


def run(*metrics: Metric, **fields) -> TrackerRun:
    made = TrackerRun(
        key="c/u", root="c/u", experiment="e", name="n", status="Finished", started=START, finished=START,
        params={"a": "1"}, tags={"t": "x"}, metrics=metrics,
    )  # fmt: skip
    return replace(made, **fields)


def held(*metrics: Metric, **fields) -> Held:
    made = Held(
        key="c/u", handle=Handle(id="r"), name="n", status="Finished", started_ms=MS, finished_ms=MS, whole=True,
        params={"a": "1", "theirs": "2"}, tags={"t": "x", "mlflow.user": "y"}, metrics=metrics,
    )  # fmt: skip
    return replace(made, **fields)


def point(value, step=0, time_ms=MS, key="loss") -> Metric:
    return Metric(key=key, value=value, step=step, time_ms=time_ms)


def test_what_agrees_has_no_differences_and_what_others_added_is_none() -> None:
    assert differences(run(point(0.1)), held(point(0.1), point(7.0, key="theirs"))) == ()


def test_an_integer_equals_the_float_that_holds_it() -> None:
    assert differences(run(point(2**53)), held(point(float(2**53)))) == ()


def test_an_integer_that_float64_cannot_hold_equals_no_float() -> None:
    (found,) = differences(run(point(2**53 + 1)), held(point(float(2**53))))
    assert (found.item, found.key, found.wanted) == ("metric", "loss", "9007199254740993")


def test_nan_equals_nan_and_the_zeros_differ() -> None:
    assert differences(run(point(float("nan"))), held(point(float("nan")))) == ()
    assert len(differences(run(point(-0.0)), held(point(0.0)))) == 1


def test_the_last_bit_counts() -> None:
    assert len(differences(run(point(0.1)), held(point(0.1 + 2**-56)))) == 1


def test_a_point_that_is_there_twice_is_a_difference() -> None:
    (found,) = differences(run(point(0.1)), held(point(0.1), point(0.1, time_ms=MS + 1)))
    assert (found.wanted, found.held) == ("0.1", "0.1, 0.1")


def test_a_point_under_our_key_that_we_never_sent_is_a_difference() -> None:
    (found,) = differences(run(point(0.1)), held(point(0.1), point(0.2, step=9)))
    assert (found.step, found.wanted, found.held) == (9, "absent", "0.2")


def test_a_missing_point_is_named_with_its_step() -> None:
    (found,) = differences(run(point(0.1), point(0.2, step=3)), held(point(0.1)))
    assert (found.step, found.wanted, found.held) == (3, "0.2", "absent")


def test_a_time_that_differs_is_a_difference_of_its_own_kind() -> None:
    (found,) = differences(run(point(0.1)), held(point(0.1, time_ms=MS + 5)))
    assert (found.item, found.wanted, found.held) == ("time", str(MS), str(MS + 5))


@dataclass(frozen=True)
class Case:
    field: dict
    item: str
    key: str


@pytest.mark.parametrize(
    "case",
    [
        Case({"params": {"a": "2"}}, "param", "a"), Case({"params": {}}, "param", "a"),
        Case({"tags": {"t": "y"}}, "tag", "t"), Case({"name": "m"}, "run", "name"),
        Case({"status": "Failed"}, "run", "status"), Case({"started_ms": MS + 1}, "run", "started"),
        Case({"finished_ms": None}, "run", "finished"), Case({"key": "c/v"}, "run", "key"),
    ],
    ids=lambda c: f"{c.item} {c.key} {next(iter(c.field.values()))}",
)  # fmt: skip
def test_each_field_is_compared(case: Case) -> None:
    (found,) = differences(run(), held(**case.field))
    assert (found.item, found.key) == (case.item, case.key)


def test_the_note_is_compared_when_it_is_given() -> None:
    assert differences(run(note="a"), held(note="b")) == ()
    (found,) = differences(run(), held(note="b"), note="a")
    assert (found.item, found.wanted, found.held) == ("note", "a", "b")


def test_bits_are_equal_for_equal_values_alone() -> None:
    assert bits(1) == bits(1.0) != bits(1.0000000000000002)
    assert bits(10**400) == str(10**400)
