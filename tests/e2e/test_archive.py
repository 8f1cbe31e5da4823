"""Argo's archive with real parts: PostgreSQL, Argo Server, and rows that Argo's own controller wrote."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.cluster.fixtures import _missing
from tests.e2e import oracle
from tests.e2e.stage import Stage, starts, until
from tests.e2e.test_backfill import FAST, QUICK, command, later_than, writes
from tests.real import archive as real_archive
from tests.real import postgres
from tests.real.archive import Archive
from tests.real.mlflow import Server
from tests.real.operator import Operator
from tests.real.proxy import Answer, Pass, Proxy

from pipetrail.kube import ARGO
from pipetrail.readers.archive import ArchiveFailed, ArgoArchive

pytestmark = [pytest.mark.minutes(3), pytest.mark.api, pytest.mark.mlflow, pytest.mark.slow]


def tool_of(stage: Stage, name: str) -> Path:
    """A genuine binary of Argo that the cluster's recipe has built."""
    shelf = Path(stage.cluster.env["bin"]).parents[2] / "bin"
    found = sorted(shelf.glob(f"{name}-*/{name}"))
    if not found:
        _missing(f"no {name} in {shelf}: python3 deploy/local/cluster.py up --tier node builds it")
    return found[-1]


@pytest_asyncio.fixture
async def archive(stage: Stage, tmp_path: Path) -> AsyncIterator[Archive]:
    if why := postgres.missing():
        _missing(why)
    if not stage.cluster.kubeconfig:
        pytest.skip("needs a kubeconfig of its own")
    with real_archive.archived(tmp_path, Path(stage.cluster.kubeconfig), stage.namespace) as made:
        await made.configure(stage.kube)
        yield made


def token_file(stage: Stage, folder: Path, user: str = "admin") -> Path:
    path = folder / f"{user}.token"
    path.write_text(stage.cluster.env["users"][user]["token"] + "\n")
    return path


async def recorded(stage: Stage, archive: Archive, *runs: str) -> dict[str, Any]:
    """Runs that have ended and are in the archive, by name."""
    for run in runs:
        await stage.play("churn-sweep" if "sweep" in run else "nested-dags", run=run, speed=FAST)
    await archive.take(stage.kube, tool_of(stage, "workflow-controller"))
    return {run: await stage.workflow(run) for run in runs}


async def deleted(stage: Stage, run: str) -> None:
    """A Workflow is gone, and with it what it owns."""
    await stage.delete_workflow(run)
    await collected(stage, run)


async def later_than_target(stage: Stage) -> None:
    """Until what is made has another second than the target, as objects tell time."""
    body = await stage.kube.get(f"/apis/pipetrail.dev/v1alpha1/namespaces/{stage.namespace}/trackingtargets/mlflow")
    made = datetime.fromisoformat(body["metadata"]["creationTimestamp"])

    async def later() -> bool:
        return datetime.now(UTC).timestamp() > made.timestamp() + 1

    await until("another second has begun", later)


async def collected(stage: Stage, run: str) -> None:
    """Its pods and results are gone: no collector of garbage runs here."""
    here = f"/namespaces/{stage.namespace}"
    for path in (f"/api/v1{here}/pods", f"{ARGO}{here}/workflowtaskresults"):
        async for page in stage.kube.pages(path, labelSelector=f"workflows.argoproj.io/workflow={run}"):
            for item in page["items"]:
                await stage.kube.delete(f"{path}/{item['metadata']['name']}", {"gracePeriodSeconds": 0})


def with_archive(operator: Operator, url: str, token: Path) -> Operator:
    operator.flags = (*operator.flags, "--argo-server", url, "--argo-server-token-file", str(token))
    return operator


async def differences(stage: Stage, tracker: Server, body: Any, url: str) -> list[str]:
    """What MLflow has otherwise than the run that was `body`, of which the cluster has nothing any more."""
    (tracked,) = await stage.tracked(body["metadata"]["name"])
    wanted, there = await oracle.wanted(stage.kube, body, tracked), await oracle.held(tracker.url)
    return await asyncio.to_thread(oracle.differences, wanted, there, url)


