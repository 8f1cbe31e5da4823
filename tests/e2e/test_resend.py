"""Sending again with a real API server and MLflow: `pipetrail resend`, and what becomes of what was asked."""

import asyncio
import json
import time
from typing import Any

import pytest
from tests.cluster.test_cli import Command
from tests.e2e import oracle
from tests.e2e.stage import Stage, starts, until
from tests.real.mlflow import Server
from tests.real.operator import Operator
from tests.real.proxy import Answer, Pass, Proxy, Seen

from pipetrail import api
from pipetrail.kube import TRACKED_RUNS

pytestmark = [pytest.mark.minutes(1), pytest.mark.api, pytest.mark.mlflow]

QUICK = {"concurrency": 8, "requestsPerSecond": 200}
REFUSED = json.dumps({"error_code": "INVALID_PARAMETER_VALUE", "message": "no run is welcome"}).encode()
SEEN_S = 30.0
FAST = 40.0


def refuses(seen: Seen) -> Any:
    return Answer(400, REFUSED) if seen.ends("/runs/create") else Pass()


async def command(stage: Stage, *args: str) -> tuple[int, str]:
    said = await asyncio.to_thread(Command(stage.cluster), "resend", *args)
    return said.code, said.out


async def differences(stage: Stage, tracker: Server, run: str, url: str) -> list[str]:
    body, tracked = await stage.workflow(run), await stage.tracked(run)
    newest = max(tracked, key=lambda t: t["spec"].get("attempt", 1))
    wanted, there = await oracle.wanted(stage.kube, body, newest), await oracle.held(tracker.url)
    return await asyncio.to_thread(oracle.differences, wanted, there, url)


async def test_dead_letters_are_sent_again_all_or_one_and_asked_for_while_nobody_is_there(
    stage: Stage, lone_operator: Operator, before_mlflow: Proxy, tracker: Server
) -> None:
    before_mlflow.decide = refuses
    await starts(lone_operator)
    await stage.target("mlflow", before_mlflow.url, delivery=QUICK)
    await stage.ready("mlflow")
    failed = [f"run-{n}" for n in range(4)]
    await asyncio.gather(*(stage.play("nested-dags", run=run, speed=FAST) for run in failed))
    await asyncio.gather(*(stage.reaches(run, "Failed", reason="Rejected") for run in failed))
    before_mlflow.decide = lambda _seen: Pass()
    await stage.play("nested-dags", run="well", speed=FAST)
    await stage.reaches("well", "Synced")

    code, out = await command(stage, "run-0", "-n", stage.namespace)
    assert (code, out.splitlines()[1].split()) == (
        0, [f"{stage.namespace}/run-0", f"TrackingTarget/{stage.namespace}/mlflow", "Failed", "Rejected", "yes"],
    ), out  # fmt: skip
    begun = time.monotonic()
    await stage.reaches("run-0", "Synced", within_s=SEEN_S)
    print(f"synced {time.monotonic() - begun:.1f} s after it was asked for")

    lone_operator.kill()
    assert (await command(stage, "run-1", "-n", stage.namespace))[0] == 0
    await starts(lone_operator)
    await stage.reaches("run-1", "Synced", within_s=SEEN_S)

    code, out = await command(stage, "--all", "-n", stage.namespace, "--dry-run", "-o", "json")
    assert [row["run"].partition("/")[2] for row in json.loads(out)] == ["run-2", "run-3"]
    assert (await stage.phase("run-2")) == ("Failed", "Rejected")
    code, out = await command(stage, "--all", "-n", stage.namespace)
    assert (code, [line.split()[-1] for line in out.splitlines()[1:3]]) == (0, ["yes", "yes"])
    for run in failed:
        await stage.reaches(run, "Synced", within_s=SEEN_S)
        assert await differences(stage, tracker, run, before_mlflow.url) == []
    code, out = await command(stage, "--all", "-n", stage.namespace)
    assert (code, "nothing to send again (Failed)" in out) == (1, True)


