"""What a recording is made into before it is played: pure."""

import json

import pytest

from pipetrail import replay
from pipetrail.recording import Event
from pipetrail.replay.script import shifted

AT = 1795463810.0  # 2026-11-23T19:56:50Z
STORE = replay.Store(endpoint="http://s3:9", bucket="live")


def workflow(name: str = "train-x7k2p", **status) -> Event:
    body = {
        "apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "spec": {"note": f"\n{name} and pre-{name}, {name}s"},
        "metadata": {
            "name": name, "namespace": "there", "uid": "uid-wf", "generateName": "train-", "resourceVersion": "7",
            "managedFields": [{}], "finalizers": ["f"], "labels": {"team": "a"}, "generation": 3,
            "ownerReferences": [{"kind": "CronWorkflow", "name": "c", "uid": "gone"}],
        },
        "status": status,
    }  # fmt: skip
    return Event(kind="Workflow", type="ADDED", body=body, at=AT)


def pod() -> Event:
    body = {
        "metadata": {
            "name": "train-x7k2p-main-1", "uid": "uid-pod",
            "ownerReferences": [{"kind": "Workflow", "name": "train-x7k2p", "uid": "uid-wf"}],
        },
        "spec": {
            "nodeName": "node0", "priority": 0,
            "volumes": [{"name": "tmp", "emptyDir": {}}, {"name": "key", "secret": {}}],
            "containers": [{"name": "main", "volumeMounts": [{"name": "tmp"}, {"name": "key"}]}],
        },
        "status": {"phase": "Succeeded"},
    }  # fmt: skip
    return Event(kind="Pod", type="MODIFIED", body=body, at=AT + 2)


def filled(*events: Event, name: str = "new", uids: dict[str, str] | None = None, shift_s: int = 60, **options):
    made = replay.script(events, namespace="here", **options)

    def value(hole):
        kind, text = hole
        return name if kind == "name" else (uids or {}).get(text, text) if kind == "uid" else shifted(text, shift_s)

    return [move.body.fill(value) for move in made.moves]


def test_the_name_is_replaced_as_a_word_of_its_own():
    (body,) = filled(workflow())
    assert body["spec"]["note"] == "\nnew and pre-train-x7k2p, train-x7k2ps"


def test_what_only_a_server_sets_is_left_out():
    (body,) = filled(workflow())
    assert body["metadata"] == {
        "name": "new", "namespace": "here", "generateName": "train-",
        "labels": {"team": "a", replay.LABEL: "pipetrail-replay"},
    }  # fmt: skip


def test_stamps_of_the_run_move_and_others_stay():
    (body,) = filled(
        workflow(startedAt="2026-11-23T19:56:50Z", epoch="0001-01-01T00:00:00Z", said="at 2026-11-23T19:56:50Z")
    )
    assert body["status"] == {
        "startedAt": "2026-11-23T19:57:50Z", "epoch": "0001-01-01T00:00:00Z", "said": "at 2026-11-23T19:56:50Z",
    }  # fmt: skip


def test_a_fraction_of_a_second_stays():
    assert shifted("2026-11-23T23:59:59.123456789Z", 1) == "2026-11-24T00:00:00.123456789Z"


def test_recorded_uids_become_those_of_the_server():
    _, body = filled(workflow(), pod(), uids={"uid-wf": "uid-new"})
    assert body["metadata"]["ownerReferences"] == [{"kind": "Workflow", "name": "new", "uid": "uid-new"}]


def test_nothing_in_a_pod_can_be_run_or_mounted():
    _, body = filled(workflow(), pod())
    assert body["spec"] == {
        "volumes": [{"name": "tmp", "emptyDir": {}}],
        "containers": [{"name": "main", "volumeMounts": [{"name": "tmp"}]}],
        "schedulerName": "pipetrail-replay", "automountServiceAccountToken": False,
        "serviceAccountName": "default", "serviceAccount": "default",
    }  # fmt: skip


def test_the_runs_own_store_is_the_live_one_and_a_foreign_one_stays():
    own = {"endpoint": "old:9000", "bucket": "b", "accessKeySecret": {"name": "s3", "key": "a"}}
    foreign = {"endpoint": "elsewhere", "bucket": "c"}
    (body,) = filled(workflow(artifactRepositoryRef={"artifactRepository": {"s3": own}}, other=foreign), store=STORE)
    found = body["status"]["artifactRepositoryRef"]["artifactRepository"]["s3"]
    assert found == {
        "endpoint": "s3:9", "bucket": "live", "insecure": True,
        "accessKeySecret": {"name": "s3-credentials", "key": "accesskey"},
        "secretKeySecret": {"name": "s3-credentials", "key": "secretkey"},
    }  # fmt: skip
    assert body["status"]["other"] == foreign


def test_keys_in_the_store_follow_the_name():
    made = replay.script([workflow()], namespace="here")
    assert made.renamed("train-x7k2p/train-x7k2p-main-1/metrics.json", "new") == "new/new-main-1/metrics.json"


def test_a_thin_script_leaves_out_what_pods_do_before_they_end():
    running = Event(kind="Pod", type="MODIFIED", at=AT + 1, body={**pod().body, "status": {"phase": "Running"}})
    made = replay.script([workflow(), running, pod()], namespace="here", thin=True)
    assert [move.at_s for move in made.moves] == [0, 2]


def test_a_fresh_name_is_one_that_kubernetes_would_generate():
    made = replay.script([workflow()], namespace="here")
    names = {replay.fresh_name(made) for _ in range(50)}
    assert len(names) > 40
    assert all(name.startswith("train-") and len(name) == len("train-x7k2p") for name in names)


def test_a_recording_without_a_workflow_is_refused():
    with pytest.raises(ValueError, match="no event of a Workflow"):
        replay.script([pod()], namespace="here")


def test_a_body_is_json_again():
    made = replay.script([workflow(message='he said "train-x7k2p"\\')], namespace="here")
    (move,) = made.moves
    assert json.dumps(move.body.fill(lambda hole: hole[1]))


def test_a_store_is_named_by_flags_or_the_environment():
    environment = {"PIPETRAIL_S3_ENDPOINT": "https://s3", "PIPETRAIL_S3_BUCKET": "b"}
    found = replay.find_store(endpoint=None, bucket="c", secret="keys:id:key", environment=environment)
    assert found == replay.Store(endpoint="https://s3", bucket="c", secret="keys", access_key="id", secret_key="key")
    assert replay.find_store(endpoint=None, bucket=None, secret=None, environment={}) is None
