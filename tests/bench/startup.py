"""How long a start takes with all the history of a cluster settled, and whether any of it costs the tracker a call."""

import asyncio
import time
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from tests.bench import objects
from tests.bench.child import memory_mb
from tests.bench.place import Place
from tests.bench.table import Row
from tests.bench.waiting import ended
from tests.real.mlflow import free_port
from tests.real.proxy import Proxy, Seen

from pipetrail import api, policy
from pipetrail.delivery import ledger as ledgers
from pipetrail.delivery.ledger import Ledger
from pipetrail.kube import ARGO, TRACKED_RUNS

RUNS: Final = 20_000
SHORT: Final = 2_000
TARGET: Final = "settled"
LOOKS: Final = ("/experiments/search", "/version")
"""How a target is looked after; no run's business."""


async def measure(place: Place) -> list[Row]:
    """Workflows of 20 KB and a settled TrackedRun of each are made; then the operator starts, and a run begins."""
    n = SHORT if place.short else RUNS
    tracker = place.tracker()
    async with Proxy(tracker.url) as proxy:
        await place.stage.target(TARGET, proxy.url)
        place.say(f"startup: {n} Workflows of 20 KB and their settled TrackedRuns are made")
        await _settled(place, n)
        place.say("startup: the operator starts")
        async with _started(place) as (began, operator, port):
            await _ready(port)
            ready_s = time.monotonic() - began
            of_runs = len(_of_runs(proxy))
            begun = time.monotonic()
            await objects.make(place.kube, place.namespace, range(n, n + 1))
            asked_s = await _until(lambda: len(_of_runs(proxy)) > of_runs) - begun
            live_s = await _until(lambda: bool(proxy.calls("/runs/create"))) - begun
            await asyncio.sleep(5)
            created = len(proxy.calls("/runs/create"))
            memory = memory_mb(operator.pid)
        await place.stage.delete_target(TARGET)
    place.say(f"startup: ready after {ready_s:.1f} s, the live run {live_s:.2f} s later; the others are deleted")
    await objects.remove(place.kube, place.namespace, n + 1)
    path = f"{TRACKED_RUNS}/namespaces/{place.namespace}/trackedruns"
    while (await place.kube.get(path, limit=1))["items"]:
        await place.kube._json("DELETE", path, query={"limit": objects.SHARD_SIZE}, timeout_s=120)
    what = f"with {n:,} settled runs of 20 KB".replace(",", " ")
    note = "" if memory is None else f"peak RSS {memory[0]:.0f} MB"
    return [
        Row(name="startup", what=f"start {what}, until ready", budget=60, unit="s", strict=True, measured=ready_s,
            note=note),
        Row(name="startup-calls", what="… tracker calls for them", budget=0, unit="calls",
            measured=float(of_runs), note=f"runs made in the tracker by 5 s after the live one: {created}"),
        Row(name="startup-live", what="… ready → MLflow is told of the first live run", budget=2, unit="s",
            measured=live_s, note=f"its first request of MLflow after {asked_s:.2f} s"),
    ]  # fmt: skip


async def _until(ask: Callable[[], bool]) -> float:
    """When (monotonic) the answer was yes."""
    end = time.monotonic() + 120
    while not ask():
        if time.monotonic() > end:
            raise TimeoutError("not within 120 s: the live run is in the tracker")
        await asyncio.sleep(0.01)
    return time.monotonic()


def _of_runs(proxy: Proxy) -> list[Seen]:
    return [seen for seen in proxy.log if not seen.path.endswith(LOOKS)]


async def _settled(place: Place, n: int) -> None:
    """Make them, as the operator leaves them: three writes each."""
    kube, namespace = place.kube, place.namespace
    ledger = Ledger(kube, "bench")
    target = api.TargetRef(kind="TrackingTarget", name=TARGET, namespace=namespace)
    there = await kube.get(f"{TRACKED_RUNS}/namespaces/{namespace}/trackingtargets/{TARGET}")
    found = api.decode_target({**there, "kind": "TrackingTarget", "apiVersion": api.API_VERSION})
    assert isinstance(found, api.FoundTarget)
    pinned = policy.pin(found.spec)

    async def one(k: int) -> None:
        made: Any = await kube.post(f"{ARGO}/namespaces/{namespace}/workflows", ended(k))
        uid, begun = made["metadata"]["uid"], made["status"]["startedAt"]
        run = api.RunRef(
            source="argo", name=objects.name(k), uid=uid, key=f"c/{uid}", pipeline="bench", generation=begun
        )
        entry, _ = await ledger.intent(namespace, run, target, pinned, experiment="bench")
        await ledger.write(
            entry, phase="Synced", outcome="succeeded", external_id="0" * 32, experiment_id="1", digest="0" * 16,
            generation=begun, steps=14, metrics=14, opened_at=ledgers.now(), settled_at=ledgers.now(),
        )  # fmt: skip

    await objects.at_once(one(k) for k in range(n))


@asynccontextmanager
async def _started(place: Place) -> AsyncIterator[tuple[float, Any, int]]:
    """The operator from the moment of its start: (when, its process, its port)."""
    port = free_port()
    operator = place.operator("startup", "--listen", f"127.0.0.1:{port}")
    began = time.monotonic()
    await asyncio.to_thread(operator.start, wait_s=300.0)
    try:
        yield began, operator.process, port
    finally:
        await asyncio.to_thread(operator.stop)


async def _ready(port: int) -> None:
    while await asyncio.to_thread(_page, port, "/readyz") == "":  # noqa: ASYNC110
        await asyncio.sleep(0.05)


def _page(port: int, path: str) -> str:
    """A page of the operator's; empty while it says that it is not so far."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
            return str(answer.read().decode()) or "well"
    except OSError:
        return ""
