"""The plan, one call at a time; test_plan_machine.py drives it as delivery does."""

import datetime as dt
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from pipetrail.delivery.plan import Delivered, applied, from_held, opened, plan, value_id
from pipetrail.targets.target import Batch, Handle, Held, Metric, Receipt, RunStatus, TrackerRun

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
KEYS = st.sampled_from(["loss", "train/acc", "épreuve"])
VALUES = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True),
    st.integers(-(2**70), 2**70),
    st.sampled_from([0.0, -0.0, 0.1 + 0.2]),
)
METRICS = st.builds(Metric, key=KEYS, value=VALUES, step=st.integers(0, 3), time_ms=st.integers(0, 9))


def run(metrics: list[Metric], *, status: RunStatus = "Running", params: dict[str, str] | None = None) -> TrackerRun:
    finished = None if status == "Running" else START + dt.timedelta(minutes=1)
    return TrackerRun(
        key="c/u", root="c/u", experiment="e", name="r", status=status, started=START, finished=finished,
        metrics=tuple(metrics), params=params or {}, tags={"t": str(len(metrics))},
    )  # fmt: skip


def points(metrics: tuple[Metric, ...] | list[Metric]) -> Counter[tuple[str, int, str]]:
    return Counter((m.key, m.step, value_id(m.value)) for m in metrics)


@given(st.lists(METRICS, max_size=20))
def test_nothing_is_left_to_send_after_a_plan_was_carried_out(metrics: list[Metric]) -> None:
    wanted = run(metrics, status="Finished")
    first = plan(wanted, "note", opened(wanted))
    then = applied(opened(wanted), first.batch, Receipt())
    assert plan(wanted, "note", then).batch == Batch()


@given(st.lists(METRICS, max_size=20), st.lists(METRICS, max_size=20))
def test_what_is_there_already_is_never_sent_again(there: list[Metric], more: list[Metric]) -> None:
    held = Held(
        key="c/u", handle=Handle(id="1"), name="r", status="Running", started_ms=0, metrics=tuple(there), whole=True
    )
    sent = points(plan(run(there + more), "", from_held(held)).batch.metrics)
    assert sent == points(there + more) - points(there)


@given(st.lists(METRICS, min_size=1, max_size=20), st.integers(1, 10**6))
def test_a_time_that_became_more_exact_makes_no_second_point(metrics: list[Metric], later_ms: int) -> None:
    wanted = run(metrics)
    then = applied(Delivered(), plan(wanted, "", Delivered()).batch, Receipt())
    shifted = [Metric(key=m.key, value=m.value, step=m.step, time_ms=m.time_ms + later_ms) for m in metrics]
    assert plan(run(shifted), "", then).batch.metrics == ()


def test_a_value_that_the_source_corrects_is_sent_beside_the_first_and_said() -> None:
    first = Metric(key="acc", value=0.25, step=0, time_ms=1)
    then = applied(Delivered(), Batch(metrics=(first,)), Receipt())
    corrected = Metric(key="acc", value=0.75, step=0, time_ms=2)
    made = plan(run([corrected]), "", then)
    assert (made.batch.metrics, [c.reason for c in made.changes]) == ((corrected,), ["Corrected"])


def test_a_param_that_changed_is_a_correction_and_is_not_sent() -> None:
    then = Delivered(params={"lr": "0.1"}, note="", tags={"t": "0"}, status="Running")
    made = plan(run([], params={"lr": "0.2"}), "", then)
    assert (made.batch, [(c.item, c.key) for c in made.changes]) == (Batch(), [("param", "lr")])


def test_a_run_that_runs_again_is_reopened() -> None:
    then = Delivered(status="Failed", finished_ms=5, note="", tags={"t": "0"})
    assert plan(run([]), "", then).batch == Batch(status="Running")
