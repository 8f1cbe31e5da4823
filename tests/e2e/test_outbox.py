"""The tracker is away, the run's object goes, the operator is killed: what the run gave arrives all the same, and once.

Each test has a namespace for its runs, one for its operator, and a proxy before MLflow that says when the tracker is
away. The tier has no controllers: what deletes a namespace's objects, or a run's pods, is done here by hand.
"""

import asyncio
import base64
import contextlib
import json
import os
import random
import secrets
import shutil
import urllib.request
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import obstore
import pytest
import pytest_asyncio
from obstore.store import S3Store
from tests.cluster.fixtures import Cluster, Kubectl, connect, sweep
from tests.e2e import oracle
from tests.e2e.stage import RECORDINGS, Stage, before_the_api, kubeconfig, starts, until
from tests.real.mlflow import Server, free_port
from tests.real.operator import Operator
from tests.real.proxy import Action, Answer, Drop, Pass, Proxy, Seen

from pipetrail import replay
from pipetrail.delivery.secret_chunks import CHUNK, LABEL
from pipetrail.kube import ARGO, TRACKED_RUNS, ApiError
from pipetrail.readers import argo as objects
from pipetrail.sources import argo
from pipetrail.targets.target import Tree

pytestmark = [
    pytest.mark.minutes(6),
    pytest.mark.api,
    pytest.mark.mlflow,
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="module"),
]

QUICK = {"concurrency": 8, "requestsPerSecond": 200}
TTL: Mapping[str, Any] = {"ttlStrategy": {"secondsAfterCompletion": 0}}
FAST = 40.0


def away(_seen: Seen) -> Action:
    return Answer(503, b"away")


class House:
    """One operator with an outbox of its own, one namespace with runs, one tracker that may be away."""

    def __init__(self, stage: Stage, home: str, api: Proxy, tracker: Server, mlflow: Proxy, folder: Path) -> None:
        self.stage = stage
        self.home = home
        self.api = api
        self.tracker = tracker
        self.mlflow = mlflow
        self.folder = folder
        self.operator = self.made()

    def made(self, *flags: str) -> Operator:
        """An operator of this house, to be started."""
        config = kubeconfig(self.stage.cluster, self.api.url, self.folder)
        watch = ("--namespace", self.home, "--watch-namespace", self.stage.namespace)
        return Operator(config, self.folder / "operator.log", *watch, *flags)

    async def play(
        self, name: str, run: str, *, spec: Mapping[str, Any] | None = None, folder: Path | None = None
    ) -> None:
        """Play a recording to its end, with `spec` merged into the Workflow's."""
        folder = folder or RECORDINGS / name
        script = self.stage.script(name, spec=spec)
        await replay.upload(folder, script, self.stage.kube, name=run)
        await replay.replay(script, self.stage.kube, name=run, speed=FAST)

    async def seen(self, run: str) -> tuple[Any, argo.RunFacts]:
        """The Workflow, and what its pods say, as they stand now."""
        body = await self.stage.workflow(run)
        return body, await objects.facts(self.stage.kube, argo.header(body))

    async def forget_files(self, run: str) -> None:
        """The bucket's lifecycle takes what the run wrote."""
        s3 = self.stage.cluster.env["s3"]
        store = S3Store(
            s3["bucket"], endpoint=s3["endpoint"], region=s3["region"], access_key_id=s3["accessKey"],
            secret_access_key=s3["secretKey"], virtual_hosted_style_request=False, client_options={"allow_http": True},
        )  # fmt: skip
        found = [item["path"] async for batch in obstore.list(store, prefix=run) for item in batch]
        assert any(path.endswith("main.log") for path in found)
        await obstore.delete_async(store, found)

    async def goes(self, run: str, what: str = "Workflow") -> None:
        """Delete the Workflow, or its pods alone, and, as the garbage collector would, what hangs on it."""
        if what == "Workflow":
            await self.stage.delete_workflow(run)
        for path in (f"/api/v1/namespaces/{self.stage.namespace}/pods",
                     f"{ARGO}/namespaces/{self.stage.namespace}/workflowtaskresults"):  # fmt: skip
            found = await self.stage.kube.get(path, labelSelector=f"workflows.argoproj.io/workflow={run}")
            for item in found["items"]:
                with contextlib.suppress(ApiError):
                    await self.stage.kube.delete(f"{path}/{item['metadata']['name']}", {"gracePeriodSeconds": 0})

    async def secrets(self) -> list[Any]:
        """The copies that lie in the operator's namespace."""
        found = await self.stage.kube.get(f"/api/v1/namespaces/{self.home}/secrets", labelSelector=LABEL)
        return list(found["items"])

    async def kept(self, run: str, copies: int = 1) -> None:
        """Wait until the operator has put a run aside."""

        async def there() -> bool:
            lines = [line for line in self.operator.lines("kept") if line["run"].endswith(f"/{run}")]
            return len(lines) >= copies

        await until(f"{run} is kept", there, within_s=60, otherwise=self.said)

    def said(self) -> str:
        return self.operator.log.read_text()[-3000:]

    async def tracked(self, run: str, target: str = "") -> Any:
        """A run's TrackedRun, once its intent stands."""

        async def there() -> list[Any]:
            return await self.stage.tracked(run, target)

        (found,) = await until(f"{run} is tracked", there, otherwise=self.said)
        return found

    async def tree(self, run: str, seen: tuple[Any, argo.RunFacts], tracked: Any, *, cluster: bool = False) -> Tree:
        """What MLflow should hold of a run that was seen so."""
        return await oracle.wanted(self.stage.kube, seen[0], tracked, facts=seen[1], cluster_target=cluster)

    async def again(self, *flags: str) -> None:
        """kill -9, and start anew."""
        self.operator.kill()
        self.operator = self.made(*flags)
        await starts(self.operator)

    def back(self) -> None:
        """The tracker is back."""
        self.mlflow.decide = lambda _seen: Pass()

    async def differences(self, tree: Tree) -> list[str]:
        there = await oracle.held(self.tracker.url)
        return await asyncio.to_thread(oracle.differences, tree, there, self.mlflow.url)

    async def arrives(self, tree: Tree) -> None:
        """Wait until MLflow holds all of `tree`, once, and no copy is left."""

        async def ended() -> bool:
            keys = {run.key for run in tree.runs}
            there = [h for h in await oracle.held(self.tracker.url) if h.key in keys and h.status != "Running"]
            return len(there) == len(keys)

        await until("the run has arrived", ended, within_s=120, every_s=1.0, otherwise=self.said)

        async def swept() -> bool:
            return await self.secrets() == []

        await until("no copy is left", swept, within_s=120, otherwise=self.said)
        assert await self.differences(tree) == []
        assert self.operator.lines("lost") == []
        assert self.operator.lines("delivery failed") == []
        assert self.operator.lines("not kept") == []


