"""Builds the town: namespaces, users' rights, the operator's ServiceAccount, trackers, and what stands at the start."""

import asyncio
import base64
import contextlib
import json
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import obstore
import yaml
from aiohttp import web
from obstore.store import S3Store
from tests.cluster.fixtures import Cluster, Kubectl, connect, sweep
from tests.cluster.tenants.objects import mlflow, path
from tests.cluster.tenants.town import ALLOWED, Team, Town
from tests.real import mlflow as real_mlflow
from tests.real.operator import Operator
from tests.real.proxy import Proxy

from pipetrail import replay

RIGHTS: Final = Path(__file__).parents[3] / "deploy" / "kustomize" / "base" / "rights.yaml"
ALL: Final = {
    "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "all"},
    "rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}],
}  # fmt: skip


def _install(kubectl: Kubectl, mark: str, home: str) -> list[dict[str, Any]]:
    """The operator's rights under names of this town's own, so that others' installations are not touched."""
    made = []
    for body in yaml.safe_load_all(RIGHTS.read_text()):
        if body["kind"].startswith("Cluster"):
            body["metadata"]["name"] += f"-{mark}"
        else:
            body["metadata"]["namespace"] = home
        if body.get("roleRef", {}).get("kind") == "ClusterRole":
            body["roleRef"]["name"] += f"-{mark}"
        for subject in body.get("subjects", ()):
            subject["namespace"] = home
        made.append(body)
    kubectl("apply", "-f", "-", stdin="\n---\n".join(json.dumps(body) for body in made))
    return made


def _kubeconfig(cluster: Cluster, kubectl: Kubectl, home: str, folder: Path) -> Path:
    """The operator's: the cluster's address and CA, and a token of its ServiceAccount."""
    shown = json.loads(kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json").out)
    token = kubectl("create", "token", "pipetrail", "-n", home, "--duration=2h").out.strip()
    for user in shown["users"]:
        user["user"] = {"token": token}
    path = folder / "operator.kubeconfig"
    path.write_text(json.dumps(shown))
    return path


@contextlib.asynccontextmanager
async def _redirecting(town: Town, *, lists_only: bool) -> AsyncIterator[str]:
    async def answer(request: web.BaseRequest) -> web.Response:
        if lists_only and "list-type" not in request.query:
            return web.Response(status=404)
        return web.Response(status=307, headers={"Location": f"{town.near.url}/"})

    runner = web.ServerRunner(web.Server(answer, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def built(cluster: Cluster, kubectl: Kubectl, folder: Path) -> AsyncIterator[Town]:
    """The town with its targets, before anybody has run anything; the operator is not started."""
    mark = secrets.token_hex(3)
    home, places = f"town-{mark}", {f"tenant-{x}": f"team-{x}-{mark}" for x in "ab"}
    async with contextlib.AsyncExitStack() as stack:
        admin = await stack.enter_async_context(await connect(cluster))
        town = Town(cluster, admin, mark, folder)
        for namespace in (home, *places.values()):
            await replay.prepare(admin, namespace)
            stack.callback(sweep, cluster, kubectl, namespace)
        for body in reversed(_install(kubectl, mark, home)):
            if "namespace" not in body["metadata"]:
                stack.callback(kubectl, "delete", body["kind"], body["metadata"]["name"], "--wait=false", check=False)
        for user, namespace in places.items():
            kubectl("label", "namespace", namespace, f"pipetrail.dev/town={mark}")
            kubectl("apply", "-n", namespace, "-f", "-", stdin=ALL)
            kubectl("create", "rolebinding", "all", "-n", namespace, "--role=all", f"--user={user}")
        servers = [real_mlflow.plain(folder / name) for name in ("a", "b", "shared")]
        for server in servers:
            server.start(bound=True)
            stack.callback(server.stop)
        for server in servers:
            await asyncio.to_thread(server.wait)
        proxies = [await stack.enter_async_context(Proxy(server.url)) for server in (*servers, servers[2])]
        teams = []
        for (user, namespace), server, proxy in zip(places.items(), servers[:2], proxies[:2], strict=True):
            kube = await stack.enter_async_context(await connect(cluster.user(user)))
            teams.append(Team(namespace, kube, server, proxy))
        town.a, town.b = teams
        town.shared, town.open, town.shared_server = proxies[2], proxies[3], servers[2]
        town.redirects = await stack.enter_async_context(_redirecting(town, lists_only=False))
        town.redirects_lists = await stack.enter_async_context(_redirecting(town, lists_only=True))
        await stack.enter_async_context(town.near)
        await stack.enter_async_context(town.far)
        await _furnish(town)
        for name in ("shared", "open"):
            stack.callback(kubectl, "delete", "ctt", f"{name}-{mark}", "--wait=false", check=False)
        town.operator = Operator(
            _kubeconfig(cluster, kubectl, home, folder), folder / "operator.log", "--namespace", home,
            *(flag for namespace in places.values() for flag in ("--watch-namespace", namespace)), allow=ALLOWED,
        )  # fmt: skip
        stack.callback(town.operator.kill)
        yield town


async def _furnish(town: Town) -> None:
    """Each team's own target, credentials and file, and two targets of the admin's."""
    s3, quick = town.cluster.env["s3"], {"concurrency": 8, "requestsPerSecond": 200}
    await town.b.secret("tracker", token=town.secret)
    await town.b.secret("store", access=s3["accessKey"], secret=s3["secretKey"])
    await town.b.secret("b-store", access=s3["accessKey"], secret=s3["secretKey"])
    await town.b.kube.post(path("configmaps", town.b.namespace), {"metadata": {"name": "ca"}, "data": {"ca.crt": "x"}})
    named = {"api_address": town.far.url, "api_url": town.far.url}
    await town.a.secret("neptune", token=base64.b64encode(json.dumps(named).encode()).decode())
    await town.a.secret("store", access="team-a-has-no-such-key", secret="none")
    token = {"auth": {"bearerTokenSecretRef": {"name": "tracker", "key": "token"}}}
    everything: dict[str, Any] = {"select": {}, "delivery": quick, "capture": {"logs": "Always", "stdout": "On"}}
    await town.a.target("mlflow", mlflow(town.a.proxy.url), **everything)
    await town.b.target("mlflow", mlflow(town.b.proxy.url, **token), **everything)
    selecting = {"namespaceSelector": {"matchLabels": {"pipetrail.dev/town": town.mark}}}
    for name, proxy, more in (("shared", town.shared, selecting), ("open", town.open, {})):
        body = {"apiVersion": "pipetrail.dev/v1alpha1", "kind": "ClusterTrackingTarget"}
        body |= {"metadata": {"name": f"{name}-{town.mark}"}}
        await town.admin.post(
            path("clustertrackingtargets", ""),
            {**body, "spec": {"backend": mlflow(proxy.url), "delivery": quick, **more}},
        )
    keys: Any = {
        "access_key_id": s3["accessKey"],
        "secret_access_key": s3["secretKey"],
        "token": None,
        "expires_at": None,
    }
    config: Any = {"endpoint": s3["endpoint"], "aws_endpoint_url_s3": s3["endpoint"], "region": s3["region"]}
    store = S3Store(s3["bucket"], config=config, client_options={"allow_http": True}, credential_provider=lambda: keys)
    obstore.put(store, town.key, json.dumps({town.metric: 0.5}).encode())
