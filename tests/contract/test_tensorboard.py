"""What TensorBoard's own server shows of the files that we write, while it runs: curves, HPARAMS, text, images."""

import asyncio
import json
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from tests.real.tensorboard import Server

from pipetrail.record import ConfusionMatrix, Html, Markdown, RocCurve
from pipetrail.targets import drawing
from pipetrail.targets.target import Batch, Handle, Metric, Plot, TrackerRun
from pipetrail.targets.tensorboard.target import TensorboardTarget
from pipetrail.targets.verify import bits

START = datetime(2025, 11, 3, 9, 30, tzinfo=UTC)
END = START + timedelta(minutes=7)
START_MS = round(START.timestamp() * 1000)


def point(key: str, value: float, step: int) -> Metric:
    return Metric(key=key, value=value, step=step, time_ms=START_MS + 1500 * step)


def parent(name: str, **fields: Any) -> TrackerRun:
    made = TrackerRun(
        key=f"c/{name}", root=f"c/{name}", experiment="churn-sweep", name=name, status="Finished", started=START,
        finished=END, params={"seed": "42", "data": "s3://lake/churn.parquet"}, tags={"pipetrail.outcome": "succeeded"},
        metrics=(point("train/accuracy.max", 0.93, 0),),
        note="# churn\n[in Argo](https://argo.example.com/x) <script>alert(1)</script>",
    )  # fmt: skip
    return replace(made, **fields)


def child(of: TrackerRun, depth: int, rate: str) -> TrackerRun:
    return replace(
        of, key=f"{of.key}-{depth}-{rate}", name=f"train depth={depth} learning-rate={rate}", note="",
        params={"depth": str(depth), "learning-rate": rate, **of.params},
        metrics=tuple(point("accuracy", 1 - 1 / (step + depth), step) for step in range(5)),
    )  # fmt: skip


async def send(target: TensorboardTarget, run: TrackerRun, above: Handle | None = None) -> Handle:
    run = target.fit(run)
    handle = await target.open(run, above)
    await target.write(
        handle,
        Batch(
            params=run.params, tags=run.tags, metrics=run.metrics, figures=run.figures, status=run.status,
            finished=run.finished,
        ),
    )  # fmt: skip
    return handle


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("boards")
    (folder / "team-a").mkdir()
    return folder


@pytest.fixture(scope="module", params=["fast", "slow"])
def server(request: pytest.FixtureRequest, root: Path) -> Iterator[Server]:
    """TensorBoard with each of its two readers; it watches the folder while we write to it."""
    made = Server(root / "team-a", loader=request.param)
    try:
        made.wait()
        yield made
    finally:
        made.stop()


@pytest.fixture
def target(root: Path) -> TensorboardTarget:
    return TensorboardTarget(str(root), ("team-a",))


@pytest.fixture
def name(request: pytest.FixtureRequest, server: Server) -> str:
    """A run's name that no other test has."""
    return f"{request.node.originalname.removeprefix('test_')[:20]}-{server.url.rpartition(':')[2]}"


async def seen(look: Callable[[], Any], enough: Callable[[Any], bool]) -> Any:
    """What `look` gives once that is enough, or after 20 s."""
    end = asyncio.get_running_loop().time() + 20
    while True:
        try:
            found = await asyncio.to_thread(look)
        except urllib.request.HTTPError:
            found = None  # it does not know the run yet
        if (found is not None and enough(found)) or asyncio.get_running_loop().time() > end:
            return found
        await asyncio.sleep(0.3)


async def curve(server: Server, run: str, tag: str, many: int) -> list[list[float]]:
    """Wall time, step and value of each point."""
    return await seen(
        lambda: server.get("data/plugin/scalars/scalars", run=run, tag=tag), lambda points: len(points) >= many
    )


