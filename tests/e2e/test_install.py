"""The operator as it is installed: its image, in a pod of the level restricted, with its own ServiceAccount.

A real Argo run with real pods goes to a real MLflow; what the pod may write, what its probes and metrics say, what a
second one does, and what an uninstall leaves. The tests are steps of one story, in this order.
"""

import json
import math
import os
import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.cluster.fixtures import Cluster, Kubectl, _missing
from tests.e2e import install, oracle
from tests.e2e.install import Installation, get, ready, until
from tests.e2e.stage import ROOT
from tests.real import mlflow as real_mlflow

from pipetrail.delivery.plan import value_id

pytestmark = [pytest.mark.minutes(2), pytest.mark.node, pytest.mark.slow]

GATEWAY = "10.88.0.1"  # what this machine is for pods
CANARY = "canary-5e81b0c94f"
TRAIN = """
import json, math
depth = int('{{inputs.parameters.depth}}')
open('/tmp/accuracy', 'w').write(repr(1 - math.exp(-depth) / 3))
json.dump({'auc': math.sqrt(depth) / 3}, open('/tmp/metrics.json', 'w'))
"""
DEPTHS = (2, 4)
PIPELINE = {
    "apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "metadata": {"name": "sweep"},
    "spec": {
        "entrypoint": "main",
        "templates": [
            {"name": "main", "steps": [[{
                "name": "train", "template": "train", "withItems": [{"depth": depth} for depth in DEPTHS],
                "arguments": {"parameters": [{"name": "depth", "value": "{{item.depth}}"}]},
            }]]},
            {
                "name": "train", "inputs": {"parameters": [{"name": "depth"}]},
                "outputs": {
                    "parameters": [{"name": "accuracy", "valueFrom": {"path": "/tmp/accuracy"}}],
                    "artifacts": [{"name": "metrics", "path": "/tmp/metrics.json", "archive": {"none": {}}}],
                },
                "container": {
                    "image": "lab.local/python:3.11", "imagePullPolicy": "Never", "command": ["python3", "-c"],
                    "args": [TRAIN],
                },
            },
        ],
    },
}  # fmt: skip


class House(NamedTuple):
    """What the story is played with."""

    installation: Installation
    team: str
    tracker: real_mlflow.Server
    kubectl: Kubectl


@pytest.fixture(scope="module")
def node_cluster(cluster: Cluster) -> Cluster:
    """The cluster with real pods."""
    if cluster.env.get("tier") != "node":
        _missing("no node tier (python3 deploy/local/cluster.py up --tier node)")
    return cluster


