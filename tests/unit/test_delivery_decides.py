"""A run that was met by its metadata alone is decided upon by all that it says, before anything of it is sent."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest
from kubernetes.aio import client as k8s
from tests.real.proxy import Action, Answer, Proxy, Seen
from tests.unit.kfp_cases import folded
from tests.unit.test_delivery_survey import EXPERIMENT, NOWHERE, REF, said

from pipetrail import api
from pipetrail.delivery.dispatch import Dispatch
from pipetrail.delivery.ledger import Ledger
from pipetrail.kube import Kube
from pipetrail.readers.live import LiveReader
from pipetrail.settings import Settings
from pipetrail.sources.kfp_v2 import Metadata, NoMetadata, RunMetadata
from pipetrail.sources.kfp_v2.metadata import Execution
from pipetrail.targets.addresses import ANYWHERE

META = {
    "name": "run", "namespace": "team", "uid": "u", "resourceVersion": "7", "labels": {"pipeline/runid": "r"},
    "creationTimestamp": "2026-01-02T00:00:00Z",
}  # fmt: skip


class Told(LiveReader):
    """A reader of a cluster whose metadata store says this; `times` counts how often it is asked."""

    said: Metadata = NoMetadata(reason="MlmdUnreachable", message="away")
    times = 0

    async def metadata(self, namespace: str, run_id: str) -> Metadata:
        self.times += 1
        return self.said


async def reads(
    body: Any, told: Metadata | None = None, *, times: int = 0, templates: Mapping[str, Answer] | None = None
) -> tuple[list[str], list[str]]:
    """What was asked of the API server of the run, and what was written, when a survey meets `body`.

    `templates` are what else it has, by kind and name. It is over when the run has had its turn, and the metadata store
    was asked so many `times`.
    """

    def decide(seen: Seen) -> Action:
        if seen.method == "GET" and seen.path.endswith("/workflows"):
            return said({"metadata": {}, "items": [{"metadata": META}]})
        if seen.method == "GET" and seen.path.endswith("/workflows/run"):
            return said(body)
        if seen.method == "GET" and seen.path.endswith(("/pods", "/workflowtaskresults")):
            return said({"metadata": {}, "items": []})
        place = "/".join(seen.path.rsplit("/", 2)[-2:])
        return (templates or {}).get(place) or said({"reason": "NotFound"}, 404)

    async with Proxy(NOWHERE) as server, Proxy(NOWHERE) as mlflow, Kube(k8s.Configuration(host=server.url)) as kube:
        server.decide = decide
        mlflow.decide = lambda seen: said(EXPERIMENT if seen.path.endswith("get-by-name") else {"experiments": []})
        reader = Told(kube)
        reader.said = told or reader.said
        dispatch = Dispatch(kube, Ledger(kube, "me/1"), reader, Settings(), "c", addresses=ANYWHERE)
        spec = api.TargetSpec(backend=api.Backend(mlflow=api.MlflowBackend(tracking_uri=mlflow.url)))
        dispatch.saw_target(api.FoundTarget(ref=REF, spec=spec), deleted=False)
        seat = dispatch.roster.get(REF)
        assert seat is not None
        async with asyncio.timeout(30):
            while not seat.ready:  # noqa: ASYNC110  a seat tells nobody
                await asyncio.sleep(0.02)
            await dispatch.survey.once()
            while seat.lane.busy or not any(s.path.endswith("/workflows/run") for s in server.log):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            while reader.times < times:  # noqa: ASYNC110
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


async def test_a_run_that_only_kfps_metadata_tells_to_be_the_plugins_is_left_alone() -> None:
    noted = Execution(id=1, type="system.ContainerExecution", custom={"plugins.mlflow.run_id": "4f2c"})
    for executions, taken in (((noted,), False), ((), True)):
        told = RunMetadata(run_id="r", namespace="team", executions=executions)
        _, written = await reads(body(), told)
        assert ("POST trackedruns" in written) is taken


async def test_a_store_that_lags_behind_a_task_is_asked_again_though_the_run_has_no_news() -> None:
    recorded, _ = folded("iris")
    ended = json.loads(json.dumps(recorded).replace(recorded["metadata"]["name"], "run"))
    ended["metadata"] |= {"namespace": "team", "uid": "u"}
    run_id = ended["metadata"]["labels"]["pipeline/runid"]
    await reads(ended, RunMetadata(run_id=run_id, namespace="team"), times=4)


def labelled(track: str) -> Answer:
    return said({"metadata": {"labels": {"pipetrail.dev/track": track}}})


@pytest.mark.parametrize(
    ("spec", "labels", "templates", "taken"),
    [
        ({"name": "sweep"}, {}, {"workflowtemplates/sweep": labelled("false")}, False),
        ({"name": "sweep", "clusterScope": True}, {}, {"clusterworkflowtemplates/sweep": labelled("false")}, False),
        ({}, {"cron-workflow": "nightly"}, {"cronworkflows/nightly": labelled("false")}, False),
        (
            {"name": "sweep"}, {"cron-workflow": "nightly"},
            {"workflowtemplates/sweep": labelled("false"), "cronworkflows/nightly": labelled("true")}, True,
        ),
        ({"name": "sweep"}, {"track": "true"}, {"workflowtemplates/sweep": labelled("false")}, True),
        ({"name": "sweep"}, {}, {}, True),
        ({"name": "sweep"}, {}, {"workflowtemplates/sweep": said({"reason": "Forbidden"}, 403)}, True),
        ({"name": "../../secrets/sweep"}, {}, {"secrets/sweep": labelled("false")}, True),
    ],
)  # fmt: skip
async def test_what_a_run_was_made_from_opts_out_for_it_and_the_nearest_word_counts(
    spec: Any, labels: dict[str, str], templates: dict[str, Answer], taken: bool
) -> None:
    made = body()
    prefix = {"track": "pipetrail.dev/", "cron-workflow": "workflows.argoproj.io/"}
    made["metadata"] = META | {"labels": {prefix[k] + k: v for k, v in labels.items()}}
    made["spec"] = {"workflowTemplateRef": spec} if spec else made["spec"]
    asked, written = await reads(made, templates=templates)
    assert ("POST trackedruns" in written) is taken
    assert ("sweep" in asked) is (spec.get("name") == "sweep")


async def test_a_template_that_can_not_be_asked_now_leaves_the_decision_open() -> None:
    made = body()
    made["spec"] = {"workflowTemplateRef": {"name": "sweep"}}
    _, written = await reads(made, templates={"workflowtemplates/sweep": said({"reason": "InternalError"}, 500)})
    assert "POST trackedruns" not in written
