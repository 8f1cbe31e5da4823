"""The plan, driven as the courier drives it, against a model of a tracker: any order of news, losses and kills.

The model is of a tracker, never of our code: it keeps what it is sent, either each point again (*ReadBack*:
TensorBoard, Neptune) or one of equal key, step, value and time (*Idempotent*: MLflow). `plans` is the module under
test, so that test_plan_mutations.py can hand in one that is broken on purpose.
"""

import datetime as dt
from collections import Counter
from types import ModuleType
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pipetrail.delivery import plan as real_plans
from pipetrail.record import Markdown
from pipetrail.targets.target import (
    Batch,
    Change,
    File,
    Handle,
    Held,
    Metric,
    Plot,
    Receipt,
    RunStatus,
    TrackerRun,
)

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
POISON = "poison"
NAMES = st.sampled_from(["a", "b"])
VALUES = st.sampled_from([0.5, 0.25, 0.0, -0.0, float("nan"), float("inf"), 2**53 + 1, 3])
METRICS = st.builds(
    Metric, key=st.sampled_from(["loss", "acc", POISON]), value=VALUES, step=st.integers(0, 1),
    time_ms=st.integers(1, 3),
)  # fmt: skip
Point = tuple[str, int, str]


def identity(value: float) -> str:
    """A value as trackers compare it, told apart by the test's own rule: repr knows -0.0, and NaN is one."""
    return repr(float(value))


def points(metrics: Any) -> Counter[Point]:
    return Counter((m.key, m.step, identity(m.value)) for m in metrics if m.key != POISON)