async def test_repolicy_makes_another_tracker_run_under_todays_policy_and_says_so(
    stage: Stage, lone_operator: Operator, before_mlflow: Proxy, tracker: Server
) -> None:
    await starts(lone_operator)
    await stage.target("mlflow", before_mlflow.url, delivery=QUICK, naming={"layout": "Flat"})
    await stage.ready("mlflow")
    await stage.play("churn-sweep", run="run", speed=FAST)
    await stage.reaches("run", "Synced")
    (first,) = await stage.tracked("run")
    await stage.patch_target("mlflow", {"naming": {"layout": "Nested", "run": "anew {run}"}})
    await stage.ready("mlflow")

    async def heeded(wish: str) -> list[Any]:
        """Its TrackedRuns by attempt, once the wish on the newest at the time is heeded and all is settled."""

        async def all_settled() -> list[Any]:
            found = sorted(await stage.tracked("run"), key=lambda t: t["spec"].get("attempt", 1))
            statuses = [t.get("status") or {} for t in found]
            settled = {s.get("phase") for s in statuses} == {"Synced"}
            return found if settled and wish in {s.get("resent") for s in statuses} else []

        return list(await until(f"{wish} is heeded", all_settled, within_s=60))

    assert (await command(stage, "run", "-n", stage.namespace))[0] == 0  # under the old one: nothing is to be sent
    plain = (await stage.tracked("run"))[0]["metadata"]["annotations"][api.RESEND_ANNOTATION]
    assert len(await heeded(plain)) == 1

    code, out = await command(stage, "-l", f"{api.GROUP}/run=run", "--phase", "Synced", "--repolicy", "-n",
                              stage.namespace)  # fmt: skip
    assert code == 0, out
    notes = [t["metadata"].get("annotations") or {} for t in await stage.tracked("run")]
    (wish,) = [note[api.RESEND_ANNOTATION] for note in notes if note]
    assert wish.startswith("repolicy ")
    old, new = await heeded(wish)
    assert (old["status"]["phase"], new["metadata"]["name"] in old["status"]["message"]) == ("Synced", True)
    assert new["spec"]["policy"]["naming"].items() >= {"layout": "Nested", "run": "anew {run}"}.items()
    assert new["spec"]["supersedes"] == first["status"]["externalId"] == old["status"]["externalId"]
    assert await differences(stage, tracker, "run", before_mlflow.url) == []


async def test_what_can_not_be_sent_again_says_why_and_stays_as_it_is(
    stage: Stage, lone_operator: Operator, before_mlflow: Proxy
) -> None:
    await starts(lone_operator)
    await stage.target("mlflow", before_mlflow.url, delivery=QUICK)
    await stage.ready("mlflow")
    for run in ("gone", "orphan"):
        await stage.play("nested-dags", run=run, speed=FAST)
        await stage.reaches(run, "Synced")
    await stage.delete_workflow("gone")
    code, out = await command(stage, "gone", "-n", stage.namespace)
    assert (code, "the run's object is gone: only a copy" in out) == (0, True)

    async def answered(run: str, words: str) -> bool:
        (there,) = await stage.tracked(run)
        said = there["status"]
        return said.get("phase") == "Synced" and words in said.get("message", "")

    # The operator may still hold the last body; then it was sent again, and all of it was there.
    async def done() -> bool:
        (there,) = await stage.tracked("gone")
        said = there["status"]
        return bool(said.get("resent")) and said["phase"] == "Synced"

    await until("it is answered", done)
    await stage.delete_target("mlflow")
    code, out = await command(stage, "orphan", "-n", stage.namespace)
    assert (code, "its target is gone" in out) == (1, True)
    path = f"{TRACKED_RUNS}/namespaces/{stage.namespace}/trackedruns"
    (there,) = await stage.tracked("orphan")
    assert api.RESEND_ANNOTATION not in (there["metadata"].get("annotations") or {})
    note = {"metadata": {"annotations": {api.RESEND_ANNOTATION: "by hand"}}}
    await stage.kube.patch(f"{path}/{there['metadata']['name']}", note)
    await until("the operator says why", lambda: answered("orphan", "its target is gone"))
