"""A real API server for tests: our own (deploy/local, tier api) or, with ``--context``, the user's.

Another folder takes these over with ``from tests.cluster.fixtures import *`` in its conftest.
"""

import asyncio
import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_asyncio
from kubernetes.aio import client as k8s
from kubernetes.aio import config as k8s_config
from tests.real.crds import wait_established

from pipetrail import api
from pipetrail.kube import ApiError, Kube

__all__ = ["Answer", "Cluster", "Kubectl", "cluster", "connect", "kube", "kubectl", "namespace", "sweep"]

ROOT = Path(__file__).parents[2]
LEFT = tuple(
    (group, kind)
    for group, kinds in {
        "api/v1": "pods secrets configmaps serviceaccounts services persistentvolumeclaims events",
        "apis/apps/v1": "deployments replicasets statefulsets controllerrevisions",
        "apis/rbac.authorization.k8s.io/v1": "roles rolebindings",
        "apis/coordination.k8s.io/v1": "leases",
        "apis/networking.k8s.io/v1": "networkpolicies",
        "apis/policy/v1": "poddisruptionbudgets",
        "apis/argoproj.io/v1alpha1": "workflows workflowtaskresults workflowtemplates cronworkflows workflowtasksets "
        "workflowartifactgctasks workfloweventbindings",
        f"apis/{api.GROUP}/{api.VERSION}": "trackingtargets trackedruns",
    }.items()
    for kind in kinds.split()
)
"""What tests may leave in a namespace, by group and plural."""
UP_TIMEOUT_S = 3600  # a cold build of the API server on two cores takes ten minutes, on a busy machine more


class Answer(NamedTuple):
    """What a command said."""

    code: int
    out: str
    err: str


class Cluster(NamedTuple):
    """How to reach the cluster; `env` is what ``cluster.py env -o json`` says (empty on a user's own cluster)."""

    kubeconfig: str | None
    context: str | None
    kubectl: str
    env: dict[str, Any]

    @property
    def ours(self) -> bool:
        """True if nobody but the tests uses it."""
        return bool(self.env)

    def user(self, name: str) -> "Cluster":
        """The same cluster as another of its users (tenant-a, tenant-b), who has no rights but those you give."""
        return self._replace(kubeconfig=self.env["users"][name]["kubeconfig"], context=None)


class Kubectl:
    """kubectl as a function: ``kubectl("get", "tt", check=False)``. A failure raises with what it said."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def __call__(self, *args: str, stdin: Any = None, check: bool = True, timeout_s: float = 60) -> Answer:
        """`stdin` is text, or an object that is handed over as JSON."""
        command = [self._cluster.kubectl]
        if self._cluster.kubeconfig:
            command += ["--kubeconfig", self._cluster.kubeconfig]
        if self._cluster.context:
            command += ["--context", self._cluster.context]
        text = stdin if stdin is None or isinstance(stdin, str) else json.dumps(stdin)
        done = subprocess.run(
            [*command, *args], input=text, capture_output=True, text=True, timeout=timeout_s, check=False
        )
        answer = Answer(done.returncode, done.stdout, done.stderr)
        if check and answer.code:
            raise AssertionError(f"kubectl {' '.join(args)}: {answer.err}")
        return answer


def _missing(reason: str) -> None:
    """Can't be had: on a laptop the tests are skipped, in CI that is a failure."""
    if os.environ.get("CI", "").lower() in ("1", "true", "yes"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def _tool(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "deploy" / "local" / "cluster.py"), *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=UP_TIMEOUT_S, check=False)


def with_crds(env: dict[str, Any]) -> Cluster:
    """The cluster of ``cluster.py env -o json``, with our CRDs established."""
    made = Cluster(env["kubeconfig"], env["context"], str(Path(env["bin"]) / "kubectl"), env)
    ask = Kubectl(made)
    ask("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))
    wait_established(lambda *words: ask(*words).out)
    return made


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Cluster:
    """A running API server that has our CRDs."""
    context = request.config.getoption("--context", default=None)
    if context:
        found = Cluster(None, context, shutil.which("kubectl") or "", {})
        if not found.kubectl:
            _missing("--context needs kubectl in PATH")
        asked = Kubectl(found)("get", "crd", f"trackedruns.{api.GROUP}", "-o", "name", check=False)
        if asked.code:
            _missing(f"context {context} lacks the CRDs (kubectl apply --server-side -f crds/): {asked.err.strip()}")
        return found
    up = _tool("up", "--tier", "api")
    if up.returncode:
        _missing(f"no api tier (python3 deploy/local/cluster.py up --tier api): {(up.stderr or up.stdout)[-800:]}")
    return with_crds(json.loads(_tool("env", "-o", "json").stdout))


@pytest.fixture(scope="session")
def kubectl(cluster: Cluster) -> Kubectl:
    """The cluster's own kubectl, as its admin."""
    return Kubectl(cluster)


@pytest.fixture
def namespace(cluster: Cluster, kubectl: Kubectl) -> Iterator[str]:
    """A namespace of this test's own, gone with all that it holds when the test ends."""
    name = f"pt-{secrets.token_hex(5)}"
    made = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": {"pipetrail.dev/test": "true"}},
    }
    kubectl("create", "-f", "-", stdin=made)
    yield name
    sweep(cluster, kubectl, name)


def sweep(cluster: Cluster, kubectl: Kubectl, name: str) -> None:
    """Delete a namespace, and empty and finalize it in the api tier, where no controller does."""
    if cluster.env.get("tier") != "api":
        kubectl("delete", "namespace", name, "--wait=false")
        return
    # Not by kubectl, which takes half a second of CPU for it; in a thread, since the caller's may have a loop.
    with ThreadPoolExecutor(max_workers=1) as aside:
        aside.submit(asyncio.run, _sweep(cluster, name)).result(timeout=60)


async def _sweep(cluster: Cluster, name: str) -> None:
    async with await connect(cluster) as kube:
        at = f"/api/v1/namespaces/{name}"
        try:
            await asyncio.gather(*(_empty(kube, f"/{group}/namespaces/{name}/{kind}") for group, kind in LEFT))
            await kube.delete(at)
            body = await kube.get(at)
            await kube.put(f"{at}/finalize", {**body, "spec": {**body["spec"], "finalizers": []}})
        except ApiError as error:
            raise AssertionError(f"namespace {name} is still there: {error}") from None
        await asyncio.sleep(0.01)  # as in kube()


async def _empty(kube: Kube, collection: str) -> None:
    try:
        await kube.delete(collection, {"gracePeriodSeconds": 0})
    except ApiError as error:
        if error.status != 404:  # its CRD is not there
            raise


async def connect(cluster: Cluster) -> Kube:
    """A connection of the product's own kind; close it."""
    configuration = k8s.Configuration()
    await k8s_config.load_kube_config(
        config_file=cluster.kubeconfig, context=cluster.context, client_configuration=configuration,
        persist_config=False,
    )  # fmt: skip
    return Kube(configuration)


@pytest_asyncio.fixture
async def kube(cluster: Cluster) -> AsyncIterator[Kube]:
    """The API server as the product talks to it, as admin."""
    connection = await connect(cluster)
    yield connection
    await connection.close()
    await asyncio.sleep(0.01)  # TLS connections need a turn of the loop more to close (aiohttp: graceful shutdown)
