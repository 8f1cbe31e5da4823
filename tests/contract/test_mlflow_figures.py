"""Figures in a real MLflow: the files that are there, as MLflow's own client gets them."""

import json
import math
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from tests.contract.mlflow_driver import MlflowDriver
from tests.contract.test_contract import tracker_run
from tests.real.mlflow import Server
from tests.real.proxy import Answer, Proxy, once

from pipetrail.record import ConfusionMatrix, Figure, Html, Markdown, RocCurve, Table
from pipetrail.targets.mlflow.target import MlflowTarget
from pipetrail.targets.target import Batch, Change, Handle, Plot, Retry, TrackerRun

pytestmark = pytest.mark.mlflow

MATRIX = ConfusionMatrix(labels=("setosa", "größe"), rows=((10, 0), (2, math.nan)), name="cls")
CURVE = RocCurve(fpr=(0, 0.25, 1), tpr=(0, 0.75, 1), threshold=(math.inf, 0.5, 0.1))
TABLE = Table(header=("id", "score"), rows=(("1", "0.5"), ("2",), ("3", "0.75", "more")))
MARKDOWN = Markdown(text="# Report\n\n**ok** <script>alert(1)</script>")
PAGE = Html(
    text="<html><body onload=alert(1)><h1>Report</h1><img src=https://evil.example/x></body></html>", name="page"
)


def plots(**figures: Figure) -> tuple[Plot, ...]:
    return tuple(Plot(path=path.replace("__", "/"), figure=f, time_ms=1) for path, f in figures.items())


ALL = plots(train__cls=MATRIX, evaluate__roc=CURVE, evaluate__table=TABLE, evaluate__md=MARKDOWN, page=PAGE)


@pytest.fixture
async def target(plain_mlflow: Server) -> AsyncIterator[MlflowTarget]:
    made = MlflowTarget(plain_mlflow.url)
    yield made
    await made.close()


@pytest.fixture
def client(plain_mlflow: Server) -> Any:
    return MlflowDriver(plain_mlflow).client


async def sent(target: MlflowTarget, run: TrackerRun) -> tuple[Handle, tuple[Change, ...]]:
    fitted = target.fit(run)
    handle = await target.open(fitted, None)
    return handle, (await target.write(handle, Batch(figures=fitted.figures))).changes


def files(client: Any, handle: Handle, folder: Path) -> dict[str, bytes]:
    """All files of the run, by path, as the client downloads them."""
    found = Path(client.download_artifacts(handle.id, "", str(folder)))
    return {str(p.relative_to(found)): p.read_bytes() for p in sorted(found.rglob("*")) if p.is_file()}


async def test_each_figure_is_the_files_that_mlflow_shows_best(
    target: MlflowTarget, client: Any, experiment: str, tmp_path: Path
) -> None:
    handle, changes = await sent(target, tracker_run(experiment, figures=ALL))
    found = files(client, handle, tmp_path)
    assert sorted(found) == [
        "figures/evaluate/md.md", "figures/evaluate/roc.json", "figures/evaluate/roc.png",
        "figures/evaluate/table.json", "figures/page.html", "figures/train/cls.json", "figures/train/cls.png",
    ]  # fmt: skip
    assert json.loads(found["figures/train/cls.json"]) == {
        "kind": "confusion_matrix", "labels": ["setosa", "größe"], "rows": [[10, 0], [2, "NaN"]], "name": "cls",
    }  # fmt: skip
    assert json.loads(found["figures/evaluate/roc.json"]) == {
        "kind": "roc_curve", "fpr": [0, 0.25, 1], "tpr": [0, 0.75, 1], "threshold": ["Infinity", 0.5, 0.1],
    }  # fmt: skip
    assert found["figures/evaluate/md.md"] == b"# Report\n\n**ok** < script>alert(1)< /script>"
    assert b"<body>\n<h1>Report</h1><img>\n</body>" in found["figures/page.html"]
    assert all(found[p].startswith(b"\x89PNG") for p in ("figures/train/cls.png", "figures/evaluate/roc.png"))
    assert changes == (
        Change(item="figure", key="evaluate/md", reason="Sanitised", detail="removed: <script>"),
        Change(item="figure", key="page", reason="Sanitised", detail="removed: onload, src"),
    )


