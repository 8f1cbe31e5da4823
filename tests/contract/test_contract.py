"""What every target promises, tried on the real tracker; what its own client or reader sees is compared in full.

Where trackers differ, the test asks the target's capabilities or its driver. Tests of lost answers have a `proxy`, and
run for the trackers that are called over a wire (conftest.py).
"""

import asyncio
import math
import sys
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace
from tests.contract.driver import Driver
from tests.real.proxy import Answer, CommitLater, Drop, Proxy, Stall, Truncate, once

from pipetrail.delivery import plan as plans
from pipetrail.targets.target import Batch, Handle, Held, Metric, Refused, Retry, Target, TrackerRun
from pipetrail.targets.verify import bits, differences

START = datetime(2025, 11, 3, 9, 30, 0, 123000, tzinfo=UTC)
END = START + timedelta(minutes=7, milliseconds=456)
START_MS = round(START.timestamp() * 1000)


def tracker_run(experiment: str, key: str = "", **fields) -> TrackerRun:
    key = key or f"cluster-1/{experiment}"
    made = TrackerRun(
        key=key,
        root=fields.pop("root", key),
        experiment=experiment,
        name="churn-x7k2p",
        status="Finished",
        started=START,
        finished=END,
        user="ada@example.com",
        source_name="churn",
        commit="0a1b2c3d",
        params={"depth": "4", "learning-rate": "0.1", "empty": ""},
        tags={"pipetrail.namespace": "team-a"},
        metrics=tuple(point("train/loss", 1 / (step + 3), step) for step in range(5)),
        note="# churn\n[run](https://x/y)",
    )
    return replace(made, **fields)


def point(key: str, value: float, step: int = 0) -> Metric:
    return Metric(key=key, value=value, step=step, time_ms=START_MS + 1000 * step + 7)


def everything(run: TrackerRun) -> Batch:
    return Batch(params=run.params, tags=run.tags, metrics=run.metrics, status=run.status, finished=run.finished)


async def send(target: Target, run: TrackerRun, parent: Handle | None = None) -> tuple[TrackerRun, Handle]:
    fitted = target.fit(run)
    handle = await target.open(fitted, parent)
    receipt = await target.write(handle, everything(fitted))
    assert receipt.changes == ()
    return fitted, handle


async def send_again(target: Target, run: TrackerRun, handle: Handle) -> None:
    """What delivery does after a doubtful write: all of it, or what a read says is missing."""
    batch = everything(run)
    if target.capabilities.replay == "ReadBack":
        batch = plans.plan(run, run.note, plans.from_held(await target.read(handle))).batch
    assert (await target.write(handle, batch)).changes == ()


async def found_in_time(target: Target, run: TrackerRun, many: int) -> Sequence[Held]:
    """The look-up once it sees so many: what was let through late is there soon."""
    async with asyncio.timeout(20):
        while len(found := await target.find(run)) < many:  # noqa: ASYNC110  the tracker tells nobody
            await asyncio.sleep(0.05)
    return found


@pytest.fixture
async def target(driver: Driver) -> AsyncIterator[Target]:
    made = driver.target(driver.url)
    yield made
    await made.close()


@pytest.fixture
async def proxy(driver: Driver) -> AsyncIterator[Proxy]:
    assert driver.url is not None
    async with Proxy(driver.url) as running:
        yield running


@pytest.fixture
async def through(driver: Driver, proxy: Proxy) -> AsyncIterator[Target]:
    made = driver.target(proxy.url)
    yield made
    await made.close()


async def test_it_is_there_and_says_its_version(target: Target) -> None:
    assert (await target.check()).version


async def test_a_run_arrives_whole_with_its_own_times(driver: Driver, target: Target, experiment: str) -> None:
    run, handle = await send(target, tracker_run(experiment))
    (held,) = driver.oracle(experiment)
    assert differences(run, held, note=run.note) == ()
    assert (held.started_ms, held.finished_ms) == (START_MS, START_MS + 420456)
    assert handle.url
    assert handle.id == held.handle.id


