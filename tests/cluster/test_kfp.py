"""Recorded runs of KFP v2, played onto an API server with the genuine metadata store beside it, as trackers have them.

Nothing of KFP itself runs: its Workflows, pods and objects are played, and the store holds what KFP wrote then. What
is right is told twice: by truth.json, written from the pipelines' sources, and by the whole record, read at the end.
"""

import asyncio
import contextlib
import json
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from pathlib import Path

import pytest
from tests.cluster.fixtures import Cluster
from tests.e2e import oracle
from tests.e2e.stage import Stage, until
from tests.e2e.trackers import NAMES, read_back, trackers
from tests.real import mlflow as real_mlflow
from tests.real import mlmd
from tests.real.kfp import KFP, RECORDED_STORE, RUNS, TASKS, as_it_happened, truth
from tests.real.mlmd_broken import CALLS, broken
from tests.real.operator import Operator

from pipetrail import replay
from pipetrail.cli.preview import of_recording
from pipetrail.delivery.plan import value_id
from pipetrail.readers.live import LiveReader
from pipetrail.record import Number, Record, to_json
from pipetrail.recording_writer import Recorder
from pipetrail.targets.target import Held

pytestmark = [pytest.mark.minutes(3), pytest.mark.api, pytest.mark.mlflow]
TARGET = "mlflow"
STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
UID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
Values = dict[tuple[str, str], dict[str, str]]
Point = tuple[str, int, str]  #: key, step, bits of the value
Play = Callable[..., Awaitable[replay.Replayed]]


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[real_mlflow.Server]:
    with real_mlflow.serving(tmp_path_factory.mktemp("mlflow-kfp")) as server:
        yield server


@pytest.fixture
async def stage(cluster: Cluster, kube, namespace: str) -> Stage:
    made = Stage(cluster, kube, namespace)
    await made.prepare()
    return made


@pytest.fixture
def metadata(stage: Stage, tmp_path: Path) -> Iterator[mlmd.Store]:
    stores = {RECORDED_STORE: stage.store.host} if stage.store else {}
    file = mlmd.copied(KFP / "mlmd.sqlite", tmp_path / "mlmd.sqlite", {"kubeflow": stage.namespace}, stores)
    with mlmd.serving(file) as store:
        yield store


def operator(stage: Stage, folder: Path, address: str, *more: str) -> Operator:
    flags = ("--watch-namespace", stage.namespace, "--mlmd", address, *more)
    assert stage.cluster.kubeconfig
    return Operator(Path(stage.cluster.kubeconfig), folder / "operator.log", *flags)


@pytest.fixture
async def working(stage: Stage, metadata: mlmd.Store, tracker, tmp_path: Path) -> AsyncIterator[Operator]:
    """The operator, and a target in its namespace that is ready."""
    await stage.target(TARGET, tracker.url)
    made = operator(stage, tmp_path, metadata.address)
    await asyncio.to_thread(made.start, wait_s=60.0)
    try:
        await stage.ready(TARGET)
        yield made
    finally:
        made.kill()


def wanted_of(name: str, stored: Callable[[Number], Number] = lambda value: value) -> Values:
    """Metrics that the components logged, and their numeric outputs: by (step, item), the parent under ("", "").

    `stored` is what a tracker makes of a number.
    """
    found: Values = {("", ""): {}}
    for step in truth(name)["steps"]:
        # What a cached task gave is in the store alone, which keeps six decimals.
        kept = 6 if step["outcome"] == "cached" else 400
        numbers = {m["name"]: round(m["value"], kept) for m in step["metrics"] if m["step"] is None}
        if step["items"]:
            [turn] = step["items"]
            into, prefix = found.setdefault((step["path"], str(turn["item"])), {}), ""
        else:
            into, prefix = found["", ""], f"{step['path']}/"
        into |= {f"{prefix}{key}": value_id(stored(value)) for key, value in numbers.items()}
    return {key: metrics for key, metrics in found.items() if metrics}


def held_of(there: Iterable[tuple[Mapping[str, str], list[Point]]], uid: str) -> Values:
    """The same, of all runs in a tracker: their tags and points."""
    found: Values = {}
    for tags, points in there:
        if tags["pipetrail.uid"] == uid:
            key = (tags.get("pipetrail.step", ""), tags.get("pipetrail.item", "").rpartition("=")[2])
            assert key not in found, f"{key} is there twice"
            assert len({(k, step) for k, step, _ in points}) == len(points), f"{key}: a point is there twice"
            found[key] = {k: value for k, _, value in points}
    return found


async def in_mlflow(url: str) -> list[tuple[Mapping[str, str], list[Point]]]:
    return [(run.tags, [(k, step, value) for k, step, value, _ in run.points]) for run in await oracle.held(url)]


