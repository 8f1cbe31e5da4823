"""What the end-to-end tests stand on: an API server of their own, a namespace, played runs, an operator behind a proxy.

The API server is a second cluster of `deploy/local` (name `e2e`, tier api), because the operator looks at the whole of
a cluster and these tests restart it; with ``--context`` it is the user's own, which is never restarted.
"""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

from msgspec.structs import replace
from tests.cluster.fixtures import Cluster, connect
from tests.real.operator import Operator
from tests.real.proxy import Proxy

from pipetrail import recording, replay
from pipetrail.kube import ARGO, TRACKED_RUNS, ApiError, Kube, KubeError

ROOT: Final = Path(__file__).parents[2]
RECORDINGS: Final = ROOT / "tests" / "data" / "argo"
# One cluster for each of pytest's workers: what one test file does to its API server is no other's business.
NAME: Final = os.environ.get("PIPETRAIL_E2E_CLUSTER", "e2e") + os.environ.get("PYTEST_XDIST_WORKER", "").replace(
    "gw", "-"
)


def tool(*arguments: str, timeout_s: float = 3600) -> subprocess.CompletedProcess[str]:
    """`deploy/local/cluster.py` on the cluster of these tests."""
    command = [sys.executable, str(ROOT / "deploy" / "local" / "cluster.py"), *arguments, "--name", NAME]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)


