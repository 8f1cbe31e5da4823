"""The running local cluster as its users meet it: the command line against real parts."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

CLUSTER = Path(__file__).resolve().parents[2] / "deploy" / "local" / "cluster.py"


def cluster(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, CLUSTER, *arguments], capture_output=True, text=True, check=False, timeout=120
    )


@pytest.fixture(scope="module", autouse=True)
def _local(request):
    if request.config.getoption("--context"):
        pytest.skip("a cluster of the user's own is in use: there is no local one")


@pytest.mark.api
def test_a_healthy_cluster_is_reused_within_three_seconds():
    begun = time.monotonic()
    done = cluster("up")
    assert done.returncode == 0, done.stderr
    assert "is up already" in done.stderr
    assert time.monotonic() - begun < 3


@pytest.mark.api
def test_status_tells_each_part_as_json():
    told = json.loads(cluster("status", "-o", "json").stdout)
    assert told["healthy"]
    parts = {part["part"]: part for part in told["parts"]}
    assert {"etcd", "kube-apiserver", "s3"} <= parts.keys()
    assert all(part["pid"] and part["version"] and part["rss_bytes"] for part in parts.values())


@pytest.mark.api
def test_tenants_may_log_in_and_have_no_rights():
    told = json.loads(cluster("env", "-o", "json").stdout)
    kubectl = Path(told["bin"]) / "kubectl"
    who = [kubectl, "--kubeconfig", told["users"]["tenant-a"]["kubeconfig"]]
    me = subprocess.run([*who, "auth", "whoami", "-o", "json"], capture_output=True, text=True, check=True)
    assert json.loads(me.stdout)["status"]["userInfo"]["username"] == "tenant-a"
    refused = subprocess.run([*who, "get", "secrets"], capture_output=True, text=True, check=False)
    assert "forbidden" in refused.stderr


@pytest.mark.api
def test_a_namespace_is_made_ready_for_workflows_and_leaves_nothing():
    told = json.loads(cluster("env", "-o", "json").stdout)
    kubectl = [Path(told["bin"]) / "kubectl", "--kubeconfig", told["kubeconfig"]]
    name = "local-cluster-test"
    assert cluster("namespace", name).returncode == 0
    try:
        ask = ["auth", "can-i", "create", "workflowtaskresults.argoproj.io", "-n", name]
        account = ["--as", f"system:serviceaccount:{name}:default", "--as-group", f"system:serviceaccounts:{name}"]
        may = subprocess.run([*kubectl, *ask, *account], capture_output=True, text=True, check=False)
        assert may.stdout.strip() == "yes"
        secret = subprocess.run([*kubectl, "get", "secret", "s3-credentials", "-n", name], check=False)
        assert secret.returncode == 0
    finally:
        assert cluster("namespace", name, "--delete").returncode == 0
    for _ in range(100):
        gone = subprocess.run([*kubectl, "get", "namespace", name], capture_output=True, check=False)
        if gone.returncode:
            return
        time.sleep(0.1)
    pytest.fail(f"namespace {name} is still there")
