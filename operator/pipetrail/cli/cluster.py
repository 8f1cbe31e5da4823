"""What the verbs that look at a live cluster share: the connection, finding a run, its record, and clear errors."""

import asyncio
import base64
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import yaml

from pipetrail import api, capture
from pipetrail.cli.options import fail, one_line
from pipetrail.kube import ARGO, TRACKED_RUNS, ApiError, Kube, KubeError, Unreachable, context_namespace
from pipetrail.readers import Reader
from pipetrail.readers import argo as objects
from pipetrail.readers.live import LiveReader
from pipetrail.sources import Reading, argo
from pipetrail.targets import Resolve
from pipetrail.targets.target import TargetError

logging.getLogger("kubernetes").addHandler(logging.NullHandler())  # it would warn beside our one sentence
T = TypeVar("T")
HINTS = {
    401: "log in again",
    403: "ask for the right, or name a namespace or context where you have it",
    404: "are the CRDs applied, Argo's and crds/?",
}
BROKEN = (yaml.YAMLError, UnicodeDecodeError, ValueError, KeyError, AttributeError, TypeError, IndexError)
"""What the official client raises for a kubeconfig that is none."""


def with_cluster(context: str | None, work: Callable[[Kube], Awaitable[T]]) -> T:
    """Run `work` with a connection; what goes wrong becomes one sentence and exit code 3."""

    async def connected() -> T:
        try:
            kube = await Kube.connect(context)
        except BROKEN as error:
            raise KubeError(f"the kubeconfig can't be read: {one_line(error)}") from None
        async with kube:
            return await work(kube)

    try:
        return asyncio.run(connected())
    except ApiError as error:
        fail("; ".join([str(error), *([HINTS[error.status]] if error.status in HINTS else [])]))
    except Unreachable as error:
        fail(f"{error}: no answer from the API server; is it up, and is this the right context?")
    except (KubeError, TargetError) as error:
        fail(str(error))


async def find_run(kube: Kube, name: str, namespace: str) -> Any:
    """The Workflow `name` (or with that uid) in `namespace`; says what there is instead if there is none."""
    body = await objects.workflow(kube, namespace, name)
    if body:
        return body
    there = []
    async for page in kube.pages(f"{ARGO}/namespaces/{namespace}/workflows", metadata_only=True):
        for item in page.get("items", ()):
            header = argo.header(item)
            if header.uid == name:
                return await objects.workflow(kube, namespace, header.name)
            there.append(header.name)
    close = [n for n in there if name.split("-")[0] in n][:5] or there[:5]
    instead = f"there is {', '.join(close)}" if close else "-n names another namespace"
    raise KubeError(f"there is no Workflow {name} in namespace {namespace}; {instead}")


async def read_run(kube: Kube, body: Any, reader: Reader | None = None) -> tuple[argo.Header, Reading]:
    """The record of a live run, as the operator would begin it, and what it would fetch.

    Of a run of KFP `reader` is asked for its metadata; without one its Workflow alone tells.
    """
    header = argo.header(body)
    facts = await objects.facts(kube, header)
    return header, await capture.reading(body, facts, reader or LiveReader(kube), cluster=await _cluster(kube))


async def _cluster(kube: Kube) -> str:
    """The cluster's name in keys, as the operator takes it by default; a tenant may not be allowed to see it."""
    try:
        return str((await kube.get("/api/v1/namespaces/kube-system"))["metadata"]["uid"])
    except ApiError as error:
        if error.status != 403:
            raise
        return "cluster"


async def targets(kube: Kube, namespace: str | None) -> list[api.FoundTarget | api.InvalidTarget]:
    """All targets that may see runs of `namespace` (null: all targets of the cluster)."""
    scope = f"/namespaces/{namespace}" if namespace else ""
    found: list[api.FoundTarget | api.InvalidTarget] = []
    for kind, path in (
        ("TrackingTarget", f"{TRACKED_RUNS}{scope}/trackingtargets"),
        ("ClusterTrackingTarget", f"{TRACKED_RUNS}/clustertrackingtargets"),
    ):
        try:
            async for page in kube.pages(path):
                for item in page.get("items", ()):
                    found.append(api.decode_target({**item, "apiVersion": api.API_VERSION, "kind": kind}))  # noqa: PERF401  an async generator's items
        except ApiError as error:
            if error.status != 403 or kind == "TrackingTarget":
                raise  # a tenant may not see the cluster's targets; its own it must
    return found


def path_of(ref: api.TargetRef) -> str:
    """Where a target stands in the API."""
    scope = f"/namespaces/{ref.namespace}/trackingtargets" if ref.namespace else "/clustertrackingtargets"
    return f"{TRACKED_RUNS}{scope}/{ref.name}"


async def body_of(kube: Kube, ref: api.TargetRef) -> Any:
    """The object of a target, with its status."""
    return await kube.get(path_of(ref))


def resolver(kube: Kube, ref: api.TargetRef, operator_namespace: str) -> Resolve:
    """Reads the Secrets and ConfigMaps that a target names, as the caller of the command."""

    async def resolve(what: api.SecretKeyRef | api.ConfigMapKeyRef) -> str:
        secret = isinstance(what, api.SecretKeyRef)
        plural = "secrets" if secret else "configmaps"
        body = await kube.get(f"/api/v1/namespaces/{ref.namespace or operator_namespace}/{plural}/{what.name}")
        value = (body.get("data") or {}).get(what.key)
        if value is None:
            raise KubeError(f"{plural[:-1]} {what.name} has no key {what.key!r}")
        return base64.b64decode(value).decode().strip() if secret else str(value)

    return resolve


def namespace_of(context: str | None, namespace: str | None) -> str:
    """`-n`, else the namespace of the kubeconfig's context, else ``default``."""
    try:
        return namespace or context_namespace(context)
    except BROKEN:
        return "default"  # connecting will say what is wrong with the kubeconfig