class Machine(RuleBasedStateMachine):
    """`plans` and `counts_repeats` are set by :func:`machine`."""

    plans: ModuleType = real_plans
    counts_repeats = True

    @initialize()
    def start(self) -> None:
        self.metrics: list[Metric] = []
        self.params: dict[str, str] = {}
        self.tags: dict[str, str] = {"t": "0"}
        self.files: dict[str, bytes] = {}
        self.figures: list[Plot] = []
        self.note = ""
        self.status: RunStatus = "Running"
        self.ended = 0
        self.ever: set[tuple[int, Point]] = set()  # each point of the record with each value that it ever had

        self.held: list[Metric] = []
        self.held_params: dict[str, str] = {}
        self.held_tags: dict[str, str] = {"t": "0"}
        self.held_files: dict[str, bytes] = {}
        self.held_figures: Counter[str] = Counter()
        self.held_note = ""
        self.held_status: RunStatus = "Running"
        self.held_finished: int | None = None
        self.twice_at_most: Counter[Point] = Counter()  # what came late, after we had looked

        self.late: list[Batch] = []
        self.came_late = False
        self.known = self.plans.opened(self.wanted())
        self.unsure = False
        self.tried: dict[Any, list[int]] = {}

    # --- the source's news ----------------------------------------------------------------------------------------

    @rule(new=st.lists(METRICS, min_size=1, max_size=4))
    def a_step_completes(self, new: list[Metric]) -> None:
        self.metrics += new
        self._remember()

    @precondition(lambda self: self.metrics)
    @rule(which=st.integers(0, 20), value=VALUES)
    def the_node_corrects_a_value(self, which: int, value: float) -> None:
        at = which % len(self.metrics)
        old = self.metrics[at]
        self.metrics[at] = Metric(key=old.key, value=value, step=old.step, time_ms=old.time_ms)
        self._remember()

    @precondition(lambda self: self.metrics)
    @rule(by_ms=st.integers(1, 9))
    def times_become_more_exact(self, by_ms: int) -> None:
        self.metrics = [Metric(key=m.key, value=m.value, step=m.step, time_ms=m.time_ms + by_ms) for m in self.metrics]

    @rule(name=NAMES, value=st.sampled_from(["1", "2"]))
    def a_param_is_known(self, name: str, value: str) -> None:
        self.params[name] = value

    @rule(name=NAMES, value=st.sampled_from(["1", "2"]))
    def a_tag_changes(self, name: str, value: str) -> None:
        self.tags[name] = value

    @rule(name=NAMES, content=st.sampled_from([b"1", b"2"]))
    def a_file_changes(self, name: str, content: bytes) -> None:
        self.files[name] = content

    @rule(name=NAMES)
    def a_figure_appears(self, name: str) -> None:
        if name not in {p.path for p in self.figures}:
            self.figures.append(Plot(path=name, figure=Markdown(text=name), time_ms=1))

    @rule(note=st.sampled_from(["", "one", "two"]))
    def the_note_changes(self, note: str) -> None:
        self.note = note

    @rule(status=st.sampled_from(["Running", "Finished", "Failed", "Killed"]), ended=st.integers(1, 3))
    def the_run_ends_or_runs_again(self, status: RunStatus, ended: int) -> None:
        self.status, self.ended = status, ended

    # --- delivery -------------------------------------------------------------------------------------------------

    @rule()
    def a_delivery_arrives(self) -> None:
        self._deliver("arrives")

    @rule(kept=st.integers(0, 3))
    def only_a_part_of_a_delivery_arrives(self, kept: int) -> None:
        self._deliver("part", kept)

    @rule()
    def a_delivery_arrives_and_its_answer_is_lost(self) -> None:
        self._deliver("answer lost")

    @rule()
    def a_delivery_is_lost(self) -> None:
        self._deliver("lost")

    @rule()
    def a_delivery_takes_effect_later(self) -> None:
        self._deliver("late")

    @precondition(lambda self: self.late)
    @rule(which=st.integers(0, 5))
    def what_was_late_takes_effect(self, which: int) -> None:
        batch = self.late.pop(which % len(self.late))
        self.came_late = True
        self.twice_at_most += points(batch.metrics)
        self._store(batch)

    @rule()
    def the_operator_is_killed(self) -> None:
        """The memory is gone; the next one looks before it sends."""
        self.unsure, self.tried = True, {}

    # --- what holds -----------------------------------------------------------------------------------------------

    @invariant()
    def no_point_is_there_more_often_than_it_ever_was_in_the_record(self) -> None:
        assert not points(self.held) - (self.at_most + self.twice_at_most)
        if self.counts_repeats and not self.came_late:
            assert all(n == 1 for n in self.held_figures.values())

    def teardown(self) -> None:
        while self.late:
            self.what_was_late_takes_effect(0)
        self.unsure |= self.came_late  # the look that follows a doubt by a minute
        self._deliver("arrives")
        there = points(self.held)
        wanted = points(self.metrics)
        assert not (wanted - there if self.counts_repeats else wanted.keys() - there.keys())
        assert not there - (self.at_most + self.twice_at_most)
        assert self.held_params.keys() == self.params.keys()
        assert {k: v for k, v in self.held_tags.items() if k in self.tags} == self.tags
        assert self.held_files == self.files
        assert self.held_figures.keys() == {p.path for p in self.figures}
        assert (self.held_status, self.held_note) == (self.status, self.note)
        if self.status != "Running":
            assert self.held_finished == self._finished_ms()
        assert self.plans.plan(self.wanted(), self.note, self.known).batch.empty

    # --- the courier's part ---------------------------------------------------------------------------------------

    def wanted(self) -> TrackerRun:
        ended = None if self.status == "Running" else START + dt.timedelta(minutes=self.ended)
        return TrackerRun(
            key="c/u", root="c/u", experiment="e", name="r", status=self.status, started=START, finished=ended,
            metrics=tuple(self.metrics), params=dict(self.params), tags=dict(self.tags), figures=tuple(self.figures),
            files=tuple(File(path=p, media_type="text/plain", data=d) for p, d in self.files.items()),
        )  # fmt: skip

    def _deliver(self, how: str, kept: int = 0) -> None:
        if self.unsure:
            self.known, self.unsure = self.plans.from_held(self._read()), False
        made = self.plans.plan(self.wanted(), self.note, self.known)
        batch = self.plans.as_tried(made.batch, self.tried)
        self._sends_nothing_that_is_known_to_be_there(batch)
        match how:
            case "arrives":
                receipt = self._store(batch)
                self.tried = {}
                self.known = self.plans.applied(self.known, batch, receipt)
                return
            case "answer lost":
                self._store(batch)
            case "part":
                self._store(Batch(params=batch.params, metrics=batch.metrics[:kept]))
            case "late":
                self.late.append(batch)
        self.tried = self.plans.times(batch)
        self.known = self.plans.doubted(self.known, batch)
        self.unsure = self.counts_repeats

    def _sends_nothing_that_is_known_to_be_there(self, batch: Batch) -> None:
        """A param can't be set twice; a point that was read or acknowledged is not sent again."""
        assert not batch.params.keys() & self.known.params.keys()
        known = {(*p, v): n for p, values in self.known.points.items() for v, n in values.items()}
        sent = Counter((m.key, m.step, real_plans.value_id(m.value)) for m in batch.metrics)
        in_record = Counter((m.key, m.step, real_plans.value_id(m.value)) for m in self.metrics)
        assert all(n + known.get(point, 0) <= max(in_record[point], known.get(point, 0)) for point, n in sent.items())

    def _store(self, batch: Batch) -> Receipt:
        """What the tracker makes of a batch: a poisoned metric is refused for good, the rest stays."""
        for metric in batch.metrics:
            if metric.key != POISON and (self.counts_repeats or not self._has(metric)):
                self.held.append(metric)
        for key, value in batch.params.items():
            self.held_params.setdefault(key, value)
        self.held_tags |= batch.tags
        self.held_files |= {f.path: f.data for f in batch.files}
        self.held_figures.update(p.path for p in batch.figures)
        if batch.note is not None:
            self.held_note = batch.note
        if batch.status is not None:
            self.held_status = batch.status
            self.held_finished = None if batch.finished is None else round(batch.finished.timestamp() * 1000)
        refused = {m.key for m in batch.metrics if m.key == POISON}
        return Receipt(changes=tuple(Change(item="metric", key=k, reason="Rejected") for k in refused))

    def _has(self, metric: Metric) -> bool:
        same = (metric.key, metric.step, identity(metric.value), metric.time_ms)
        return any((m.key, m.step, identity(m.value), m.time_ms) == same for m in self.held)

    def _read(self) -> Held:
        return Held(
            key="c/u", handle=Handle(id="1"), name="r", status=self.held_status, started_ms=0,
            finished_ms=self.held_finished, params=dict(self.held_params), tags=dict(self.held_tags),
            metrics=tuple(self.held), note=self.held_note, figures=frozenset(self.held_figures), whole=True,
        )  # fmt: skip

    def _remember(self) -> None:
        self.ever |= {(n, (m.key, m.step, identity(m.value))) for n, m in enumerate(self.metrics)}

    @property
    def at_most(self) -> Counter[Point]:
        return Counter(point for _, point in self.ever)

    def _finished_ms(self) -> int:
        return round((START + dt.timedelta(minutes=self.ended)).timestamp() * 1000)


def machine(plans: ModuleType, *, counts_repeats: bool) -> type[Machine]:
    """The machine over one tracker and one plan."""
    return type("Machine", (Machine,), {"plans": plans, "counts_repeats": counts_repeats})
