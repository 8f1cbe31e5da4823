"""A sweep in real pods, with retries, a failed step and one that the kernel killed, from the container to the trackers.

MLflow, TensorBoard and Neptune get it at once; each is read back by its own client or reader.

What is expected is computed here by the same formulas as in the pods: no part of the product has a say in it.
"""

import asyncio
import json
import math
import secrets
import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_asyncio
from tests.cluster.fixtures import Cluster, Kubectl, _missing, connect
from tests.e2e import oracle
from tests.e2e.stage import ROOT, Stage, before_the_api, kubeconfig, starts, until
from tests.e2e.trackers import NAMES, Trackers, trackers
from tests.real.mlflow import Server
from tests.real.operator import Operator
from tests.real.proxy import Proxy, Seen

from pipetrail.delivery.plan import value_id
from pipetrail.targets.target import Held

pytestmark = [pytest.mark.minutes(1), pytest.mark.node, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

CANARY = "canary-7f3a9c51d2"
IMAGE = "lab.local/python:3.11"
TURNS = [(depth, rate) for depth in (2, 4) for rate in (0.1, 0.3)]
EPOCHS = 4
TRAIN = f"""
import json, math, sys
depth, rate = int('{{{{inputs.parameters.depth}}}}'), float('{{{{inputs.parameters.lr}}}}')
attempt = int('{{{{retries}}}}')
if depth == 4 and rate == 0.3 and attempt == 0:
    sys.exit('the first try fails')
for epoch in range({EPOCHS}):
    loss = math.exp(-rate * depth * (epoch + 1) / 3)
    print(f'epoch={{epoch}} loss={{loss!r}}', flush=True)
open('/tmp/accuracy', 'w').write(repr(1 - loss / 2))
json.dump({{'auc': math.sqrt(rate) / depth, 'rows': 2**53 - depth}}, open('/tmp/metrics.json', 'w'))
"""


def float32(value: float) -> float:
    """`value` as TensorBoard keeps it."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


class Lab(NamedTuple):
    """A finished run in real pods, and all that is known of it."""

    stage: Stage
    run: str
    body: Any
    there: list[oracle.Held]
    operator: Operator
    mlflow: Proxy
    arrived: dict[str, float]
    node_said: dict[str, float]
    elsewhere: dict[str, list[Held]]


def python(code: str, **template: Any) -> dict[str, Any]:
    """A template that runs `code`; containers' keys may be overridden."""
    container = {"image": IMAGE, "imagePullPolicy": "Never", "command": ["python3", "-c"], "args": [code]}
    return {"container": {**container, **template.pop("container", {})}, **template}


def sweep_of_depth_and_rate() -> dict[str, Any]:
    """The pipeline; no word of a tracker in it."""
    from_file = {"valueFrom": {"path": "/tmp/accuracy"}}
    small = {"limits": {"memory": "256Mi"}}
    turn = {"parameters": [{"name": n, "value": f"{{{{item.{n}}}}}"} for n in ("depth", "lr")]}
    after = "train.Succeeded || train.Failed"
    tasks = [
        {
            "name": "train",
            "template": "train",
            "arguments": turn,
            "withItems": [{"depth": d, "lr": r} for d, r in TURNS],
        },
        {"name": "broken", "template": "broken", "depends": after},
        {"name": "hungry", "template": "hungry", "depends": after},
    ]
    secret = [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "canary", "key": "token"}}}]
    templates = [
        {"name": "main", "dag": {"failFast": False, "tasks": tasks}},
        python(
            TRAIN, name="train", inputs={"parameters": [{"name": "depth"}, {"name": "lr"}]},
            retryStrategy={"limit": "2"},
            outputs={
                "parameters": [{"name": "accuracy", **from_file}],
                "artifacts": [{"name": "metrics", "path": "/tmp/metrics.json", "archive": {"none": {}}}],
            },
        ),
        python(
            "import os, sys; print('the token is', os.environ['TOKEN'][:0] + '{{workflow.parameters.db-password}}'); "
            "sys.exit('RuntimeError: validation of batch 7 failed')",
            name="broken", container={"env": secret},
        ),
        python("x = bytearray(400 << 20); print(len(x))", name="hungry", container={"resources": small}),
    ]  # fmt: skip
    arguments = {"parameters": [{"name": "db-password", "value": CANARY}, {"name": "team", "value": "churn"}]}
    return {
        "apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "metadata": {"generateName": "depth-rate-"},
        "spec": {"entrypoint": "main", "arguments": arguments, "templates": templates},
    }  # fmt: skip


