"""What is put aside, when, and what comes of it. API server and tracker are loopback servers with a script."""

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from kubernetes.aio import client as k8s
from tests.real.proxy import Action, Answer, Proxy, Seen, Stall
from tests.unit import argo_cases as cases
from tests.unit.test_delivery_survey import EXPERIMENT, NOWHERE, said

from pipetrail import api
from pipetrail.api import TargetRef
from pipetrail.delivery import outbox
from pipetrail.delivery.dispatch import Dispatch
from pipetrail.delivery.ledger import Ledger
from pipetrail.delivery.secret_chunks import COVER, LABEL
from pipetrail.kube import Kube
from pipetrail.readers.live import LiveReader
from pipetrail.settings import Settings
from pipetrail.sources import argo
from pipetrail.targets.addresses import ANYWHERE

TEAM = "team-a"
REF = TargetRef(kind="TrackingTarget", name="mlflow", namespace=TEAM)
TTL = {"ttlStrategy": {"secondsAfterCompletion": 0}}
POD_GC = {"podGC": {"strategy": "OnPodCompletion"}}
RUN = (TEAM, cases.UID)


class Cluster:
    """An API server with one Workflow and its pods, that keeps Secrets and takes what is written to TrackedRuns."""

    def __init__(self, body: Any) -> None:
        self.body = body
        self.secrets: dict[str, Any] = {}
        self.pods: list[Any] = []
        self.full = False
        self.seen: list[str] = []
        self.tracked: dict[str, Any] = {}

    def decide(self, seen: Seen) -> Action:
        _, _, tail = seen.path.partition("/namespaces/")
        namespace, _, rest = tail.partition("/")
        kind, _, name = rest.partition("/")
        self.seen.append(f"{seen.method} {kind}/{name}")
        match seen.method, kind, name:
            case "GET", "workflows", cases.NAME if self.body is not None:
                return said(self.body)
            case "GET", "pods", _ if name.endswith("/log"):
                return Answer(200, b"2026-11-23T10:00:20Z loss=0.25\n", {"Content-Type": "text/plain"})
            case "GET", "pods", _ if name:
                pod = name.removeprefix("pod")
                return said({"metadata": {"uid": f"pod-uid{pod}-2"}, "spec": {"nodeName": "n"}})
            case "GET", "pods", _:
                return said({"metadata": {}, "items": self.pods})
            case "GET", "secrets", _ if name:
                return said(self.secrets[name]) if name in self.secrets else said({"reason": "NotFound"}, 404)
            case "GET", "secrets", _:
                return said({"metadata": {}, "items": list(self.secrets.values())})
            case "POST", "secrets", _:
                if self.full:
                    return said({"reason": "Forbidden", "message": "exceeded quota: objects"}, 403)
                made = msgspec.json.decode(seen.body)
                self.secrets[made["metadata"]["name"]] = made
                return said(made, 201)
            case "DELETE", "secrets", _:
                return said(self.secrets.pop(name, {}))
            case "POST", "trackedruns", _:
                made = msgspec.json.decode(seen.body)
                made["metadata"] |= {"resourceVersion": "1", "namespace": namespace, "uid": "t"}
                self.tracked = made
                return said(made, 201)
            case "PATCH", "trackedruns", _ if self.tracked:
                status = msgspec.json.decode(seen.body)["status"]
                self.tracked["status"] = {k: v for k, v in status.items() if v is not None}
                return said(self.tracked)
            case "GET", "trackedruns", _ if name and self.tracked:
                return said(self.tracked)
            case "GET", _, "" if seen.path.endswith("/trackedruns") and self.tracked:
                return said({"metadata": {}, "items": [self.tracked]})
            case "GET", _, "":
                return said({"metadata": {}, "items": []})
            case _:
                return said({"reason": "NotFound"}, 404)

    def copies(self) -> list[outbox.Copy]:
        """What lies in the Secrets."""
        return [outbox.unpack(base64.b64decode(secret["data"]["chunk"])) for secret in self.secrets.values()]


