"""From the previous version to this one with runs in flight, and away again: an uninstall leaves nothing.

The previous version is the wheel in tests/data/upgrade, a real operator with its own CRDs (it had no image yet). Both
need an API server of their own, since CRDs are the whole cluster's.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster.fixtures import Cluster, Kubectl, connect, sweep, with_crds
from tests.e2e import oracle
from tests.e2e.stage import ROOT, Stage, starts
from tests.real.crds import wait_established
from tests.real.mlflow import Server
from tests.real.operator import Operator

pytestmark = [pytest.mark.minutes(2), pytest.mark.api, pytest.mark.slow]

BASE = str(ROOT / "deploy" / "kustomize" / "base")
(PREVIOUS,) = (ROOT / "tests" / "data" / "upgrade").glob("pipetrail-*.whl")
OLD = {"PYTHONPATH": str(PREVIOUS)}  # Python runs a wheel as it is
NOT_OURS = ("events", "leases", "componentstatuses", "apiservices")
"""Kinds whose objects come and go by themselves: the API server's own lease, and an APIService for each CRD's group."""


@pytest.fixture
def bare(own_cluster: Cluster, own_kubectl: Kubectl) -> Iterator[Cluster]:
    """The API server without anything of ours; it has our CRDs again afterwards."""
    if not own_cluster.ours:
        pytest.skip("the CRDs of a cluster that is not the tests' own stay as they are")
    own_kubectl("delete", "-f", str(ROOT / "crds"), "--ignore-not-found", timeout_s=300)
    yield own_cluster
    uninstall(own_cluster, own_kubectl)
    with_crds(own_cluster.env)


def uninstall(cluster: Cluster, kubectl: Kubectl) -> None:
    """`kubectl delete -k`, and what a controller-manager would do for the namespace."""
    kubectl("delete", "-k", BASE, "--ignore-not-found", "--wait=false")
    if kubectl("get", "namespace", "pipetrail", check=False).code == 0:
        sweep(cluster, kubectl, "pipetrail")


def everything(kubectl: Kubectl) -> set[str]:
    """kind/name of all that stands in the cluster, of every kind that can be listed."""
    found = set()
    for scope in ("true", "false"):
        kinds = kubectl("api-resources", "--verbs=list", f"--namespaced={scope}", "-o", "name").out.split()
        wanted = [kind for kind in kinds if not kind.startswith(NOT_OURS)]
        form = "custom-columns=K:.kind,NS:.metadata.namespace,N:.metadata.name"
        listed = kubectl("get", ",".join(wanted), "-A", "-o", form, "--no-headers", "--ignore-not-found").out
        found |= {"/".join(line.split()) for line in listed.splitlines()}
    return found


def test_an_install_is_one_command_and_an_uninstall_leaves_nothing(bare: Cluster, own_kubectl: Kubectl) -> None:
    before = everything(own_kubectl)
    own_kubectl("apply", "-k", BASE)
    made = everything(own_kubectl) - before
    print("made:", *sorted(made), sep="\n  ")
    kinds = {name.partition("/")[0] for name in made}
    assert {"CustomResourceDefinition", "ClusterRole", "Deployment", "NetworkPolicy", "ServiceAccount"} <= kinds
    uninstall(bare, own_kubectl)
    deleted = everything(own_kubectl)
    assert (sorted(deleted - before), sorted(before - deleted)) == ([], [])


def crds_of_the_previous() -> str:
    command = [sys.executable, "-m", "pipetrail.cli", "crds"]
    return subprocess.run(
        command, env={**os.environ, **OLD}, capture_output=True, text=True, check=True, timeout=60
    ).stdout


async def test_an_upgrade_with_runs_in_flight_loses_and_doubles_nothing(
    bare: Cluster, own_kubectl: Kubectl, tracker: Server, tmp_path: Path
) -> None:
    await asyncio.to_thread(own_kubectl, "apply", "--server-side", "-f", "-", stdin=crds_of_the_previous())
    await asyncio.to_thread(wait_established, lambda *words: own_kubectl(*words).out)
    name = "e2e-upgrade"
    async with await connect(bare) as kube:
        stage = Stage(bare, kube, name)
        await stage.prepare()
        config = Path(str(bare.kubeconfig))
        try:
            await _upgraded(stage, own_kubectl, tracker, config, tmp_path)
        finally:
            await asyncio.to_thread(sweep, bare, own_kubectl, name)


async def _upgraded(stage: Stage, kubectl: Kubectl, tracker: Server, config: Path, folder: Path) -> None:
    previous = Operator(config, folder / "previous.log", env=OLD, allow="", lease=True)
    await starts(previous)
    try:
        await stage.target("mlflow", tracker.url)
        await stage.ready("mlflow")
        settled = await stage.play("params-kinds")
        await stage.reaches(settled.name, "Synced")
        script = stage.script("loop-retry")
        begun = [f"in-flight-{number}" for number in range(4)]
        playing = [
            asyncio.create_task(stage.play("loop-retry", run=run, speed=script.duration_s / 20)) for run in begun
        ]
        for run in begun:
            await stage.reaches(run, "Tracking")
    finally:
        previous.kill()
    (before,) = await stage.tracked(settled.name)
    applied = await asyncio.to_thread(kubectl, "apply", "-k", BASE)
    print(applied.out)
    present = Operator(config, folder / "present.log", lease=True)
    await starts(present)
    try:
        fresh = await stage.play("params-kinds")
        await asyncio.gather(*playing)
        for run in (*begun, fresh.name):
            await stage.reaches(run, "Synced", within_s=120)
        (after,) = await stage.tracked(settled.name)
        assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
        there = await oracle.held(tracker.url)
        found = []
        for run in (settled.name, *begun, fresh.name):
            body, (tracked,) = await stage.workflow(run), await stage.tracked(run)
            tree = await oracle.wanted(stage.kube, body, tracked)
            found += await asyncio.to_thread(oracle.differences, tree, there, tracker.url)
        assert found == []
        assert present.lines("delivery failed") == []
    finally:
        assert present.stop() == 0
