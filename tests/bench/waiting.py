"""Resident memory while a tracker is down and every run that ended waits for it."""

import asyncio
from datetime import UTC, datetime
from typing import Any, Final

from tests.bench import objects
from tests.bench.child import memory_mb, running, shown
from tests.bench.place import Place
from tests.bench.table import Row
from tests.real.mlflow import free_port

from pipetrail.delivery.housekeeping import REST_AFTER_S
from pipetrail.kube import ARGO, Kube

RUNS: Final = 10_000
SHORT: Final = 2_000
QUEUED: Final = 'pipetrail_queue_runs{target="dead"'


async def measure(place: Place) -> list[Row]:
    """Runs end one after another, as fast as the API server takes them, and nothing answers at the target's address.

    Those have no pods. What runs hold that have some is measured in a process without an API server.
    """
    n = SHORT if place.short else RUNS
    with running("waiting_child", str(n), env=place.environment, log=place.folder / "waiting.log") as child:
        place.say(f"waiting: {n} recorded runs of six pods")
        await objects.until("all are taken in", lambda: int(child.ask()["taken"]) == n, within_s=900)
        alone = memory_mb(child.pid)
    await objects.remove(place.kube, place.namespace, await objects.count(place.kube, place.namespace))
    await place.stage.target("dead", f"http://127.0.0.1:{free_port()}")
    port = free_port()
    operator = place.operator("waiting", "--listen", f"127.0.0.1:{port}")
    await asyncio.to_thread(operator.start, wait_s=120.0)
    try:
        place.say(f"waiting: {n} Workflows of 20 KB that have ended are made")
        await _make_ended(place.kube, place.namespace, n)
        place.say("waiting: the operator takes them in")
        await _queued(port, n)
        assert operator.process is not None
        seen = memory_mb(operator.process.pid)
        await asyncio.to_thread(operator.stop)
        place.say("waiting: the operator is started anew")
        await asyncio.to_thread(operator.start, wait_s=120.0)
        await _queued(port, n)
        assert operator.process is not None
        listed = memory_mb(operator.process.pid)
    finally:
        await asyncio.to_thread(operator.stop)
        await place.stage.delete_target("dead")
    place.say(f"waiting: peak and now in MB, at the end {seen}, after a restart {listed}; the Workflows are deleted")
    await objects.remove(place.kube, place.namespace, n)
    worst = max((peak for peak, _ in (seen, listed) if seen and listed), default=None) if seen and listed else None
    note = "needs /proc"
    if seen and listed:
        note = f"now {seen[1]:.0f} MB; after a restart {listed[0]:.0f} MB, now {listed[1]:.0f} MB"
    return [
        Row(
            name="waiting-pods", what=f"peak RSS, {n:,} runs of six pods that wait, recorded".replace(",", " "),
            budget=250, unit="MB", strict=True, measured=alone and alone[0],
            note="needs /proc" if alone is None else "without connections",
        ),
        Row(
            name="waiting", what=f"peak RSS, {n:,} runs waiting for a dead tracker".replace(",", " "), budget=250,
            unit="MB", strict=True, measured=worst, note=note,
        )
    ]  # fmt: skip


def ended(k: int) -> dict[str, Any]:
    """The k-th Workflow, which has just ended."""
    body = objects.workflow(k)
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    body["metadata"]["labels"]["workflows.argoproj.io/phase"] = "Succeeded"
    body["metadata"]["labels"]["workflows.argoproj.io/completed"] = "true"
    body["status"] |= {"phase": "Succeeded", "finishedAt": now}
    body["status"]["nodes"][objects.name(k)] |= {"phase": "Succeeded", "finishedAt": now}
    return body


async def _make_ended(kube: Kube, namespace: str, n: int) -> None:
    path = f"{ARGO}/namespaces/{namespace}/workflows"
    await objects.at_once(kube.post(path, ended(k)) for k in range(n))


async def _queued(port: int, n: int) -> None:
    """Until `n` runs wait, and have had the time to rest."""

    def all_wait() -> bool:
        return shown(port, QUEUED) >= n

    end = asyncio.get_running_loop().time() + 900
    while not await asyncio.to_thread(all_wait):
        if asyncio.get_running_loop().time() > end:
            raise TimeoutError(f"not within 900 s: {n} runs wait")
        await asyncio.sleep(1)
    await asyncio.sleep(3 * REST_AFTER_S)
