"""Runs that vanished together are held until they are back or someone confirms. Its servers are loopback scripts."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from kubernetes.aio import client as k8s
from tests.real.proxy import Action, Answer, Proxy, Seen
from tests.unit.test_delivery_survey import EXPERIMENT, NOWHERE, said

from pipetrail import api, observe
from pipetrail.api import TargetRef
from pipetrail.delivery.dispatch import Dispatch
from pipetrail.delivery.ledger import Entry, Ledger
from pipetrail.delivery.orphans import bearable
from pipetrail.kube import Kube
from pipetrail.readers.live import LiveReader
from pipetrail.settings import Settings
from pipetrail.sources import argo
from pipetrail.targets.addresses import ANYWHERE

A = TargetRef(kind="TrackingTarget", name="a", namespace="team")
B = TargetRef(kind="TrackingTarget", name="b", namespace="team")
MANY = 25


def entry(n: int, ref: TargetRef = A) -> Entry:
    run = api.RunRef(source="argo", name=f"run-{n}", uid=f"u{n}", key=f"c/u{n}")
    return Entry(
        name=api.tracked_run_name(run.name, run.uid, ref), namespace="team", version="1",
        spec=api.TrackedRunSpec(run=run, target=ref, policy=api.Policy(), experiment="e"),
        status=api.TrackedRunStatus(phase="Tracking"),
    )  # fmt: skip


class Cluster:
    """An API server with TrackedRuns and without the Workflows that are `gone`; its list may be refused."""

    def __init__(self, *entries: Entry) -> None:
        self.entries = {e.name: e for e in entries}
        self.gone = {e.spec.run.name for e in entries}
        self.unlisted: set[str] = set()  # a list leaves them out, and they stand
        self.no_workflows = False
        self.asked: list[str] = []
        self.written: list[tuple[str, str]] = []
        self.conditions: list[tuple[str, list[str]]] = []
        self.events: list[tuple[str, str]] = []

    def decide(self, seen: Seen) -> Action:
        name = seen.path.rstrip("/").split("/")[-1 if seen.method == "GET" else -2]
        if seen.method == "PATCH" and "/trackedruns/" in seen.path:
            return self._status(self.entries[name], msgspec.json.decode(seen.body)["status"])
        if seen.method == "PATCH" and "/trackingtargets/" in seen.path:
            status = msgspec.json.decode(seen.body)["status"]
            self.conditions.append((name, [c["type"] for c in status["conditions"]]))
            return said({})
        if seen.method == "POST" and seen.path.endswith("/events"):
            body = msgspec.json.decode(seen.body)
            self.events.append((body["involvedObject"]["name"], body["reason"]))
            return said({})
        if "/workflows" in seen.path and self.no_workflows:
            return said({"reason": "NotFound"}, 404)
        if seen.path.endswith("/workflows"):
            listed = [e for e in self.entries.values() if e.spec.run.name not in self.gone | self.unlisted]
            standing = {e.spec.run.uid: e for e in listed}
            return said({"metadata": {}, "items": [self._workflow(e) for e in standing.values()]})
        if "/workflows/" in seen.path:
            self.asked.append(name)
            there = next((e for e in self.entries.values() if e.spec.run.name == name), None)
            if there is not None and name not in self.gone:
                return said(self._workflow(there))
        return said({"reason": "NotFound"}, 404)

    def _workflow(self, there: Entry) -> Any:
        run = there.spec.run
        return {"metadata": {"name": run.name, "namespace": "team", "uid": run.uid, "resourceVersion": "1"}}

    def _status(self, before: Entry, patch: Any) -> Answer:
        self.written.append((before.spec.target.name, patch.get("reason", "")))
        status = {k: v for k, v in patch.items() if v is not None}
        meta = {"name": before.name, "namespace": "team", "resourceVersion": "2"}
        return said({"metadata": meta, "spec": api.to_json(before.spec), "status": status})

    @property
    def held(self) -> set[str]:
        """Targets whose conditions say now that runs are held."""
        return {name for name, kinds in dict(self.conditions).items() if api.HELD in kinds}


def found(ref: TargetRef, address: str, **more: Any) -> api.FoundTarget:
    spec = api.TargetSpec(backend=api.Backend(mlflow=api.MlflowBackend(tracking_uri=f"{address}/{ref.name}")))
    return api.FoundTarget(ref=ref, spec=spec, uid=ref.name, generation=1, **more)


def nothing_there(seen: Seen) -> Action:
    """An MLflow that has no run of ours."""
    if seen.path.endswith("get-by-name"):
        return said(EXPERIMENT)
    return said({"runs": []} if seen.path.endswith("runs/search") else {"experiments": []})


class House:
    """An operator that knows what the cluster's TrackedRuns say."""

    def __init__(self, dispatch: Dispatch, mlflow: Proxy) -> None:
        self.dispatch = dispatch
        self.mlflow = mlflow
        self.address = mlflow.url

    async def survey(self) -> None:
        await self.dispatch.survey.once()

    def see(self, ref: TargetRef, **more: Any) -> None:
        self.dispatch.saw_target(found(ref, self.address, **more), deleted=False)

    def confirm(self, ref: TargetRef) -> None:
        seat = self.dispatch.roster.get(ref)
        assert seat is not None
        assert seat.hold is not None
        self.see(ref, confirmed=seat.hold.last_transition_time)


