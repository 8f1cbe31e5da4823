"""Many runs that vanish together while nobody watches, on a real API server and with a real MLflow."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.cluster.test_cli import Command
from tests.e2e import oracle
from tests.e2e.stage import Stage, before_the_api, kubeconfig, starts, until
from tests.real.mlflow import Server
from tests.real.operator import Operator
from tests.real.proxy import Action, Answer, Pass, Proxy, Seen

from pipetrail import api
from pipetrail.kube import ARGO

pytestmark = [pytest.mark.minutes(2), pytest.mark.api, pytest.mark.mlflow]

MANY = 25
QUICK = {"concurrency": 8, "requestsPerSecond": 200}
STARTED = "2026-01-02T03:04:05Z"
PATIENT_S = 120.0


def no_argo(seen: Seen) -> Action:
    """As if Argo's CRDs were gone."""
    return Answer(404, b"{}") if seen.path.startswith("/apis/argoproj.io") else Pass()


class House:
    """An operator behind a proxy before the API server, without a Lease: what it missed it is not told."""

    def __init__(self, stage: Stage, operator: Operator, server: Proxy, tracker: Server) -> None:
        self.stage = stage
        self.operator = operator
        self.server = server
        self.tracker = tracker

    async def live_runs(self) -> list[str]:
        """Runs that have begun, and are begun in MLflow."""
        names = [f"run-{n}" for n in range(MANY)]
        path = f"{ARGO}/namespaces/{self.stage.namespace}/workflows"
        node = {"type": "Pod", "phase": "Running", "templateName": "main", "startedAt": STARTED}
        for name in names:
            spec = {"entrypoint": "main", "templates": [{"name": "main", "container": {"image": "i"}}]}
            nodes = {name: {**node, "id": name, "name": name, "displayName": name}}
            status = {"phase": "Running", "startedAt": STARTED, "nodes": nodes}
            kind = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow"}
            await self.stage.kube.post(path, {**kind, "metadata": {"name": name}, "spec": spec, "status": status})
        await until("all are begun", lambda: self.are("Tracking"), within_s=PATIENT_S)
        return names

    async def are(self, phase: str) -> bool:
        """All of them, in this phase."""
        phases = [(t.get("status") or {}).get("phase", "Pending") for t in await self.stage.tracked()]
        return phases == [phase] * MANY

    async def guard(self) -> dict[str, str]:
        """The target's condition, empty if it has none."""
        body = await self.stage.kube.get(f"{self.stage._targets}/mlflow")
        found = (c for c in (body.get("status") or {}).get("conditions", ()) if c["type"] == api.HELD)
        return dict(next(found, {}))

    async def holds(self) -> dict[str, str]:
        return dict(await until("the target holds its runs", self.guard, within_s=PATIENT_S))

    async def in_mlflow(self) -> set[str]:
        """What MLflow says of these runs."""
        keys = {t["spec"]["run"]["key"] for t in await self.stage.tracked()}
        held = [h for h in await oracle.held(self.tracker.url) if h.key in keys]
        assert len(held) == MANY
        return {h.status for h in held}

    async def command(self, *args: str) -> tuple[int, str]:
        said = await asyncio.to_thread(Command(self.stage.cluster), *args, "-n", self.stage.namespace)
        return said.code, said.out

    async def events(self) -> list[str]:
        found = await self.stage.kube.get(f"/api/v1/namespaces/{self.stage.namespace}/events")
        return [e["reason"] for e in found["items"] if e["reason"].startswith(api.HELD)]


@pytest_asyncio.fixture
async def house(stage: Stage, tracker: Server, before_mlflow: Proxy, tmp_path: Path) -> AsyncIterator[House]:
    async with before_the_api(stage.cluster) as server:
        config = kubeconfig(stage.cluster, server.url, tmp_path)
        operator = Operator(config, tmp_path / "operator.log", "--watch-namespace", stage.namespace)
        await starts(operator)
        await stage.target("mlflow", before_mlflow.url, delivery=QUICK)
        await stage.ready("mlflow")
        yield House(stage, operator, server, tracker)
        operator.kill()


async def test_25_runs_that_vanish_while_the_operator_is_away_are_held_until_someone_confirms(house: House) -> None:
    runs = await house.live_runs()
    house.operator.kill()
    await asyncio.gather(*(house.stage.delete_workflow(run) for run in runs))
    await starts(house.operator)
    before = await house.holds()
    assert "25 unsettled runs are gone" in before["message"]
    house.operator.kill()
    await starts(house.operator)  # what is held stays held by whoever comes next
    code, out = await house.command("status")
    assert (code, f"{api.HELD}: 25 unsettled runs are gone" in " ".join(out.split())) == (1, True), out
    code, out = await house.command("confirm-close")
    assert (code, "To have them closed name the target" in out) == (1, True), out
    assert (await house.guard())["lastTransitionTime"] == before["lastTransitionTime"]
    assert await house.are("Tracking")
    assert await house.in_mlflow() == {"Running"}
    assert house.operator.lines("lost") == []

    code, out = await house.command("confirm-close", "mlflow")
    assert (code, "The operator closes them now" in out) == (0, True), out
    await until("all are closed", lambda: house.are("Stopped"), within_s=PATIENT_S)
    assert await house.in_mlflow() == {"Killed"}
    assert len(house.operator.lines("lost")) == MANY

    async def over() -> bool:
        return await house.guard() == {}

    await until("nothing is held", over, within_s=PATIENT_S)
    assert sorted(await house.events()) == [api.HELD, f"{api.HELD}Lifted"]
    code, out = await house.command("confirm-close", "mlflow")
    assert (code, "holds runs" in out) == (1, True), out


async def test_runs_that_are_back_when_argos_crds_are_back_go_on_as_if_nothing_had_happened(house: House) -> None:
    await house.live_runs()
    house.operator.kill()
    house.server.decide = no_argo
    await starts(house.operator)
    held = await house.holds()
    assert "the API server knows no Workflows at all" in held["message"]
    house.server.decide = lambda _seen: Pass()

    async def over() -> bool:
        return await house.guard() == {}

    await until("nothing is held", over, within_s=PATIENT_S)
    assert await house.are("Tracking")
    assert await house.in_mlflow() == {"Running"}
    assert house.operator.lines("lost") == []
    ended: dict[str, Any] = {"phase": "Succeeded", "finishedAt": "2026-01-02T03:05:05Z"}
    path = f"{ARGO}/namespaces/{house.stage.namespace}/workflows/run-0"
    await house.stage.kube.patch(path, {"status": {**ended, "nodes": {"run-0": ended}}})
    await house.stage.reaches("run-0", "Synced")