@pytest.fixture(scope="module")
def node_cluster(request: pytest.FixtureRequest) -> Cluster:
    """The cluster with real pods."""
    if request.config.getoption("--context", default=None):
        pytest.skip("this pipeline needs the image of the local cluster")
    command = [sys.executable, str(ROOT / "deploy" / "local" / "cluster.py")]
    asked = subprocess.run([*command, "env", "-o", "json"], capture_output=True, text=True, timeout=60, check=False)
    env = json.loads(asked.stdout) if asked.returncode == 0 else {}
    if env.get("tier") != "node":
        _missing("no node tier (python3 deploy/local/cluster.py up --tier node)")
    made = Cluster(env["kubeconfig"], env["context"], str(Path(env["bin"]) / "kubectl"), env)
    Kubectl(made)("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))
    return made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab(node_cluster: Cluster, tracker: Server, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lab]:
    folder: Path = tmp_path_factory.mktemp("pods")
    namespace = f"e2e-pods-{secrets.token_hex(3)}"
    command = [sys.executable, str(ROOT / "deploy" / "local" / "cluster.py"), "namespace", namespace]
    await asyncio.to_thread(subprocess.run, command, check=True, timeout=120, capture_output=True)
    try:
        async with (
            await connect(node_cluster) as kube,
            before_the_api(node_cluster) as api,
            trackers(tracker, folder, namespace) as three,
        ):
            stage = Stage(node_cluster, kube, namespace)
            operator = Operator(
                kubeconfig(node_cluster, api.url, folder), folder / "operator.log",
                "--watch-namespace", namespace, "--argo-ui", "http://argo.example", "--log-level", "debug",
                *three.flags,
            )  # fmt: skip
            await starts(operator)
            try:
                await stage.secret("canary", token=CANARY)
                await three.targets(stage, capture={"stdout": "On"})
                yield await _watched(stage, operator, three)
            finally:
                operator.kill()
    finally:
        await asyncio.to_thread(subprocess.run, [*command, "--delete"], check=False, timeout=120, capture_output=True)


async def _watched(stage: Stage, operator: Operator, three: Trackers) -> Lab:
    """Submit, watch both ends until all is settled."""
    loop = asyncio.get_running_loop()
    mlflow = three.before_mlflow
    arrived: dict[str, float] = {}
    node_said: dict[str, float] = {}

    def on_response(seen: Seen, status: int) -> None:
        if status == 200 and seen.ends("/runs/log-batch"):
            body = json.loads(seen.body)
            if body.get("metrics"):
                arrived.setdefault(body["run_id"], loop.time())

    mlflow.on_response = on_response
    made = await stage.kube.post(
        f"/apis/argoproj.io/v1alpha1/namespaces/{stage.namespace}/workflows", sweep_of_depth_and_rate()
    )
    run = made["metadata"]["name"]

    async def ended() -> bool:
        status = (await stage.workflow(run)).get("status") or {}
        for node in (status.get("nodes") or {}).values():
            if node.get("type") in ("Pod", "Retry") and node.get("phase") in ("Succeeded", "Failed", "Error"):
                node_said.setdefault(node["displayName"], loop.time())
        return status.get("phase") in ("Succeeded", "Failed", "Error")

    await until(f"{run} has ended", ended, within_s=300, every_s=0.25)
    for name in NAMES:
        await stage.reaches(run, "Synced", target=name, within_s=60)
    (tracked,) = await stage.tracked(run, "mlflow")
    key, experiment = tracked["spec"]["run"]["key"], tracked["spec"]["experiment"]
    there = [held for held in await oracle.held(three.mlflow.url) if held.tags.get("pipetrail.root") == key]
    elsewhere = {name: await three.held(name, [experiment]) for name in ("tensorboard", "neptune")}
    return Lab(stage, run, await stage.workflow(run), there, operator, mlflow, arrived, node_said, elsewhere)


def values(depth: int, rate: float) -> set[tuple[str, int, float]]:
    """What the code prints and writes, by the same formulas: key, step and value."""
    losses = [math.exp(-rate * depth * (epoch + 1) / 3) for epoch in range(EPOCHS)]
    single = {"accuracy": 1 - losses[-1] / 2, "auc": math.sqrt(rate) / depth, "rows": float(2**53 - depth)}
    return {("loss", epoch, loss) for epoch, loss in enumerate(losses)} | {(k, 0, v) for k, v in single.items()}


def child(lab: Lab, depth: int, rate: float) -> oracle.Held:
    found = [h for h in lab.there if h.params.get("depth") == str(depth) and h.params.get("lr") == str(rate)]
    assert len(found) == 1, [(h.name, h.params) for h in lab.there]
    return found[0]


def parent(lab: Lab) -> oracle.Held:
    (found,) = [h for h in lab.there if h.key == h.tags["pipetrail.root"]]
    return found


async def test_every_value_that_the_code_printed_or_wrote_is_in_mlflow_bit_for_bit(lab: Lab) -> None:
    for depth, rate in TURNS:
        held = child(lab, depth, rate)
        wanted = {(key, step, value_id(value)) for key, step, value in values(depth, rate)}
        assert wanted == {point[:3] for point in held.points}
        assert len(held.points) == len(wanted)
        assert held.status == "Finished"


@pytest.mark.parametrize(("tracker_name", "digits"), [("tensorboard", float32), ("neptune", float)])
async def test_the_same_values_are_in_the_other_trackers(lab: Lab, tracker_name: str, digits: Any) -> None:
    """TensorBoard's numbers are float32."""
    there = lab.elsewhere[tracker_name]
    for depth, rate in TURNS:
        (held,) = [h for h in there if h.params.get("depth") == str(depth) and h.params.get("lr") == str(rate)]
        wanted = {(key, step, value_id(digits(value))) for key, step, value in values(depth, rate)}
        assert wanted == {(p.key, p.step, value_id(p.value)) for p in held.metrics}
        assert len(held.metrics) == len(wanted)
        in_mlflow = child(lab, depth, rate)
        assert (held.name, held.status, held.key) == (in_mlflow.name, in_mlflow.status, in_mlflow.key)
        times = {(p.key, p.step): p.time_ms for p in held.metrics}
        assert times == {(key, step): ms for key, step, _, ms in in_mlflow.points}
    assert len(there) == len(lab.there)


async def test_points_have_the_times_of_their_steps(lab: Lab) -> None:
    nodes = [n for n in lab.body["status"]["nodes"].values() if n["type"] == "Pod"]
    for depth, rate in TURNS:
        held = child(lab, depth, rate)
        mine = [
            n for n in nodes
            if {p["name"]: p["value"] for p in (n.get("inputs") or {}).get("parameters", ())}
            == {"depth": str(depth), "lr": str(rate)} and n["phase"] == "Succeeded"
        ]  # fmt: skip
        (node,) = mine
        begun, over = (datetime.fromisoformat(node[at]).timestamp() * 1000 for at in ("startedAt", "finishedAt"))
        assert all(begun <= ms <= over + 1000 for *_, ms in held.points)
        assert begun <= held.started_ms <= held.finished_ms <= over + 1000


async def test_a_retried_turn_is_one_child_with_the_values_of_its_last_attempt(lab: Lab) -> None:
    assert len(TURNS) == sum(1 for held in lab.there if "lr" in held.params)
    assert child(lab, 4, 0.3).status == "Finished"


async def test_the_note_says_which_steps_failed_and_why(lab: Lab) -> None:
    held = parent(lab)
    note = held.tags["mlflow.note.content"]
    print(note)
    assert held.status == "Failed"
    assert "RuntimeError: validation of batch 7 failed" in note
    assert "OOMKilled" in note


async def test_points_reach_mlflow_before_argo_shows_the_step_as_done(lab: Lab) -> None:
    """Argo writes a node up to 10 s after its pod ended; the pod and its task result already tell all."""
    ahead = {}
    for turn, (depth, rate) in enumerate(TURNS):
        name = next(n for n in lab.node_said if n.startswith(f"train({turn}:") and not n.endswith(")(0)"))
        ahead[depth, rate] = lab.node_said[name] - lab.arrived[child(lab, depth, rate).id]
    print("seconds ahead of Argo's node:", {k: round(s, 1) for k, s in ahead.items()})
    assert max(ahead.values()) > 1
    assert min(ahead.values()) > -2


async def test_a_secret_value_stands_in_no_log_event_status_or_tracker(lab: Lab) -> None:
    kube, namespace = lab.stage.kube, lab.stage.namespace
    events = await kube.get(f"/api/v1/namespaces/{namespace}/events")
    ours = [e for e in events["items"] if e["source"].get("component") == "pipetrail"]
    targets = await kube.get(f"/apis/pipetrail.dev/v1alpha1/namespaces/{namespace}/trackingtargets")
    files = [p for p in lab.operator.log.parent.parent.rglob("artifacts.*") if p.is_file()]
    places = {
        "log": lab.operator.log.read_text(),
        "events": json.dumps(ours),
        "status": json.dumps(await lab.stage.tracked()) + json.dumps(targets),
        "tracker": repr(lab.there) + repr(lab.elsewhere),
        "event files": repr([p.read_bytes() for p in lab.operator.log.parent.rglob("events.out.*")]),
        "what was sent": b"".join(seen.body for seen in lab.mlflow.log).decode("utf-8", "replace"),
        "files": "".join(p.read_text() for p in files),
    }
    assert [where for where, text in places.items() if CANARY in text] == []
    assert parent(lab).params["db-password"] == "<redacted>"