@pytest_asyncio.fixture(loop_scope="module")
async def house(own_cluster: Cluster, own_kubectl: Kubectl, tracker: Server, tmp_path: Path) -> AsyncIterator[House]:
    async with await connect(own_cluster) as kube, before_the_api(own_cluster) as api, Proxy(tracker.url) as mlflow:
        stage = Stage(own_cluster, kube, f"e2e-{secrets.token_hex(4)}")
        await stage.prepare()
        home = f"{stage.namespace}-home"
        await replay.prepare(kube, home)
        made = House(stage, home, api, tracker, mlflow, tmp_path)
        try:
            yield made
        finally:
            made.operator.kill()
            for name in (stage.namespace, home):
                with contextlib.suppress(AssertionError):
                    await asyncio.to_thread(sweep, own_cluster, own_kubectl, name)


async def test_runs_that_are_deleted_right_after_their_end_arrive_though_tracker_and_operator_were_away(
    house: House,
) -> None:
    """One by hand, one by a time to live of nothing; for a target that worked before and one that never answered."""
    await starts(house.operator)
    await house.stage.target("mlflow", house.mlflow.url, delivery=QUICK, capture={"stdout": "On"})
    await house.stage.ready("mlflow")
    house.mlflow.decide = away
    await house.play("churn-sweep", "by-hand")
    by_hand = await house.seen("by-hand")
    await house.goes("by-hand")
    await house.kept("by-hand")
    await house.again()  # the target has not been reached by this process
    await house.play("loop-retry", "stands")
    await house.play("nested-dags", "no-time", spec=TTL)
    no_time = await house.seen("no-time")
    await house.goes("no-time")
    await house.kept("no-time")
    tracked = {run: await house.tracked(run) for run in ("by-hand", "no-time", "stands")}
    assert {s["metadata"]["annotations"][CHUNK] for s in await house.secrets()} == {"0"}
    assert len(await house.secrets()) == 2  # the third stands, and needs none
    await house.again()
    house.back()
    for run in tracked:
        await house.stage.reaches(run, "Synced", within_s=120)
    for run, seen in (("by-hand", by_hand), ("no-time", no_time)):
        await house.arrives(await house.tree(run, seen, tracked[run]))
    assert await house.differences(await house.tree("stands", await house.seen("stands"), tracked["stands"])) == []


