"""Figures in every tracker that has a place for them: all arrive, once, however often they are sent."""

import math
from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace
from tests.contract.driver import Driver
from tests.contract.test_contract import everything, tracker_run

from pipetrail.delivery import plan as plans
from pipetrail.record import ConfusionMatrix, Html, Markdown, RocCurve, Table
from pipetrail.targets.target import Plot, Target
from pipetrail.targets.verify import differences

FIGURES = {
    "train/cls": ConfusionMatrix(labels=("setosa", "größe"), rows=((10, 0), (2, math.nan)), name="cls"),
    "evaluate/roc": RocCurve(fpr=(0, 0.25, 1), tpr=(0, 0.75, 1), threshold=(math.inf, 0.5, 0.1)),
    "evaluate/scores": Table(header=("id", "score"), rows=(("1", "0.5"), ("2",))),
    "evaluate/md": Markdown(text="# Report"),
    "page": Html(text="<h1>Report</h1>"),
}


@pytest.fixture
async def target(driver: Driver) -> AsyncIterator[Target]:
    made = driver.target(driver.url)
    if not made.capabilities.figures:
        pytest.skip(f"{made.capabilities.name} has no place for figures")
    yield made
    await made.close()


def plots() -> tuple[Plot, ...]:
    return tuple(Plot(path=p, figure=f, time_ms=1_762_162_200_123) for p, f in FIGURES.items())


async def test_all_figures_of_a_run_are_there(target: Target, experiment: str) -> None:
    run = target.fit(tracker_run(experiment, figures=plots()))
    handle = await target.open(run, None)
    receipt = await target.write(handle, replace(everything(run), figures=run.figures))
    assert receipt.changes == ()
    held = await target.read(handle)
    assert held.figures == {plot.path for plot in run.figures}
    assert differences(run, held, note=run.note) == ()


async def test_one_that_is_missing_is_a_difference(target: Target, experiment: str) -> None:
    run = target.fit(tracker_run(experiment, figures=plots()))
    handle = await target.open(run, None)
    await target.write(handle, replace(everything(run), figures=run.figures[1:]))
    found = differences(run, await target.read(handle), note=run.note)
    assert [(d.item, d.key, d.wanted, d.held) for d in found] == [
        ("figure", run.figures[0].path, "ConfusionMatrix", "absent")
    ]


async def test_after_a_restart_what_is_there_is_not_sent_again_and_what_is_missing_arrives(
    target: Target, experiment: str
) -> None:
    run = target.fit(tracker_run(experiment, figures=plots()))
    handle = await target.open(run, None)
    await target.write(handle, replace(everything(run), figures=run.figures[:3]))
    left = plans.plan(run, run.note, plans.from_held(await target.read(handle))).batch
    assert left.figures == run.figures[3:]
    await target.write(handle, left)
    assert plans.plan(run, run.note, plans.from_held(await target.read(handle))).batch.figures == ()


async def test_one_that_can_not_be_drawn_is_said_and_the_others_arrive(target: Target, experiment: str) -> None:
    odd = Plot(path="odd", figure=ConfusionMatrix(labels=("a",), rows=((1, 2),)), time_ms=1_762_162_200_123)
    run = target.fit(tracker_run(experiment, figures=(odd, *plots())))
    handle = await target.open(run, None)
    receipt = await target.write(handle, replace(everything(run), figures=run.figures))
    (change,) = receipt.changes
    assert (change.item, change.key) == ("figure", "odd")
    assert "MalformedFigure" in f"{change.reason}: {change.detail}"
    assert (await target.read(handle)).figures >= {plot.path for plot in run.figures[1:]}


async def test_what_would_run_in_a_page_is_taken_out_and_said(target: Target, experiment: str) -> None:
    page = Plot(path="page", figure=Html(text="<h1>R</h1><script>alert(1)</script>"), time_ms=1_762_162_200_123)
    note = Plot(path="md", figure=Markdown(text="# R <script>alert(1)</script>"), time_ms=1_762_162_200_123)
    run = target.fit(tracker_run(experiment, figures=(page, note)))
    handle = await target.open(run, None)
    receipt = await target.write(handle, replace(everything(run), figures=run.figures))
    assert [(c.item, c.key, c.reason, c.detail) for c in receipt.changes] == [
        ("figure", plot.path, "Sanitised", "removed: <script>") for plot in run.figures
    ]
