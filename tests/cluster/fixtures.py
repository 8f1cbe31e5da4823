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
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_asyncio
from kubernetes.aio import client as k8s
from kubernetes.aio import config as k8s_config
from tests.real.crds import wait_established

from pipetrail import api
from pipetrail.kube import Kube

__all__ = ["Answer", "Cluster", "Kubectl", "cluster", "connect", "kube", "kubectl", "namespace", "sweep"]

ROOT = Path(__file__).parents[2]
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
    kubectl("create", "namespace", name)
    kubectl("label", "namespace", name, "pipetrail.dev/test=true")
    yield name
    sweep(cluster, kubectl, name)


def sweep(cluster: Cluster, kubectl: Kubectl, name: str) -> None:
    """Delete a namespace. Where no controller-manager runs (tier api) nobody else empties and finalizes it."""
    if cluster.env.get("tier") == "api":
        listed = kubectl("api-resources", "--namespaced", "--verbs=delete,list,deletecollection", "-o", "name").out
        kinds = [kind for kind in listed.split() if not kind.startswith("events")]
        kubectl("delete", ",".join(kinds), "--all", "-n", name, "--wait=false", "--grace-period=0", check=False)
        kubectl("delete", "events", "--all", "-n", name, "--wait=false", check=False)
    kubectl("delete", "namespace", name, "--wait=false")
    if cluster.env.get("tier") == "api":
        body = json.loads(kubectl("get", "namespace", name, "-o", "json").out)
        body["spec"]["finalizers"] = []
        kubectl("replace", "--raw", f"/api/v1/namespaces/{name}/finalize", "-f", "-", stdin=body)


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
