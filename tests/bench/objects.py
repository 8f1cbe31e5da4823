"""Workflows of 20 KB on a real API server: made, changed back to back, taken away."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

from pipetrail.kube import ARGO, Kube

INSTANCE: Final = "workflows.argoproj.io/controller-instanceid"
SHARD: Final = "pipetrail.dev/bench-shard"
SHARD_SIZE: Final = 500
NODES: Final = 15  # with what the server adds (managedFields) that makes 20 KB
AT_ONCE: Final = 12


def name(n: int) -> str:
    """Name of the n-th Workflow."""
    return f"bench-{n:05}"


def workflow(n: int) -> dict[str, Any]:
    """A running Workflow of fifteen nodes; as the server shows it, it takes 20 KB."""
    own = name(n)
    templates = [
        {
            "name": f"step-{k}",
            "inputs": {"parameters": [{"name": "lr", "value": "0.1"}, {"name": "depth", "value": "3"}]},
            "outputs": {"parameters": [{"name": "loss", "valueFrom": {"path": "/tmp/loss"}}]},
            "container": {"image": "registry.example/train:1.4", "command": ["python", "train.py"], "args": ["--fast"]},
        }
        for k in range(NODES - 1)
    ]
    tasks = [
        {"name": f"step-{k}", "template": f"step-{k}", "depends": f"step-{k - 1}" if k else ""}
        for k in range(NODES - 1)
    ]
    nodes: dict[str, Any] = {
        own: {
            "id": own, "name": own, "displayName": own, "type": "DAG", "templateName": "main", "phase": "Running",
            "templateScope": f"local/{own}", "startedAt": "2026-11-23T10:00:00Z", "finishedAt": None,
        }
    }  # fmt: skip
    for k in range(NODES - 1):
        nodes[f"{own}-{k}"] = {
            "id": f"{own}-{k}", "name": f"{own}.step-{k}", "displayName": f"step-{k}", "type": "Pod",
            "templateName": f"step-{k}", "templateScope": f"local/{own}", "phase": "Succeeded", "boundaryID": own,
            "startedAt": "2026-11-23T10:00:00Z", "finishedAt": "2026-11-23T10:00:10Z", "progress": "1/1",
            "resourcesDuration": {"cpu": 3, "memory": 17}, "hostNodeName": "node-1", "taskResultSynced": True,
            "inputs": {"parameters": [{"name": "lr", "value": "0.1"}, {"name": "depth", "value": "3"}]},
            "outputs": {"exitCode": "0", "parameters": [
                {"name": "loss", "value": "0.123456789", "valueFrom": {"path": "/tmp/loss"}},
            ]},
        }  # fmt: skip
    body: dict[str, Any] = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "metadata": {
            "name": own,
            "labels": {
                INSTANCE: "pipetrail-bench",
                SHARD: str(n // SHARD_SIZE),
                "workflows.argoproj.io/phase": "Running",
            },
        },
        "spec": {
            "entrypoint": "main",
            "arguments": {"parameters": [{"name": "lr", "value": "0.1"}, {"name": "data", "value": "s3://data/churn"}]},
            "templates": [{"name": "main", "dag": {"tasks": tasks}}, *templates],
        },
        "status": {"phase": "Running", "startedAt": "2026-11-23T10:00:00Z", "progress": "9/10", "nodes": nodes},
    }
    return body


async def make(kube: Kube, namespace: str, wanted: range) -> None:
    """Make those Workflows."""
    path = f"{ARGO}/namespaces/{namespace}/workflows"
    await at_once(kube.post(path, workflow(n)) for n in wanted)


async def stir(kube: Kube, namespace: str, n: int, updates: int, rounds: "itertools.count[int]") -> None:
    """Change the message of a node, `updates` times over `n` Workflows, back to back."""
    path = f"{ARGO}/namespaces/{namespace}/workflows"

    def one(k: int) -> Awaitable[Any]:
        which = name(k % n)
        said = {"message": f"round {next(rounds)}"}
        return kube.patch(f"{path}/{which}", {"status": {"nodes": {f"{which}-{k % (NODES - 1)}": said}}})

    await at_once(one(k) for k in range(updates))


async def remove(kube: Kube, namespace: str, n: int) -> None:
    """Delete them, some hundreds a call."""
    for shard in range((n + SHARD_SIZE - 1) // SHARD_SIZE):
        await delete_all(kube, f"{ARGO}/namespaces/{namespace}/workflows", f"{SHARD}={shard}")


async def delete_all(kube: Kube, path: str, selector: str) -> None:
    """One collection delete."""
    await kube._json("DELETE", path, query={"labelSelector": selector}, timeout_s=120)


async def at_once(calls: Iterable[Awaitable[Any]]) -> None:
    """All calls, a dozen at a time, none made before its turn."""
    waiting = iter(calls)

    async def worker() -> None:
        for call in waiting:
            await call

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(worker())


async def until(what: str, ask: Callable[[], bool], *, within_s: float = 300.0, every_s: float = 0.5) -> None:
    """Ask until the answer is yes."""
    loop = asyncio.get_running_loop()
    end = loop.time() + within_s
    while not ask():
        if loop.time() > end:
            raise TimeoutError(f"not within {within_s:.0f} s: {what}")
        await asyncio.sleep(every_s)


async def count(kube: Kube, namespace: str) -> int:
    """How many there are."""
    total = 0
    async for page in kube.pages(f"{ARGO}/namespaces/{namespace}/workflows", metadata_only=True, labelSelector=SHARD):
        total += len(page["items"])
    return total