@asynccontextmanager
async def operator(cluster: Cluster, hold: api.Condition | None = None) -> AsyncIterator[House]:
    async with Proxy(NOWHERE) as server, Proxy(NOWHERE) as mlflow, Kube(k8s.Configuration(host=server.url)) as kube:
        server.decide, mlflow.decide = cluster.decide, nothing_there
        dispatch = Dispatch(kube, Ledger(kube, "me/1"), LiveReader(kube), Settings(), "c", addresses=ANYWHERE)
        dispatch.survey.gone_s = 0.0
        house = House(dispatch, mlflow)
        for ref in {e.spec.target.name: e.spec.target for e in cluster.entries.values()}.values():
            house.see(ref, hold=hold)
        async with asyncio.timeout(30):
            while not all(seat.ready for seat in dispatch.roster.seats()):  # noqa: ASYNC110  a seat tells nobody
                await asyncio.sleep(0.02)
        for each in cluster.entries.values():
            dispatch.book.add(each)
        yield house
        await dispatch.roster.close()


@pytest.mark.parametrize(("unsettled", "most"), [(0, 20), (25, 20), (100, 20), (1000, 200)])
def test_more_than_20_and_more_than_a_fifth_are_too_many(unsettled: int, most: int) -> None:
    assert bearable(unsettled) == most


async def test_twenty_that_are_gone_are_closed() -> None:
    cluster = Cluster(*(entry(n) for n in range(20)))
    async with operator(cluster) as house:
        await house.survey()
    assert cluster.written == [("a", "SourceDeleted")] * 20
    assert cluster.held == set()


async def test_more_are_held_and_said_once_and_no_more_is_asked_than_it_takes_to_know() -> None:
    cluster = Cluster(*(entry(n) for n in range(MANY * 4)))
    before = observe.counts["lost"]
    async with operator(cluster) as house:
        await house.survey()
        await house.survey()
        assert (house.dispatch.orphans.held, cluster.held) == (MANY * 4, {"a"})
    assert cluster.written == []
    assert len(cluster.asked) == 2 * 21
    assert [reason for _, reason in cluster.events if reason != "Ready"] == [api.HELD]
    assert observe.counts["lost"] == before


async def test_a_fifth_of_many_that_is_gone_is_closed() -> None:
    cluster = Cluster(*(entry(n) for n in range(MANY * 6)))
    cluster.gone = {f"run-{n}" for n in range(MANY)}
    async with operator(cluster) as house:
        await house.survey()
    assert len(cluster.written) == MANY


async def test_what_is_confirmed_is_closed_and_what_comes_later_is_held_again() -> None:
    cluster = Cluster(*(entry(n) for n in range(MANY)))
    before = observe.counts["lost"]
    async with operator(cluster) as house:
        await house.survey()
        house.dispatch.survey.due.clear()
        house.confirm(A)
        assert house.dispatch.survey.due.is_set()
        await house.survey()
        assert cluster.written == [("a", "SourceDeleted")] * MANY
        assert observe.counts["lost"] - before == MANY
        await house.survey()
        assert (house.dispatch.orphans.held, cluster.held) == (0, set())
        later = [entry(n) for n in range(100, 100 + MANY)]
        cluster.entries |= {e.name: e for e in later}
        cluster.gone |= {e.spec.run.name for e in later}
        for each in later:
            house.dispatch.book.add(each)
        await asyncio.sleep(1.1)  # conditions have seconds
        await house.survey()
        assert (len(cluster.written), cluster.held) == (MANY, {"a"})