@asynccontextmanager
async def operator(
    cluster: Cluster, mlflow: Callable[[Seen], Action] = lambda _: Answer(503), *, suspend: bool = True
) -> AsyncIterator[Dispatch]:
    """An operator whose tracker answers `mlflow`; its one target takes nothing where it is suspended."""
    async with Proxy(NOWHERE) as server, Proxy(NOWHERE, mlflow) as tracker:
        server.decide = cluster.decide
        async with Kube(k8s.Configuration(host=server.url)) as kube:
            dispatch = Dispatch(
                kube, Ledger(kube, "me/1"), LiveReader(kube), Settings(namespace="home"), "c", addresses=ANYWHERE
            )
            dispatch.saw_namespace({"metadata": {"name": TEAM, "uid": "n1"}}, deleted=False)
            await dispatch.load()
            await dispatch.keeper.resume()
            spec = api.TargetSpec(
                backend=api.Backend(mlflow=api.MlflowBackend(tracking_uri=tracker.url)), suspend=suspend,
                capture=api.Capture(stdout="On"), redact=api.Redact(additional_keys=("wage",)),
            )  # fmt: skip
            dispatch.saw_target(api.FoundTarget(ref=REF, spec=spec), deleted=False)
            seat = dispatch.roster.get(REF)
            assert seat is not None
            await until(lambda: seat.conditions)  # it was looked at
            working = asyncio.create_task(dispatch.keeper.run())
            try:
                yield dispatch
            finally:
                working.cancel()
                await asyncio.wait([working])
                await dispatch.roster.close()


def body(*nodes: Any, phase: str = "Succeeded", spec: Any = None, **meta: Any) -> Any:
    return cases.workflow(cases.node("", "DAG", phase), *nodes, phase=phase, spec=spec, **meta)


async def until(ask: Callable[[], Any]) -> None:
    async with asyncio.timeout(30):
        while not ask():  # noqa: ASYNC110  what is asked tells nobody
            await asyncio.sleep(0.02)


def met(dispatch: Dispatch, there: Any, *, deleted: bool = False, fresh: bool = True) -> None:
    dispatch.saw_run(argo.header(there), there if deleted else None, fresh=fresh)


async def test_a_run_that_is_deleted_is_kept_redacted_and_leaves_memory() -> None:
    arguments = {"arguments": cases.params(lr="0.5", api_key="canary-1", wage="canary-2")}
    there = body(cases.node(".a"), spec=arguments)
    cluster = Cluster(None)
    async with operator(cluster) as dispatch:
        met(dispatch, there, deleted=True)
        await until(lambda: dispatch.copies.count("Secrets"))
        state = dispatch.runs.get(cases.UID)
        assert state is not None
        await until(lambda: state.only_kept)
        assert (state.last_body, state.gone) == (None, True)
    (copy,) = cluster.copies()
    assert (copy.record.outcome.status, copy.spec.target) == ("succeeded", REF)
    assert copy.record.params["lr"] == "0.5"
    assert b"canary" not in msgspec.json.encode(copy)


async def test_a_run_is_kept_if_its_object_or_its_pods_may_go_and_else_read_again() -> None:
    for spec, label, kept in (
        (None, {}, False), (TTL, {}, True), (POD_GC, {}, True), (None, {"pipeline/runid": "r"}, True)
    ):  # fmt: skip
        there = body(cases.node(".a"), spec=spec, labels=label)
        cluster = Cluster(there)
        async with operator(cluster) as dispatch:
            met(dispatch, there)
            await until(lambda c=cluster: f"GET workflows/{cases.NAME}" in c.seen)
            await until(lambda d=dispatch: d.keeper.idle)
        assert (len(cluster.secrets) > 0) == kept, (spec, label)


async def test_a_live_run_is_not_kept_but_what_its_pods_say_is_read_before_they_go() -> None:
    first = body(cases.node(".a"), cases.node(".b", phase="Running"), phase="Running", spec=POD_GC)
    cluster = Cluster(first)
    async with operator(cluster) as dispatch:
        met(dispatch, first)
        dispatch.saw_pod(cases.pod(".a"), listed=False)
        await until(lambda: "GET pods/pod.a/log" in cluster.seen)
        cluster.body = body(cases.node(".a"), cases.node(".b"), phase="Running", spec=POD_GC)
        cluster.body["metadata"]["resourceVersion"] = "10"
        met(dispatch, cluster.body)
        dispatch.saw_pod(cases.pod(".b"), listed=False)
        await until(lambda: "GET pods/pod.b/log" in cluster.seen)
        await until(lambda: dispatch.keeper.idle)
    assert cluster.secrets == {}


