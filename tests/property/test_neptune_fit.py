"""Whatever a run holds: what is fitted Neptune takes, fitting again changes nothing, and nothing changes silently."""

import math
from datetime import UTC, datetime, timedelta

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from pipetrail.targets.neptune import held, numbers, operations, paths, wire
from pipetrail.targets.neptune.fit import fit
from pipetrail.targets.neptune.limits import PATH_MOST, STEP_MOST, TEXT_MOST
from pipetrail.targets.target import Batch, Handle, Metric, TrackerRun
from pipetrail.targets.verify import differences

ODD = st.sampled_from([
    "", ".", "..", "/", "//", "/a", "a/", "a//b", "a/../b", "a", "a/b", "a/b/c", "a.b", "`", "\n", "\x00", "\ud800",
    "pipetrail.key", "pipetrail.key/a", "pipetrail.run", "pipetrail.", "sys/name", "x" * 1100, "é" * 600, "train/loss",
])  # fmt: skip
KEYS = st.one_of(ODD, st.text(max_size=6), st.lists(st.sampled_from("ab."), max_size=4).map("/".join))
TEXTS = st.one_of(
    st.text(max_size=12), st.sampled_from(["\x00", "\udfff", "y" * 16_385, "1e-3", "4", "0.10", "-0", "1e400", "007"]),
    st.floats().map(repr), st.integers().map(str),
)  # fmt: skip
NUMBERS = st.one_of(st.floats(), st.integers(-(10**4), 10**4), st.integers(), st.sampled_from([2**53 + 1, 10**400]))
STEPS = st.one_of(st.integers(-3, 3), st.integers(-(2**70), 2**70))
TIMES = st.one_of(st.integers(0, 2**42), st.integers(-(2**70), 2**70))
POINTS = st.builds(Metric, key=KEYS, value=NUMBERS, step=STEPS, time_ms=TIMES)
RUNS = st.builds(
    TrackerRun,
    key=st.just("c/u"), root=st.just("c/u"), experiment=st.just("churn"), name=TEXTS,
    status=st.sampled_from(["Running", "Finished", "Failed", "Killed"]),
    started=st.datetimes(datetime(1960, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC)),
    user=st.none() | TEXTS, params=st.dictionaries(KEYS, TEXTS, max_size=5),
    tags=st.dictionaries(KEYS, TEXTS, max_size=5), metrics=st.lists(POINTS, max_size=8).map(tuple), note=TEXTS,
)  # fmt: skip


def attributes(run: TrackerRun) -> list[str]:
    """Every path of a fitted run."""
    return [
        *(paths.of("param", k) for k in run.params), *(paths.of("tag", k) for k in run.tags),
        *dict.fromkeys(paths.of("metric", m.key) for m in run.metrics),
    ]  # fmt: skip


@given(RUNS)
@settings(max_examples=200)
def test_every_path_is_one_of_its_own_and_no_other_lies_below_it(run: TrackerRun) -> None:
    found = [*attributes(fit(run)), *paths.OWN, paths.NAME, paths.NOTE, paths.FAILED]
    assert len(set(found)) == len(found)
    above = {"/".join(p.split("/")[:n]) for p in found for n in range(1, p.count("/") + 1)}
    assert above & set(found) == set()
    assert all("/".join(s for s in p.split("/") if s) == p and len(p.encode()) <= PATH_MOST for p in found)


@given(RUNS)
@settings(max_examples=200)
def test_what_is_fitted_is_what_neptune_takes(run: TrackerRun) -> None:
    fitted = fit(run)
    texts = (*fitted.params.values(), *fitted.tags.values(), fitted.name, fitted.note)
    assert all(len(t) <= TEXT_MOST and "\x00" not in t and t.encode() for t in texts if t)
    _, unfit = operations.content(Batch(metrics=fitted.metrics))
    assert unfit == []
    steps: dict[str, float] = {}
    for m in fitted.metrics:
        assert math.isfinite(m.value)
        assert abs(m.step) <= STEP_MOST
        assert m.step > steps.get(m.key, -math.inf)
        steps[m.key] = m.step


