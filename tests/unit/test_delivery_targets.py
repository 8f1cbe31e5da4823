"""Targets that are edited, deleted and made anew while they are being looked at, and who is remembered for them.

The trackers are loopback servers that answer by script; the API server is away, so that a status is never written.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from kubernetes.aio import client as k8s
from tests.real.proxy import Action, Answer, Proxy, Seen, Stall

from pipetrail import api, shards
from pipetrail.api import TargetRef
from pipetrail.delivery.dispatch import Dispatch
from pipetrail.delivery.housekeeping import KEEP_SETTLED_S
from pipetrail.delivery.lane import Done, Lane
from pipetrail.delivery.ledger import Entry, Ledger
from pipetrail.delivery.seat import Seat
from pipetrail.kube import Kube
from pipetrail.readers.live import LiveReader
from pipetrail.settings import Settings
from pipetrail.sources import argo
from pipetrail.targets.addresses import ANYWHERE

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
async def dispatch() -> AsyncIterator[Dispatch]:
    async with Kube(k8s.Configuration(host=NOWHERE)) as kube:
        made = Dispatch(kube, Ledger(kube, "me/1"), LiveReader(kube), Settings(), "c", addresses=ANYWHERE)
        yield made
        await made.roster.close()
        await asyncio.sleep(0)


def target(name: str, address: str, *, uid: str = "1", generation: int = 1, made: int = 1) -> api.FoundTarget:
    found = api.decode_target(
        {
            "apiVersion": api.API_VERSION, "kind": "TrackingTarget",
            "metadata": {
                "name": name, "namespace": "team", "uid": uid, "generation": generation,
                "creationTimestamp": f"2026-01-01T00:00:{made:02}Z",
            },
            "spec": {"backend": {"mlflow": {"trackingUri": address}}},
        }
    )  # fmt: skip
    assert isinstance(found, api.FoundTarget)
    return found


def workflow(uid: str) -> Any:
    return {
        "metadata": {"uid": uid, "name": "run", "namespace": "team", "creationTimestamp": "2026-01-02T00:00:00Z"},
        "status": {"phase": "Succeeded", "startedAt": "2026-01-02T00:00:00Z", "finishedAt": "2026-01-02T00:01:00Z"},
    }


def entry(ref: TargetRef, phase: api.SyncPhase) -> Entry:
    run = api.RunRef(source="argo", name="run", uid="u", key="c/u", generation="2026-01-02T00:00:00Z")
    return Entry(
        name=f"run-{ref.name}", namespace="team", version="1",
        spec=api.TrackedRunSpec(run=run, target=ref, policy=api.Policy()),
        status=api.TrackedRunStatus(phase=phase, generation="2026-01-02T00:00:00Z"),
    )  # fmt: skip


def answers(_: Seen) -> Action:
    return Answer(200, b'{"experiments": []}')


async def leads_to(dispatch: Dispatch, ref: TargetRef, address: str) -> None:
    async with asyncio.timeout(5):
        while True:
            seat = dispatch.roster.get(ref)
            if seat is not None and seat.courier is not None and address in repr(seat.target):
                return
            await asyncio.sleep(0.02)


async def test_a_target_that_is_edited_while_it_is_looked_at_never_leads_to_its_old_address(dispatch: Dispatch) -> None:
    asked = asyncio.Event()

    def slow(_: Seen) -> Action:
        asked.set()
        return Stall(seconds=0.3)

    async with Proxy(NOWHERE) as old, Proxy(NOWHERE) as new:
        old.decide, new.decide = slow, answers
        before, after = target("mlflow", old.url), target("mlflow", new.url, generation=2)
        dispatch.saw_target(before, deleted=False)
        async with asyncio.timeout(5):
            await asked.wait()
        dispatch.saw_target(after, deleted=False)
        await leads_to(dispatch, after.ref, new.url)


async def test_a_target_that_is_met_again_while_it_is_looked_at_is_ready_at_once(dispatch: Dispatch) -> None:
    """As at each start: it is listed, and then told by the watch. It was looked at again, but 30 s later."""
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def waits(seen: Seen, _: int) -> None:
        if seen.path.endswith("/experiments/search"):
            asked.set()
            await go_on.wait()

    async with Proxy(NOWHERE) as tracker:
        tracker.decide, tracker.on_request = answers, waits
        found = target("mlflow", tracker.url)
        dispatch.saw_target(found, deleted=False)
        await asked.wait()
        dispatch.saw_target(target("mlflow", tracker.url), deleted=False)
        go_on.set()
        await leads_to(dispatch, found.ref, tracker.url)


async def test_a_target_that_is_replaced_stands_whatever_the_order_of_the_events(dispatch: Dispatch) -> None:
    async with Proxy(NOWHERE) as server:
        server.decide = answers
        old = target("mlflow", server.url, uid="old", made=1)
        new = target("mlflow", server.url, uid="new", made=2)
        dispatch.saw_target(old, deleted=False)
        dispatch.saw_target(old, deleted=True)
        dispatch.saw_target(new, deleted=False)
        await leads_to(dispatch, new.ref, server.url)
        dispatch.saw_target(old, deleted=True)
        dispatch.saw_target(old, deleted=False)
        await asyncio.sleep(0.1)
        seat = dispatch.roster.get(new.ref)
        assert seat is not None
        assert seat.found.uid == "new"


async def test_a_deleted_run_is_remembered_until_each_of_its_targets_has_it(dispatch: Dispatch) -> None:
    near, far = target("near", NOWHERE), target("far", "http://127.0.0.1:10")
    for found in (near, far):
        dispatch.saw_target(found, deleted=False)
    dispatch.book.add(entry(near.ref, "Synced"))
    dispatch.book.add(entry(far.ref, "Tracking"))
    dispatch.saw_run(argo.header(workflow("u")), workflow("u"), fresh=True)
    state = dispatch.runs.get("u")
    assert state is not None
    state.settled_at = asyncio.get_running_loop().time() - KEEP_SETTLED_S - 1

    await dispatch.housekeeping.tidy()
    assert dispatch.runs.get("u") is state, "the far tracker still waits for its last body"

    dispatch.book.add(entry(far.ref, "Synced"))
    await dispatch.housekeeping.tidy()
    assert dispatch.runs.get("u") is None


async def test_a_target_that_cannot_be_read_is_told_so_once_though_what_is_written_comes_back_as_an_event() -> None:
    async with Proxy(NOWHERE) as server, Kube(k8s.Configuration(host=server.url)) as kube:
        server.decide = lambda _: Answer(200, b"{}")
        dispatch = Dispatch(kube, Ledger(kube, "me/1"), LiveReader(kube), Settings(), "c", addresses=ANYWHERE)
        wrong = api.InvalidTarget(
            ref=target("mlflow", NOWHERE).ref, reason="InvalidSpec", message="spec: no", uid="1", generation=3
        )
        for _ in range(3):
            dispatch.saw_target(wrong, deleted=False)
            await asyncio.sleep(0.1)
        assert len(server.calls("/status", "PATCH")) == 1


async def test_a_shard_looks_after_its_own_namespaces_targets_and_has_a_part_of_the_clusters() -> None:
    there = [shard for number in (0, 1) if (shard := shards.Cut(edges=(shards.place("team"),)).share(number))]
    async with Kube(k8s.Configuration(host=NOWHERE)) as kube:
        seen = []
        for share in there:
            made = Dispatch(
                kube, Ledger(kube, "me/1"), LiveReader(kube), Settings(), "c", addresses=ANYWHERE, share=share
            )
            own = target("own", NOWHERE)
            whole = msgspec.structs.replace(own, ref=TargetRef(kind="ClusterTrackingTarget", name="all"))
            for found in (own, whole):
                made.saw_target(found, deleted=False)
            seen.append({seat.ref.name: seat.lane.limiter.rate for seat in made.roster.seats()})
            await made.close()
    assert seen == [{"all": 25.0}, {"own": 50.0, "all": 25.0}]


async def test_what_a_shard_holds_is_confirmed_by_the_time_of_the_last_shard_and_nothing_later_is() -> None:
    def held_since(second: int, confirmed: int, share: shards.Share) -> bool:
        said = api.ShardStatus(shard=0, held_since=f"2026-01-01T00:00:{second:02}Z")
        found = msgspec.structs.replace(
            target("all", NOWHERE), ref=TargetRef(kind="ClusterTrackingTarget", name="all"), shards=(said,),
            confirmed=f"2026-01-01T00:00:{confirmed:02}Z", hold=None,
        )  # fmt: skip

        async def never(_: str) -> Done:
            return Done()

        seat = Seat(found, Lane(never, concurrency=1, requests_per_second=1), share)
        return seat.close_confirmed

    half = shards.Cut(edges=(shards.TOP // 2,)).share(0)
    assert half is not None
    assert [held_since(second, 7, half) for second in (5, 7, 9)] == [True, True, False]
    assert not held_since(5, 7, shards.WHOLE)  # alone it looks at the target's own condition
