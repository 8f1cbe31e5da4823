"""Our own watches on a real API server: what it says of versions, old ones too, and what a restart of it costs."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from tests.cluster.fixtures import Cluster
from tests.e2e.stage import Stage, tool, until

from pipetrail import observe
from pipetrail.controller import app
from pipetrail.controller.streams import Streams
from pipetrail.delivery.dispatch import Dispatch
from pipetrail.delivery.ledger import Ledger
from pipetrail.kube import ARGO
from pipetrail.readers.live import LiveReader
from pipetrail.settings import Settings
from pipetrail.sources import argo

pytestmark = [pytest.mark.minutes(1), pytest.mark.api]


class Heard(Dispatch):
    """The delivery, which writes down what it hears."""

    def __init__(self, stage: Stage) -> None:
        settings = Settings(watch_namespaces=(stage.namespace,))
        super().__init__(stage.kube, Ledger(stage.kube, "test"), LiveReader(stage.kube), settings, "test")
        self.runs_seen: list[tuple[str, str, bool]] = []
        self.bodies: dict[str, Any] = {}
        self.pods: list[str] = []
        self.results: list[str] = []

    def saw_run(self, header: argo.Header, body: Mapping[str, Any] | None, *, fresh: bool) -> None:
        self.runs_seen.append((header.name, "there" if body is None else "gone", fresh))
        if body is not None:
            self.bodies[header.name] = body
        super().saw_run(header, body, fresh=fresh)

    def saw_pod(self, facts: argo.PodFacts, *, listed: bool) -> None:
        self.pods.append(facts.name)
        super().saw_pod(facts, listed=listed)

    def saw_result(self, facts: argo.ResultFacts, *, listed: bool) -> None:
        self.results.append(facts.node_id)
        super().saw_result(facts, listed=listed)

    @property
    def gone(self) -> list[str]:
        return [name for name, how, _ in self.runs_seen if how == "gone"]


@contextlib.asynccontextmanager
async def watching(heard: Heard, stage: Stage, start_at: Mapping[str, str] | None = None) -> AsyncIterator[Streams]:
    streams = Streams(heard, await app.served(stage.kube), [stage.namespace], start_at=start_at)
    task = asyncio.create_task(streams.run(stage.kube))
    try:
        yield streams
    finally:
        task.cancel()
        await asyncio.wait([task])


async def listed(watches: Streams) -> None:
    async def all_listed() -> bool:
        return len(watches.pulses()) == 4 and all(pulse.listed for pulse in watches.pulses())

    await until("all is listed", all_listed)


def run(name: str) -> dict[str, Any]:
    spec = {"entrypoint": "main", "templates": [{"name": "main", "suspend": {}}]}
    return {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "metadata": {"name": name}, "spec": spec}


async def test_a_run_that_was_deleted_between_two_processes_is_told_with_its_last_body(stage: Stage) -> None:
    runs = f"{ARGO}/namespaces/{stage.namespace}/workflows"
    await stage.kube.post(runs, run("stays"))
    await stage.kube.post(runs, run("goes"))
    first, second = Heard(stage), Heard(stage)
    async with watching(first, stage) as watches:
        await listed(watches)
        saved = {pulse.path: pulse.version for pulse in watches.pulses()}
    assert sorted(first.runs_seen) == [("goes", "there", False), ("stays", "there", False)]
    assert sorted(path.rsplit("/", 1)[-1] for path in saved) == [
        "pods", "trackedruns", "workflows", "workflowtaskresults",
    ]  # fmt: skip
    await stage.kube.patch(f"{runs}/goes", {"spec": {"suspend": True}})
    await stage.delete_workflow("goes")
    async with watching(second, stage, saved) as resumed:

        async def told() -> bool:
            return second.gone == ["goes"]

        await until("its end is told", told)
        await listed(resumed)
    assert second.runs_seen == [("goes", "there", False), ("goes", "gone", False), ("stays", "there", False)]
    assert second.bodies["goes"]["spec"] == {**run("goes")["spec"], "suspend": True}
    assert not second.survey.due.is_set()


async def test_a_version_that_the_server_has_forgotten_makes_a_list_and_a_survey(stage: Stage) -> None:
    runs = f"{ARGO}/namespaces/{stage.namespace}/workflows"
    await stage.kube.post(runs, run("stays"))
    heard = Heard(stage)
    async with watching(heard, stage, {runs: "1"}) as watches:
        await listed(watches)
        pulse = next(pulse for pulse in watches.pulses() if pulse.path == runs)
    assert heard.runs_seen == [("stays", "there", False)]
    assert heard.survey.due.is_set()
    assert (pulse.restarts, pulse.trouble) == (1, "")


async def test_a_played_run_is_heard_whole_and_no_pod_that_still_runs(stage: Stage) -> None:
    heard = Heard(stage)
    async with watching(heard, stage) as watches:
        await listed(watches)
        await stage.play("nested-dags", run="run", speed=40)
        body = await stage.workflow("run")
        steps = {node["id"] for node in body["status"]["nodes"].values() if node["type"] == "Pod"}

        async def all_told() -> bool:
            return set(heard.results) == steps and len(set(heard.pods)) == len(steps)

        await until("each pod and each result is told", all_told)
    assert {name for name, _, _ in heard.runs_seen} == {"run"}


async def test_kinds_come_and_go_while_the_others_are_watched_on(stage: Stage) -> None:
    runs = f"{ARGO}/namespaces/{stage.namespace}/workflows"
    heard = Heard(stage)
    async with watching(heard, stage) as watches:
        await listed(watches)
        kinds = await app.served(stage.kube)
        watches.watch(frozenset(kind for kind in kinds if kind[0] != "argoproj.io"))

        async def fewer() -> bool:
            return sorted(pulse.path.rsplit("/", 1)[-1] for pulse in watches.pulses()) == ["pods", "trackedruns"]

        await until("pods and TrackedRuns alone are watched", fewer)
        await stage.kube.post(runs, run("unseen"))
        watches.watch(kinds)
        await listed(watches)
        assert [pulse.restarts for pulse in watches.pulses()] == [0, 0, 0, 0]
    assert heard.runs_seen == [("unseen", "there", False)]


async def test_a_restart_of_the_api_server_costs_no_event(own_cluster: Cluster, stage: Stage) -> None:
    if not own_cluster.ours:
        pytest.skip("another's API server is not restarted")
    runs = f"{ARGO}/namespaces/{stage.namespace}/workflows"
    for n in range(3):
        await stage.kube.post(runs, run(f"run-{n}"))
    heard = Heard(stage)
    before = observe.counts["watch_restarts"]
    async with watching(heard, stage) as watches:
        await listed(watches)
        await stage.delete_workflow("run-0")
        assert (await asyncio.to_thread(tool, "restart", "kube-apiserver")).returncode == 0

        async def made() -> bool:
            return bool(await stage.kube.post(runs, run("later")))

        await until("the new server takes a run", made)
        await stage.delete_workflow("run-1")

        async def told() -> bool:
            return any(name == "later" for name, _, _ in heard.runs_seen)

        await until("the new run is heard of", told)
        await listed(watches)
    # Either the new server knows our version and told all, or it said 410 and the survey is to find what is missing.
    assert heard.gone == ["run-0", "run-1"] or heard.survey.due.is_set()
    assert observe.counts["watch_restarts"] - before >= 3
