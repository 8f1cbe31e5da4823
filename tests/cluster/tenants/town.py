"""Two teams on one API server: real users with rights in their own namespace alone, an MLflow each, one operator.

The operator runs with the rights of its ServiceAccount, as deploy/kustomize gives them. Each team may do everything in
its namespace, which is more than Kubernetes' own roles and ours give: the worst that a team can be.

Of loopback the operator may call 127.0.0.0/31, where the trackers are; what stands on 127.0.0.2 it may not.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tests.cluster.fixtures import Cluster
from tests.cluster.tenants import objects
from tests.e2e import oracle
from tests.e2e.stage import until
from tests.real import mlflow as real_mlflow
from tests.real.operator import Operator
from tests.real.proxy import Proxy

from pipetrail.kube import ApiError, Kube

ALLOWED: Final = "127.0.0.0/31"  # a range: it does not allow the API server, which is on 127.0.0.1 too
NOT_ALLOWED: Final = "127.0.0.2"


class Canary:
    """A server at an address that nobody but a tenant names; `met` has the first line of each who came."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.met: list[str] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    async def __aenter__(self) -> "Canary":
        self._server = await asyncio.start_server(self._meet, self.host, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                self.met.append((await reader.readline()).decode(errors="replace"))
        writer.close()


class Team:
    """One team: its namespace, its user's connection, and its tracker behind a proxy that keeps what is said."""

    def __init__(self, namespace: str, kube: Kube, server: real_mlflow.Server, proxy: Proxy) -> None:
        self.namespace = namespace
        self.kube = kube
        self.server = server
        self.proxy = proxy

    async def make(self, kind: str, body: Mapping[str, Any], namespace: str = "") -> Any:
        """POST as this team's user; what the API server refuses is what is returned."""
        try:
            return await self.kube.post(objects.path(kind, namespace or self.namespace), body)
        except ApiError as error:
            return error

    async def target(self, name: str, backend: Mapping[str, Any], namespace: str = "", **spec: Any) -> Any:
        """A TrackingTarget. Unless it says which, it takes no run: most are made to see what they say."""
        spec = {"select": {"pipelines": ["no-run-of-this-name"]}, **spec, "backend": backend}
        body = {"apiVersion": "pipetrail.dev/v1alpha1", "kind": "TrackingTarget", "metadata": {"name": name}}
        return await self.make("trackingtargets", {**body, "spec": spec}, namespace)

    async def secret(self, name: str, **data: str) -> None:
        await self.kube.post(objects.path("secrets", self.namespace), {"metadata": {"name": name}, "stringData": data})

    async def get(self, kind: str, name: str = "") -> Any:
        return await self.kube.get(objects.path(kind, self.namespace) + (f"/{name}" if name else ""))

    async def tracked(self, run: str, target: str = "mlflow") -> Any:
        """The TrackedRun of a run for a target; None if there is none."""
        items = (await self.get("trackedruns"))["items"]
        mine = [t for t in items if (t["spec"]["run"]["name"], t["spec"]["target"]["name"]) == (run, target)]
        return max(mine, key=lambda t: t["spec"].get("attempt", 1), default=None)

    async def reaches(self, run: str, target: str = "mlflow") -> str:
        """What a run's record lacks (the first reason) or else the phase that it comes to."""

        async def told() -> str:
            found = await self.tracked(run, target)
            status = (found or {}).get("status", {})
            lacks = [p["reason"] for p in status.get("partial", ())]
            return lacks[0] if lacks else status["phase"] if status.get("phase") in ("Synced", "Failed") else ""

        return str(await until(f"{self.namespace}/{run} has come to an end in {target}", told, within_s=90))

    async def settled(self, tracked_run: str, *phases: str) -> Any:
        """The status of a TrackedRun, once it is in one of `phases` (or any that lasts)."""

        async def told() -> Any:
            status = (await self.get("trackedruns", tracked_run)).get("status", {})
            return status if status.get("phase") in (phases or ("Synced", "Failed", "Stopped")) else None

        return await until(f"TrackedRun {self.namespace}/{tracked_run} has come to an end", told, within_s=120)

    async def ready(self, name: str) -> str:
        """The reason of a target's condition Ready, once the operator has looked."""

        async def told() -> str:
            conditions = (await self.get("trackingtargets", name)).get("status", {}).get("conditions", ())
            reason = next((c["reason"] for c in conditions if c["type"] == "Ready"), "Pending")
            return "" if reason == "Pending" else reason

        return str(await until(f"target {name} says something", told))


class Town:
    """All of it. `a` is the team that tries, `b` the one that must notice nothing."""

    def __init__(self, cluster: Cluster, admin: Kube, mark: str, folder: Path) -> None:
        self.cluster = cluster
        self.admin = admin
        self.mark = mark
        self.folder = folder
        self.secret = f"CANARY-secret-{secrets.token_hex(8)}"  # B's token for its tracker
        self.value = f"CANARY-value-{secrets.token_hex(8)}"  # a param of B's runs
        self.metric = f"canary_metric_{secrets.token_hex(8)}"  # in a file of B's runs
        self.key = f"tenants-{mark}/metrics.json"
        self.near = Canary("127.0.0.1")
        self.far = Canary(NOT_ALLOWED)
        self.a: Team
        self.b: Team
        self.shared: Proxy
        self.shared_server: real_mlflow.Server
        self.open: Proxy  # before the tracker of a ClusterTrackingTarget that lacks a selector
        self.operator: Operator
        self.redirects = ""  # a server of A's that sends whoever asks to the canary
        self.redirects_lists = ""  # the same, but only when a folder is listed
        self.uids: dict[str, str] = {}

    @property
    def canaries(self) -> tuple[str, ...]:
        """What must stand nowhere that team A sees."""
        return (self.secret, self.value, self.metric, self.cluster.env["s3"]["secretKey"])

    def repository(self, **changed: Any) -> dict[str, Any]:
        """The status of a Workflow whose artifacts lie in the cluster's store, with keys of the team's own Secret."""
        s3 = self.cluster.env["s3"]
        where = {
            "bucket": s3["bucket"], "endpoint": s3["endpoint"].partition("://")[2], "insecure": True,
            "accessKeySecret": {"name": "store", "key": "access"},
            "secretKeySecret": {"name": "store", "key": "secret"}, **changed,
        }  # fmt: skip
        where = {k: v for k, v in where.items() if v is not None}
        return {"artifactRepositoryRef": {"artifactRepository": {"s3": where}}}

    async def run(self, team: Team, name: str, **changes: Any) -> Any:
        """A Workflow of a team."""
        made = await team.make("workflows", objects.workflow(name, **changes))
        if not isinstance(made, ApiError):
            self.uids[name] = made["metadata"]["uid"]
        return made

    async def held(self, server: real_mlflow.Server) -> list[oracle.Held]:
        """What an MLflow has of ours."""
        return await oracle.held(server.url)

    async def step_ends(self, team: Team, run: str, **values: str) -> None:
        """A pod that has succeeded and a complete task result, in a team's namespace, owned by the run of that name.

        The garbage collector would take away at once what names an owner in another namespace: a finalizer keeps it.
        """
        owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": run, "uid": self.uids[run]}
        meta = {
            "name": run, "ownerReferences": [owner], "finalizers": ["pipetrail.dev/for-this-test"],
            "labels": {**objects.WITHOUT_CONTROLLER, "workflows.argoproj.io/workflow": run},
        }  # fmt: skip
        pod = {
            "metadata": {**meta, "annotations": {
                "workflows.argoproj.io/node-id": run, "workflows.argoproj.io/node-name": run,
            }},
            "spec": {"schedulerName": "nobody", "containers": [{"name": "main", "image": "train"}]},
        }  # fmt: skip
        ended = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        state = {"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": ended, "finishedAt": ended}}
        main = {"name": "main", "image": "train", "imageID": "", "ready": False, "restartCount": 0, "state": state}
        await team.kube.post(objects.path("pods", team.namespace), pod)
        status = {"phase": "Succeeded", "containerStatuses": [main]}
        await team.kube.patch(f"{objects.path('pods', team.namespace)}/{run}/status", {"status": status})
        meta["labels"]["workflows.argoproj.io/report-outputs-completed"] = "true"
        outputs = {"parameters": [{"name": k, "value": v} for k, v in values.items()]}
        result = {"apiVersion": "argoproj.io/v1alpha1", "kind": "WorkflowTaskResult", "metadata": meta}
        await team.kube.post(objects.path("workflowtaskresults", team.namespace), {**result, "outputs": outputs})
        await asyncio.sleep(1)
        for kind in ("pods", "workflowtaskresults"):
            await team.kube.patch(f"{objects.path(kind, team.namespace)}/{run}", {"metadata": {"finalizers": None}})
