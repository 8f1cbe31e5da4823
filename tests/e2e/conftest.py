"""Fixtures of the end-to-end tests: an API server that may be restarted, a real MLflow, a namespace ready for runs."""

import asyncio
import contextlib
import json
import secrets
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.cluster.fixtures import (  # noqa: F401
    Cluster,
    Kubectl,
    _missing,
    cluster,
    connect,
    kube,
    kubectl,
    namespace,
    sweep,
    with_crds,
)
from tests.e2e.stage import Stage, tool
from tests.real import mlflow as real_mlflow
from tests.real.operator import Operator
from tests.real.proxy import Proxy


@pytest.fixture(scope="session")
def own_cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """An API server that no other test uses, taken down at the end unless it was there before."""
    if context := request.config.getoption("--context", default=None):
        yield Cluster(None, context, shutil.which("kubectl") or "", {})
        return
    there = tool("status").returncode == 0
    up = tool("up", "--tier", "api")
    if up.returncode:
        _missing(f"no api tier of its own: {(up.stderr or up.stdout)[-800:]}")
    yield with_crds(json.loads(tool("env", "-o", "json").stdout))
    if not there:
        tool("down")


@pytest.fixture(scope="session")
def own_kubectl(own_cluster: Cluster) -> Kubectl:
    """kubectl on that API server."""
    return Kubectl(own_cluster)


@pytest.fixture(scope="session")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[real_mlflow.Server]:
    """One real MLflow for all end-to-end tests."""
    with real_mlflow.serving(tmp_path_factory.mktemp("mlflow-e2e")) as server:
        yield server


@pytest_asyncio.fixture
async def before_mlflow(tracker: real_mlflow.Server) -> AsyncIterator[Proxy]:
    """A proxy before MLflow, of this test alone."""
    async with Proxy(tracker.url) as proxy:
        yield proxy


@pytest.fixture
def lone_operator(stage: Stage, tmp_path: Path) -> Iterator[Operator]:
    """One that looks at this test's namespace and has its Lease there; the test starts it."""
    if not stage.cluster.kubeconfig:
        pytest.skip("needs a kubeconfig of its own")
    flags = ("--watch-namespace", stage.namespace, "--namespace", stage.namespace, "--identity", "test")
    made = Operator(Path(stage.cluster.kubeconfig), tmp_path / "operator.log", *flags, lease=True)
    yield made
    made.kill()


@pytest_asyncio.fixture
async def stage(own_cluster: Cluster, own_kubectl: Kubectl) -> AsyncIterator[Stage]:
    """A namespace of this test's own, ready for runs."""
    name = f"e2e-{secrets.token_hex(4)}"
    async with await connect(own_cluster) as connection:
        made = Stage(own_cluster, connection, name)
        await made.prepare()
        yield made
    with contextlib.suppress(AssertionError):
        await asyncio.to_thread(sweep, own_cluster, own_kubectl, name)
