"""What became of runs while no operator was there. Each test has an operator of its own that holds a Lease."""

import asyncio
import contextlib

import pytest
from tests.e2e import oracle
from tests.e2e.stage import Stage, starts, until
from tests.real.mlflow import Server
from tests.real.operator import Operator
from tests.real.proxy import Answer, Pass, Proxy

from pipetrail.controller import bookmarks
from pipetrail.controller.lease import LEASES

pytestmark = [pytest.mark.minutes(1), pytest.mark.api, pytest.mark.mlflow]

QUICK = {"concurrency": 8, "requestsPerSecond": 200}


async def kept(stage: Stage) -> dict[str, str]:
    """Where the operator's watches stand, as its Lease has it."""
    lease = await stage.kube.get(f"{LEASES}/{stage.namespace}/leases/pipetrail")
    return dict(bookmarks.read(lease["metadata"].get("annotations") or {}))


async def has_kept(stage: Stage) -> None:
    async def all_kept() -> bool:
        return {path.rsplit("/", 1)[-1] for path in await kept(stage)} >= {"pods", "workflows", "workflowtaskresults"}

    await until("the places of all watches are kept", all_kept)


async def test_a_run_that_ends_and_is_deleted_while_the_operator_is_away_for_less_than_a_minute_arrives_whole(
    stage: Stage, lone_operator: Operator, before_mlflow: Proxy, tracker: Server
) -> None:
    await starts(lone_operator)
    await stage.target("mlflow", before_mlflow.url, delivery=QUICK, capture={"stdout": "On"})
    await stage.ready("mlflow")
    await has_kept(stage)
    playing = asyncio.create_task(stage.play("churn-sweep", run="run", speed=10))
    await stage.reaches("run", "Tracking")
    lone_operator.kill()
    await playing
    body, (tracked,) = await stage.workflow("run"), await stage.tracked("run")
    wanted = await oracle.wanted(stage.kube, body, tracked)
    await stage.delete_workflow("run")
    await _pods_go(stage)
    await starts(lone_operator)
    await stage.reaches("run", "Synced")
    there = await oracle.held(tracker.url)
    assert await asyncio.to_thread(oracle.differences, wanted, there, before_mlflow.url) == []
    assert lone_operator.lines("lost") == []


@pytest.mark.parametrize("end", ["kill -9", "SIGTERM"])
async def test_a_run_whose_deletion_was_seen_but_not_delivered_arrives_whole_after_a_restart(
    stage: Stage, lone_operator: Operator, before_mlflow: Proxy, tracker: Server, end: str
) -> None:
    await starts(lone_operator)
    await stage.target("mlflow", before_mlflow.url, delivery=QUICK, capture={"stdout": "On"})
    await stage.ready("mlflow")
    await has_kept(stage)
    await stage.play("loop-retry", run="earlier", speed=40)
    await stage.reaches("earlier", "Synced")
    before_mlflow.decide = lambda _seen: Answer(503)
    await stage.play("nested-dags", run="run", speed=40)
    body, (tracked,) = await stage.workflow("run"), await stage.tracked("run")
    wanted = await oracle.wanted(stage.kube, body, tracked)
    await stage.delete_workflow("run")
    await stage.play("loop-retry", run="later", speed=40)  # the watch's version goes on past the deletion
    for _ in range(2):
        await _renewed(stage)
    if end == "SIGTERM":
        assert await asyncio.to_thread(lone_operator.stop) == 0
    else:
        lone_operator.kill()
    before_mlflow.decide = lambda _seen: Pass()
    await starts(lone_operator)
    await stage.reaches("run", "Synced")
    there = await oracle.held(tracker.url)
    assert await asyncio.to_thread(oracle.differences, wanted, there, before_mlflow.url) == []
    assert lone_operator.lines("lost") == []


async def _renewed(stage: Stage) -> None:
    """Until the operator has written to its Lease once more, and with it where it stands."""

    async def time() -> str:
        return str((await stage.kube.get(f"{LEASES}/{stage.namespace}/leases/pipetrail"))["spec"]["renewTime"])

    before = await time()

    async def later() -> bool:
        return await time() > before

    await until("the Lease is renewed", later)


async def _pods_go(stage: Stage) -> None:
    """Pods and results of a deleted run go too: Kubernetes' own collector does it where there is one."""
    for path in ("/api/v1", "/apis/argoproj.io/v1alpha1"):
        plural = "pods" if path == "/api/v1" else "workflowtaskresults"
        there = await stage.kube.get(f"{path}/namespaces/{stage.namespace}/{plural}")
        for item in there["items"]:
            with contextlib.suppress(Exception):
                await stage.kube.delete(
                    f"{path}/namespaces/{stage.namespace}/{plural}/{item['metadata']['name']}",
                    {"gracePeriodSeconds": 0} if plural == "pods" else None,
                )