async def test_what_the_outbox_does_not_take_is_said_once_and_stays_in_memory() -> None:
    cluster = Cluster(None)
    cluster.full = True
    async with operator(cluster) as dispatch:
        met(dispatch, body(cases.node(".a")), deleted=True)
        await until(lambda: (cluster.tracked.get("status") or {}).get("reason") == "OutboxQuota")
        await until(lambda: "POST events/" in cluster.seen)
        state = dispatch.runs.get(cases.UID)
        assert state is not None
        assert state.last_body is not None
        await until(lambda: dispatch.keeper.idle)
        before = [cluster.seen.count(f"POST {kind}/") for kind in ("secrets", "events")]
        met(dispatch, body(cases.node(".a")), deleted=True)
        await until(lambda: dispatch.keeper.idle)
        assert [cluster.seen.count(f"POST {kind}/") for kind in ("secrets", "events")] == before


async def test_what_the_outbox_refuses_while_the_lane_works_on_the_run_is_said_after_it() -> None:
    cluster = Cluster(None)
    cluster.full = True

    def slow(seen: Seen) -> Action:
        return Stall(4.0) if seen.path.endswith("runs/create") else Tracker()(seen)

    async with operator(cluster, slow, suspend=False) as dispatch:
        seat = dispatch.roster.get(REF)
        assert seat is not None
        met(dispatch, body(cases.node(".a")), deleted=True)
        await until(lambda: asked(cluster.seen, "POST secrets/"))
        assert seat.lane.working(cases.UID)
        await until(lambda: (cluster.tracked.get("status") or {}).get("reason") == "OutboxQuota")
        await until(lambda: asked(cluster.seen, "POST events/"))
    assert len(asked(cluster.seen, "POST secrets/")) == 1


@pytest.mark.parametrize("fresh", [True, False], ids=["seen from its making on", "met when it was deleted"])
async def test_pods_that_stand_after_their_run_was_deleted_are_asked_for(fresh: bool) -> None:
    cluster = Cluster(None)
    cluster.pods = [cases.pod_body(".a", ended=29)]
    async with operator(cluster) as dispatch:
        met(dispatch, body(cases.node(".a")), deleted=True, fresh=fresh)
        await until(lambda: cluster.secrets)
    (copy,) = cluster.copies()
    (step,) = copy.record.steps
    assert (step.finished, step.attempts[0].pod) == (cases.at(28), "pod.a")
    assert cluster.seen.count("GET pods/") == 1


async def test_a_turn_is_taken_when_something_could_be_said_and_not_before() -> None:
    there = body(cases.node(".a", phase="Running"), phase="Running")
    cluster = Cluster(there)
    async with operator(cluster, Tracker(), suspend=False) as dispatch:
        seat = dispatch.roster.get(REF)
        assert seat is not None
        await until(lambda: seat.ready)
        new = {"metadata": there["metadata"], "spec": there["spec"]}
        taken = []
        for news in (
            lambda: met(dispatch, new),
            lambda: met(dispatch, there),
            lambda: dispatch.saw_result(cases.result(".a"), listed=False),
            lambda: dispatch.saw_pod(cases.pod(".a"), listed=False),
            lambda: dispatch.saw_result(cases.result(".a", parameters=[]), listed=False),
        ):
            await until(lambda: seat.lane.idle)
            news()
            taken.append(not seat.lane.idle)
    assert taken == [False, True, False, True, True]


async def kept(there: Any) -> Cluster:
    """A cluster after an operator that put the run `there` aside; the run is gone."""
    cluster = Cluster(None)
    async with operator(cluster) as dispatch:
        met(dispatch, there, deleted=True)
        await until(lambda: cluster.secrets)
    cluster.seen.clear()
    return cluster


def asked(seen: list[str], what: str) -> list[str]:
    return [call for call in seen if call.startswith(what)]