async def test_a_namespace_may_end_while_the_tracker_is_away(house: House, own_kubectl: Kubectl) -> None:
    name, stage = house.stage.namespace, house.stage
    house.mlflow.decide = away
    await starts(house.operator)
    body = {
        "apiVersion": "pipetrail.dev/v1alpha1", "kind": "ClusterTrackingTarget", "metadata": {"name": name},
        "spec": {
            "backend": {"mlflow": {"trackingUri": house.mlflow.url}}, "delivery": QUICK, "suspend": True,
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}},
        },
    }  # fmt: skip
    cluster_targets = f"{TRACKED_RUNS}/clustertrackingtargets"
    await stage.kube.post(cluster_targets, body)
    try:
        await house.play("nested-dags", "early", spec=TTL)
        early = await house.seen("early")
        await house.kept("early")  # and so its intent stands
        tracked = await house.tracked("early")
        await house.play("nested-dags", "late")
        late = await house.seen("late")
        await asyncio.to_thread(own_kubectl, "delete", "namespace", name, "--wait=false")
        for run in ("early", "late"):
            await house.goes(run)
        await house.kept("late")  # of this one no TrackedRun could be written any more
        assert {t["spec"]["run"]["name"] for t in await stage.tracked()} == {"early"}
        trees = [await house.tree("early", early, tracked, cluster=True)]
        trees.append(await house.tree("late", late, tracked, cluster=True))
        await asyncio.to_thread(sweep, stage.cluster, own_kubectl, name)
        with pytest.raises(ApiError, match="not found"):
            await stage.kube.get(f"/api/v1/namespaces/{name}")
        await house.again()
        house.back()
        await stage.kube.patch(f"{cluster_targets}/{name}", {"spec": {"suspend": False}})
        for tree in trees:
            await house.arrives(tree)
    finally:
        await stage.kube.delete(f"{cluster_targets}/{name}")