async def told(stage: Stage, run: str, address: str, tracker) -> list[str]:
    """In what MLflow differs from the run as it stands, read at once with the store at `address`."""
    [tracked] = await stage.tracked(run)
    tree = await oracle.wanted(stage.kube, await stage.workflow(run), tracked, mlmd=address)
    there = await oracle.held(tracker.url)
    return await asyncio.to_thread(oracle.differences, tree, there, tracker.url)


async def arrived(stage: Stage, name: str, run: str, uid: str, address: str, tracker) -> None:
    """All that the components of `name` logged is there, once and with its own value, and so is the whole run."""
    wanted, held = wanted_of(name), held_of(await in_mlflow(tracker.url), uid)
    for key, metrics in wanted.items():
        there = held.get(key, {})
        assert {k: there.get(k) for k in metrics} == metrics
    assert held.keys() == wanted.keys() | {("", "")}
    assert await told(stage, run, address, tracker) == []


async def missing(stage: Stage, run: str) -> set[str]:
    """What the run's TrackedRun says could not be read."""
    [tracked] = await stage.tracked(run)
    return {said["reason"] for said in (tracked.get("status") or {}).get("partial", ())}


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recordings as they happened."""
    root = tmp_path_factory.mktemp("recordings")
    for name in RUNS:
        as_it_happened(name, root)
    return root


@pytest.fixture
def play(stage: Stage, recordings: Path) -> Play:
    async def one(name: str, *, speed: float = 20.0) -> replay.Replayed:
        return await stage.play(str(recordings / name), run=f"{name}-again", speed=speed)

    return one


async def first_run_of_the_cached(stage: Stage, recordings: Path) -> None:
    """What a cached run shows lies where its first run put it."""
    first = stage.script(str(recordings / "iris"))
    await replay.upload(recordings / "iris", first, stage.kube, name=first.name)


@pytest.mark.parametrize("name", RUNS)
async def test_a_recorded_run_arrives_with_what_its_components_logged(
    name, stage, metadata, working, tracker, play, recordings
):
    if name == "iris-cached":
        await first_run_of_the_cached(stage, recordings)
    done = await play(name)
    await stage.reaches(done.name, "Synced", within_s=60)
    calls, connections = metadata.calls(), metadata.connections()
    # Read when it is first seen, when a task ended, and when all has ended; of what is known nothing is asked again.
    assert calls["GetContextByTypeAndName"] == 1
    assert calls["GetExecutionsByContext"] <= TASKS[name] + 2
    assert len(connections) == 1
    await arrived(stage, name, done.name, done.uid, metadata.address, tracker)
    assert await missing(stage, done.name) == set()


async def test_the_recorded_runs_arrive_in_all_three_trackers(stage, metadata, tracker, play, recordings, tmp_path):
    async with trackers(tracker, tmp_path, stage.namespace) as three:
        working = operator(stage, tmp_path, metadata.address, *three.flags)
        await asyncio.to_thread(working.start, wait_s=60.0)
        try:
            await three.targets(stage)
            await first_run_of_the_cached(stage, recordings)
            done = {name: await play(name) for name in RUNS}
            for target in NAMES:
                for run in done.values():
                    await stage.reaches(run.name, "Synced", target=target, within_s=120)
            runs = [run.name for run in done.values()]
            wrong, _ = await read_back(three, stage, runs, three.before_mlflow.url, mlmd=metadata.address)
        finally:
            working.kill()
        assert wrong == {}
        tracked = await stage.tracked(target="neptune")
        experiments = sorted({t["spec"]["experiment"] for t in tracked})
        for name, run in done.items():
            for target, driver in three.others.items():
                there = [(held.tags, _points(held)) for held in await three.held(target, experiments)]
                values = held_of(there, run.uid)
                for key, metrics in wanted_of(name, driver.stored).items():
                    assert {k: values[key].get(k) for k in metrics} == metrics, (target, name, key)


def _points(held: Held) -> list[Point]:
    """A number that the tracker can't hold stands in a tag, as it was."""
    exact = {key.removeprefix("pipetrail.exact."): text for key, text in held.tags.items() if ".exact." in key}
    return [(m.key, m.step, value_id(float(exact.get(m.key, m.value)))) for m in held.metrics]


