"""Backfill with a real API server and MLflow: runs that had ended before their target was made."""

import asyncio
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.test_cli import Command
from tests.e2e import oracle
from tests.e2e.stage import Stage, starts, until
from tests.real.mlflow import Server
from tests.real.operator import Operator
from tests.real.proxy import Proxy, Seen

from pipetrail import api
from pipetrail.kube import ARGO, TRACKED_RUNS

pytestmark = [pytest.mark.minutes(1), pytest.mark.api, pytest.mark.mlflow]

QUICK = {"concurrency": 8, "requestsPerSecond": 200}
FAST = 40.0


async def command(stage: Stage, *args: str) -> tuple[int, str]:
    said = await asyncio.to_thread(Command(stage.cluster), "backfill", *args)
    print(" ".join(args), said)
    return said.code, said.out


async def differences(stage: Stage, tracker: Server, run: str, url: str) -> list[str]:
    body, (tracked,) = await stage.workflow(run), await stage.tracked(run)
    wanted, there = await oracle.wanted(stage.kube, body, tracked), await oracle.held(tracker.url)
    return await asyncio.to_thread(oracle.differences, wanted, there, url)


async def later_than(stage: Stage, *runs: str) -> None:
    """Until the clock shows another second than that in which the last of `runs` was made, as objects tell time."""
    made = [datetime.fromisoformat((await stage.workflow(run))["metadata"]["creationTimestamp"]) for run in runs]

    async def later() -> bool:
        return int(datetime.now(UTC).timestamp()) > int(max(made).timestamp()) + 1

    await until("another second has begun", later)


def writes(proxy: Proxy) -> list[Seen]:
    """Requests that change something in MLflow; a search is a POST and changes nothing."""
    return [s for s in proxy.log if s.method != "GET" and not s.ends("/search")]


async def test_who_may_not_write_a_target_is_told_what_it_takes_and_nothing_is_asked(
    stage: Stage, before_mlflow: Proxy, tmp_path: Path
) -> None:
    if not stage.cluster.ours:
        pytest.skip("needs a kubeconfig of a user without rights")
    await stage.target("mlflow", before_mlflow.url)
    await stage.play("nested-dags", run="old", speed=400)
    here = ("--target", "mlflow", "-n", stage.namespace)
    config = stage.cluster.env["users"]["tenant-a"]["kubeconfig"]
    said = await asyncio.to_thread(Command(stage.cluster), "backfill", *here, kubeconfig=config)
    assert (said.code, said.out) == (3, "")
    assert "ask for the right" in said.err
    code, _ = await command(stage, "--target", "no-such", "-n", stage.namespace)
    assert code == 3
    code, out = await command(stage, *here, "--dry-run")
    assert (code, out.splitlines()[0]) == (0, "1 would be sent, 0 are tracked already; nothing was asked for")


async def forget(stage: Stage) -> None:
    """TrackedRuns whose time is over are deleted."""
    for one in await stage.tracked():
        await stage.kube.delete(f"{TRACKED_RUNS}/namespaces/{stage.namespace}/trackedruns/{one['metadata']['name']}")


