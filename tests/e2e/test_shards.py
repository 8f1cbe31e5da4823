"""One operator becomes two, two four, and four one, while runs go on: nothing is lost, nothing is there twice.

Real processes, each a shard with a Lease of its own, on a real API server that selects by shard; a real MLflow, read
back by its own client. Namespaces have names that are alike, half of them a target of their own, half the cluster's.
Every third run is deleted the moment it ends, so that whoever has its namespace then has its last body alone.
"""

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import pytest_asyncio
from tests.cluster.fixtures import Kubectl, sweep
from tests.e2e import oracle
from tests.e2e.stage import Stage, starts, until
from tests.real.mlflow import Server
from tests.real.operator import Operator

from pipetrail.controller.plans import Plan
from pipetrail.kube import TRACKED_RUNS
from pipetrail.readers import argo as objects
from pipetrail.sources import argo

pytestmark = [pytest.mark.api, pytest.mark.mlflow, pytest.mark.slow, pytest.mark.storm, pytest.mark.minutes(4)]

NAMESPACES = 6
EACH = 2  # runs of each namespace between two changes
RUN_S = 15.0
MIX = ("churn-sweep", "nested-dags", "loop-retry", "params-kinds", "retry-third", "when-omitted")
QUICK = {"concurrency": 8, "requestsPerSecond": 300}


class Played(NamedTuple):
    """A run that has ended: all that there was to see of it."""

    stage: Stage
    name: str
    body: Any
    facts: argo.RunFacts


class Town:
    """Namespaces with runs, and the shards that look after them."""

    def __init__(self, home: Stage, stages: list[Stage], folder: Path, cluster_target: str) -> None:
        self.home = home
        self.stages = stages
        self.cluster_target = cluster_target
        self.folder = folder
        self.made: dict[int, Operator] = {}
        self.all: list[Operator] = []
        self.playing: list[asyncio.Task[Played]] = []

    def operator(self, number: int, *flags: str) -> Operator:
        """Shard `number` of the home's, with these flags from its next start on."""
        common = ("--namespace", self.home.namespace, "--identity", f"shard-{number}")
        kubeconfig = Path(str(self.home.cluster.kubeconfig))
        made = Operator(kubeconfig, self.folder / f"shard-{number}.log", *common, *flags, lease=True)
        self.made[number] = made
        self.all.append(made)
        return made

    def play(self) -> None:
        """Begin some more runs in every namespace."""
        for number, stage in enumerate(self.stages):
            for _ in range(EACH):
                at = len(self.playing)
                self.playing.append(
                    asyncio.create_task(self._one(stage, MIX[at % len(MIX)], at, gone=at % 3 == number % 3))
                )

    async def _one(self, stage: Stage, recording: str, at: int, *, gone: bool) -> Played:
        name = f"{recording}-{at:02}"
        await stage.play(recording, run=name, speed=max(1.0, stage.script(recording).duration_s / RUN_S))
        body = await stage.workflow(name)
        facts = await objects.facts(stage.kube, argo.header(body))
        if gone:
            await stage.delete_workflow(name)
        return Played(stage, name, body, facts)

    async def plan(self) -> Plan | None:
        """How the namespaces are cut now."""
        body = await self.home.kube.get(f"/api/v1/namespaces/{self.home.namespace}/configmaps/pipetrail-shards")
        return msgspec.json.decode(body["data"]["plan"], type=Plan)

    async def said_by(self, shards: int) -> list[Any]:
        """What the shards say of the cluster's target, once that is so many."""
        target = await self.home.kube.get(f"{TRACKED_RUNS}/clustertrackingtargets/{self.cluster_target}")
        found = (target.get("status") or {}).get("shards") or []
        return found if [each["shard"] for each in found] == list(range(shards)) else []

    async def settled(self, within_s: float = 240.0) -> None:
        """Wait until every run that was begun is in its tracker and without a doubt."""

        async def all_are() -> bool:
            found = [item for stage in self.stages for item in await stage.tracked()]
            status = [item.get("status") or {} for item in found]
            return len(found) == len(self.playing) and all(
                s.get("phase") == "Synced" and not s.get("doubtfulAt") for s in status
            )

        await until("every run is settled", all_are, within_s=within_s, every_s=1.0, otherwise=self.said)

    def said(self) -> str:
        """What the operators said last."""
        return "\n".join(f"{o.log.name}: {o.log.read_text()[-1500:]}" for o in self.made.values() if o.log.exists())