async def test_runs_that_only_argos_archive_has_arrive_and_are_found_again_without_a_write(
    stage: Stage, archive: Archive, lone_operator: Operator, before_mlflow: Proxy, tracker: Server, tmp_path: Path
) -> None:
    bodies = await recorded(stage, archive, "sweep", "dags", "stands")
    archive.start_server(tool_of(stage, "argo"))
    await later_than(stage, *bodies)
    for run in ("sweep", "dags"):
        await deleted(stage, run)
    await starts(with_archive(lone_operator, archive.url, token_file(stage, tmp_path)))
    await stage.target("mlflow", before_mlflow.url, delivery=QUICK)
    await stage.ready("mlflow")
    here = ("--target", "mlflow", "-n", stage.namespace)

    code, out = await command(stage, *here, "--source", "archive", "--pipeline", "no-such-*", "-o", "json")
    assert (code, json.loads(out)["chosen"]) == (0, 0)
    code, out = await command(stage, *here)
    assert (code, out.splitlines()[0]) == (0, "3 sent, 0 there already, 0 failed")
    for run, body in bodies.items():
        assert await differences(stage, tracker, body, before_mlflow.url) == [], run

    assert await asyncio.to_thread(lone_operator.stop) == 0
    for one in await stage.tracked():
        await stage.kube.delete(
            f"/apis/pipetrail.dev/v1alpha1/namespaces/{stage.namespace}/trackedruns/{one['metadata']['name']}"
        )
    before_mlflow.log.clear()
    await starts(lone_operator)
    code, out = await command(stage, *here)
    print([(f"{s.method} {s.path}", s.body[:300]) for s in writes(before_mlflow)])
    assert (code, out.splitlines()[0]) == (0, "0 sent, 3 there already, 0 failed")
    assert writes(before_mlflow) == []


async def test_a_run_that_vanished_while_nobody_watched_is_closed_as_argos_archive_has_it(
    stage: Stage, archive: Archive, lone_operator: Operator, before_mlflow: Proxy, tracker: Server, tmp_path: Path
) -> None:
    async with Proxy(archive.url or "http://127.0.0.1:1") as before_argo:
        with_archive(lone_operator, before_argo.url, token_file(stage, tmp_path))
        before_mlflow.decide = lambda seen: Answer(503) if seen.ends("/runs/update") else Pass()
        await stage.target("mlflow", before_mlflow.url, delivery=QUICK)
        await later_than_target(stage)
        await stage.play("churn-sweep", run="sweep", speed=FAST)
        await collected(stage, "sweep")  # so that each reads the same of it: its pods told when a child began
        await starts(lone_operator)
        await stage.reaches("sweep", "Tracking")
        lone_operator.kill()
        body = await stage.workflow("sweep")
        await archive.take(stage.kube, tool_of(stage, "workflow-controller"))
        archive.start_server(tool_of(stage, "argo"))
        before_argo.upstream = archive.url
        before_argo.decide = lambda _seen: Answer(503)
        await deleted(stage, "sweep")
        await _forgotten(stage)
        before_mlflow.decide = lambda _seen: Pass()
        await starts(lone_operator)

        async def asked() -> bool:
            return bool(lone_operator.lines("archive not read"))

        await until("the archive was asked, and did not say", asked, within_s=120)
        assert await stage.phase("sweep") == ("Tracking", "")
        before_argo.decide = lambda _seen: Pass()
        await stage.reaches("sweep", "Synced", within_s=180)
        (tracked,) = await stage.tracked("sweep")
        assert tracked["status"]["outcome"] == "succeeded"
        assert [line["event"] for line in lone_operator.lines("lost")] == []
        assert await differences(stage, tracker, body, before_mlflow.url) == []


async def _forgotten(stage: Stage) -> None:
    """The Lease no longer says where the watches were: the deletion can't be told any more."""
    path = f"/apis/coordination.k8s.io/v1/namespaces/{stage.namespace}/leases/pipetrail"
    await stage.kube.patch(path, {"metadata": {"annotations": {"pipetrail.dev/watches": None}}})


async def test_argo_server_says_what_it_has_to_whom_it_knows(stage: Stage, archive: Archive, tmp_path: Path) -> None:
    bodies = await recorded(stage, archive, "one", "two")
    archive.start_server(tool_of(stage, "argo"))
    uids = {body["metadata"]["uid"] for body in bodies.values()}
    async with ArgoArchive(archive.url, token_file=str(token_file(stage, tmp_path))) as argo:
        assert {header.uid async for header in argo.listed(stage.namespace)} == uids
        assert [header.uid async for header in argo.listed("elsewhere")] == []
        uid = bodies["one"]["metadata"]["uid"]
        body = await argo.body(stage.namespace, uid)
        assert body["status"]["nodes"].keys() == bodies["one"]["status"]["nodes"].keys()
        assert await argo.body("elsewhere", uid) is None
        assert await argo.body(stage.namespace, "0000") is None
    async with ArgoArchive(archive.url) as nobody:
        with pytest.raises(ArchiveFailed, match="401: it does not take the token: see --argo-server-token-file"):
            await nobody.body(stage.namespace, uid)
    async with ArgoArchive(archive.url, token_file=str(token_file(stage, tmp_path, "tenant-a"))) as tenant:
        with pytest.raises(ArchiveFailed, match="403: the token may not list workflows"):
            [header async for header in tenant.listed(stage.namespace)]