async def test_what_is_read_back_is_what_the_trackers_own_client_reads(
    driver: Driver, target: Target, experiment: str
) -> None:
    run, handle = await send(target, tracker_run(experiment))
    read = await target.read(handle)
    assert differences(run, read, note=run.note) == ()
    (held,) = driver.oracle(experiment)
    assert (read.params, read.tags, read.key) == (held.params, held.tags, held.key)
    assert sorted(map(repr, read.metrics)) == sorted(map(repr, held.metrics))


async def test_a_look_up_finds_it_by_key_alone(target: Target, experiment: str) -> None:
    run, handle = await send(target, tracker_run(experiment))
    (found,) = await target.find(run)
    assert (found.key, found.handle, found.params) == (run.key, handle, run.params)
    assert await target.find(tracker_run(experiment, key="cluster-1/4711")) == []
    assert await target.find(tracker_run(experiment + " not there")) == []


@pytest.mark.parametrize("key", ["it's/1", 'say "x"/2', "per%cent_/3", "größe/4"])
async def test_a_key_with_odd_characters_is_found(target: Target, experiment: str, key: str) -> None:
    run = target.fit(tracker_run(experiment, key=key))
    await target.open(run, None)
    assert [h.key for h in await target.find(run)] == [key]
    assert not await target.find(tracker_run(experiment, key=key + "x"))


@pytest.mark.parametrize(
    "action",
    [Answer(503, commit=True), Answer(200, b"<<<", commit=True), Drop(commit=True), Truncate()],
    ids=lambda a: repr(a)[:40],
)
async def test_a_create_whose_answer_is_lost_is_doubtful_and_found_once(
    driver: Driver, proxy: Proxy, through: Target, experiment: str, action
) -> None:
    run = through.fit(tracker_run(experiment))
    proxy.decide = once(action, driver.create)
    with pytest.raises(Retry) as caught:
        await through.open(run, None)
    assert caught.value.doubtful
    if through.capabilities.client_chosen_id:
        # It is marked as ours a moment later, so a look-up may not see it; a second create gives the first run.
        assert await through.find(run) == []
        handle = await through.open(run, None)
    else:
        handle = (await through.find(run))[0].handle
        assert len(proxy.calls(driver.create)) == 1
    await through.write(handle, everything(run))
    (held,) = driver.oracle(experiment)
    assert differences(run, held, note=run.note) == ()


async def test_a_create_that_commits_after_the_look_up_makes_a_double_of_which_the_oldest_comes_first(
    driver: Driver, proxy: Proxy, through: Target, experiment: str
) -> None:
    run = through.fit(tracker_run(experiment))
    commit = asyncio.Event()
    proxy.decide = once(CommitLater(commit), driver.create)
    with pytest.raises(Retry):
        await through.open(run, None)
    assert not await through.find(run)
    second = await through.open(run, None)
    commit.set()
    if through.capabilities.client_chosen_id:
        assert [h.handle for h in await found_in_time(through, run, 1)] == [second]
        assert len(driver.oracle(experiment)) == 1
        return
    found = await found_in_time(through, run, 2)
    assert found[1].handle == second
    await through.discard(found[1].handle)
    await through.discard(found[1].handle)  # once more is no error
    assert [h.handle for h in await through.find(run)] == [found[0].handle]
    assert len(driver.oracle(experiment)) == 1


async def test_a_double_on_which_children_hang_stays(
    driver: Driver, proxy: Proxy, through: Target, experiment: str
) -> None:
    if through.capabilities.client_chosen_id:
        return  # a create that comes late makes no double
    run = through.fit(tracker_run(experiment))
    commit = asyncio.Event()
    proxy.decide = once(CommitLater(commit), driver.create)
    with pytest.raises(Retry):
        await through.open(run, None)
    second = await through.open(run, None)
    child = through.fit(tracker_run(experiment, key=run.key + "-child", root=run.key))
    await through.open(child, second)
    commit.set()
    found = await found_in_time(through, run, 3)
    assert found[0].handle == second
    assert [h.key for h in found] == [run.key, run.key, child.key]


