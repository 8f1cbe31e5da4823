"""Replay and record against a real API server: what is played is what was recorded, and records as the same run."""

import asyncio
import gzip
import json
import re
import shutil
import time
from pathlib import Path

import pytest
from tests.cluster.fixtures import Cluster

from pipetrail import recording, replay
from pipetrail.cli.preview import of_recording
from pipetrail.kube import ARGO, Kube
from pipetrail.readers.live import LiveReader
from pipetrail.record import to_json
from pipetrail.recording_writer import Recorder
from pipetrail.replay.play import MAX_SPEED

pytestmark = [pytest.mark.minutes(1), pytest.mark.api]
RECORDINGS = Path(__file__).parents[1] / "data" / "argo"
STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
SECRET = "CANARY-SECRET-7f3a"
UID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


@pytest.fixture
async def store(cluster: Cluster, kubectl, namespace: str) -> replay.Store | None:
    s3 = cluster.env.get("s3")
    if s3 is None:
        return None
    secret = {
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3-credentials", "namespace": namespace},
        "stringData": {"accesskey": s3["accessKey"], "secretkey": s3["secretKey"]},
    }  # fmt: skip
    kubectl("apply", "-f", "-", stdin=secret)
    return replay.Store(endpoint=s3["endpoint"], bucket=s3["bucket"], region=s3["region"])


@pytest.fixture
async def play(kube: Kube, namespace: str, store: replay.Store | None):
    await replay.prepare(kube, namespace)

    async def one(name: str, *, called: str | None = None, speed: float = MAX_SPEED, **options) -> replay.Replayed:
        folder = RECORDINGS / name
        script = replay.script(recording.load(folder).events(), namespace=namespace, store=store)
        called = called or replay.fresh_name(script)
        await replay.upload(folder, script, kube, name=called)
        return await replay.replay(script, kube, name=called, speed=speed, **options)

    return one


async def workflow(kube: Kube, namespace: str, name: str):
    return await kube.get(f"{ARGO}/namespaces/{namespace}/workflows/{name}")


async def pods(kube: Kube, namespace: str):
    return (await kube.get(f"/api/v1/namespaces/{namespace}/pods"))["items"]


def comparable(record: str, name: str) -> object:
    """A record without what a replay changes: name, namespace, uids, times."""
    text = UID.sub("UID", STAMP.sub("TIME", re.sub(rf"(?<![\w-]){re.escape(name)}(?!\w)", "NAME", record)))
    body = json.loads(text)
    body["namespace"] = ""
    return body


# retry-cli is not among them: whether a pod was made in this generation is told by the API server's own clock, which a
# replay at another speed can't shift.
@pytest.mark.parametrize("name", ["churn-sweep", "loop-retry", "hooks-exit", "daemon"])
async def test_a_replay_that_is_recorded_gives_the_record_of_the_recording(name, kube, namespace, play, tmp_path):
    made = asyncio.Event()
    playing = asyncio.create_task(play(name, called="again", speed=60, on_move=lambda _: made.set()))
    await asyncio.wait_for(made.wait(), 30)
    recorder = Recorder(kube, await workflow(kube, namespace, "again"))
    await asyncio.gather(playing, recorder.run())
    reader = LiveReader(kube)
    try:
        await recorder.write(tmp_path / "again", reader)
    finally:
        await reader.close()

    # No pod ran, so there is no log of it: the archived ones count on both sides.
    shutil.copytree(RECORDINGS / name, tmp_path / "first", ignore=shutil.ignore_patterns("logs"))
    first = await of_recording(tmp_path / "first", cluster="c")
    again = await of_recording(tmp_path / "again", cluster="c")
    assert comparable(to_json(again), "again") == comparable(to_json(first), first.name)