async def test_a_sweeps_params_are_columns_of_hparams(server: Server, target: TensorboardTarget, name: str) -> None:
    run = parent(name)
    handle = await send(target, run)
    for depth in (2, 4, 8):
        for rate in ("0.1", "0.01"):
            await send(target, child(run, depth, rate), handle)
    ask = {
        "startIndex": 0, "sliceSize": 1000, "colParams": [],
        "allowedStatuses": ["STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING", "STATUS_UNKNOWN"],
    }  # fmt: skip

    def groups() -> list[Any]:
        found = server.post("data/plugin/hparams/session_groups", ask).get("sessionGroups", [])
        return [g for g in found if name in g["name"]]

    found = await seen(groups, lambda g: len(g) == 7)
    experiment = await asyncio.to_thread(server.post, "data/plugin/hparams/experiment", {"experimentName": ""})
    columns = {info["name"]: info["type"] for info in experiment["hparamInfos"]}
    assert columns["depth"] == columns["learning-rate"] == columns["seed"] == "DATA_TYPE_FLOAT64"
    assert columns["data"] == "DATA_TYPE_STRING"
    rows = {(g["hparams"]["depth"], g["hparams"]["learning-rate"]) for g in found if "depth" in g["hparams"]}
    assert rows == {(d, r) for d in (2.0, 4.0, 8.0) for r in (0.1, 0.01)}
    assert {g["hparams"]["seed"] for g in found} == {42.0}
    (session,) = next(g["sessions"] for g in found if g["hparams"].get("depth") == 4.0)
    assert (session["startTimeSecs"], session["endTimeSecs"]) == (START.timestamp(), END.timestamp())
    assert session["status"] == "STATUS_SUCCESS"
    shown = {m["name"]["tag"]: m["value"] for m in session["metricValues"]}
    assert shown == {"accuracy": pytest.approx(1 - 1 / 8)}


@pytest.mark.parametrize(
    ("status", "shown"), [("Finished", "STATUS_SUCCESS"), ("Failed", "STATUS_FAILURE"), ("Killed", "STATUS_FAILURE")]
)
async def test_how_a_run_ended_is_in_hparams(
    server: Server, target: TensorboardTarget, name: str, status: Any, shown: str
) -> None:
    name = f"{name}-{status}"
    await send(target, parent(name, status=status))
    ask = {"startIndex": 0, "sliceSize": 1000, "colParams": [], "allowedStatuses": [shown]}

    def groups() -> list[Any]:
        found = server.post("data/plugin/hparams/session_groups", ask).get("sessionGroups", [])
        return [g for g in found if g["name"].endswith(name)]

    assert len(await seen(groups, lambda g: len(g) == 1)) == 1


async def test_curves_have_their_own_times_and_grow_while_it_looks(
    server: Server, target: TensorboardTarget, name: str
) -> None:
    run = target.fit(parent(name, metrics=tuple(point("loss", 1 / (step + 3), step) for step in range(6))))
    handle = await target.open(run, None)
    await target.write(handle, Batch(metrics=run.metrics[:3]))
    first = await curve(server, handle.id, "loss", 3)
    assert first == [[m.time_ms / 1000, m.step, m.value] for m in run.metrics[:3]]
    await target.write(handle, Batch(metrics=run.metrics[3:]))
    assert await curve(server, handle.id, "loss", 6) == [[m.time_ms / 1000, m.step, m.value] for m in run.metrics]


async def test_a_torn_tail_is_mended_under_its_eyes(
    server: Server, target: TensorboardTarget, root: Path, name: str
) -> None:
    run = target.fit(parent(name, metrics=tuple(point("loss", float(step), step) for step in range(6))))
    handle = await target.open(run, None)
    await target.write(handle, Batch(metrics=run.metrics[:4]))
    (file,) = (root / "team-a" / handle.id).glob("events.out.tfevents.*")
    torn = file.read_bytes()[:-7]  # we were killed in the middle of the fourth point
    file.write_bytes(torn)
    assert len(await curve(server, handle.id, "loss", 3)) >= 3
    again = TensorboardTarget(str(root), ("team-a",))
    (held,) = await again.find(run)
    assert held.metrics == run.metrics[:3]
    await again.write(handle, Batch(metrics=run.metrics[3:]))
    assert [p[1] for p in await curve(server, handle.id, "loss", 6)] == [0, 1, 2, 3, 4, 5]