async def test_a_create_that_was_never_taken_is_not_doubtful(
    driver: Driver, proxy: Proxy, through: Target, experiment: str
) -> None:
    proxy.decide = once(Answer(429), driver.create)
    with pytest.raises(Retry) as caught:
        await through.open(through.fit(tracker_run(experiment)), None)
    assert not caught.value.doubtful
    assert driver.oracle(experiment) == []


@pytest.mark.parametrize("action", [Answer(503, commit=True), Drop(commit=True), Drop()], ids=repr)
async def test_a_write_that_is_sent_again_doubles_nothing(
    driver: Driver, proxy: Proxy, through: Target, experiment: str, action
) -> None:
    run = through.fit(tracker_run(experiment))
    handle = await through.open(run, None)
    proxy.decide = once(action, driver.write)
    with pytest.raises(Retry):
        await through.write(handle, everything(run))
    for _ in range(2):
        await send_again(through, run, handle)
    (held,) = driver.oracle(experiment)
    assert differences(run, held, note=run.note) == ()


NUMBERS = [
    0.1,
    1 / 3,
    -2.5e-8,
    5e-324,
    sys.float_info.max,
    sys.float_info.min,
    1e16,
    2**53,
    2**53 + 1,
    10**30,
    -0.0,
    0,
    1,
    -7,
    float("nan"),
    float("inf"),
    float("-inf"),
    10**400,
]


async def test_every_number_arrives_or_is_changed_by_rule(driver: Driver, target: Target, experiment: str) -> None:
    points = tuple(point(f"n{i}", value) for i, value in enumerate(NUMBERS))
    run, _ = await send(target, tracker_run(experiment, metrics=points))
    (held,) = driver.oracle(experiment)
    assert differences(run, held) == ()
    changed = {c.key for c in run.changes if c.item == "metric"}
    there = {m.key: bits(m.value) for m in held.metrics}
    arrived = {m.key for m in points if there.get(m.key) == bits(driver.stored(m.value))}
    assert arrived == {m.key for m in points} - changed


async def test_one_key_may_have_nan_between_numbers(driver: Driver, target: Target, experiment: str) -> None:
    points = tuple(
        point("loss", v, i) for i, v in enumerate([1.0, float("nan"), 0.5, float("nan"), float("inf"), 0.25])
    )
    run, _ = await send(target, tracker_run(experiment, metrics=points))
    (held,) = driver.oracle(experiment)
    assert differences(run, held) == ()


NAMES = [
    "a@b",
    "top_5%",
    "α/β",
    "f1 (macro)",
    "f1 [macro]",
    "/abs",
    "a//b",
    "a/../b",
    "./x",
    "..y",
    ".",
    "..",
    "",
    "trailing/",
    "tab\tbed",
    "line\nbreak",
    "emoji 🚀",
    "x" * 251,
    "x" * 250,
    "y" * 300 + "1",
    "y" * 300 + "2",
    "a.b",
    "a:b",
    "a b",
    "a-b",
    "q'uote",
    'q"uote',
    "back`tick",
    "semi;colon",
    "comma,",
    "$dollar",
    "#hash",
    "ünïcödé",
    "ﬁ",
    "null\x00byte",
]


async def test_every_name_arrives_apart_from_every_other(driver: Driver, target: Target, experiment: str) -> None:
    run = tracker_run(
        experiment,
        params={n: f"p{i}" for i, n in enumerate(NAMES)},
        tags={n: f"t{i}" for i, n in enumerate(NAMES)},
        metrics=tuple(point(n, float(i)) for i, n in enumerate(NAMES)),
    )
    fitted, _ = await send(target, run)
    (held,) = driver.oracle(experiment)
    assert differences(fitted, held) == ()
    assert sorted(held.params.values()) == sorted(run.params.values())
    assert set(run.tags.values()) <= set(held.tags.values())
    assert sorted(m.value for m in held.metrics) == [float(i) for i in range(len(NAMES))]


