"""A run that was met by its metadata alone is decided upon by all that it says, before anything of it is sent."""

import asyncio
from typing import Any

from kubernetes.aio import client as k8s
from tests.real.proxy import Action, Proxy, Seen
from tests.unit.test_delivery_survey import EXPERIMENT, NOWHERE, REF, said

from pipetrail import api
from pipetrail.delivery.dispatch import Dispatch
from pipetrail.delivery.ledger import Ledger
from pipetrail.kube import Kube
from pipetrail.readers.live import LiveReader
from pipetrail.settings import Settings
from pipetrail.targets.addresses import ANYWHERE

META = {
    "name": "run", "namespace": "team", "uid": "u", "resourceVersion": "7", "labels": {"pipeline/runid": "r"},
    "creationTimestamp": "2026-01-02T00:00:00Z",
}  # fmt: skip


async def reads(body: Any) -> tuple[list[str], list[str]]:
    """What was asked of the API server of the run, and what was written, when a survey meets `body`."""

    def decide(seen: Seen) -> Action:
        if seen.method == "GET" and seen.path.endswith("/workflows"):
            return said({"metadata": {}, "items": [{"metadata": META}]})
        if seen.method == "GET" and seen.path.endswith("/workflows/run"):
            return said(body)
        if seen.method == "GET" and seen.path.endswith(("/pods", "/workflowtaskresults")):
            return said({"metadata": {}, "items": []})
        return said({"reason": "NotFound"}, 404)

    async with Proxy(NOWHERE) as server, Proxy(NOWHERE) as mlflow, Kube(k8s.Configuration(host=server.url)) as kube:
        server.decide = decide
        mlflow.decide = lambda seen: said(EXPERIMENT if seen.path.endswith("get-by-name") else {"experiments": []})
        dispatch = Dispatch(kube, Ledger(kube, "me/1"), LiveReader(kube), Settings(), "c", addresses=ANYWHERE)
        spec = api.TargetSpec(backend=api.Backend(mlflow=api.MlflowBackend(tracking_uri=mlflow.url)))
        dispatch.saw_target(api.FoundTarget(ref=REF, spec=spec), deleted=False)
        seat = dispatch.roster.get(REF)
        assert seat is not None
        async with asyncio.timeout(5):
            while not seat.ready:  # noqa: ASYNC110  a seat tells nobody
                await asyncio.sleep(0.02)
            await dispatch.survey.once()
            while seat.lane.busy or not any(s.path.endswith("/workflows/run") for s in server.log):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        await dispatch.roster.close()
        asked = [seen.path.rsplit("/", 1)[-1] for seen in server.log if seen.method == "GET"]
        return asked, [f"{seen.method} {seen.path.rsplit('/', 1)[-1]}" for seen in server.log if seen.method != "GET"]


def body(*env: str) -> Any:
    templates = [{"name": "a", "container": {"image": "i", "env": [{"name": name, "value": "{}"} for name in env]}}]
    return {
        "metadata": META, "spec": {"entrypoint": "a", "templates": templates},
        "status": {"phase": "Running", "startedAt": "2026-01-02T00:00:00Z"},
    }  # fmt: skip


async def test_a_run_that_kfps_own_plugin_records_is_left_alone_when_it_was_met_in_a_list() -> None:
    asked, written = await reads(body("KFP_MLFLOW_CONFIG"))
    assert "run" in asked
    assert "POST trackedruns" not in written


async def test_a_run_that_no_plugin_records_is_taken_when_it_was_met_in_a_list() -> None:
    _, written = await reads(body())
    assert "POST trackedruns" in written