@given(RUNS)
@settings(max_examples=200)
def test_fitting_again_changes_nothing(run: TrackerRun) -> None:
    assert fit(fit(run)) == fit(run)


@given(RUNS)
@settings(max_examples=200)
def test_every_difference_is_a_change(run: TrackerRun) -> None:
    fitted = fit(run)
    said = {(c.item, c.key) for c in fitted.changes}
    assert all(fitted.params.get(k) == v or ("param", k) in said for k, v in run.params.items())
    assert all(fitted.tags.get(k) == v or ("tag", k) in said for k, v in run.tags.items())
    kept = {(m.key, repr(m.value), m.step, m.time_ms) for m in fitted.metrics}
    for m in run.metrics:
        assert (m.key, repr(m.value), m.step, m.time_ms) in kept or ("metric", m.key) in said
    assert fitted.name == run.name or run.name == "" or ("name", "run") in said
    assert fitted.note == run.note or ("note", "") in said
    assert len(fitted.params) == len(run.params)
    assert all(c.run == run.name for c in fitted.changes)


@given(RUNS)
@settings(max_examples=200)
def test_what_is_sent_reads_back_as_what_was_wanted(run: TrackerRun) -> None:
    """Without a server: operations become the attributes that they make, and those a held run."""
    fitted = replace(fit(run), finished=None)
    made, _ = operations.content(Batch(params=fitted.params, tags=fitted.tags, metrics=fitted.metrics))
    end = operations.ending(fitted.status, None, was_finished=False)
    there: dict[str, wire.Attribute] = {}
    series = {}
    for operation in (*operations.opening(fitted, ""), *operations.claiming(fitted.key), *made, *end):
        match operation:
            case wire.Append(path=path, points=points):
                series[path] = points
            case wire.AssignTime(path=path, ms=ms):
                there[path] = wire.Attribute(path=path, type="datetime", value=ms)
            case wire.AssignText(path=path, value=value):
                there[path] = wire.Attribute(path=path, type="string", value=value)
            case wire.AssignNumber(path=path, value=value) | wire.AssignFlag(path=path, value=value):
                there[path] = wire.Attribute(path=path, type="float", value=value)
    read = held.held(Handle(id="PIPE-1"), there, series)
    assert differences(fitted, read, note=fitted.note) == ()
    assert (read.params, read.tags) == (fitted.params, fitted.tags)


@given(TEXTS)
def test_a_param_is_its_text_whatever_it_is_stored_as(text: str) -> None:
    value = numbers.typed(text)
    assert numbers.needs_text(text) or numbers.spelled(text if value is None else value) == text


@given(st.lists(st.tuples(st.text("ab", min_size=1, max_size=3), st.integers(0, 2500)), max_size=5))
@settings(max_examples=60, deadline=timedelta(seconds=5))
def test_requests_keep_the_limits_and_carry_every_point_once_and_in_order(series: list[tuple[str, int]]) -> None:
    wanted = [
        wire.Append(path=f"metrics/{n}/{key}", points=tuple((0.5, float(step), step) for step in range(count)))
        for n, (key, count) in enumerate(series)
        if count
    ]
    texts = [wire.AssignText(path=f"tags/{n}", value="é" * 10_000) for n in range(100)]
    sent = list(operations.requests([*wanted, *texts]))
    points: dict[str, list[operations.Point]] = {}
    for request in sent:
        assert len(msgspec.json.encode(request)) < 1_000_000
        assert sum(len(o.points) if isinstance(o, wire.Append) else 1 for o in request) <= 1000
        for operation in request:
            if isinstance(operation, wire.Append):
                points.setdefault(operation.path, []).extend(operation.points)
    assert points == {a.path: list(a.points) for a in wanted}
    assert [o for request in sent for o in request if isinstance(o, wire.AssignText)] == texts


@given(st.integers(0, 2**53 // 1000))
def test_a_millisecond_survives_the_way_in_which_the_package_cuts_it(ms: int) -> None:
    assert int((ms + 0.5) / 1000 * 1000) == ms