async def test_texts_arrive_or_are_cut_by_rule(driver: Driver, target: Target, experiment: str) -> None:
    texts = {
        "long": "x" * 20_000,
        "wide": "é🚀" * 5000,
        "nul": "a\x00b",
        "half": "a\ud800b",
        "lines": "a\nb\tc",
        "html": "<b>&amp;</b>",
        "json": '{"a": "\\"b\\""}',
        "quote": "it's",
        "spaces": "  x  ",
        "empty": "",
        "rtl": "שלום",
        "sql": "'; DROP TABLE runs; --",
    }
    run, _ = await send(target, tracker_run(experiment, params=texts, tags=texts, name="n" * 400, note="m" * 20_000))
    (held,) = driver.oracle(experiment)
    assert differences(run, held, note=run.note) == ()
    changed = {(c.item, c.key) for c in run.changes}
    told = {("name", "run"): held.name == "n" * 400, ("note", ""): held.note == "m" * 20_000}
    told |= {("param", key): held.params[key] == text for key, text in texts.items()}
    told |= {("tag", key): held.tags[key] == text for key, text in texts.items()}
    assert {what for what, equal in told.items() if not equal} == changed
    for key in ("lines", "html", "json", "quote", "spaces", "empty", "rtl", "sql"):
        assert held.params[key] == held.tags[key] == texts[key]
        assert ("param", key) not in changed


async def test_an_experiment_of_any_name_is_made_once(driver: Driver, target: Target, experiment: str) -> None:
    for odd in (f"team-a/{experiment}", f"{experiment} + 50% & 'x' \"y\" ? # é", experiment + "x" * 400):
        run = target.fit(tracker_run(odd))
        other = replace(run, key=f"{run.key} beside")
        first, second = await asyncio.gather(target.open(run, None), target.open(other, None))
        assert first.experiment_id == second.experiment_id
        assert len(driver.oracle(run.experiment)) == 2


async def test_ten_thousand_points_arrive(driver: Driver, target: Target, experiment: str) -> None:
    points = tuple(point("loss", math.sin(step), step) for step in range(10_000))
    run, handle = await send(target, tracker_run(experiment, metrics=points))
    assert differences(run, await target.read(handle)) == ()
    (held,) = driver.oracle(experiment)
    assert differences(run, held) == ()


async def test_many_params_tags_and_metrics_arrive(driver: Driver, target: Target, experiment: str) -> None:
    run, _ = await send(
        target,
        tracker_run(
            experiment,
            params={f"p{i}": "v" * 5000 for i in range(250)},
            tags={f"t{i}": "v" for i in range(250)},
            metrics=tuple(point(f"m{i}", float(i)) for i in range(300)),
        ),
    )
    (held,) = driver.oracle(experiment)
    assert differences(run, held) == ()


@pytest.mark.parametrize("nested", [True, False])
async def test_children_are_found_after_their_parent(
    driver: Driver, target: Target, experiment: str, nested: bool
) -> None:
    run, parent = await send(target, tracker_run(experiment))
    for depth in (2, 4):
        child = tracker_run(
            experiment,
            key=f"{run.key}-{depth}",
            root=run.key,
            name=f"train depth={depth}",
            params={"depth": str(depth)},
            metrics=(point("accuracy", depth / 10),),
            nested=nested,
        )
        await send(target, child, parent)
    assert [h.key for h in await target.find(run)] == [run.key, f"{run.key}-2", f"{run.key}-4"]
    shown_under = {h.name: driver.parent(h) for h in driver.oracle(experiment)}
    of_child = parent.id if nested or not driver.apart else ""
    assert shown_under == {run.name: "", "train depth=2": of_child, "train depth=4": of_child}