async def test_a_run_that_is_kept_is_not_closed_as_lost_and_not_asked_for() -> None:
    cluster = await kept(body(cases.node(".a")))
    async with operator(cluster) as dispatch:
        dispatch.survey.gone_s = 0.0
        await dispatch.survey.once()
        await dispatch.survey.once()
        assert dispatch.copies.count("Secrets") == 1
    assert asked(cluster.seen, f"GET workflows/{cases.NAME}") == []
    assert (cluster.tracked.get("status") or {}).get("phase") is None


async def test_a_copy_of_a_namespace_that_was_made_anew_goes_to_nobody_there() -> None:
    cluster = await kept(body(cases.node(".a")))
    for secret in cluster.secrets.values():
        notes = secret["metadata"]["annotations"]
        notes[COVER] = notes[COVER].replace('"namespace_uid":"n1"', '"namespace_uid":"n0"')
    async with operator(cluster) as dispatch:
        assert list(dispatch.copies.all()) == []
        assert dispatch.runs.get(cases.UID) is None
    assert cluster.secrets == {}


async def test_what_is_settled_is_removed_at_the_start() -> None:
    cluster = await kept(body(cases.node(".a")))
    name = next(iter(cluster.secrets))
    cluster.tracked["status"] = {"phase": "Synced", "generation": cases.stamp(0)}
    async with operator(cluster) as dispatch:
        assert dispatch.runs.get(cases.UID) is None
    assert (cluster.secrets, f"DELETE secrets/{name}" in cluster.seen) == ({}, True)


async def test_a_cover_that_nobody_can_read_is_removed_and_counted() -> None:
    cluster = Cluster(None)
    cluster.secrets["outbox-x"] = {"metadata": {"name": "outbox-x", "labels": {LABEL: "x"}}}
    async with operator(cluster) as dispatch:
        assert list(dispatch.copies.all()) == []
    assert cluster.secrets == {}


class Tracker:
    """An MLflow that takes everything, or refuses every run."""

    def __init__(self, *, refuses: bool = False) -> None:
        self.refuses = refuses
        self.creates = 0

    def __call__(self, seen: Seen) -> Answer:
        if seen.path.endswith("runs/create"):
            self.creates += 1
            if self.refuses:
                return said({"error_code": "INVALID_PARAMETER_VALUE", "message": "not welcome"}, 400)
            return said({"run": {"info": {"run_id": "0" * 32, "experiment_id": "1"}, "data": {}}})
        if seen.path.endswith("runs/search"):
            return said({"runs": []})
        if seen.path.endswith("/version"):
            return Answer(200, b"3.17.0", {"Content-Type": "text/plain"})
        return said(EXPERIMENT if "get-by-name" in seen.path else {"experiments": []})


def phase(cluster: Cluster) -> str:
    return str((cluster.tracked.get("status") or {}).get("phase"))


async def test_a_copy_is_delivered_as_if_its_run_were_there_and_then_removed() -> None:
    cluster = await kept(body(cases.node(".a")))
    tracked, cluster.tracked = cluster.tracked, {}  # its TrackedRun went as well
    tracker = Tracker()
    async with operator(cluster, tracker, suspend=False):
        await until(lambda: phase(cluster) == "Synced")
        await until(lambda: not cluster.secrets)
    assert (tracker.creates, cluster.tracked["spec"]) == (1, tracked["spec"])


async def test_a_dead_letter_keeps_its_record_and_is_sent_again_from_it() -> None:
    cluster, tracker = Cluster(None), Tracker(refuses=True)
    async with operator(cluster, tracker, suspend=False) as dispatch:
        met(dispatch, body(cases.node(".a")), deleted=True)
        await until(lambda: phase(cluster) == "Failed")
        await until(lambda: cluster.secrets)
    tracker.refuses, tracker.creates = False, 0
    async with operator(cluster, tracker, suspend=False) as dispatch:
        assert dispatch.runs.get(cases.UID) is None  # nobody asked for it yet
        cluster.tracked["metadata"]["annotations"] = {api.RESEND_ANNOTATION: "please"}
        assert await dispatch.resend.once(TEAM, cluster.tracked["metadata"]["name"])
        await until(lambda: phase(cluster) == "Synced")
    assert tracker.creates == 1
