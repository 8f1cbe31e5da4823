"""Whatever a run holds: what is fitted MLflow takes, fitting it again changes nothing, and nothing changes silently."""

import math
from datetime import UTC, datetime, timedelta

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from pipetrail.targets.mlflow.batches import Param, Point, Tag, body, chunks, halves, items
from pipetrail.targets.mlflow.fit import fit, legal
from pipetrail.targets.mlflow.limits import INT64_MOST, KEY_MOST, NAME_MOST, NOTE_MOST, PARAM_MOST, TAG_MOST
from pipetrail.targets.target import Batch, File, Metric, TrackerRun
from pipetrail.targets.verify import bits

ODD = st.sampled_from([
    "", ".", "..", "/", "//", "/a", "a/", "a//b", "a/../b", "./a", "..a", "a@b", "a%b", "a(b", "a)b", "a_b", "a_at_b",
    "é", "\n", "a\n", "\x00", "\ud800", "mlflow.runName", "mlflow.note.content", "pipetrail.opened", "x" * 251,
    "%" * 300, "loss", "train/loss", "a:b c",
])  # fmt: skip
KEYS = st.one_of(ODD, st.text(max_size=8))
TEXTS = st.one_of(st.text(max_size=12), st.sampled_from(["\x00", "\udfff", "y" * 6001, "z" * 8001, "é" * 7000]))
NUMBERS = st.one_of(
    st.floats(), st.integers(-(10**4), 10**4), st.integers(), st.sampled_from([2**53 + 1, 10**400, -(10**400), -0.0])
)
STEPS = st.one_of(st.integers(-3, 3), st.integers(-(2**70), 2**70))
TIMES = st.one_of(st.integers(0, 3), st.integers(-(2**70), 2**70))
POINTS = st.builds(Metric, key=KEYS, value=NUMBERS, step=STEPS, time_ms=TIMES)
RUNS = st.builds(
    TrackerRun,
    key=st.just("c/u"),
    root=st.just("c/u"),
    experiment=KEYS,
    name=TEXTS,
    status=st.sampled_from(["Running", "Finished"]),
    started=st.datetimes(datetime(1960, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC)),
    user=st.none() | TEXTS,
    params=st.dictionaries(KEYS, TEXTS, max_size=5),
    tags=st.dictionaries(KEYS, TEXTS, max_size=5),
    metrics=st.lists(POINTS, max_size=8).map(tuple),
    note=TEXTS,
    files=st.lists(st.builds(File, path=KEYS, media_type=st.just("text/plain"), data=st.just(b"")), max_size=2).map(
        tuple
    ),
)


def holds(text: str, most: int) -> bool:
    return len(text) <= most and "\x00" not in text and text == text.encode("utf-8", "replace").decode()


@given(RUNS)
@settings(max_examples=200)
def test_what_is_fitted_is_what_mlflow_takes(run: TrackerRun) -> None:
    fitted = fit(run)
    assert all(
        legal(k) and len(k) <= KEY_MOST for k in (*fitted.params, *fitted.tags, *(m.key for m in fitted.metrics))
    )
    assert all(holds(v, PARAM_MOST) for v in fitted.params.values())
    assert all(holds(v, TAG_MOST) for v in fitted.tags.values())
    assert holds(fitted.name, NAME_MOST)
    assert fitted.name
    assert holds(fitted.note, NOTE_MOST)
    assert holds(fitted.experiment, 250)
    assert fitted.experiment
    for point in fitted.metrics:
        value = float(point.value)
        assert math.isnan(value) or math.isfinite(value)
        assert math.isnan(value) or value == point.value
        assert abs(point.step) <= INT64_MOST
        assert 0 <= point.time_ms <= INT64_MOST
    assert fitted.started >= datetime(1970, 1, 1, tzinfo=UTC)
    assert all(".." not in f.path.split("/") and f.path for f in fitted.files)


@given(RUNS)
@settings(max_examples=200)
def test_fitting_again_changes_nothing(run: TrackerRun) -> None:
    once = fit(run)
    twice = fit(once)
    # NaN is unequal to itself, so points are compared by their bits.
    assert replace(twice, metrics=()) == replace(once, metrics=())
    assert [(m.key, bits(m.value), m.step, m.time_ms) for m in twice.metrics] == [
        (m.key, bits(m.value), m.step, m.time_ms) for m in once.metrics
    ]


@given(RUNS)
@settings(max_examples=200)
def test_every_difference_is_a_change(run: TrackerRun) -> None:
    fitted = fit(run)
    said = {(c.item, c.key) for c in fitted.changes}
    assert all(fitted.params.get(k) == v or ("param", k) in said for k, v in run.params.items())
    assert all(fitted.tags.get(k) == v or ("tag", k) in said for k, v in run.tags.items())
    kept = {(m.key, bits(m.value), m.step, m.time_ms) for m in fitted.metrics}
    for m in run.metrics:
        assert (m.key, bits(m.value), m.step, m.time_ms) in kept or ("metric", m.key) in said
    assert len(fitted.metrics) == len(run.metrics) or any(c.item == "metric" for c in fitted.changes)
    assert fitted.name == run.name or run.name == "" or ("name", "run") in said
    assert fitted.note == run.note or any(c.item == "note" for c in fitted.changes)
    assert fitted.started == run.started or ("run", "started") in said
    assert all(c.run == run.name for c in fitted.changes)


@given(RUNS)
@settings(max_examples=200)
def test_no_two_names_become_one(run: TrackerRun) -> None:
    fitted = fit(run)
    assert len(fitted.params) == len(run.params)
    originals = {m.key for m in run.metrics if abs(m.step) <= INT64_MOST}
    assert len({m.key for m in fitted.metrics}) == len(originals)


@given(
    st.dictionaries(st.text("ab", min_size=1, max_size=9), st.text(max_size=9), max_size=230),
    st.dictionaries(st.text("cd", min_size=1, max_size=9), st.sampled_from(["", "é" * 7000]), max_size=230),
    st.integers(0, 2500),
)
@settings(max_examples=60, deadline=timedelta(seconds=5))
def test_chunks_keep_the_limits_and_carry_everything_once(params, tags, points) -> None:
    batch = Batch(
        params=params, tags=tags, metrics=tuple(Metric(key="m", value=i, step=i, time_ms=i) for i in range(points))
    )
    whole, unfit = items(batch, {})
    assert unfit == []
    cut = list(chunks(whole))
    assert sorted(map(repr, whole)) == sorted(repr(i) for chunk in cut for i in chunk)
    for chunk in cut:
        said = body("r", chunk)
        assert len(said.get("params", ())) <= 100
        assert len(said.get("tags", ())) <= 100
        assert len(chunk) <= 1000
        assert len(msgspec.json.encode(said)) < 1_000_000
    assert len(cut) > 1 or len(whole) <= 1000


@given(
    st.lists(
        st.sampled_from(
            [Param(key="p", value=""), Tag(key="t", value=""), Point(key="m", value=0, timestamp=0, step=0)]
        ),
        min_size=2,
    )
)
def test_halves_are_smaller_and_complete(chunk) -> None:
    parts = halves(chunk)
    assert sorted(map(repr, chunk)) == sorted(repr(i) for part in parts for i in part)
    assert all(0 < len(part) < len(chunk) for part in parts)