def kubeconfig(cluster: Cluster, server: str, folder: Path, *, user: Mapping[str, Any] | None = None) -> Path:
    """A kubeconfig that reaches the cluster through the proxy at `server`; `user` replaces the admin's credentials."""
    asked = subprocess.run(
        [cluster.kubectl, *_flags(cluster), "config", "view", "--raw", "--minify", "--flatten", "-o", "json"],
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    shown = json.loads(asked.stdout)
    for known in shown["clusters"]:
        known["cluster"] = {"server": server}
    if user is not None:
        for known in shown["users"]:
            known["user"] = dict(user)
    path = folder / "kubeconfig"
    path.write_text(json.dumps(shown))
    return path


def _flags(cluster: Cluster) -> list[str]:
    flags = ["--kubeconfig", cluster.kubeconfig] if cluster.kubeconfig else []
    return [*flags, "--context", cluster.context] if cluster.context else flags


async def until(
    what: str, ask: Callable[[], Awaitable[Any]], *, within_s: float = 60.0, every_s: float = 0.1,
    otherwise: Callable[[], str] = lambda: "",
) -> Any:  # fmt: skip
    """Ask until the answer is true, and give it; an API server that is away for a moment is asked again."""
    end = time.monotonic() + within_s
    answer: Any = None
    while time.monotonic() < end:
        with contextlib.suppress(KubeError):
            answer = await ask()
            if answer:
                return answer
        await asyncio.sleep(every_s)
    raise AssertionError(f"not within {within_s:.0f} s: {what} (last: {str(answer)[:300]})\n{otherwise()}")


class Stage:
    """One namespace on one API server: targets are applied to it, recordings played in it, TrackedRuns read from it."""

    def __init__(self, cluster: Cluster, kube: Kube, namespace: str) -> None:
        self.cluster = cluster
        self.kube = kube
        self.namespace = namespace
        self.store = self._store()

    def _store(self) -> replay.Store | None:
        s3 = self.cluster.env.get("s3")
        return None if s3 is None else replay.Store(endpoint=s3["endpoint"], bucket=s3["bucket"], region=s3["region"])

    async def prepare(self) -> None:
        """The ServiceAccount and the store's credentials that a namespace with runs has."""
        await replay.prepare(self.kube, self.namespace)
        if s3 := self.cluster.env.get("s3"):
            await self.secret("s3-credentials", accesskey=s3["accessKey"], secretkey=s3["secretKey"])

    async def secret(self, name: str, **data: str) -> None:
        """Make a Secret or replace what it holds."""
        path = f"/api/v1/namespaces/{self.namespace}/secrets"
        body = {"metadata": {"name": name}, "stringData": data}
        try:
            await self.kube.post(path, body)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            await self.kube.put(f"{path}/{name}", body)

    async def target(
        self, name: str, address: str = "", *, backend: Mapping[str, Any] | None = None, **spec: Any
    ) -> None:
        """Make a TrackingTarget for the MLflow at `address`, or for another `backend`."""
        backend = backend or {"mlflow": {"trackingUri": address, **spec.pop("mlflow", {})}}
        body = {
            "apiVersion": "pipetrail.dev/v1alpha1", "kind": "TrackingTarget",
            "metadata": {"name": name}, "spec": {"backend": backend, **spec},
        }  # fmt: skip
        await self.kube.post(self._targets, body)

    async def patch_target(self, name: str, spec: Mapping[str, Any]) -> None:
        """Merge `spec` into a target's."""
        await self.kube.patch(f"{self._targets}/{name}", {"spec": spec})

    async def delete_target(self, name: str) -> None:
        """Delete a target."""
        await self.kube.delete(f"{self._targets}/{name}")

    @property
    def _targets(self) -> str:
        return f"{TRACKED_RUNS}/namespaces/{self.namespace}/trackingtargets"

    async def condition(self, target: str, kind: str = "Ready") -> tuple[str, str]:
        """(status, reason) of a target's condition; empty while it has none for its generation."""
        body = await self.kube.get(f"{self._targets}/{target}")
        status = body.get("status") or {}
        if status.get("observedGeneration") != body["metadata"]["generation"]:
            return ("", "")
        found = next((c for c in status.get("conditions", ()) if c["type"] == kind), None)
        return ("", "") if found is None else (found["status"], found["reason"])

    async def ready(self, target: str, within_s: float = 60.0) -> None:
        """Wait until a target is Ready."""

        async def is_ready() -> bool:
            return await self.condition(target) == ("True", "Ready")

        await until(f"target {target} is Ready", is_ready, within_s=within_s)

    def script(self, name: str, *, spec: Mapping[str, Any] | None = None) -> replay.Script:
        """A recording, made ready for this namespace, with `spec` merged into the Workflow's."""
        events = [
            replace(event, body={**event.body, "spec": {**event.body["spec"], **(spec or {})}})
            if event.kind == "Workflow" else event
            for event in recording.load(RECORDINGS / name).events()
        ]  # fmt: skip
        return replay.script(events, namespace=self.namespace, store=self.store, thin=True)

    async def play(
        self, name: str, *, run: str | None = None, speed: float = 10.0, spec: Mapping[str, Any] | None = None
    ) -> replay.Replayed:
        """Play a recording of `tests/data/argo` to its end as `run`, with `spec` merged into the Workflow's."""
        script = self.script(name, spec=spec)
        called = run or replay.fresh_name(script)

        async def uploaded() -> bool:
            await replay.upload(RECORDINGS / name, script, self.kube, name=called)
            return True

        await until(f"the artifacts of {called} are in the store", uploaded)  # the API server may be restarting
        return await replay.replay(script, self.kube, name=called, speed=speed)

    async def workflow(self, run: str) -> Any:
        """The Workflow as it stands."""
        return await self.kube.get(f"{ARGO}/namespaces/{self.namespace}/workflows/{run}")

    async def delete_workflow(self, run: str) -> None:
        """Delete a Workflow."""
        await self.kube.delete(f"{ARGO}/namespaces/{self.namespace}/workflows/{run}")

    async def tracked(self, run: str = "", target: str = "") -> list[Any]:
        """TrackedRuns of the namespace, of one run or one target or all."""
        found = await self.kube.get(f"{TRACKED_RUNS}/namespaces/{self.namespace}/trackedruns")
        return [
            item
            for item in found["items"]
            if item["spec"]["run"]["name"] == (run or item["spec"]["run"]["name"])
            and item["spec"]["target"]["name"] == (target or item["spec"]["target"]["name"])
        ]

    async def phase(self, run: str, target: str = "") -> tuple[str, str]:
        """(phase, reason) of the newest attempt's TrackedRun; empty if there is none."""
        found = await self.tracked(run, target)
        if not found:
            return ("", "")
        newest = max(found, key=lambda t: t["spec"].get("attempt", 1))
        status = newest.get("status") or {}
        return (status.get("phase", "Pending"), status.get("reason", ""))

    async def reaches(
        self, run: str, phase: str, *, target: str = "", reason: str | None = None, within_s: float = 60.0
    ) -> None:
        """Wait until a run's TrackedRun is in `phase`."""

        async def there() -> bool:
            found = await self.phase(run, target)
            return found[0] == phase and reason in (None, found[1])

        async def now() -> str:
            return str(await self.phase(run, target))

        try:
            await until(f"{run} is {phase}", there, within_s=within_s)
        except AssertionError as error:
            raise AssertionError(f"{error}: it is {await now()}") from None


@contextlib.asynccontextmanager
async def before_the_api(cluster: Cluster) -> AsyncIterator[Proxy]:
    """A proxy before the API server, for the operator."""
    connection = await connect(cluster)
    try:
        tls = _trusting(connection)
        async with Proxy(connection.host, upstream_tls=tls) as proxy:
            yield proxy
    finally:
        await connection.close()


def _trusting(connection: Kube) -> Any:
    import ssl

    configuration = connection._api.configuration
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, configuration.key_file)
    return context


async def starts(operator: Operator) -> None:
    """Start the operator, and again if it could not: its Deployment would do the same."""
    for _ in range(5):
        try:
            await asyncio.to_thread(operator.start, wait_s=60.0)
        except AssertionError:
            operator.kill()
            await asyncio.sleep(1)
        else:
            return
    raise AssertionError(f"the operator does not start:\n{operator.log.read_text()[-3000:]}")