@pytest.fixture(scope="module")
def house(node_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    team = f"pt-team-{secrets.token_hex(3)}"
    name = f"mlflow.{team}.lab.local"
    folder: Path = tmp_path_factory.mktemp("install")
    command = [*install.LOCAL, "namespace", team]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    tracker = real_mlflow.plain(folder / "mlflow", host=GATEWAY, hosts=f"{GATEWAY}:*,{name}:*")
    tracker.start(bound=True)
    installation = Installation(node_cluster, folder / "overlay", (team,))
    kubectl = Kubectl(node_cluster)
    try:
        installation.write(install.image())
        installation.apply()
        tracker.wait()
        installation.wait_ready()
        yield House(installation, team, tracker, kubectl)
    finally:
        installation.delete()
        tracker.stop()
        subprocess.run([*command, "--delete"], check=False, capture_output=True, timeout=120)


def test_its_pod_is_ready_where_the_level_restricted_is_enforced(house: House) -> None:
    space = json.loads(house.kubectl("get", "namespace", house.installation.namespace, "-o", "json").out)
    assert space["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    pod = house.installation.pod()
    assert (ready(pod), pod["status"]["containerStatuses"][0]["restartCount"]) == (True, 0)
    assert pod["spec"]["serviceAccountName"] == house.installation.account.rpartition(":")[2]
    refused = house.kubectl(
        "run", "loose", "--image=lab.local/python:3.11", "--dry-run=server", "-n", house.installation.namespace,
        check=False,
    )  # fmt: skip
    assert 'violates PodSecurity "restricted' in refused.err


def in_the_pod(house: House, script: str) -> str:
    name, space = house.installation.pod()["metadata"]["name"], house.installation.namespace
    return house.kubectl("exec", name, "-n", space, "--", "sh", "-c", f"{{ {script}; }} 2>&1", check=False).out.strip()


def test_it_is_nobody_and_can_write_below_tmp_alone(house: House) -> None:
    assert in_the_pod(house, "id -u; id -g") == "65532\n65532"
    assert in_the_pod(house, "touch /tmp/x && echo done") == "done"
    for path in ("/x", "/opt/pipetrail/x", "/etc/pipetrail/x", "/var/tmp/x", "/usr/bin/x"):
        assert "Read-only file system" in in_the_pod(house, f"touch {path}"), path


def test_the_image_has_what_each_tracker_needs_and_nothing_that_builds(house: House) -> None:
    assert (
        in_the_pod(
            house, 'for p in mlflow neptune tensorboard matplotlib; do python -c "import $p" || echo no $p; done'
        )
        == ""
    )
    assert in_the_pod(
        house, "for c in cc gcc g++ ld make uv; do command -v $c; done; ls -d /build /src /root/.cache"
    ) == (
        "ls: cannot access '/build': No such file or directory\n"
        "ls: cannot access '/src': No such file or directory\n"
        "ls: cannot access '/root/.cache': Permission denied"
    )


def test_a_target_is_all_the_set_up_and_a_real_run_arrives_in_mlflow(house: House) -> None:
    secret = {"metadata": {"name": "mlflow"}, "stringData": {"token": CANARY}}
    house.kubectl("apply", "-n", house.team, "-f", "-", stdin={"apiVersion": "v1", "kind": "Secret", **secret})
    uri = f"http://mlflow.{house.team}.lab.local:{house.tracker.port}"
    backend = {"mlflow": {"trackingUri": uri, "auth": {"bearerTokenSecretRef": {"name": "mlflow", "key": "token"}}}}
    target = {
        "apiVersion": "pipetrail.dev/v1alpha1", "kind": "TrackingTarget", "metadata": {"name": "mlflow"},
        "spec": {"backend": backend},
    }  # fmt: skip
    house.kubectl("apply", "--validate=strict", "-n", house.team, "-f", "-", stdin=target)
    house.kubectl("wait", "tt/mlflow", "-n", house.team, "--for=condition=Ready", "--timeout=60s", timeout_s=90)
    house.kubectl("create", "-n", house.team, "-f", "-", stdin=PIPELINE)
    house.kubectl(
        "wait", "workflow/sweep", "-n", house.team, "--for=jsonpath={.status.phase}=Succeeded", "--timeout=240s",
        timeout_s=260,
    )  # fmt: skip
    waited = house.kubectl(
        "wait", "trun", "--all", "-n", house.team, "--for=jsonpath={.status.phase}=Synced", "--timeout=90s",
        check=False, timeout_s=120,
    )  # fmt: skip
    told = house.kubectl("get", "tt,trun", "-n", house.team, "-o", "yaml").out
    assert waited.code == 0, f"{waited.err}\n{told}\n{house.installation.logs(house.installation.pod())}"
    there = {held.params.get("depth"): held for held in oracle._held(house.tracker.url, ())}
    for depth in DEPTHS:
        wanted = {
            ("accuracy", value_id(1 - math.exp(-depth) / 3)), ("auc", value_id(math.sqrt(depth) / 3)),
        }  # fmt: skip
        assert {(key, value) for key, _, value, _ in there[str(depth)].points} == wanted
    assert {held.status for held in there.values()} == {"Finished"}


def test_probes_and_metrics_tell_what_happened(house: House) -> None:
    pod = house.installation.pod()
    assert (get(pod, "/healthz"), get(pod, "/readyz")) == ((200, "ok\n"), (200, "ok\n"))
    status, page = get(pod, "/metrics")
    values = dict(line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
    assert status == 200
    assert values['pipetrail_runs{state="Synced"}'] == "1.0"
    there = sum(len(held.points) for held in oracle._held(house.tracker.url, ()))
    assert (there >= 2 * len(DEPTHS), values["pipetrail_points_total"]) == (True, f"{there:.1f}")
    assert values["pipetrail_lease_held"] == "1.0"
    assert values["pipetrail_lost_total"] == "0.0"
    assert values[f'pipetrail_queue_runs{{target="mlflow",target_namespace="{house.team}"}}'] == "0.0"
    assert float(values["pipetrail_delivery_lag_seconds_count"]) >= 1
    memory_mib = float(values["process_resident_memory_bytes"]) / 2**20
    print(f"resident after one run: {memory_mib:.0f} MiB, {values['process_cpu_seconds_total']} s of CPU")
    asked = pod["spec"]["containers"][0]["resources"]
    assert asked["requests"]["memory"] == "256Mi"
    assert memory_mib < 256


def test_no_secret_is_said_anywhere(house: House) -> None:
    pod = house.installation.pod()
    token = in_the_pod(house, "cat /var/run/secrets/kubernetes.io/serviceaccount/token")
    s3 = house.installation.cluster.env["s3"]
    said = {
        "log": house.installation.logs(pod),
        "metrics": get(pod, "/metrics")[1],
        "targets": house.kubectl("get", "tt,trun", "-n", house.team, "-o", "json").out,
        "events": house.kubectl("get", "events", "-n", house.team, "-o", "json").out,
        "tracker": repr(oracle._held(house.tracker.url, ())),
    }
    assert len(token) > 100
    assert '"event": "target"' in said["log"]
    found = [(where, what) for where, text in said.items() for what in (CANARY, s3["secretKey"], token) if what in text]
    assert found == []


def test_a_second_operator_waits_for_the_lease_and_takes_over_from_one_that_is_gone(house: House) -> None:
    installation = house.installation
    first = installation.pod()
    house.kubectl("scale", f"deployment/pipetrail-{installation.suffix}", "-n", installation.namespace, "--replicas=2")

    def waiting() -> Any:
        others = [pod for pod in installation.pods() if pod["metadata"]["name"] != first["metadata"]["name"]]
        return others and get(others[0], "/readyz")[0] == 503 and others[0]

    second = until("the second one answers that it waits", waiting, within_s=90)
    holder = f"{first['metadata']['name']}/{first['metadata']['uid']}"
    assert get(second, "/readyz") == (
        503, f"the Lease is held by {holder}\nthe ledger and the targets have not been read\n"
    )  # fmt: skip
    assert get(second, "/healthz") == (200, "ok\n")
    assert '"event": "waiting for the lease"' in installation.logs(second)
    assert get(first, "/readyz") == (200, "ok\n")
    # Gone at once; its ReplicaSet brings a third one, and either may be the next.
    began = time.monotonic()
    name = first["metadata"]["name"]
    house.kubectl("delete", "pod", name, "-n", installation.namespace, "--grace-period=0", "--force")

    def works() -> bool:
        others = [pod for pod in installation.pods() if pod["metadata"]["name"] != name]
        return [get(pod, "/readyz")[0] for pod in others].count(200) == 1

    until("one of the others works", works, within_s=90)
    print(f"another operator works {time.monotonic() - began:.1f} s after the first was deleted")
    house.kubectl("scale", f"deployment/pipetrail-{installation.suffix}", "-n", installation.namespace, "--replicas=1")
    until("one is left, and works", lambda: [ready(pod) for pod in installation.pods()] == [True], within_s=90)


def test_one_that_is_asked_to_go_gives_the_lease_back(house: House) -> None:
    installation = house.installation
    house.kubectl("rollout", "restart", f"deployment/pipetrail-{installation.suffix}", "-n", installation.namespace)
    installation.wait_ready()
    lease = installation.ask("get", "lease", "pipetrail")["spec"]
    pod = installation.pod()
    assert lease["holderIdentity"] == f"{pod['metadata']['name']}/{pod['metadata']['uid']}"
    assert '"event": "waiting for the lease"' not in installation.logs(pod)


GUIDE = (ROOT / "docs" / "install.md").read_text()


def commands() -> dict[str, str]:
    """The shell blocks of the guide by the heading that they stand under."""
    found: dict[str, str] = {}
    for section in re.split(r"^## ", GUIDE, flags=re.MULTILINE)[1:]:
        heading = section.partition("\n")[0]
        for block in re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL):
            found[heading] = found.get(heading, "") + block
    return found


def follow(house: House, block: str, tmp_path: Path) -> str:
    """Run a block in a shell, with the names and folders of this installation for the guide's; what it printed."""
    ours = house.installation
    name, space = f"pipetrail-{ours.suffix}", ours.namespace
    per_tenant = Installation(ours.cluster, tmp_path / "per-tenant", ours.watched, "overlays/per-tenant", ours.suffix)
    running = ours.pod()["spec"]["containers"][0]["image"] if ours.pods() else "lab.local/pipetrail:none"
    binding = tmp_path / "tenant"
    shutil.copytree(install.KUSTOMIZE / "overlays/per-tenant/tenant", binding, dirs_exist_ok=True)
    text = (
        (binding / "binding.yaml")
        .read_text()
        .replace(
            "kind: ClusterRole, name: pipetrail-references",
            f"kind: ClusterRole, name: pipetrail-references-{ours.suffix}",
        )
    )
    (binding / "binding.yaml").write_text(
        text.replace("name: pipetrail, namespace: pipetrail", f"name: {name}, namespace: {space}")
    )
    names = {
        "deploy/kustomize/overlays/per-tenant/tenant": str(binding),
        "deploy/kustomize/overlays/per-tenant": str(per_tenant.write(running)),
        "deploy/kustomize/base": str(ours.folder),
        "clusterrolebinding pipetrail-references": f"clusterrolebinding pipetrail-references-{ours.suffix}",
        "deployment/pipetrail": f"deployment/{name}",
        "services/pipetrail-metrics": f"services/pipetrail-metrics-{ours.suffix}",
        "-n pipetrail": f"-n {space}", "namespaces/pipetrail/": f"namespaces/{space}/", "team-a": house.team,
        "http://mlflow.mlflow.svc:5000": f"http://mlflow.{house.team}.lab.local:{house.tracker.port}",
    }  # fmt: skip
    for guide, here in names.items():
        block = block.replace(guide, here)
    environment = {
        **os.environ, "KUBECONFIG": str(ours.cluster.kubeconfig),
        "PATH": f"{Path(ours.cluster.kubectl).parent}:{os.environ['PATH']}",
    }  # fmt: skip
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block], cwd=ROOT, env=environment, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{block}\n{done.stdout[-1000:]}\n{done.stderr[-2000:]}"
    return done.stdout


def test_the_image_is_built_as_the_guide_says() -> None:
    """`cluster.py image` ran the same two commands for this test, but for where the base and the result are."""
    build, push = commands()["1. An image"].strip().splitlines()
    source = (ROOT / "deploy" / "local" / "image_of_operator.py").read_text()
    assert (build.split()[:3], push.split()[:2]) == (["buildah", "bud", "--tag"], ["buildah", "push"])
    assert all(word in source for word in ('"bud"', '"--tag"', '"push"'))


@pytest.mark.parametrize("heading", ["2. The operator", "3. A target", "Look at it", "Upgrade", "Per tenant"])
def test_every_command_of_the_guide_works(house: House, tmp_path: Path, heading: str) -> None:
    said = follow(house, commands()[heading], tmp_path)
    expected = {
        "2. The operator": "successfully rolled out", "3. A target": "sweep", "Look at it": "pipetrail_points_total",
        "Upgrade": "successfully rolled out", "Per tenant": "deleted",
    }  # fmt: skip
    assert expected[heading] in said


def test_the_guide_has_no_other_commands() -> None:
    tried = {"1. An image", "2. The operator", "3. A target", "Look at it", "Upgrade", "Per tenant", "Uninstall"}
    assert commands().keys() == tried


def test_with_per_tenant_a_namespace_without_the_binding_is_told_so(house: House) -> None:
    """The guide's block has bound the team's namespace; the binding goes, and the target says what to add."""
    house.kubectl("delete", "rolebinding", "pipetrail-references", "-n", house.team)
    secret = {"bearerTokenSecretRef": {"name": "mlflow", "key": "token"}}
    patch = json.dumps({"spec": {"backend": {"mlflow": {"auth": secret}}}})
    house.kubectl("patch", "tt", "mlflow", "-n", house.team, "--type=merge", "-p", patch)
    house.kubectl(
        "wait", "tt/mlflow", "-n", house.team, "--timeout=60s",
        "--for=jsonpath={.status.conditions[?(@.type=='Ready')].reason}=RefForbidden", timeout_s=90,
    )  # fmt: skip


def test_an_uninstall_leaves_nothing(house: House, tmp_path: Path) -> None:
    installation = house.installation
    house.kubectl("delete", "tt,trun", "--all", "-n", house.team)

    def ours() -> list[str]:
        kinds = house.kubectl("api-resources", "--verbs=list", "--namespaced=false", "-o", "name").out.split()
        kinds += ["rolebindings.rbac.authorization.k8s.io", "roles.rbac.authorization.k8s.io", "leases", "configmaps"]
        listed = house.kubectl("get", ",".join(kinds), "-A", "-o", "name", "--ignore-not-found", check=False).out
        return sorted(name for name in listed.split() if installation.suffix in name)

    before = ours()
    print("before:", *before, sep="\n  ")
    assert f"namespace/{installation.namespace}" in before
    follow(house, commands()["Uninstall"], tmp_path)
    until("its namespace is gone", lambda: f"namespace/{installation.namespace}" not in ours(), within_s=90)
    assert ours() == []
