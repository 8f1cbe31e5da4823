"""What the survey does about runs that are missing. API server and tracker are loopback servers with a script."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from kubernetes.aio import client as k8s
from tests.real.proxy import Action, Answer, Proxy, Seen

from pipetrail import api
from pipetrail.api import TargetRef
from pipetrail.delivery.dispatch import Dispatch
from pipetrail.delivery.ledger import Entry, Ledger
from pipetrail.kube import Kube
from pipetrail.readers.archive import ArgoArchive
from pipetrail.readers.live import LiveReader
from pipetrail.settings import Settings
from pipetrail.targets.addresses import ANYWHERE

NOWHERE = "http://127.0.0.1:9"
REF = TargetRef(kind="TrackingTarget", name="mlflow", namespace="team")
NAME = api.tracked_run_name("run", "u", REF)
EXPERIMENT = {"experiment": {"experiment_id": "1", "lifecycle_stage": "active"}}


def said(body: Any, status: int = 200) -> Answer:
    return Answer(status, msgspec.json.encode(body))


class Cluster:
    """An API server that has no Workflow, and takes what is written to TrackedRuns."""

    def __init__(self) -> None:
        self.written: list[Any] = []
        self.asked: list[str] = []

    def decide(self, seen: Seen) -> Action:
        if seen.method == "PATCH" and "/trackedruns/" in seen.path:
            patch = msgspec.json.decode(seen.body)
            self.written.append(patch["status"])
            meta = {"name": NAME, "namespace": "team", "resourceVersion": "2"}
            status = {k: v for k, v in patch["status"].items() if v is not None}
            return said({"metadata": meta, "spec": api.to_json(entry().spec), "status": status})
        if seen.method == "GET" and seen.path.endswith("/workflows"):
            return said({"items": [], "metadata": {}})
        if "/workflows/" in seen.path:
            self.asked.append(seen.path.rpartition("/")[2])
        return said({"reason": "NotFound"}, 404)


def entry(key: str = "c/u") -> Entry:
    run = api.RunRef(source="argo", name="run", uid="u", key=key)
    return Entry(
        name=NAME, namespace="team", version="1",
        spec=api.TrackedRunSpec(run=run, target=REF, policy=api.Policy(), experiment="e"),
        status=api.TrackedRunStatus(phase="Tracking"),
    )  # fmt: skip


def tracker(status: str, outcome: str, *, namespace: str = "team", copies: int = 1) -> Any:
    """An MLflow that holds the run as `status`."""
    tags = {
        "pipetrail.key": "c/u", "pipetrail.root": "c/u", "pipetrail.outcome": outcome,
        "pipetrail.namespace": namespace,
    }  # fmt: skip
    run = {
        "info": {"run_id": "0" * 32, "experiment_id": "1", "status": status},
        "data": {"tags": [{"key": k, "value": v} for k, v in tags.items()]},
    }

    def decide(seen: Seen) -> Action:
        if seen.path.endswith("get-by-name"):
            return said(EXPERIMENT)
        if seen.path.endswith("runs/get"):
            return said({"run": run})
        return said({"runs": [run] * copies} if seen.path.endswith("runs/search") else {"experiments": []})

    return decide


@asynccontextmanager
async def operator(
    cluster: Cluster, mlflow: str, key: str = "c/u", archive: ArgoArchive | None = None
) -> AsyncIterator[Dispatch]:
    async with Proxy(NOWHERE) as server:
        server.decide = cluster.decide
        async with Kube(k8s.Configuration(host=server.url)) as kube:
            dispatch = Dispatch(
                kube, Ledger(kube, "me/1"), LiveReader(kube), Settings(), "c", addresses=ANYWHERE, archive=archive
            )
            dispatch.saw_target(
                api.FoundTarget(
                    ref=REF, spec=api.TargetSpec(backend=api.Backend(mlflow=api.MlflowBackend(tracking_uri=mlflow)))
                ),
                deleted=False,
            )
            seat = dispatch.roster.get(REF)
            assert seat is not None
            async with asyncio.timeout(5):
                while True:
                    if seat.ready:
                        break
                    await asyncio.sleep(0.02)
            dispatch.book.add(entry(key))
            yield dispatch
            await dispatch.roster.close()


async def test_a_run_that_is_missing_for_the_first_time_is_not_closed_its_deleted_event_may_be_on_its_way() -> None:
    cluster = Cluster()
    async with Proxy(NOWHERE) as mlflow:
        mlflow.decide = tracker("RUNNING", "running")
        async with operator(cluster, mlflow.url) as dispatch:
            await dispatch.survey.once()
            assert cluster.written == []


async def test_a_run_that_is_gone_for_good_is_closed_as_killed() -> None:
    cluster = Cluster()
    async with Proxy(NOWHERE) as mlflow:
        mlflow.decide = tracker("RUNNING", "running")
        async with operator(cluster, mlflow.url) as dispatch:
            dispatch.survey.gone_s = 0.0
            await dispatch.survey.once()
        assert [(s["phase"], s["reason"]) for s in cluster.written] == [("Stopped", "SourceDeleted")]
        assert len(mlflow.calls("runs/update")) == 1


async def test_a_run_whose_end_the_tracker_shows_already_keeps_it() -> None:
    """Killed between the last write to the tracker and the settled ledger, and the run deleted before the restart."""
    cluster = Cluster()
    async with Proxy(NOWHERE) as mlflow:
        mlflow.decide = tracker("FINISHED", "succeeded")
        async with operator(cluster, mlflow.url) as dispatch:
            dispatch.survey.gone_s = 0.0
            await dispatch.survey.once()
        assert [(s["phase"], s["outcome"]) for s in cluster.written] == [("Synced", "succeeded")]
        assert mlflow.calls("runs/update") == []
        assert mlflow.calls("runs/log-batch") == []


async def test_a_run_of_another_namespace_that_a_tracked_run_names_is_neither_closed_nor_deleted() -> None:
    """A TrackedRun is text that a tenant may have written; two copies would be doubles of which one is deleted."""
    cluster = Cluster()
    async with Proxy(NOWHERE) as mlflow:
        mlflow.decide = tracker("RUNNING", "running", namespace="another-team", copies=2)
        async with operator(cluster, mlflow.url) as dispatch:
            dispatch.survey.gone_s = 0.0
            await dispatch.survey.once()
        assert [(s["phase"], "another namespace" in s["message"]) for s in cluster.written] == [("Stopped", True)]
        assert [c.path for c in mlflow.log if c.method == "POST" and not c.path.endswith("runs/search")] == []


async def test_a_key_that_is_none_of_this_operators_is_never_looked_up() -> None:
    cluster = Cluster()
    async with Proxy(NOWHERE) as mlflow:
        mlflow.decide = tracker("RUNNING", "running")
        async with operator(cluster, mlflow.url, "c/of-another-team") as dispatch:
            dispatch.survey.gone_s = 0.0
            await dispatch.survey.once()
        assert [(s["phase"], s["reason"]) for s in cluster.written] == [("Stopped", "NotOurs")]
        assert mlflow.calls("runs/search") == []


@pytest.mark.parametrize(
    ("namespace", "phase", "outcome"),
    [
        ("team", "Succeeded", ("Synced", "succeeded")),
        ("another-team", "Succeeded", ("Stopped", "deleted")),
        ("team", "Running", ("Stopped", "deleted")),
    ],
)
async def test_a_run_that_vanished_ends_as_argos_archive_has_it_if_it_is_the_very_run_and_has_ended(
    namespace: str, phase: str, outcome: tuple[str, str]
) -> None:
    at = "2026-10-01T00:00:00Z"
    meta = {"name": "run", "namespace": namespace, "uid": "u", "resourceVersion": "3", "creationTimestamp": at}
    body = {"metadata": meta, "spec": {}, "status": {"phase": phase, "startedAt": at, "finishedAt": at, "nodes": {}}}
    cluster = Cluster()
    async with Proxy(NOWHERE) as mlflow, Proxy(NOWHERE) as argo, ArgoArchive(argo.url) as archive:
        mlflow.decide = tracker("RUNNING", "running")
        argo.decide = lambda _: said(body)
        async with operator(cluster, mlflow.url, archive=archive) as dispatch:
            dispatch.survey.gone_s = 0.0
            await dispatch.survey.once()
            async with asyncio.timeout(30):
                while not any(s.get("phase") in ("Synced", "Stopped") for s in cluster.written):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
    assert [(s["phase"], s.get("outcome")) for s in cluster.written][-1] == outcome


async def test_while_argos_archive_does_not_say_nothing_is_closed() -> None:
    cluster, answers = Cluster(), [Answer(503), Answer(404)]
    async with Proxy(NOWHERE) as mlflow, Proxy(NOWHERE) as argo, ArgoArchive(argo.url) as archive:
        mlflow.decide = tracker("RUNNING", "running")
        argo.decide = lambda _: answers.pop(0)
        async with operator(cluster, mlflow.url, archive=archive) as dispatch:
            dispatch.survey.gone_s = 0.0
            await dispatch.survey.once()
            assert cluster.written == []
            await dispatch.survey.once()
    assert [(s["phase"], s["reason"]) for s in cluster.written] == [("Stopped", "SourceDeleted")]
    assert cluster.asked == ["run"] * 2  # once in each pass, for the archive and for the close
