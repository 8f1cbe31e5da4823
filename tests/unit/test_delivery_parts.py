"""Parts of delivery: times of points that are sent again, facts that come during a list, a ledger without a place."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from kubernetes.aio import client as k8s
from msgspec.structs import replace
from tests.real.proxy import Answer, Proxy

from pipetrail import api
from pipetrail.delivery import plan as plans
from pipetrail.delivery.book import Book
from pipetrail.delivery.courier import Courier
from pipetrail.delivery.lane import Limiter
from pipetrail.delivery.ledger import Entry, Ledger
from pipetrail.delivery.memo import MEMO_POINTS, MEMO_RECORDS, Memo
from pipetrail.delivery.progress import Progress
from pipetrail.delivery.runs import Runs, RunState
from pipetrail.kube import ApiError, Kube
from pipetrail.readers import argo as objects
from pipetrail.record import FromStdout, Key, Outcome, Point, Record, Step
from pipetrail.sources import argo
from pipetrail.targets.mlflow.target import MlflowTarget
from pipetrail.targets.target import Batch, Metric, Retry, TrackerRun, Tree

NOWHERE = "http://127.0.0.1:9"
RUN = api.RunRef(source="argo", name="run", uid="u", key="c/u")
REF = api.TargetRef(kind="TrackingTarget", name="mlflow", namespace="team")
START = datetime(2026, 1, 1, tzinfo=UTC)


def points(*times_ms: int) -> tuple[Metric, ...]:
    return tuple(Metric(key="loss", value=0.5, step=1, time_ms=ms) for ms in times_ms)


def test_a_point_that_may_have_arrived_keeps_the_time_that_it_was_sent_with() -> None:
    tried = plans.times(Batch(metrics=points(1000)))
    assert plans.as_tried(Batch(metrics=points(1007)), tried) == Batch(metrics=points(1000))


def test_of_two_equal_points_the_one_that_is_still_missing_keeps_its_own_time() -> None:
    tried = plans.times(Batch(metrics=points(1000, 2000)))
    assert plans.as_tried(Batch(metrics=points(2000)), tried) == Batch(metrics=points(2000))


async def test_a_write_that_is_sent_again_after_a_time_became_exact_is_the_same_write() -> None:
    created = {"run": {"info": {"run_id": "0" * 32, "experiment_id": "1"}}}
    experiment = {"experiment": {"experiment_id": "1", "lifecycle_stage": "active"}}
    broken = [True]

    def decide(seen: Any) -> Answer:
        if seen.path.endswith("log-batch") and broken:
            broken.pop()
            return Answer(502, b"")
        body = created if seen.path.endswith("runs/create") else experiment if "by-name" in seen.path else {}
        return Answer(200, msgspec.json.encode(body))

    def tree(time_ms: int) -> Tree:
        return Tree(
            parent=TrackerRun(
                key="c/u", root="c/u", experiment="e", name="run", status="Running", started=START,
                metrics=points(time_ms),
            )
        )  # fmt: skip

    record = Record(
        key=Key(cluster="c", uid="u", generation=""), source="argo", name="run", namespace="team", pipeline="p",
        outcome=Outcome(status="running"),
    )  # fmt: skip
    status = api.TrackedRunStatus(phase="Tracking", external_id="0" * 32)
    spec = api.TrackedRunSpec(run=RUN, target=REF, policy=api.Policy())
    progress = Progress(Entry(name="run-1", namespace="team", version="1", spec=spec, status=status), unsure=False)
    async with Proxy(NOWHERE) as mlflow, Kube(k8s.Configuration(host=NOWHERE)) as kube:
        mlflow.decide = decide
        target = MlflowTarget(mlflow.url)
        courier = Courier(target, Ledger(kube, "me/1"), Limiter(1000.0))
        with pytest.raises(Retry):
            await courier.deliver(progress, tree(1000), record)
        await courier.deliver(progress, tree(1007), record)
        await target.close()
        sent = [msgspec.json.decode(call.body)["metrics"] for call in mlflow.calls("log-batch")]
    assert sent[0] == sent[1]


@pytest.fixture
async def answering() -> AsyncIterator[tuple[Proxy, Kube]]:
    async with Proxy(NOWHERE) as server, Kube(k8s.Configuration(host=server.url)) as kube:
        yield server, kube


@pytest.mark.parametrize(
    ("status", "reason", "message"),
    [
        (403, "Forbidden", "unable to create new content in namespace team because it is being terminated"),
        (404, "NotFound", 'namespaces "team" not found'),
    ],
)  # fmt: skip
async def test_a_run_of_a_namespace_that_is_being_deleted_is_delivered_without_a_tracked_run(
    answering: tuple[Proxy, Kube], status: int, reason: str, message: str
) -> None:
    server, kube = answering
    server.decide = lambda _: Answer(status, msgspec.json.encode({"reason": reason, "message": message}))
    ledger = Ledger(kube, "me/1")
    entry, fresh = await ledger.intent("team", RUN, REF, api.Policy(), experiment="e")
    assert not fresh
    settled = await ledger.write(entry, phase="Synced")
    assert settled.settled
    await ledger.forget(settled)
    assert [call.method for call in server.calls()] == ["POST"]


async def test_a_namespace_that_we_may_not_write_to_is_an_error_all_the_same(answering: tuple[Proxy, Kube]) -> None:
    server, kube = answering
    server.decide = lambda _: Answer(403, b'{"reason": "Forbidden", "message": "no rule allows it"}')
    with pytest.raises(ApiError):
        await Ledger(kube, "me/1").intent("team", RUN, REF, api.Policy(), experiment="e")


async def test_pods_of_a_run_whose_name_is_too_long_for_a_label_are_not_asked_for(
    answering: tuple[Proxy, Kube],
) -> None:
    server, kube = answering
    header = argo.header({"metadata": {"uid": "u", "name": "n" * 64, "namespace": "team"}})
    assert await objects.facts(kube, header) == argo.RunFacts()
    assert server.calls() == []


async def test_what_events_say_while_a_list_is_read_is_kept() -> None:
    state = RunState(argo.header({"metadata": {"uid": "u", "name": "run", "namespace": "team"}}))
    before = state.facts
    early = argo.ResultFacts(node_id="a", owner_uid="u", namespace="team", complete=True, outputs={"result": "1"})
    state.facts = state.facts.with_result(early).gone()
    listed = argo.RunFacts().with_result(argo.ResultFacts(node_id="b", owner_uid="u", complete=True))
    state.learn(listed, before)
    assert set(state.facts.results) == {"a", "b"}
    assert state.facts.deleted


@pytest.mark.parametrize("first", ["the fact", "the run"])
async def test_a_fact_of_another_namespace_never_counts_whoever_it_names_as_its_owner(first: str) -> None:
    run = argo.header({"metadata": {"uid": "u", "name": "run", "namespace": "team"}})
    forged = argo.ResultFacts(node_id="a", owner_uid="u", namespace="another-team", complete=True)
    true = argo.ResultFacts(node_id="a", owner_uid="u", namespace="team", complete=True, outputs={"result": "1"})
    runs = Runs()
    if first == "the run":
        runs.upsert(run)
    for fact in (true, forged):
        runs.add("u", fact, fact.node_id)
    assert dict(runs.upsert(run).facts.results) == {"a": true}


def test_an_entry_speaks_for_runs_of_its_own_namespace_alone() -> None:
    cluster = api.TargetRef(kind="ClusterTrackingTarget", name="all")
    spec = api.TrackedRunSpec(run=RUN, target=cluster, policy=api.Policy())
    book = Book()
    true = Entry(name="n", namespace="team", version="1", spec=spec, status=api.TrackedRunStatus())
    forged = msgspec.structs.replace(true, namespace="another-team", spec=msgspec.structs.replace(spec, attempt=9))
    for entry in (true, forged):
        book.add(entry)
    assert book.get(("team", "u"), cluster) == true
    book.drop(forged)
    assert book.of(("team", "u")) == (true,)


def test_the_memory_of_records_is_bounded_in_runs_and_points_and_holds_a_run_once() -> None:
    def record(n: int) -> Record:
        point = Point(key="loss", value=0.5, step=1, time=START, source=FromStdout())
        return Record(
            key=Key(cluster="c", uid="u", generation=""), source="argo", name="run", namespace="team", pipeline="p",
            outcome=Outcome(status="running"),
            steps=(Step(path="a", name="a", outcome=Outcome(status="running"), points=(point,) * n),),
        )  # fmt: skip

    memo = Memo()
    memo.put("u", "p", ("1", 0), record(1))
    memo.put("u", "p", ("2", 0), record(2))
    assert memo.get("u", "p", ("1", 0)) is None
    assert memo.get("u", "p", ("2", 0)) == record(2)
    for n in range(MEMO_RECORDS):
        memo.put(str(n), "p", ("1", 0), record(1))
    assert memo.get("u", "p", ("2", 0)) is None
    memo.put("big", "p", ("1", 0), record(MEMO_POINTS + 1))
    assert [uid for uid in ("big", "0", "63") if memo.get(uid, "p", ("1", 0))] == []
    memo.put("u", "p", ("3", 0), record(2))
    assert memo.get("u", "p", ("3", 0)) == record(2)


@pytest.mark.looptime
async def test_what_is_missing_is_tried_again_after_growing_pauses_that_news_of_the_run_do_not_lengthen() -> None:
    spec = api.TrackedRunSpec(run=RUN, target=REF, policy=api.Policy())
    entry = Entry(name="run-1", namespace="team", version="1", spec=spec, status=api.TrackedRunStatus())
    progress = Progress(entry, unsure=False)
    for pause_s in (2, 4, 8, 16, 32, 64, 128, 256, 300, 300):
        assert progress.wait_s() == pytest.approx(pause_s, abs=0.01)
        await asyncio.sleep(1)
        assert progress.wait_s() == pytest.approx(pause_s - 1, abs=0.01)
        await asyncio.sleep(pause_s - 1)
    progress.has_all()
    assert progress.wait_s() == pytest.approx(2, abs=0.01)


async def test_a_result_that_says_what_is_known_is_no_news_whatever_its_version() -> None:
    runs = Runs()
    state = runs.upsert(argo.Header(uid="u", name="run", namespace="team"))
    first = argo.ResultFacts(node_id="n", owner_uid="u", namespace="team", version="1", complete=True, outputs={"a": 1})
    assert runs.add("u", first, "n") is state
    assert runs.add("u", replace(first, version="2"), "n") is None
    assert runs.add("u", replace(first, version="2", outputs={"a": 2}), "n") is state
