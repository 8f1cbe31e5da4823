"""What becomes of a wish to be sent again. The API server is a loopback script; nothing answers for the tracker."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from kubernetes.aio import client as k8s
from tests.real.proxy import Action, Answer, Proxy, Seen
from tests.unit.test_delivery_survey import NOWHERE, REF, said

from pipetrail import api
from pipetrail.controller.news import LedgerNews
from pipetrail.delivery.dispatch import Dispatch
from pipetrail.delivery.ledger import Entry, Ledger, decode
from pipetrail.delivery.resend import GONE, NO_TARGET
from pipetrail.kube import Kube
from pipetrail.readers.live import LiveReader
from pipetrail.settings import Settings
from pipetrail.sources import argo
from pipetrail.targets.addresses import ANYWHERE

RUN = api.RunRef(source="argo", name="run", uid="u", key="c/u")
WISH = "2026-01-02T03:04:05Z"


def name(attempt: int = 1) -> str:
    return api.tracked_run_name("run", "u", REF, attempt)


def body(phase: str = "Failed", *, wish: str = WISH, attempt: int = 1, **status: Any) -> dict[str, Any]:
    meta: dict[str, Any] = {"name": name(attempt), "namespace": "team", "uid": "t", "resourceVersion": "1"}
    if wish:
        meta["annotations"] = {api.RESEND_ANNOTATION: wish}
    spec = api.to_json(api.TrackedRunSpec(run=RUN, target=REF, policy=api.Policy(), attempt=attempt))
    return {"metadata": meta, "spec": spec, "status": {"phase": phase, **status}}


def entry(there: dict[str, Any]) -> Entry:
    made = decode(there)
    assert made is not None
    return made


class Cluster:
    """TrackedRuns by name, and a Workflow or none."""

    def __init__(self, *there: dict[str, Any], workflow: bool = True) -> None:
        self.there = {one["metadata"]["name"]: one for one in there}
        self.workflow = workflow
        self.written: list[dict[str, Any]] = []

    def decide(self, seen: Seen) -> Action:
        which = seen.path.split("/")[-1 if seen.method == "GET" else -2]
        if seen.method == "PATCH" and which in self.there:
            status = msgspec.json.decode(seen.body)["status"]
            self.written.append(status)
            one = self.there[which]
            one["status"] = {k: v for k, v in status.items() if v is not None}
            return said(one)
        if "/trackedruns/" in seen.path and which in self.there:
            return said(self.there[which])
        if "/workflows/" in seen.path and self.workflow:
            meta = {"name": "run", "namespace": "team", "uid": "u", "resourceVersion": "7"}
            return said({"metadata": meta, "status": {"phase": "Succeeded"}})
        return Answer(404, b'{"reason": "NotFound"}')

    def decide_conflict(self, seen: Seen) -> Action:
        """Someone writes every TrackedRun just before us."""
        if seen.method == "PATCH" and "/trackedruns/" in seen.path:
            return Answer(409, b'{"reason": "Conflict"}')
        return self.decide(seen)


@asynccontextmanager
async def operator(cluster: Cluster, *, target: bool = True) -> AsyncIterator[tuple[Dispatch, Proxy]]:
    """One that has read the ledger. Its target answers nothing, so what is offered waits."""
    async with Proxy(NOWHERE) as server, Kube(k8s.Configuration(host=server.url)) as kube:
        server.decide = cluster.decide
        dispatch = Dispatch(kube, Ledger(kube, "me/1"), LiveReader(kube), Settings(), "c", addresses=ANYWHERE)
        if target:
            backend = api.Backend(mlflow=api.MlflowBackend(tracking_uri=NOWHERE))
            spec = api.TargetSpec(backend=backend, suspend=True)
            dispatch.saw_target(api.FoundTarget(ref=REF, spec=spec), deleted=False)
        for one in cluster.there.values():
            dispatch.book.add(entry(one))
        yield dispatch, server
        await dispatch.roster.close()


def waiting(dispatch: Dispatch) -> int:
    seat = dispatch.roster.get(REF)
    return 0 if seat is None else seat.lane.waiting


@pytest.mark.parametrize("phase", ["Failed", "Synced", "Stopped"])
async def test_a_settled_run_is_pending_again_and_has_its_turn(phase: str) -> None:
    cluster = Cluster(body(phase, reason="MaxElapsed"))
    async with operator(cluster) as (dispatch, _):
        assert await dispatch.resend.once("team", name())
        assert waiting(dispatch) == 1
        state = dispatch.runs.get("u")
        assert state is not None
        assert not state.facts_known  # it is read with all its pods
    assert [(s.get("phase"), s["resent"], s["reason"]) for s in cluster.written] == [(None, WISH, None)]
    assert cluster.there[name()]["status"].get("phase", "Pending") == "Pending"


async def test_one_that_was_heeded_is_left_alone() -> None:
    cluster = Cluster(body("Synced", resent=WISH))
    async with operator(cluster) as (dispatch, _):
        assert await dispatch.resend.once("team", name())
        assert (cluster.written, waiting(dispatch)) == ([], 0)


async def test_a_wish_is_heeded_once_though_the_status_does_not_keep_it() -> None:
    """CRDs of an older version, which prune what they do not know."""
    cluster = Cluster(body())
    async with operator(cluster) as (dispatch, _):
        for _ in range(3):
            assert await dispatch.resend.once("team", name())
            cluster.there[name()]["status"].pop("resent", None)
    assert len(cluster.written) == 1


async def test_one_that_is_on_its_way_keeps_its_phase() -> None:
    cluster = Cluster(body("Tracking", externalId="7"))
    async with operator(cluster) as (dispatch, _):
        assert await dispatch.resend.once("team", name())
    assert [(s["phase"], s["resent"]) for s in cluster.written] == [("Tracking", WISH)]


async def test_a_run_whose_object_is_gone_stays_as_it_is_and_says_so() -> None:
    cluster = Cluster(body(), workflow=False)
    async with operator(cluster) as (dispatch, _):
        assert await dispatch.resend.once("team", name())
        assert [(s["phase"], s["message"]) for s in cluster.written] == [("Failed", GONE)]


async def test_a_run_whose_last_body_is_here_is_sent() -> None:
    cluster = Cluster(body(), workflow=False)
    async with operator(cluster) as (dispatch, _):
        state = dispatch.runs.upsert(argo.Header(uid="u", name="run", namespace="team"))
        state.bury({"metadata": {"uid": "u"}})
        assert await dispatch.resend.once("team", name())
        assert waiting(dispatch) == 1


async def test_without_its_target_it_says_so() -> None:
    cluster = Cluster(body())
    async with operator(cluster, target=False) as (dispatch, _):
        assert await dispatch.resend.once("team", name())
    assert [(s["phase"], s["message"], s["resent"]) for s in cluster.written] == [("Failed", NO_TARGET, WISH)]


async def test_of_an_older_attempt_nothing_is_sent_and_the_newer_one_is_named() -> None:
    cluster = Cluster(body("Synced"), body("Synced", wish="", attempt=2))
    async with operator(cluster) as (dispatch, _):
        assert await dispatch.resend.once("team", name())
        assert waiting(dispatch) == 0
    (written,) = cluster.written
    assert (written["phase"], name(2) in written["message"]) == ("Synced", True)


@pytest.mark.parametrize("phase", ["Synced", "Tracking"])
async def test_under_another_policy_it_waits_for_whoever_makes_the_record(phase: str) -> None:
    cluster = Cluster(body(phase, wish=f"{api.REPOLICY} now"))
    async with operator(cluster) as (dispatch, _):
        assert await dispatch.resend.once("team", name())
        known = dispatch.book.get(("team", "u"), REF)
        assert known is not None
        assert (known.repolicy, waiting(dispatch), cluster.written) == (True, 1, [])


async def test_a_wish_is_tried_again_until_it_is_heeded() -> None:
    cluster = Cluster(body())
    async with operator(cluster) as (dispatch, server):
        server.decide = cluster.decide_conflict
        heeding = asyncio.create_task(dispatch.resend.run())
        dispatch.resend.ask("team", name())
        async with asyncio.timeout(30):
            while not any(seen.method == "PATCH" for seen in server.log):  # noqa: ASYNC110  a server's log
                await asyncio.sleep(0.01)
            server.decide = cluster.decide
            while not cluster.written:  # noqa: ASYNC110  the same
                await asyncio.sleep(0.01)
        heeding.cancel()
        await asyncio.wait([heeding])
    assert cluster.written[0]["resent"] == WISH


async def test_a_dead_letter_that_is_deleted_starts_over() -> None:
    cluster = Cluster(body(wish=""))
    async with operator(cluster) as (dispatch, _):
        news = LedgerNews(dispatch)
        news.saw("DELETED", cluster.there.pop(name()), listed=False)
        heeding = asyncio.create_task(dispatch.resend.run())
        async with asyncio.timeout(30):
            while not waiting(dispatch):  # noqa: ASYNC110  a lane tells nobody
                await asyncio.sleep(0.01)
        heeding.cancel()
        await asyncio.wait([heeding])
        assert dispatch.book.get(("team", "u"), REF) is None


class Told:
    """The delivery's ear."""

    def __init__(self) -> None:
        self.wishes: list[tuple[str, str]] = []

    def saw_wish(self, namespace: str, name: str) -> None:
        self.wishes.append((namespace, name))


@pytest.mark.parametrize(
    ("there", "told"),
    [
        (body(), 1), (body(wish=""), 0), (body("Synced", resent=WISH), 0), (body("Synced", resent="another"), 1),
        (body(wish="x" * 9999), 1), (body("Synced", wish="x" * 9999, resent="x" * api.MAX_RESEND), 0),
        ({"metadata": {"name": "odd", "annotations": 7}, "status": []}, 0), ({}, 0),
    ],
)  # fmt: skip
def test_of_trackedruns_only_wishes_that_are_not_heeded_are_news(there: dict[str, Any], told: int) -> None:
    ear = Told()
    LedgerNews(ear).saw("MODIFIED", there, listed=False)  # type: ignore[arg-type]
    assert len(ear.wishes) == told