async def test_runs_that_are_back_are_held_no_more_and_none_was_closed() -> None:
    cluster = Cluster(*(entry(n) for n in range(MANY)))
    async with operator(cluster) as house:
        await house.survey()
        assert cluster.held == {"a"}
        cluster.gone = set()
        await house.survey()
        assert (house.dispatch.orphans.held, cluster.held) == (0, set())
    assert cluster.written == []
    assert [reason for _, reason in cluster.events if reason != "Ready"] == [api.HELD, "MassOrphanGuardLifted"]


async def test_a_run_that_is_back_when_it_is_asked_for_is_neither_closed_nor_held() -> None:
    cluster = Cluster(entry(1))
    cluster.gone, cluster.unlisted = set(), {"run-1"}
    async with operator(cluster) as house:
        await house.survey()
        assert (cluster.asked, house.dispatch.orphans.held) == (["run-1"], 0)
    assert (cluster.written, cluster.held) == ([], set())


async def test_a_target_that_holds_goes_on_holding_until_none_of_its_runs_is_missing() -> None:
    """One target's runs are confirmed and closed; that leaves fewer than are too many, and of them none is closed."""
    cluster = Cluster(*(entry(n) for n in range(MANY)), *(entry(n, B) for n in range(50, 60)))
    async with operator(cluster) as house:
        await house.survey()
        assert cluster.held == {"a", "b"}
        house.confirm(A)
        await house.survey()
        await house.survey()
    assert cluster.written == [("a", "SourceDeleted")] * MANY
    assert cluster.held == {"b"}


async def test_a_hold_outlives_the_process_that_said_it() -> None:
    hold = api.Condition(
        type="MassOrphanGuard", status="True", reason="MassOrphanGuard", last_transition_time="2026-01-02T03:04:05Z"
    )
    cluster = Cluster(*(entry(n) for n in range(3)))
    async with operator(cluster, hold) as house:
        house.dispatch.survey.gone_s = 60.0  # they are missing, and not yet for good
        await house.survey()
        house.dispatch.survey.gone_s = 0.0
        await house.survey()
        assert (cluster.written, cluster.held) == ([], {"a"})
        assert [reason for _, reason in cluster.events if reason != "Ready"] == []
        house.see(A, confirmed="2026-01-02T03:04:05Z", hold=hold)
        await house.survey()
    assert len(cluster.written) == 3


async def test_where_there_are_no_workflows_at_all_even_one_is_held() -> None:
    cluster = Cluster(entry(1))
    cluster.no_workflows = True
    async with operator(cluster) as house:
        await house.survey()
        assert (cluster.written, cluster.held) == ([], {"a"})
        house.confirm(A)
        await house.survey()
    assert cluster.written == [("a", "SourceDeleted")]


async def test_nothing_is_parted_with_before_the_watches_have_told_what_they_missed() -> None:
    cluster = Cluster(entry(1))
    async with operator(cluster) as house:
        house.dispatch.survey.told = lambda: False
        await house.survey()
        assert (cluster.written, cluster.asked) == ([], [])


async def test_a_run_that_is_kept_elsewhere_is_no_orphan() -> None:
    cluster = Cluster(*(entry(n) for n in range(MANY)))
    async with operator(cluster) as house:
        house.dispatch.copies.complete = False  # its store does not say what it keeps
        await house.survey()
    assert (cluster.written, cluster.asked, cluster.held) == ([], [], set())


async def test_a_forged_uid_is_not_taken_for_the_run_of_another_namespace_that_has_it() -> None:
    cluster = Cluster(entry(1))
    async with operator(cluster) as house:
        theirs = {"metadata": {"name": "run-1", "namespace": "another-team", "uid": "u1", "resourceVersion": "1"}}
        house.dispatch.runs.upsert(argo.header(theirs)).bury(theirs)
        await house.survey()
    assert cluster.written == [("a", "SourceDeleted")]


async def test_one_that_its_tracker_does_not_let_be_closed_is_tried_again_though_nothing_else_happens() -> None:
    cluster = Cluster(entry(1))
    async with operator(cluster) as house:
        survey = house.dispatch.survey
        survey.held_every_s = 0.1
        house.mlflow.decide = lambda _: Answer(503, b"")
        working = asyncio.create_task(survey.run())
        survey.due.set()
        async with asyncio.timeout(60):
            while survey.passes < 3:  # noqa: ASYNC110  a survey tells nobody
                await asyncio.sleep(0.02)
            before = list(cluster.written)
            house.mlflow.decide = nothing_there
            while not cluster.written:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        working.cancel()
        await asyncio.wait([working])
    assert (before, cluster.written) == ([], [("a", "SourceDeleted")])