async def test_owners_and_labels_name_the_new_run(kube, namespace, play):
    done = await play("churn-sweep")
    owners = {(o["name"], o["uid"]) for pod in await pods(kube, namespace) for o in pod["metadata"]["ownerReferences"]}
    assert owners == {(done.name, done.uid)}
    assert done.uid == (await workflow(kube, namespace, done.name))["metadata"]["uid"]
    assert {p["metadata"]["labels"]["workflows.argoproj.io/workflow"] for p in await pods(kube, namespace)} == {
        done.name
    }


async def test_nobody_runs_a_replayed_run(kube, namespace, play):
    await play("churn-sweep")
    for pod in await pods(kube, namespace):
        assert pod["spec"]["schedulerName"] == "pipetrail-replay"
        assert "nodeName" not in pod["spec"]
        assert "finalizers" not in pod["metadata"]
        assert not [v for v in pod["spec"]["volumes"] if "emptyDir" not in v]
        assert pod["metadata"]["labels"][replay.LABEL] == "pipetrail-replay"


async def test_the_run_happens_now(kube, namespace, play):
    before = time.time()
    done = await play("churn-sweep")
    status = (await workflow(kube, namespace, done.name))["status"]
    finished = time.mktime(time.strptime(status["finishedAt"], "%Y-%m-%dT%H:%M:%SZ")) - time.timezone
    assert before - 2 <= finished <= time.time() + 1


async def test_times_can_be_kept(kube, namespace, play):
    done = await play("churn-sweep", keep_times=True)
    *_, last = (e for e in recording.load(RECORDINGS / "churn-sweep").events() if e.kind == "Workflow")
    status = (await workflow(kube, namespace, done.name))["status"]
    assert (status["startedAt"], status["finishedAt"]) == (
        last.body["status"]["startedAt"],
        last.body["status"]["finishedAt"],
    )


async def test_its_own_pace_is_kept(play):
    done = await play("deleted-running", speed=10)
    events = list(recording.load(RECORDINGS / "deleted-running").events())
    assert done.finished - done.started >= (events[-1].at - events[0].at) / 10


async def test_a_deleted_run_is_gone(kube, namespace, play):
    done = await play("deleted-running")
    names = [w["metadata"]["name"] for w in (await kube.get(f"{ARGO}/namespaces/{namespace}/workflows"))["items"]]
    assert done.name not in names


async def test_a_name_that_is_taken_is_refused(kube, namespace, play):
    await play("bad-image", called="taken")
    with pytest.raises(replay.ReplayError, match=r"Workflow taken is in .* already"):
        await play("bad-image", called="taken")


async def test_one_recording_is_played_many_times_at_once(kube, namespace, play):
    done = await asyncio.gather(*(play("oom-64-stuck", speed=MAX_SPEED) for _ in range(20)))
    assert len({d.uid for d in done}) == 20


async def test_a_recording_of_a_run_with_secrets_holds_none(kube, namespace, play, tmp_path):
    done = await play("params-kinds")
    recorder = Recorder(kube, await workflow(kube, namespace, done.name))
    await recorder.run()
    reader = LiveReader(kube)
    try:
        written = await recorder.write(tmp_path / "out", reader)
    finally:
        await reader.close()
    files = [p for p in (tmp_path / "out").rglob("*") if p.is_file()]
    texts = [(gzip.decompress(p.read_bytes()) if p.suffix == ".gz" else p.read_bytes()).decode() for p in files]
    assert written.events
    assert not [p for p, text in zip(files, texts, strict=True) if SECRET in text]


async def test_an_ended_run_is_recorded_as_it_is(kube, namespace, play, tmp_path):
    done = await play("churn-sweep")
    recorder = Recorder(kube, await workflow(kube, namespace, done.name))
    await recorder.run()
    reader = LiveReader(kube)
    try:
        await recorder.write(tmp_path / "out", reader)
    finally:
        await reader.close()
    record = await of_recording(tmp_path / "out", cluster="c")
    assert (record.name, record.outcome.status, len(record.steps)) == (done.name, "succeeded", 6)