@pytest_asyncio.fixture
async def town(stage: Stage, tracker: Server, tmp_path: Path, own_kubectl: Kubectl) -> AsyncIterator[Town]:
    """Six namespaces with names that are alike; no operator yet."""
    if not stage.cluster.kubeconfig:
        pytest.skip("needs a kubeconfig of its own")
    mark = secrets.token_hex(3)
    stages = [Stage(stage.cluster, stage.kube, f"shards-{mark}-team-{letter}") for letter in "abcdefgh"[:NAMESPACES]]
    made = Town(stage, stages, tmp_path, f"shards-{mark}")
    for number, each in enumerate(stages):
        await each.prepare()
        if number % 2:
            await each.target("mlflow", tracker.url, delivery=QUICK, capture={"stdout": "On"})
        else:
            labels = {"metadata": {"labels": {"pipetrail.dev/shards": mark}}}
            await stage.kube.patch(f"/api/v1/namespaces/{each.namespace}", labels)
    path = f"{TRACKED_RUNS}/clustertrackingtargets"
    spec = {
        "backend": {"mlflow": {"trackingUri": tracker.url}},
        "namespaceSelector": {"matchLabels": {"pipetrail.dev/shards": mark}},
        "delivery": QUICK, "capture": {"stdout": "On"},
    }  # fmt: skip
    await stage.kube.post(
        path,
        {"apiVersion": "pipetrail.dev/v1alpha1", "kind": "ClusterTrackingTarget",
         "metadata": {"name": made.cluster_target}, "spec": spec},
    )  # fmt: skip
    try:
        yield made
    finally:
        for operator in made.all:
            operator.kill()
        for task in made.playing:
            task.cancel()
        await asyncio.gather(*made.playing, return_exceptions=True)
        await stage.kube.delete(f"{path}/{made.cluster_target}")
        for each in stages:
            with contextlib.suppress(AssertionError):
                await asyncio.to_thread(sweep, stage.cluster, own_kubectl, each.namespace)


async def test_one_two_four_and_one_again_under_load_lose_nothing_and_double_nothing(
    town: Town, tracker: Server
) -> None:
    begun = time.monotonic()

    def say(text: str) -> None:
        print(f"  {time.monotonic() - begun:5.1f} s  {text}", flush=True)

    say("one operator")
    await starts(town.operator(0))
    town.play()
    await asyncio.sleep(RUN_S / 2)

    say("two shards: the first one is restarted, as its pod would be")
    town.play()
    assert await asyncio.to_thread(town.made[0].stop) == 0
    await asyncio.gather(*(starts(town.operator(i, "--shard", str(i), "--shards", "2")) for i in (0, 1)))
    two = await town.plan()
    assert two is not None
    assert (two.cut.shards, two.before) == (2, 1)
    shares = [two.cut.share(i) for i in (0, 1)]
    assert all(any(share and share.owns(s.namespace) for s in town.stages) for share in shares), two
    await asyncio.sleep(RUN_S / 2)

    say("four shards: the first one is killed and started again, the second one stays")
    town.play()
    town.made[0].kill()
    await asyncio.gather(*(starts(town.operator(i, "--shard", str(i), "--shards", "4")) for i in (0, 2, 3)))
    await until("the second shard has begun again", lambda: _began(town.made[1], 2))
    four = await town.plan()
    assert four is not None
    assert (four.cut.shards, four.before) == (4, 2)
    await asyncio.sleep(RUN_S / 2)

    shards = await until("each shard has said how the cluster's target stands", lambda: town.said_by(4))
    say("the cluster's target by shard: " + json.dumps([(s["shard"], s["ready"], s["sync"]["synced"]) for s in shards]))

    say("one operator again: the others are there for a while, one goes, one is killed")
    town.play()
    assert await asyncio.to_thread(town.made[0].stop) == 0
    town.made[3].kill()
    await asyncio.gather(starts(town.operator(0)), asyncio.to_thread(town.made[2].stop))
    say("the operator looks after everything")
    await until("nobody speaks of shards any more", lambda: _is_empty(town))
    played = await asyncio.gather(*town.playing)
    await town.settled()
    say(f"{len(played)} runs are settled")

    there = await oracle.held(tracker.url)
    wrong = {}
    for run in played:
        (tracked,) = await run.stage.tracked(run.name)
        cluster_target = tracked["spec"]["target"].get("kind") == "ClusterTrackingTarget"
        wanted = await oracle.wanted(town.home.kube, run.body, tracked, facts=run.facts, cluster_target=cluster_target)
        found = await asyncio.to_thread(oracle.differences, wanted, there, tracker.url)
        if found:
            wrong[f"{run.stage.namespace}/{run.name}"] = found
    assert wrong == {}
    for number, operator in town.made.items():
        say(f"shard {number}: " + ", ".join(_gaps(operator)))
    for said in ("claim lost", "lost", "delivery failed", "event failed"):
        assert [line for operator in town.made.values() for line in operator.lines(said)] == []


async def _is_empty(town: Town) -> bool:
    target = await town.home.kube.get(f"{TRACKED_RUNS}/clustertrackingtargets/{town.cluster_target}")
    return "shards" not in target["status"]


async def _began(operator: Operator, times: int) -> bool:
    return len(operator.lines("started")) >= times


def _gaps(operator: Operator) -> list[str]:
    """When a shard let go, and when it began."""
    told = ("letting go", "shard begins", "started")
    return [f"{line['event']} {line['time'][14:21]}" for line in operator.lines() if line.get("event") in told]