async def test_a_copy_that_someone_changed_is_never_sent_and_that_is_said(house: House) -> None:
    house.mlflow.decide = away
    await starts(house.operator)
    await house.stage.target("mlflow", house.mlflow.url, delivery=QUICK)
    await house.play("nested-dags", "run", spec=TTL)
    await house.goes("run")
    await house.kept("run")
    house.operator.kill()
    (secret,) = await house.secrets()
    data = bytearray(base64.b64decode(secret["data"]["chunk"]))
    data[len(data) // 2] ^= 1
    meta = {key: secret["metadata"][key] for key in ("name", "labels", "annotations")}
    path = f"/api/v1/namespaces/{house.home}/secrets"
    await house.stage.kube.delete(f"{path}/{meta['name']}")
    await house.stage.kube.post(
        path, {"metadata": meta, "type": secret["type"], "data": {"chunk": base64.b64encode(data).decode()}}
    )
    house.back()
    await starts(house.operator)
    await house.stage.reaches("run", "Stopped", reason="OutboxTorn", within_s=90)
    assert [line["cause"] for line in house.operator.lines("copy torn")] == [
        "its digest is another than when it was written"
    ]
    assert len(house.operator.lines("lost")) == 1
    assert await house.secrets() == []
    (tracked,) = await house.stage.tracked("run")
    assert [h for h in await oracle.held(house.tracker.url) if h.key == tracked["spec"]["run"]["key"]] == []
    events = await house.stage.kube.get(f"/api/v1/namespaces/{house.stage.namespace}/events")
    assert "OutboxTorn" in {e["reason"] for e in events["items"] if e["involvedObject"]["kind"] == "TrackedRun"}


def shown(port: int, name: str) -> float:
    """The value of a metric, labels and all."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    return next((float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name)), 0.0)


async def test_beyond_its_share_the_outbox_refuses_and_says_so_or_takes_the_store_that_it_was_given(
    house: House, tmp_path: Path
) -> None:
    port = free_port()
    house.mlflow.decide = away
    house.operator = house.made("--outbox-max", "100", "--listen", f"127.0.0.1:{port}")
    await starts(house.operator)
    await house.stage.target("mlflow", house.mlflow.url, delivery=QUICK)
    await house.play("nested-dags", "run", spec=TTL)
    await house.stage.reaches("run", "Pending", reason="OutboxFull", within_s=120)
    refused = 'pipetrail_outbox_refused_total{reason="OutboxFull"}'
    assert await asyncio.to_thread(shown, port, refused) == 1.0
    assert await asyncio.to_thread(shown, port, "pipetrail_tracked_runs_bytes") > 1000
    events = await house.stage.kube.get(f"/api/v1/namespaces/{house.stage.namespace}/events")
    assert "OutboxFull" in {e["reason"] for e in events["items"] if e["involvedObject"]["kind"] == "TrackedRun"}
    assert await house.secrets() == []

    store = tmp_path / "outbox"
    flags = ("--outbox-max", "100", "--outbox", store.as_uri(), "--listen", f"127.0.0.1:{port}")
    await house.again(*flags)
    await house.kept("run")
    seen, tracked = await house.seen("run"), await house.tracked("run")
    await house.goes("run")
    await house.again(*flags)
    assert await house.secrets() == []
    assert await asyncio.to_thread(shown, port, 'pipetrail_outbox_copies{place="Store"}') == 1.0
    house.back()
    await house.stage.reaches("run", "Synced", within_s=120)
    house.operator.log.write_text("")  # it has been refused above
    await house.arrives(await house.tree("run", seen, tracked))

    async def empty() -> bool:
        return os.listdir(store) == []

    await until("nothing is left in the store", empty, within_s=120)  # after the last look for a double


async def test_what_was_read_of_pods_and_logs_that_are_gone_after_a_restart_arrives_all_the_same(house: House) -> None:
    await starts(house.operator)
    await house.stage.target("mlflow", house.mlflow.url, delivery=QUICK, capture={"stdout": "On"}, suspend=True)
    await house.play("churn-sweep", "run", spec={"podGC": {"strategy": "OnWorkflowCompletion"}})
    await house.kept("run")
    tracked = await house.tracked("run")
    tree = await house.tree("run", await house.seen("run"), tracked)
    house.operator.kill()
    await house.forget_files("run")
    await house.goes("run", "Pod")
    await starts(house.operator)
    await house.stage.patch_target("mlflow", {"suspend": False})
    await house.stage.reaches("run", "Synced", within_s=120)
    assert await house.differences(tree) == []
    assert await house.stage.workflow("run")  # it stands, and has less to say by now


async def test_what_was_kept_counts_after_a_kill_between_two_chunks(house: House, tmp_path: Path) -> None:
    folder = tmp_path / "recording"
    shutil.copytree(RECORDINGS / "churn-sweep", folder)
    dice = random.Random(6)
    file = next((folder / "store").rglob("*train*/metrics.json"))
    file.write_text(json.dumps({"loss": 0.25, "drift": [dice.random() for _ in range(99_000)]}))  # kept, and not sent
    house.mlflow.decide = away
    await starts(house.operator)
    await house.stage.target("mlflow", house.mlflow.url, delivery=QUICK, capture={"stdout": "On"})
    posts: list[Seen] = []

    def decide(seen: Seen) -> Action:
        if seen.method == "POST" and seen.path.endswith("/secrets"):
            posts.append(seen)
            if len(posts) == 2:
                house.operator.kill()
                return Drop()
        return Pass()

    house.api.decide = decide
    await house.play("churn-sweep", "run", spec=TTL, folder=folder)

    async def killed() -> bool:
        return len(posts) == 2

    await until("the second chunk was on its way", killed, otherwise=house.said)
    assert len(await house.secrets()) == 1
    seen = await house.seen("run")
    await starts(house.operator)
    await house.kept("run")
    there = await house.secrets()
    assert sorted(s["metadata"]["annotations"][CHUNK] for s in there) == [str(n) for n in range(len(there))]
    assert len(there) >= 2
    assert house.operator.lines("copy torn") == []
    tracked = await house.tracked("run")
    await house.goes("run")
    await house.again()
    house.back()
    await house.stage.reaches("run", "Synced", within_s=240)
    assert await house.differences(await house.tree("run", seen, tracked)) == []
    assert house.operator.lines("lost") == []