async def test_nan_and_the_infinities_are_there(server: Server, target: TensorboardTarget, name: str) -> None:
    values = (1.0, float("nan"), float("inf"), float("-inf"), 0.5)
    run = parent(name, metrics=tuple(point("odd", value, step) for step, value in enumerate(values)))
    handle = await send(target, run)
    shown = await curve(server, handle.id, "odd", 5)
    assert [bits(float(p[2])) for p in shown] == [bits(value) for value in values]


async def test_the_text_has_links_outcome_and_key_and_no_script(
    server: Server, target: TensorboardTarget, name: str
) -> None:
    handle = await send(target, parent(name))
    texts = await seen(
        lambda: server.get("data/plugin/text/text", run=handle.id, tag="pipetrail/run"), lambda found: len(found) >= 2
    )
    last = texts[-1]["text"]
    assert '<a href="https://argo.example.com/x">in Argo</a>' in last
    assert "<strong>Finished</strong>" in last
    assert "<td>succeeded</td>" in last
    assert f"c&#47;{name.replace('-', '&#45;').replace('_', '&#95;')}" in last
    assert "<script" not in last


async def test_figures_are_images_and_texts(server: Server, target: TensorboardTarget, name: str) -> None:
    figures = (
        ConfusionMatrix(labels=("no", "yes"), rows=((50, 2), (3, 45))),
        RocCurve(fpr=(0.0, 0.1, 1.0), tpr=(0.0, 0.9, 1.0), threshold=(1.0, 0.5, 0.0)),
        Markdown(text="# Report\n<script>alert(1)</script>"),
        Html(text="<h1>Page</h1><script>alert(1)</script>"),
    )
    plots = tuple(Plot(path=f"figure-{n}", figure=figure, time_ms=START_MS) for n, figure in enumerate(figures))
    handle = await send(target, parent(name, figures=plots))
    images = await seen(lambda: server.get("data/plugin/images/tags").get(handle.id), lambda tags: len(tags) == 2)
    assert sorted(images) == ["figure-0", "figure-1"]
    (sample,) = await asyncio.to_thread(
        server.get, "data/plugin/images/images", run=handle.id, tag="figure-0", sample="0"
    )
    png = await asyncio.to_thread(picture, server, sample["query"])
    assert png == await drawing.png(figures[0])
    texts = [(await asyncio.to_thread(text, server, handle.id, f"figure-{n}/text")) for n in range(4)]
    assert "<td>45</td>" in texts[0]
    assert "<th>threshold</th>" in texts[1]
    assert ("Report" in texts[2], "Page" in texts[3]) == (True, True)
    assert "<script" not in texts[2] + texts[3]


def text(server: Server, run: str, tag: str) -> str:
    return server.get("data/plugin/text/text", run=run, tag=tag)[-1]["text"]


def picture(server: Server, query: str) -> bytes:
    with urllib.request.urlopen(f"{server.url}/data/plugin/images/individualImage?{query}", timeout=20) as answer:
        return answer.read()


async def test_only_runs_are_shown_and_nothing_of_our_own_books(
    server: Server, target: TensorboardTarget, name: str
) -> None:
    handle = await send(target, parent(name))
    runs = await seen(lambda: server.get("data/runs"), lambda found: handle.id in found)
    assert [r for r in runs if "pipetrail" in r] == []
    environment = await asyncio.to_thread(server.get, "data/plugins_listing")
    active = {plugin for plugin, about in environment.items() if about["enabled"]}
    assert {"scalars", "hparams", "text"} <= active
    assert json.dumps(runs).count(handle.id) == 1
