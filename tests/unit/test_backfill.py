"""What a tour takes up, in which order, and what it says. API server and archive are loopback servers with a script."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from kubernetes.aio import client as k8s
from tests.real.proxy import Action, Answer, Proxy, Seen
from tests.unit.test_delivery_survey import NOWHERE, REF, said

from pipetrail import api
from pipetrail.delivery import backfill
from pipetrail.delivery.candidates import Chosen, in_turns
from pipetrail.delivery.dispatch import Dispatch
from pipetrail.delivery.ledger import Entry, Ledger
from pipetrail.kube import Kube
from pipetrail.readers.archive import ArgoArchive
from pipetrail.readers.live import LiveReader
from pipetrail.settings import Settings
from pipetrail.targets.addresses import ANYWHERE

ASKED = datetime(2026, 12, 1, tzinfo=UTC)
MADE = datetime(2026, 11, 1, tzinfo=UTC)
Status = dict[str, Any]


def run(name: str, *, ended: str = "2026-10-02T00:00:00Z", created: str = "2026-10-01T00:00:00Z", **labels: str) -> Any:
    meta = {
        "name": name, "uid": name, "namespace": "team", "resourceVersion": "1", "creationTimestamp": created,
        "labels": labels,
    }  # fmt: skip
    return {"metadata": meta, "status": {"phase": "Succeeded", "startedAt": created, "finishedAt": ended}}


class Cluster:
    """Workflows by name, one namespace, and what was said on the target."""

    def __init__(self, *runs: Any, namespace_since: str = "2026-01-01T00:00:00Z") -> None:
        self.runs = {one["metadata"]["name"]: one for one in runs}
        self.namespace_since = namespace_since
        self.said: list[Status] = []
        self.list_answer: Action | None = None

    def decide(self, seen: Seen) -> Action:
        if seen.method == "PATCH":
            status = msgspec.json.decode(seen.body)["status"]
            if "backfill" in status and status["backfill"] not in self.said[-1:]:
                self.said.append(status["backfill"])
            return said({})
        if seen.ends("/workflows"):
            return self.list_answer or said({"metadata": {}, "items": list(self.runs.values())})
        if "/workflows/" in seen.path and seen.path.rpartition("/")[2] in self.runs:
            return said(self.runs[seen.path.rpartition("/")[2]])
        if seen.ends("/namespaces/team"):
            return said({"metadata": {"name": "team", "creationTimestamp": self.namespace_since}})
        return Answer(404, b'{"reason": "NotFound"}')


def wish(**how: Any) -> str:
    return msgspec.json.encode(api.BackfillWish(asked=ASKED, **how)).decode()


def found(text: str, **how: Any) -> api.FoundTarget:
    spec = api.TargetSpec(backend=api.Backend(mlflow=api.MlflowBackend(tracking_uri=NOWHERE)), suspend=True)
    return api.FoundTarget(ref=REF, spec=spec, created=MADE, backfill=text, **how)


@asynccontextmanager
async def operator(
    cluster: Cluster, text: str, *, archived: Callable[[Seen], Action] | None = None, **how: Any
) -> AsyncIterator[Dispatch]:
    """One whose target sends nothing: what is taken up waits in its lane."""
    async with Proxy(NOWHERE) as server, Proxy(NOWHERE) as argo, Kube(k8s.Configuration(host=server.url)) as kube:
        server.decide = cluster.decide
        archive = None
        if archived is not None:
            argo.decide = archived
            archive = ArgoArchive(argo.url)
        dispatch = Dispatch(
            kube, Ledger(kube, "me/1"), LiveReader(kube), Settings(), "c", addresses=ANYWHERE, archive=archive
        )
        dispatch.saw_target(found(text, **how), deleted=False)
        task = asyncio.create_task(dispatch.backfills.run())
        try:
            yield dispatch
        finally:
            task.cancel()
            await asyncio.wait([task])
            await dispatch.roster.close()
            if archive is not None:
                await archive.close()


async def until(ask: Callable[[], Any]) -> Any:
    async with asyncio.timeout(30):
        while not (answer := ask()):  # noqa: ASYNC110  a lane tells nobody
            await asyncio.sleep(0.01)
    return answer


def waiting(dispatch: Dispatch) -> int:
    seat = dispatch.roster.get(REF)
    return 0 if seat is None else seat.lane.waiting


async def test_older_runs_wait_in_the_lane_and_those_that_opted_out_or_run_do_not() -> None:
    live = run("live")
    live["status"] = {"phase": "Running", "startedAt": "2026-10-01T00:00:00Z"}
    cluster = Cluster(run("a"), run("b"), run("out", **{"pipetrail.dev/track": "false"}), live)
    async with operator(cluster, wish()) as dispatch:
        await until(lambda: waiting(dispatch) == 2)
        assert {state.uid for state in dispatch.runs.all()} == {"a", "b"}
        said = await until(lambda: [s for s in cluster.said if s["phase"] == "Sending"])
        assert (said[-1]["chosen"], said[-1]["left"]) == (2, [{"rule": "OptOut", "runs": 1}])
        await dispatch.housekeeping.tidy()  # nothing else wants them, and they are not forgotten
        assert waiting(dispatch) == len(dispatch.runs.all()) == 2


async def test_no_more_than_a_few_stand_in_the_lane_at_a_time() -> None:
    cluster = Cluster(*(run(f"r{n}") for n in range(backfill.WAITING_MOST + 50)))
    async with operator(cluster, wish()) as dispatch:
        await until(lambda: waiting(dispatch) == backfill.WAITING_MOST)
        await asyncio.sleep(0.3)
        assert waiting(dispatch) == backfill.WAITING_MOST


async def test_what_is_settled_is_passed_by_and_counted() -> None:
    cluster = Cluster(run("before"), run("now"), run("given-up"))
    phases = {"before": ("Synced", "2026-11-30T00:00:00Z"), "now": ("Synced", "2026-12-01T00:00:00Z"),
              "given-up": ("Failed", "")}  # fmt: skip
    async with operator(cluster, "") as dispatch:
        for name, (phase, at) in phases.items():
            ref = api.RunRef(source="argo", name=name, uid=name, key=f"c/{name}", generation="2026-10-01T00:00:00Z")
            spec = api.TrackedRunSpec(run=ref, target=REF, policy=api.Policy())
            status = api.TrackedRunStatus(phase=phase, settled_at=at, generation="2026-10-01T00:00:00Z")
            dispatch.book.add(Entry(name=name, namespace="team", version="1", spec=spec, status=status))
        dispatch.saw_target(found(wish()), deleted=False)
        done = await until(lambda: [s for s in cluster.said if s["phase"] == "Done"])
        assert {k: done[0][k] for k in ("chosen", "sent", "already", "failed")} == {
            "chosen": 3, "sent": 1, "already": 1, "failed": 1,
        }  # fmt: skip
        assert waiting(dispatch) == 0


async def test_one_that_is_over_is_not_done_again() -> None:
    over = api.Backfill(asked=ASKED.isoformat(), phase="Done")
    cluster = Cluster(run("a"))
    async with operator(cluster, wish(), backfilled=over) as dispatch:
        await asyncio.sleep(0.2)
        assert (waiting(dispatch), [s["phase"] for s in cluster.said]) == (0, ["Done"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("yesterday", "can't be read"),
        ('{"asked": "2026-12-01T00:00:00"}', "write the time with its zone"),
        ('{"asked": "2026-12-01T00:00:00Z", "sinse": "x"}', "sinse"),
        ("[" * 5000, "more than 4096 characters"),
        (wish(sources=("archive",)), "--argo-server"),
    ],
)
async def test_a_wish_that_can_not_be_done_says_why_once(text: str, words: str) -> None:
    cluster = Cluster(run("a"))
    async with operator(cluster, text) as dispatch:
        refused = await until(lambda: [s for s in cluster.said if s["phase"] == "Refused"])
        assert words in refused[0]["message"]
        dispatch.backfills.due.set()
        await asyncio.sleep(0.2)
        assert len([s for s in cluster.said if s["phase"] == "Refused"]) == 1
        assert waiting(dispatch) == 0


async def test_a_selector_that_the_api_server_does_not_take_says_so() -> None:
    cluster = Cluster(run("a"))
    cluster.list_answer = said({"reason": "BadRequest", "message": "unable to parse requirement"}, 400)
    async with operator(cluster, wish(selector="a==b=c")):
        refused = await until(lambda: [s for s in cluster.said if s["phase"] == "Refused"])
        assert "unable to parse requirement" in refused[0]["message"]


async def test_a_wish_that_is_taken_back_ends_and_its_runs_are_forgotten() -> None:
    cluster = Cluster(run("a"))
    async with operator(cluster, wish()) as dispatch:
        await until(lambda: waiting(dispatch) == 1)
        dispatch.saw_target(found(""), deleted=False)
        await until(lambda: not dispatch.runs.all()[0].earlier_for)
        await dispatch.housekeeping.tidy()
        assert dispatch.runs.all() == ()


def archive_of(*runs: Any) -> Callable[[Seen], Action]:
    there = {one["metadata"]["uid"]: one for one in runs}

    def decide(seen: Seen) -> Action:
        if seen.ends("/archived-workflows"):
            return said({"metadata": {}, "items": list(there.values())})
        body = there.get(seen.path.rpartition("/")[2])
        return said({}, 404) if body is None else said(body)

    return decide


async def test_what_only_the_archive_has_waits_with_its_body_and_needs_no_copy() -> None:
    cluster = Cluster(run("stands"))
    async with operator(cluster, wish(), archived=archive_of(run("stands"), run("gone"))) as dispatch:
        await until(lambda: waiting(dispatch) == 2)
        states = {state.uid: (state.gone, state.only_here) for state in dispatch.runs.all()}
        assert states == {"stands": (False, False), "gone": (True, False)}
        assert dispatch.waiting_since_deleted() == []


async def test_an_archived_run_that_is_older_than_its_namespace_may_be_another_teams() -> None:
    cluster = Cluster(namespace_since="2026-10-01T12:00:00Z")
    young = run("young", created="2026-10-01T12:00:00Z")
    async with operator(cluster, wish(), archived=archive_of(run("old"), young)) as dispatch:
        await until(lambda: waiting(dispatch) == 1)
        assert [state.uid for state in dispatch.runs.all()] == ["young"]
        assert {"rule": "OtherNamespace", "runs": 1} in cluster.said[-1]["left"]


async def test_an_archive_that_refuses_ends_the_tour_with_the_fix() -> None:
    cluster = Cluster(run("a"))
    async with operator(cluster, wish(), archived=lambda _: Answer(401)):
        refused = await until(lambda: [s for s in cluster.said if s["phase"] == "Refused"])
        assert "--argo-server-token-file" in refused[0]["message"]


def test_each_namespace_has_its_turn_and_the_newest_run_of_each_comes_first() -> None:
    days = [("big", 9), ("big", 8), ("small", 7), ("big", 6), ("small", 5), ("big", 4)]
    chosen = [Chosen(datetime(2026, 10, day, tzinfo=UTC), space, f"{space}{day}", f"{day}") for space, day in days]
    assert [c.name for c in in_turns(chosen)] == ["big9", "small7", "big8", "small5", "big6", "big4"]
