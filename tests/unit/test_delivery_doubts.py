"""A create that committed late, of a run that is gone since: the double goes, and the one that was closed stays."""

import datetime as dt
from typing import Any, Literal

import msgspec
import pytest
from msgspec.structs import replace
from tests.real.proxy import Action, Answer, Proxy, Seen
from tests.unit.test_delivery_survey import EXPERIMENT, NOWHERE, Cluster, entry, operator, said

from pipetrail.delivery.dispatch import Dispatch
from pipetrail.delivery.ledger import Entry
from pipetrail.sources import argo

OURS, LATE, CHILD = "0" * 32, "1" * 32, "2" * 32


def doubtful(age_s: float = 90.0) -> Entry:
    at = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=age_s)
    known = entry()
    status = replace(known.status, phase="Synced", doubtful_at=at.isoformat(timespec="seconds"), external_id=OURS)
    return replace(known, status=status)


def run(run_id: str, status: str, *, key: str = "c/u", started: int = 1, namespace: str = "team") -> Any:
    tags = {"pipetrail.key": key, "pipetrail.root": "c/u", "pipetrail.namespace": namespace}
    return {
        "info": {"run_id": run_id, "experiment_id": "1", "status": status, "start_time": started},
        "data": {"tags": [{"key": k, "value": v} for k, v in tags.items()]},
    }


class Mlflow:
    """Holds `runs`, and knows which of them were deleted."""

    def __init__(self, *runs: Any) -> None:
        self.runs = runs
        self.deleted: list[str] = []

    def decide(self, seen: Seen) -> Action:
        if seen.path.endswith("get-by-name"):
            return said(EXPERIMENT)
        if seen.path.endswith("runs/get"):
            return said({"run": next(run for run in self.runs if run["info"]["run_id"] in seen.query)})
        if seen.path.endswith("runs/delete"):
            self.deleted.append(msgspec.json.decode(seen.body)["run_id"])
            return said({})
        return said({"runs": self.runs} if seen.path.endswith("runs/search") else {"experiments": []})


async def looked(mlflow: Mlflow, known: Entry, *, remembered: bool = False) -> list[Any]:
    """What is written to the TrackedRun."""
    cluster = Cluster()
    async with Proxy(NOWHERE) as proxy:
        proxy.decide = mlflow.decide
        async with operator(cluster, proxy.url) as dispatch:
            dispatch.book.add(known)
            if remembered:
                _remember(dispatch)
            await dispatch.doubts.look()
    return cluster.written


def _remember(dispatch: Dispatch) -> None:
    dispatch.runs.upsert(argo.Header(uid="u", name="run", namespace="team", version="1", generation="", completed=True))


@pytest.mark.parametrize("older", [OURS, LATE])
async def test_what_came_late_is_deleted_even_if_it_is_the_older_one(older: str) -> None:
    found = [run(OURS, "FINISHED", started=1 + (older == LATE)), run(LATE, "RUNNING", started=1 + (older == OURS))]
    mlflow = Mlflow(*found, run(CHILD, "FINISHED", key="c/u/a"))
    (status,) = await looked(mlflow, doubtful())
    assert not status["doubtfulAt"]
    assert mlflow.deleted == [LATE]


@pytest.mark.parametrize("status", ["FINISHED", "RUNNING"])
async def test_what_stands_alone_stays_and_of_two_that_were_closed_both(status: str) -> None:
    mlflow = Mlflow(run(OURS, status), run(CHILD, "FINISHED", key="c/u/a"), run(LATE, "FINISHED", key="c/u/a"))
    assert len(await looked(mlflow, doubtful())) == 1
    assert mlflow.deleted == []


async def test_a_doubt_waits_for_its_minute_and_for_a_run_that_is_remembered_its_own_turn_looks() -> None:
    mlflow = Mlflow(run(OURS, "FINISHED"), run(LATE, "RUNNING"))
    assert await looked(mlflow, doubtful(20.0)) == []
    assert await looked(mlflow, doubtful(), remembered=True) == []
    assert mlflow.deleted == []


async def test_a_tracker_that_does_not_answer_is_asked_again_and_a_run_of_another_namespace_is_left_alone() -> None:
    mlflow = Mlflow(run(OURS, "FINISHED", namespace="other"), run(LATE, "RUNNING", namespace="other"))
    assert len(await looked(mlflow, doubtful())) == 1
    assert mlflow.deleted == []
    mlflow = Mlflow(run(OURS, "FINISHED"), run(LATE, "RUNNING"))
    answers = mlflow.decide
    mlflow.decide = lambda seen: Answer(503) if seen.ends("runs/search") else answers(seen)  # type: ignore[method-assign]
    assert await looked(mlflow, doubtful()) == []


@pytest.mark.parametrize("phase", ["Tracking", "Synced"])
async def test_a_deleted_run_holds_the_place_of_the_watches_while_it_is_not_delivered_and_not_for_a_doubt(
    phase: Literal["Tracking", "Synced"],
) -> None:
    known = doubtful()
    async with operator(Cluster(), NOWHERE) as dispatch:
        dispatch.book.add(replace(known, status=replace(known.status, phase=phase)))
        header = argo.Header(uid="u", name="run", namespace="team", version="1", generation="", completed=True)
        dispatch.saw_run(header, {"metadata": {"name": "run"}}, fresh=True)
        assert len(dispatch.waiting_since_deleted()) == (phase == "Tracking")