async def test_a_table_is_one_to_mlflows_own_client_and_page(
    target: MlflowTarget, client: Any, experiment: str, tmp_path: Path
) -> None:
    fitted = target.fit(tracker_run(experiment, figures=ALL))
    handle = await target.open(fitted, None)
    await target.write(handle, Batch(figures=fitted.figures))
    assert json.loads(files(client, handle, tmp_path)["figures/evaluate/table.json"]) == {
        "columns": ["id", "score", "column 3"], "data": [["1", "0.5", ""], ["2", "", ""], ["3", "0.75", "more"]],
    }  # fmt: skip
    tags = client.get_run(handle.id).data.tags
    assert json.loads(tags["mlflow.loggedArtifacts"]) == [{"path": "figures/evaluate/table.json", "type": "table"}]


async def test_figures_that_are_sent_again_are_the_same_files(
    target: MlflowTarget, client: Any, experiment: str, tmp_path: Path
) -> None:
    run = target.fit(tracker_run(experiment, figures=ALL))
    handle, changes = await sent(target, run)
    first = files(client, handle, tmp_path / "first")
    assert (await target.write(handle, Batch(figures=run.figures))).changes == changes
    assert files(client, handle, tmp_path / "again") == first


async def test_one_that_can_not_be_drawn_has_its_data_and_the_others_are_drawn(
    target: MlflowTarget, client: Any, experiment: str, tmp_path: Path
) -> None:
    odd = ConfusionMatrix(labels=("a",), rows=((1, 2),))
    handle, changes = await sent(target, tracker_run(experiment, figures=plots(odd=odd, good=MATRIX)))
    assert list(files(client, handle, tmp_path)) == ["figures/good.json", "figures/good.png", "figures/odd.json"]
    assert [(c.item, c.key, c.reason) for c in changes] == [("figure", "odd", "MalformedFigure")]


async def test_html_that_can_not_be_made_harmless_is_text(
    target: MlflowTarget, client: Any, experiment: str, tmp_path: Path
) -> None:
    bomb = "<div>" * 50_000
    handle, changes = await sent(target, tracker_run(experiment, figures=plots(bomb=Html(text=bomb))))
    assert files(client, handle, tmp_path) == {"figures/bomb.html.txt": bomb.encode()}
    assert [(c.key, c.reason) for c in changes] == [("bomb", "DrawingFailed")]


async def test_without_matplotlib_the_data_arrives(
    target: MlflowTarget, client: Any, experiment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    handle, changes = await sent(target, tracker_run(experiment, figures=plots(cls=MATRIX, page=PAGE)))
    assert sorted(files(client, handle, tmp_path)) == ["figures/cls.json", "figures/page.html"]
    assert [(c.key, c.reason) for c in changes] == [("cls", "DrawingNotInstalled"), ("page", "Sanitised")]


async def test_paths_that_mlflow_would_refuse_or_that_leave_the_run_are_changed(
    target: MlflowTarget, client: Any, experiment: str, tmp_path: Path
) -> None:
    named = [Plot(path=p, figure=MARKDOWN, time_ms=1) for p in ("../../x", "a:b", "a?b", "%2e%2e/y", "größe/z")]
    run = target.fit(tracker_run(experiment, figures=tuple(named)))
    handle, _ = await sent(target, run)
    found = list(files(client, handle, tmp_path))
    assert found == sorted(f"figures/{plot.path}.md" for plot in run.figures)
    assert len(set(found)) == 5
    assert [(c.key, c.reason) for c in run.changes if c.item == "figure"] == [
        ("../../x", "Renamed"), ("a:b", "Renamed"), ("a?b", "Renamed"), ("%2e%2e/y", "Renamed"),
    ]  # fmt: skip


async def test_fitting_twice_changes_nothing_more(target: MlflowTarget, experiment: str) -> None:
    once_fitted = target.fit(tracker_run(experiment, figures=(*ALL, replace(ALL[0], path="a:b"))))
    assert target.fit(once_fitted) == once_fitted


async def test_a_figure_that_the_server_did_not_take_is_sent_with_the_next_try(
    plain_mlflow: Server, client: Any, experiment: str, tmp_path: Path
) -> None:
    async with Proxy(plain_mlflow.url) as proxy:
        target = MlflowTarget(proxy.url)
        try:
            run = target.fit(tracker_run(experiment, figures=ALL))
            handle = await target.open(run, None)
            proxy.decide = once(Answer(503), "roc.json", "PUT")
            with pytest.raises(Retry):
                await target.write(handle, Batch(figures=run.figures))
            await target.write(handle, Batch(figures=run.figures))
        finally:
            await target.close()
    assert len(files(client, handle, tmp_path)) == 7