async def test_runs_that_ended_while_nobody_watched_are_read_in_four_calls_each(stage, metadata, working, play):
    assert working.stop() == 0
    done = [await play(name, speed=float("inf")) for name in RUNS]
    await asyncio.to_thread(working.start, wait_s=60.0)
    for one in done:
        await stage.reaches(one.name, "Synced", within_s=60)
    calls = metadata.calls()
    again = calls.pop("GetExecutionsByContext") - 4
    assert calls == {"GetContextByTypeAndName": 4, "GetEventsByExecutionIDs": 4, "GetArtifactsByID": 4}
    # A run that a busy machine's tracker lets wait for more than ten seconds is asked once more what has changed.
    assert 0 <= again <= 4
    assert len(metadata.connections()) == 1


async def test_a_store_that_goes_away_during_a_run_is_waited_for(stage, metadata, working, tracker, play):
    playing = asyncio.create_task(play("iris", speed=2))  # slow: the store goes long before the end

    async def first_task_shows() -> bool:
        return any(k.startswith("prepare/") for run in await oracle.held(tracker.url) for k, *_ in run.points
                   if run.tags["pipetrail.namespace"] == stage.namespace)  # fmt: skip

    await until("the first task's points are there", first_task_shows)
    metadata.stop()
    done = await playing

    async def says_why() -> bool:
        return "MlmdUnreachable" in await missing(stage, done.name)

    await until("the run says what is missing", says_why)
    assert (await stage.phase(done.name))[0] == "Tracking"
    metadata.start()
    await stage.reaches(done.name, "Synced", within_s=90)
    assert await missing(stage, done.name) == set()
    await arrived(stage, "iris", done.name, done.uid, metadata.address, tracker)


@contextlib.asynccontextmanager
async def operating(stage: Stage, folder: Path, address: str) -> AsyncIterator[None]:
    """The operator with another address, or none, for the store."""
    made = operator(stage, folder, address)
    await asyncio.to_thread(made.start, wait_s=60.0)
    try:
        await stage.ready(TARGET)
        yield
    finally:
        made.kill()


async def without_the_store(stage: Stage, tracker, folder: Path, play: Play, address: str) -> set[str]:
    """A run is delivered though the store gives nothing: Workflow and logs tell. What it then says is missing."""
    await stage.target(TARGET, tracker.url, delivery={"maxElapsed": "4s"})
    async with operating(stage, folder, address):
        done = await play("iris")
        await stage.reaches(done.name, "Synced", within_s=90)
    wanted, held = wanted_of("iris"), held_of(await in_mlflow(tracker.url), done.uid)
    assert {k: held["", ""].get(k) for k in wanted["", ""]} == wanted["", ""]
    return await missing(stage, done.name)


async def test_without_the_store_workflow_and_logs_tell(stage, tracker, tmp_path, play):
    assert await without_the_store(stage, tracker, tmp_path, play, "") == {"MlmdNotConfigured", "Unchecked"}


async def test_garbage_in_the_stores_place_harms_nothing(stage, tracker, tmp_path, play):
    async with broken(dict.fromkeys(CALLS, b"\x00\xff garbage")) as address:
        assert await without_the_store(stage, tracker, tmp_path, play, address) == {"MlmdGarbage", "Unchecked"}


async def test_nothing_is_taken_of_a_run_that_the_store_has_in_another_namespace(stage, tracker, tmp_path, play):
    file = mlmd.copied(KFP / "mlmd.sqlite", tmp_path / "mlmd.sqlite", {"kubeflow": "another-team"})
    with mlmd.serving(file) as store:
        assert await without_the_store(stage, tracker, tmp_path, play, store.address) == {
            "MlmdOtherNamespace",
            "Unchecked",
        }
        assert store.calls().keys() == {"GetContextByTypeAndName"}


async def test_a_run_that_is_recorded_again_gives_the_record_of_the_recording(
    stage, metadata, play, recordings, tmp_path
):
    done = await play("iris", speed=float("inf"))
    recorder = Recorder(stage.kube, await stage.workflow(done.name))
    await recorder.run()
    reader = LiveReader(stage.kube, mlmd=metadata.address)
    try:
        written = await recorder.write(tmp_path / "again", reader)
    finally:
        await reader.close()
    assert written.left_out == ()
    shutil.copytree(recordings / "iris", tmp_path / "first", ignore=shutil.ignore_patterns("logs", "api"))
    shutil.copyfile(KFP / "mlmd.sqlite", tmp_path / "first" / "mlmd.sqlite")
    first = await of_recording(tmp_path / "first", cluster="c")
    again = await of_recording(tmp_path / "again", cluster="c")
    assert comparable(again) == comparable(first)


def comparable(record: Record) -> object:
    """A record without what a replay changes: the run's name, its namespace and uids, times."""
    text = re.sub(rf"(?<![\w-]){re.escape(record.name)}(?!\w)", "NAME", to_json(record))
    body = json.loads(UID.sub("UID", STAMP.sub("TIME", text)))
    return {**body, "namespace": ""}