async def test_runs_that_ended_before_their_target_arrive_once_and_a_second_pass_only_reads(
    stage: Stage, lone_operator: Operator, before_mlflow: Proxy, tracker: Server
) -> None:
    recorded = {"loop": "churn-sweep", "dags": "nested-dags", "out": "nested-dags"}
    await asyncio.gather(*(stage.play(recording, run=run, speed=FAST) for run, recording in recorded.items()))
    path = f"{ARGO}/namespaces/{stage.namespace}/workflows/out"
    await stage.kube.patch(path, {"metadata": {"labels": {api.TRACK_LABEL: "false"}}})
    await later_than(stage, *recorded)
    await starts(lone_operator)
    await stage.target("mlflow", before_mlflow.url, delivery=QUICK)
    await stage.ready("mlflow")
    here = ("--target", "mlflow", "-n", stage.namespace)

    code, out = await command(stage, *here, "--dry-run", "-o", "json")
    judged = {row["run"].partition("/")[2]: (row["takes"], row["rule"]) for row in json.loads(out)}
    assert (code, judged) == (0, {"loop": (True, "Selected"), "dags": (True, "Selected"), "out": (False, "OptOut")})
    assert (await stage.tracked(), writes(before_mlflow)) == ([], [])

    code, out = await command(stage, *here, "--since", "0s", "-o", "json")
    assert (code, json.loads(out)["chosen"]) == (0, 0)
    code, out = await command(stage, *here)
    assert (code, out.splitlines()[0]) == (0, "2 sent, 0 there already, 0 failed")
    assert out.splitlines()[2].split() == ["OptOut", "1"]
    for run in ("loop", "dags"):
        await stage.reaches(run, "Synced")
        assert await differences(stage, tracker, run, before_mlflow.url) == []

    before_mlflow.log.clear()
    code, out = await command(stage, *here)
    assert (code, out.splitlines()[0]) == (0, "0 sent, 2 there already, 0 failed")
    assert [s.path for s in before_mlflow.log if s.ends("/runs/search") or s in writes(before_mlflow)] == []

    assert await asyncio.to_thread(lone_operator.stop) == 0
    await forget(stage)
    before_mlflow.log.clear()
    await starts(lone_operator)
    code, out = await command(stage, *here)
    print([(f"{s.method} {s.path}", s.body[:300]) for s in writes(before_mlflow)])
    assert (code, out.splitlines()[0]) == (0, "0 sent, 2 there already, 0 failed")
    assert [f"{s.method} {s.path}" for s in writes(before_mlflow)] == []
    for run in ("loop", "dags"):
        await stage.reaches(run, "Synced")
        assert await differences(stage, tracker, run, before_mlflow.url) == []


async def test_a_killed_operator_goes_on_with_a_backfill_and_live_runs_go_first(
    stage: Stage, lone_operator: Operator, before_mlflow: Proxy, tracker: Server
) -> None:
    await stage.play("nested-dags", run="old-0", speed=FAST)
    body = await stage.workflow("old-0")
    old = [f"old-{n}" for n in range(40)]
    for run in old[1:]:
        meta = {k: v for k, v in body["metadata"].items() if k in ("labels", "annotations")}
        await stage.kube.post(
            f"{ARGO}/namespaces/{stage.namespace}/workflows", {**body, "metadata": {**meta, "name": run}}
        )
    await later_than(stage, *old)
    await starts(lone_operator)
    await stage.target("mlflow", before_mlflow.url, delivery={"concurrency": 1, "requestsPerSecond": 5})
    await stage.ready("mlflow")
    code, _ = await command(stage, "--target", "mlflow", "-n", stage.namespace, "--no-wait")
    assert code == 0
    code, _ = await command(stage, "--target", "mlflow", "-n", stage.namespace, "--pipeline", "another", "--no-wait")
    assert code == 3  # another is under way

    async def begun() -> list[Any]:
        return [t for t in await stage.tracked() if (t.get("status") or {}).get("phase") == "Synced"]

    await until("some have arrived", begun)
    lone_operator.kill()
    await starts(lone_operator)
    began = time.monotonic()
    await stage.play("nested-dags", run="live", speed=400)
    await stage.reaches("live", "Synced")
    behind = 40 - len(await begun())
    print(f"live after {time.monotonic() - began:.1f} s, {behind} old ones wait")
    assert behind > 5  # in the order of their coming it were none
    code, _ = await command(stage, "--target", "mlflow", "-n", stage.namespace, "--no-wait")
    assert code == 0  # it joins

    async def over() -> Any:
        body = await stage.kube.get(f"{TRACKED_RUNS}/namespaces/{stage.namespace}/trackingtargets/mlflow")
        said = api.backfill_of(body.get("status"))
        return said if said is not None and said.over else None

    done = await until("the backfill is over", over, within_s=180)
    assert (done.phase, done.sent + done.already, done.failed, done.chosen) == ("Done", 40, 0, 40)
    assert done.already <= 1  # killed between the last call for it and its TrackedRun's, which counts it as there
    there = await oracle.held(tracker.url)
    keys = [h.key for h in there if h.tags.get("pipetrail.namespace") == stage.namespace]
    assert len(keys) == len(set(keys))
    for run in ("old-0", "old-39", "live"):
        assert await differences(stage, tracker, run, before_mlflow.url) == []