async def test_a_live_run_grows(driver: Driver, target: Target, experiment: str) -> None:
    whole = target.fit(tracker_run(experiment))
    handle = await target.open(replace(whole, status="Running", finished=None), None)
    (held,) = driver.oracle(experiment)
    assert (held.status, held.finished_ms, held.metrics) == ("Running", None, ())
    await target.write(handle, Batch(params=whole.params))
    for metric in whole.metrics:
        await target.write(handle, Batch(metrics=(metric,)))
    await target.write(handle, Batch(status="Finished", finished=END))
    (held,) = driver.oracle(experiment)
    assert differences(whole, held, note=whole.note) == ()


async def test_a_run_is_reopened_and_ends_otherwise(driver: Driver, target: Target, experiment: str) -> None:
    run, handle = await send(target, tracker_run(experiment))
    await target.write(handle, Batch(status="Running"))
    (held,) = driver.oracle(experiment)
    assert held.status == "Running"
    assert not (await target.read(handle)).finished_ms
    later = END + timedelta(hours=1)
    more = (*run.metrics, point("train/loss", 0.0078125, 9))
    await target.write(handle, Batch(metrics=more[-1:], status="Failed", finished=later))
    (held,) = driver.oracle(experiment)
    assert differences(replace(run, status="Failed", finished=later, metrics=more), held) == ()


@pytest.mark.parametrize("status", ["Finished", "Failed", "Killed"])
async def test_each_outcome_arrives(driver: Driver, target: Target, experiment: str, status) -> None:
    run, _ = await send(target, tracker_run(experiment, status=status))
    (held,) = driver.oracle(experiment)
    assert held.status == run.status == status


async def test_an_empty_run_arrives(driver: Driver, target: Target, experiment: str) -> None:
    bare = tracker_run(experiment, params={}, tags={}, metrics=(), note="", user=None, source_name=None, commit=None)
    run, _ = await send(target, bare)
    (held,) = driver.oracle(experiment)
    assert differences(run, held, note="") == ()


async def test_a_run_that_someone_deleted_is_refused_and_not_made_again(
    driver: Driver, target: Target, experiment: str
) -> None:
    run, handle = await send(target, tracker_run(experiment))
    await target.discard(handle)
    calls = [target.read(handle), target.write(handle, everything(run))]
    if driver.remembers_deleted:
        calls.append(target.find(run))
    else:
        assert await target.find(run) == []
    for call in calls:
        with pytest.raises(Refused) as caught:
            await call
        assert caught.value.reason == ("RunDeleted" if driver.remembers_deleted else "RunGone")


async def test_a_new_process_sends_what_is_missing_and_nothing_else(
    driver: Driver, target: Target, experiment: str
) -> None:
    run = target.fit(tracker_run(experiment))
    handle = await target.open(run, None)
    await target.write(handle, Batch(params={"depth": "4"}, metrics=run.metrics[:2]))
    again = driver.target(driver.url)
    try:
        (held,) = await again.find(run)
        whole = held if held.whole else await again.read(held.handle)
        batch = plans.plan(run, run.note, plans.from_held(whole)).batch
        assert (set(batch.params), batch.tags, batch.metrics) == ({"learning-rate", "empty"}, {}, run.metrics[2:])
        assert (await again.write(held.handle, batch)).changes == ()
        assert plans.plan(run, run.note, plans.from_held(await again.read(held.handle))).batch.empty
    finally:
        await again.close()
    (held,) = driver.oracle(experiment)
    assert differences(run, held, note=run.note) == ()


async def test_a_stalled_tracker_costs_its_time_out_and_no_more(driver: Driver, proxy: Proxy, through: Target) -> None:
    proxy.decide = lambda _: Stall()
    check = asyncio.create_task(through.check())
    await asyncio.sleep(0.2)
    check.cancel()
    with pytest.raises(asyncio.CancelledError):
        await check


@pytest.mark.parametrize("tracker", ["mlflow", "neptune", "tensorboard"])
async def test_importing_a_target_imports_no_vendor(tracker: str) -> None:
    code = (
        f"import sys, pipetrail.targets.{tracker}.target\n"
        f"print([m for m in sys.modules if m.split('.')[0] == {tracker!r}])"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert out.decode().strip() == "[]"
