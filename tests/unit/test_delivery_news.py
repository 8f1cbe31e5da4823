"""News that comes while a run is read: what was read is of its own moment, and the next turn reads what is new.

The API server is a loopback server with a script: while it is asked for a run's pods, the run ends.
"""

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kubernetes.aio import client as k8s
from tests.chaos import generating
from tests.contract.tensorboard_driver import TensorboardDriver
from tests.real.proxy import Action, Answer, Proxy, Seen

from pipetrail import api
from pipetrail.api import TargetRef
from pipetrail.delivery.dispatch import Dispatch
from pipetrail.delivery.ledger import Ledger
from pipetrail.kube import Kube
from pipetrail.readers.live import LiveReader
from pipetrail.settings import Settings
from pipetrail.sources import argo
from pipetrail.targets.addresses import ANYWHERE

REF = TargetRef(kind="TrackingTarget", name="boards", namespace="team")


def said(body: Any, status: int = 200) -> Answer:
    return Answer(status, msgspec.json.encode(body))


def bodies() -> tuple[Any, Any]:
    """A run of which all steps have ended, and the same when it has succeeded."""
    made = generating.made("made-steps", random.Random(1))
    found = []
    for version, event in (("1", made.events[-2]), ("2", made.events[-1])):
        body = json.loads(json.dumps(event.body).replace("made-steps-abcde", "run"))
        body["metadata"] |= {"namespace": "team", "uid": "u", "resourceVersion": version}
        found.append(body)
    return found[0], found[1]


class Cluster:
    """It has one Workflow, which ends when its pods are first asked for, and one TrackedRun."""

    def __init__(self, *, deleted: bool) -> None:
        self.deleted = deleted
        self.body, self.last = bodies()
        self.tracked: Any = None
        self.dispatch: Dispatch | None = None
        self.synced = asyncio.Event()

    def decide(self, seen: Seen) -> Action:
        match seen.method, seen.path.rsplit("/", 1)[-1]:
            case "GET", "run":
                return said({"reason": "NotFound"}, 404) if self.body is None else said(self.body)
            case "GET", "pods":
                self._ends()
                return said({"metadata": {}, "items": []})
            case "GET", "workflowtaskresults":
                return said({"metadata": {}, "items": []})
            case "POST", "trackedruns":
                self.tracked = msgspec.json.decode(seen.body)
                self.tracked["metadata"] |= {"namespace": "team", "uid": "t", "resourceVersion": "1"}
                return said(self.tracked, 201)
            case "PATCH", _ if "/trackedruns/" in seen.path:
                self.tracked["status"] = self.tracked.get("status", {}) | msgspec.json.decode(seen.body)["status"]
                if self.tracked["status"]["phase"] == "Synced":
                    self.synced.set()
                return said(self.tracked)
        return said({"reason": "NotFound"}, 404)

    def _ends(self) -> None:
        if self.body is not None and self.body is not self.last:
            assert self.dispatch is not None
            self.body = None if self.deleted else self.last
            self.dispatch.saw_run(argo.header(self.last), self.last if self.deleted else None, fresh=True)


@pytest.mark.parametrize("deleted", [False, True], ids=["and stands", "and is deleted"])
async def test_a_run_that_ends_while_its_pods_are_asked_for_is_recorded_as_it_ended(
    deleted: bool, tmp_path: Path
) -> None:
    cluster = Cluster(deleted=deleted)
    async with Proxy("http://127.0.0.1:9", cluster.decide) as server, Kube(k8s.Configuration(host=server.url)) as kube:
        settings = Settings(tensorboard_root=str(tmp_path))
        dispatch = Dispatch(kube, Ledger(kube, "me/1"), LiveReader(kube), settings, "c", addresses=ANYWHERE)
        cluster.dispatch = dispatch
        spec = api.TargetSpec(backend=api.Backend(tensorboard=api.TensorboardBackend()))
        dispatch.saw_target(api.FoundTarget(ref=REF, spec=spec), deleted=False)
        seat = dispatch.roster.get(REF)
        assert seat is not None
        async with asyncio.timeout(60):
            while not seat.ready:  # noqa: ASYNC110  a seat tells nobody
                await asyncio.sleep(0.02)
            dispatch.saw_run(argo.header(cluster.body), None, fresh=True)
            await cluster.synced.wait()
            while seat.lane.busy:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        await dispatch.roster.close()
    (file,) = tmp_path.rglob("events.out.tfevents.*")  # noqa: ASYNC240
    held = TensorboardDriver(tmp_path, ("team",)).held(file)
    assert (held.status, held.tags["pipetrail.outcome"], len(held.metrics)) == ("Finished", "succeeded", 6)
