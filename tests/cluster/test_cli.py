"""The command on a real API server, as a process: what it says of targets and runs, and how it fails."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.cluster.fixtures import Answer, Cluster, Kubectl
from tests.real import mlflow as real_mlflow
from tests.real.operator import Operator

from pipetrail import api, recording, replay
from pipetrail.kube import Kube
from pipetrail.replay.play import MAX_SPEED

pytestmark = [pytest.mark.minutes(3), pytest.mark.api]

RECORDINGS = Path(__file__).parents[1] / "data" / "argo"
NOWHERE = "http://mlflow.nowhere.svc:5000"


class Command:
    """``pipetrail`` on a kubeconfig."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def __call__(self, *args: str, kubeconfig: str | None = None) -> Answer:
        env = dict(os.environ)
        if config := kubeconfig or self.cluster.kubeconfig:
            env["KUBECONFIG"] = config
        context = ["--context", self.cluster.context] if self.cluster.context and not kubeconfig else []
        done = subprocess.run(
            [sys.executable, "-m", "pipetrail.cli", *args, *context],
            capture_output=True, text=True, env=env, timeout=120, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stderr, done.stderr
        if "-o" not in args:
            assert [line for line in done.stdout.splitlines() if len(line) > 120] == []
        return Answer(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def pipetrail(cluster: Cluster) -> Command:
    return Command(cluster)


def target(name: str, kind: str = "TrackingTarget", uri: str = NOWHERE, **spec):
    backend = {"mlflow": {"trackingUri": uri}}
    return {
        "apiVersion": api.API_VERSION,
        "kind": kind,
        "metadata": {"name": name},
        "spec": {"backend": backend, **spec},
    }


def ready(kubectl: Kubectl, namespace: str, name: str, reason: str, message: str) -> None:
    """What the operator would write on a target."""
    condition = {
        "type": "Ready", "status": "True" if reason == "Ready" else "False", "reason": reason, "message": message,
        "observedGeneration": 1, "lastTransitionTime": "2026-11-25T01:00:00Z",
    }  # fmt: skip
    status = {"status": {"observedGeneration": 1, "conditions": [condition], "backend": "mlflow"}}
    kubectl("patch", "tt", name, "-n", namespace, "--subresource=status", "--type=merge", "-p", json.dumps(status))


Play = Callable[[str], Awaitable[replay.Replayed]]


@pytest_asyncio.fixture
async def play(kube: Kube, cluster: Cluster, kubectl: Kubectl, namespace: str) -> Play:
    """Plays a recorded run to its end, with its files in the store where there is one."""
    await replay.prepare(kube, namespace)
    store = None
    if s3 := cluster.env.get("s3"):
        store = replay.Store(endpoint=s3["endpoint"], bucket=s3["bucket"], region=s3["region"])
        keys = {"accesskey": s3["accessKey"], "secretkey": s3["secretKey"]}
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3-credentials"}, "stringData": keys}
        kubectl("apply", "-n", namespace, "-f", "-", stdin=secret)

    async def one(recorded: str) -> replay.Replayed:
        folder = RECORDINGS / recorded
        script = replay.script(recording.load(folder).events(), namespace=namespace, store=store, thin=True)
        name = replay.fresh_name(script)
        await replay.upload(folder, script, kube, name=name)
        return await replay.replay(script, kube, name=name, speed=MAX_SPEED)

    return one


@pytest_asyncio.fixture
async def run(play: Play) -> str:
    """A real run that has ended, at least a second before anything that the test makes."""
    played = await play("churn-sweep")
    await asyncio.sleep(1.1)
    return played.name


# --- status -----------------------------------------------------------------------------------------------------------


def test_status_without_targets_says_how_to_make_one(pipetrail: Command, namespace: str) -> None:
    said = pipetrail("status", "-n", namespace)
    assert said.code == 0
    assert "trackingUri" in said.out


def test_status_names_what_is_wrong_and_the_next_step(pipetrail: Command, kubectl: Kubectl, namespace: str) -> None:
    for name in ("good", "bad"):
        kubectl("apply", "-n", namespace, "-f", "-", stdin=target(name, suspend=True))
    ready(kubectl, namespace, "good", "Ready", "runs are recorded as they complete")
    assert pipetrail("status", "-n", namespace, "-o", "json").code == 1  # nobody has looked at the other yet
    ready(kubectl, namespace, "bad", "SecretNotFound", "there is no Secret [mlflow] in namespace x: create it")
    said = pipetrail("status", "-n", namespace)
    assert said.code == 1
    assert f"TrackingTarget/{namespace}/bad: SecretNotFound: there is no Secret [mlflow] in namespace x" in said.out
    assert f"next: {api.REASONS['SecretNotFound'].next_step}" in " ".join(said.out.split())
    ready(kubectl, namespace, "bad", "Ready", "runs are recorded as they complete")
    said = pipetrail("status", "-n", namespace, "-o", "yaml")
    assert (said.code, said.out.count("reason: Ready")) == (0, 2)


def test_status_shows_a_run_that_failed_first(pipetrail: Command, kubectl: Kubectl, namespace: str) -> None:
    for name, phase in (("a", "Tracking"), ("b", "Failed"), ("c", "Synced")):
        spec = {"run": {"source": "argo", "name": name, "uid": name, "key": f"k/{name}"}, "target": {"name": "mlflow"}}
        spec["policy"] = {}
        body = {"apiVersion": api.API_VERSION, "kind": "TrackedRun", "metadata": {"name": name}, "spec": spec}
        kubectl("create", "-n", namespace, "-f", "-", stdin=body)
        status = json.dumps({"status": {"phase": phase, "reason": "RunDeleted" if phase == "Failed" else ""}})
        kubectl("patch", "trun", name, "-n", namespace, "--subresource=status", "--type=merge", "-p", status)
    kubectl("apply", "-n", namespace, "-f", "-", stdin=target("mlflow"))
    ready(kubectl, namespace, "mlflow", "Ready", "")
    said = pipetrail("status", "-n", namespace)
    rows = [line.split() for line in said.out.splitlines() if line.startswith(f"{namespace}/")]
    assert said.code == 1
    assert [row[:3] for row in rows] == [
        [f"{namespace}/b", "mlflow", "Failed"],
        [f"{namespace}/a", "mlflow", "Tracking"],
    ]


# --- explain ----------------------------------------------------------------------------------------------------------


def test_explain_names_the_rule_of_each_target(pipetrail: Command, kubectl: Kubectl, namespace: str, run: str) -> None:
    targets = {
        "a-takes": {},
        "b-other-team": {"select": {"runSelector": {"matchLabels": {"team": "fraud"}}}},
        "c-other-pipeline": {"select": {"pipelines": ["fraud-*"]}},
        "d-insists": {"policy": {"optOut": "Forbidden"}, "uri": f"{NOWHERE}/d"},
        "e-waits": {"suspend": True, "uri": f"{NOWHERE}/e"},
        "f-same-place": {"policy": {"optOut": "Forbidden"}, "uri": f"{NOWHERE}/d/"},
    }
    for name, spec in targets.items():
        kubectl("apply", "-n", namespace, "-f", "-", stdin=target(name, **spec))
    # Made after the run had ended: that decides before all else.
    said = pipetrail("explain", run, "-n", namespace, "-o", "json")
    assert said.code == 1
    assert {row["rule"] for row in json.loads(said.out)} >= {"EndedBeforeTarget"}
    running = {
        "metadata": {"name": "live-x7k2p", "generateName": "live-"},
        "spec": {"entrypoint": "x", "templates": []},
    }
    running |= {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow"}
    running["metadata"]["labels"] = {"workflows.argoproj.io/controller-instanceid": "nobody"}
    kubectl("create", "-n", namespace, "-f", "-", stdin=running)

    def rules() -> dict[str, str]:
        rows = json.loads(pipetrail("explain", "live-x7k2p", "-n", namespace, "-o", "json").out)
        return {row["target"].rpartition("/")[2]: row["rule"] for row in rows if namespace in row["target"]}

    assert rules() == {
        "a-takes": "Selected", "b-other-team": "RunSelector", "c-other-pipeline": "Pipelines",
        "d-insists": "Selected", "e-waits": "Selected", "f-same-place": "SameTracker",
    }  # fmt: skip
    table = pipetrail("explain", "live-x7k2p", "-n", namespace)
    assert table.code == 0
    assert "but it is suspended, so the run waits" in " ".join(table.out.split())
    kubectl("annotate", "workflow", "live-x7k2p", "-n", namespace, "pipetrail.dev/targets=e-waits")
    assert (rules()["a-takes"], rules()["d-insists"], rules()["e-waits"]) == (
        "NotAmongTargets", "OptOutForbidden", "Selected",
    )  # fmt: skip
    kubectl("label", "workflow", "live-x7k2p", "-n", namespace, "pipetrail.dev/track=false")
    assert (rules()["a-takes"], rules()["d-insists"], rules()["e-waits"]) == ("OptOut", "OptOutForbidden", "OptOut")


def test_explain_says_so_where_nothing_can_see_a_run(pipetrail: Command, namespace: str, run: str) -> None:
    said = pipetrail("explain", run, "-n", namespace, "-o", "json")
    assert (said.code, [row for row in json.loads(said.out) if row["records"]]) == (1, [])


def test_explain_finds_a_run_by_its_uid(pipetrail: Command, kubectl: Kubectl, namespace: str, run: str) -> None:
    uid = kubectl("get", "workflow", run, "-n", namespace, "-o", "jsonpath={.metadata.uid}").out
    assert pipetrail("explain", uid, "-n", namespace).code == 1
    said = pipetrail("explain", "churn-nope", "-n", namespace)
    assert (said.code, said.out) == (3, "")
    assert said.err == f"pipetrail: there is no Workflow churn-nope in namespace {namespace}; there is {run}\n"


# --- preview ----------------------------------------------------------------------------------------------------------


def test_preview_of_a_live_run_is_its_record_with_files(pipetrail: Command, namespace: str, run: str) -> None:
    record = json.loads(pipetrail("preview", run, "-n", namespace, "-o", "json").out)
    assert (record["schema"], record["name"], record["namespace"]) == ("pipetrail.record/v1", run, namespace)
    wanted = json.loads((RECORDINGS / "churn-sweep.record.json").read_text())
    points = [[(p["key"], p["value"], p["step"]) for p in s["points"]] for s in record["steps"]]
    logs = [[(p["key"], p["value"], p["step"]) for p in s["points"] if p["source"]["kind"] != "stdout"]
            for s in wanted["steps"]]  # fmt: skip
    assert [[p for p in mine if p in theirs] for mine, theirs in zip(points, logs, strict=True)] == logs


def test_preview_takes_a_target_by_name_or_from_a_file(
    pipetrail: Command, kubectl: Kubectl, namespace: str, run: str, tmp_path: Path
) -> None:
    kubectl("apply", "-n", namespace, "-f", "-", stdin=target("mlflow", naming={"layout": "Flat"}))
    shown = json.loads(pipetrail("preview", run, "-n", namespace, "--target", "mlflow", "-o", "json").out)
    assert len(shown["runs"]) == 1
    file = tmp_path / "target.json"
    file.write_text(json.dumps(target("mlflow")))
    shown = json.loads(pipetrail("preview", run, "-n", namespace, "--target", str(file), "-o", "json").out)
    assert len(shown["runs"]) == 4
    said = pipetrail("preview", run, "-n", namespace, "--target", "other")
    assert said.code == 3
    assert f"namespace {namespace} sees no target other (it sees: " in said.err


# --- verify -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[real_mlflow.Server]:
    with real_mlflow.serving(tmp_path_factory.mktemp("mlflow-cli")) as server:
        yield server


@pytest.fixture
def operator(cluster: Cluster, namespace: str, tmp_path: Path) -> Iterator[Operator]:
    """An operator that sees the test's namespace alone."""
    if not cluster.kubeconfig:
        pytest.skip("needs a kubeconfig of its own")
    made = Operator(Path(cluster.kubeconfig), tmp_path / "operator.log", "--watch-namespace", namespace)
    made.start(wait_s=60)
    yield made
    made.stop()


@pytest.mark.mlflow
async def test_verify_says_equal_and_then_what_someone_changed(
    pipetrail: Command, kubectl: Kubectl, namespace: str, mlflow: real_mlflow.Server, operator: Operator, play: Play,
    run: str,
) -> None:  # fmt: skip
    from mlflow import MlflowClient

    said = pipetrail("verify", run, "-n", namespace)
    assert (said.code, "is recorded nowhere" in said.out) == (1, True)
    kubectl("apply", "-n", namespace, "-f", "-", stdin=target("mlflow", uri=mlflow.url))
    kubectl("wait", "tt/mlflow", "-n", namespace, "--for=condition=Ready", "--timeout=60s")
    played = await play("loop-retry")
    kubectl("wait", "trun", "-l", f"pipetrail.dev/uid={played.uid}", "-n", namespace, "--for=create", "--timeout=60s")
    kubectl("wait", "trun", "-l", f"pipetrail.dev/uid={played.uid}", "-n", namespace,
            "--for=jsonpath={.status.phase}=Synced", "--timeout=60s")  # fmt: skip
    said = pipetrail("verify", played.name, "-n", namespace)
    assert (said.code, f"TrackingTarget/{namespace}/mlflow: equal (" in said.out) == (0, True), said.out + said.err
    explained = json.loads(pipetrail("explain", played.name, "-n", namespace, "-o", "json").out)
    assert [row["sync"] for row in explained if row.get("trackedRun")] == ["Synced"]

    client = MlflowClient(mlflow.url)
    held = client.search_runs([e.experiment_id for e in client.search_experiments()])
    child = next(r for r in held if r.info.run_name == "fit k=a" and r.data.tags["pipetrail.uid"] == played.uid)
    client.set_tag(child.info.run_id, "someone", "was here")
    assert pipetrail("verify", played.name, "-n", namespace).code == 0
    client.log_metric(child.info.run_id, "need", 7.5)
    said = pipetrail("verify", played.name, "-n", namespace, "-o", "json")
    assert said.code == 1
    assert [(d["run"], d["key"], d["held"]) for row in json.loads(said.out) for d in row["differences"]] == [
        ("fit k=a", "need@0", "0.0, 7.5")
    ]
    mlflow.stop()
    said = pipetrail("verify", played.name, "-n", namespace)
    assert (said.code, said.out) == (3, "")
    mlflow.start(bound=True)


# --- errors -----------------------------------------------------------------------------------------------------------

VERBS = (["status"], ["explain", "x"], ["preview", "x"], ["verify", "x"], ["resend", "x"], ["confirm-close"])


@pytest.mark.parametrize("args", VERBS)
def test_what_a_tenant_may_not_see_is_named_with_what_to_do(
    pipetrail: Command, cluster: Cluster, namespace: str, args: list[str]
) -> None:
    if not cluster.ours:
        pytest.skip("the users are the local cluster's")
    said = pipetrail(*args, "-n", namespace, kubeconfig=cluster.user("tenant-a").kubeconfig)
    assert (said.code, said.out) == (3, "")
    assert "403 Forbidden" in said.err
    assert "ask for the right" in said.err
    assert len(said.err.splitlines()) == 1


def test_a_tenant_with_rights_in_the_namespace_alone_needs_no_others(
    pipetrail: Command, cluster: Cluster, kubectl: Kubectl, namespace: str, run: str
) -> None:
    if not cluster.ours:
        pytest.skip("the users are the local cluster's")
    kubectl("create", "role", "looks", "-n", namespace, "--verb=get,list",
            "--resource=namespaces,pods,pods/log,secrets,workflows.argoproj.io,workflowtaskresults.argoproj.io,"
            "trackingtargets.pipetrail.dev,trackedruns.pipetrail.dev")  # fmt: skip
    kubectl("create", "rolebinding", "looks", "-n", namespace, "--role=looks", "--user=tenant-a")
    kubectl("apply", "-n", namespace, "-f", "-", stdin=target("mlflow"))
    mine = cluster.user("tenant-a").kubeconfig
    assert pipetrail("explain", run, "-n", namespace, kubeconfig=mine).code == 1
    assert pipetrail("status", "-n", namespace, kubeconfig=mine).code == 1
    shown = pipetrail("preview", run, "-n", namespace, "--target", "mlflow", "-o", "json", kubeconfig=mine)
    assert (shown.code, len(json.loads(shown.out)["runs"])) == (0, 4)
    said = pipetrail("status", kubeconfig=mine)
    assert (said.code, "name a namespace" in said.err) == (3, True)


@pytest.mark.parametrize("args", VERBS)
def test_an_unknown_context_is_said(pipetrail: Command, cluster: Cluster, args: list[str]) -> None:
    said = pipetrail(*args, "--context", "nope", kubeconfig=cluster.kubeconfig)
    assert (said.code, said.out) == (3, "")
    assert "nope" in said.err
    assert len(said.err.splitlines()) == 1


@pytest.mark.parametrize("args", VERBS)
def test_an_api_server_that_is_away_is_said(
    pipetrail: Command, cluster: Cluster, kubectl: Kubectl, args: list[str], tmp_path: Path
) -> None:
    config = json.loads(kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json").out)
    config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{real_mlflow.free_port()}"
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(config))
    said = pipetrail(*args, kubeconfig=str(path))
    assert (said.code, said.out) == (3, "")
    assert "no answer from the API server" in said.err
    assert len(said.err.splitlines()) == 1


# --- kubectl ----------------------------------------------------------------------------------------------------------


def test_it_is_a_plugin_of_kubectl(cluster: Cluster, kubectl: Kubectl, namespace: str) -> None:
    scripts = Path(sys.executable).parent
    env = {**os.environ, "PATH": f"{scripts}:{os.environ['PATH']}"}
    if cluster.kubeconfig:
        env["KUBECONFIG"] = cluster.kubeconfig
    command = [cluster.kubectl, "pipetrail", "status", "-n", namespace, "-o", "json"]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=60, check=False)
    assert (done.returncode, json.loads(done.stdout)["runs"]) == (0, []), done.stderr
