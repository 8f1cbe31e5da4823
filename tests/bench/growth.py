"""Whether a run costs the same when there are a hundred times as many: CPU and memory of the operator per live run.

Workflows of 20 KB are made and run, all at once; then all of them end. Into TensorBoard's files, so that no server's
limit is measured. `python -m tests.bench --only growth -o json | python -m tests.bench.plot FILE` draws it.
"""

import asyncio
from typing import Any, Final, NamedTuple

from tests.bench import objects
from tests.bench.child import cpu_of, memory_mb, shown
from tests.bench.place import Place
from tests.bench.table import Row
from tests.bench.waiting import ended
from tests.real.mlflow import free_port

from pipetrail.kube import ARGO, TRACKED_RUNS

STEPS: Final = (100, 1_000, 10_000)
SHORT: Final = (50, 200, 1_000)
FLAT: Final = 1.25
TARGET: Final = "boards"


class Cost(NamedTuple):
    """Per live run: milliseconds of CPU from its first event to the last delivery, KB of memory while all are live."""

    cpu_ms: float
    memory_kb: float


async def measure(place: Place) -> list[Row]:
    """A new operator for each number of runs."""
    found: dict[int, Cost] = {}
    for n in SHORT if place.short else STEPS:
        cost = await _cost(place, n)
        if cost is None:
            return [Row(name="growth", what="cost per live run", budget=0, measured=None, unit="", note="needs /proc")]
        found[n] = cost
    first, *more = found
    rows = []
    for n in more:
        shown = f"{n:,}".replace(",", " ")
        for what, unit, index in (("CPU", "ms", 0), ("memory", "KB", 1)):
            rows.append(
                Row(
                    name=f"growth, {what} {n}", what=f"{what} per live run, {shown} of them", unit=unit,
                    budget=FLAT * found[first][index], measured=found[n][index], anchor=found[first][index],
                    anchor_is=f"{first} live runs" if what == "CPU" and n == more[0] else "",
                )
            )  # fmt: skip
    return rows


async def _cost(place: Place, n: int) -> Cost | None:
    port = free_port()
    boards = place.folder / f"growth-{n}"
    boards.mkdir()
    operator = place.operator("growth", "--listen", f"127.0.0.1:{port}", "--tensorboard-root", str(boards))
    await place.stage.target(TARGET, backend={"tensorboard": {}}, delivery={"requestsPerSecond": 500})
    await asyncio.to_thread(operator.start, wait_s=120.0)
    assert operator.process is not None
    pid = operator.process.pid
    try:
        await place.stage.ready(TARGET)
        empty, before = memory_mb(pid), cpu_of(pid)
        place.say(f"growth: {n} Workflows of 20 KB run")
        await objects.make(place.kube, place.namespace, range(n))
        await objects.until("all are live", lambda: _runs(port, "Tracking") >= n, within_s=1_800)
        live = memory_mb(pid)
        place.say("growth: they end")
        await objects.at_once(_ends(place, k) for k in range(n))
        await objects.until("all are settled", lambda: _runs(port, "Synced") >= n, within_s=1_800)
        after = cpu_of(pid)
    finally:
        await asyncio.to_thread(operator.stop)
        await place.stage.delete_target(TARGET)
    place.say("growth: they are deleted")
    await objects.remove(place.kube, place.namespace, n)
    await objects.delete_all(place.kube, f"{TRACKED_RUNS}/namespaces/{place.namespace}/trackedruns", "")
    if empty is None or live is None or before is None or after is None:
        return None
    return Cost(cpu_ms=(after - before) / n * 1000, memory_kb=(live[1] - empty[1]) / n * 1024)


async def _ends(place: Place, k: int) -> Any:
    body = ended(k)
    path = f"{ARGO}/namespaces/{place.namespace}/workflows/{objects.name(k)}"
    labels = body["metadata"]["labels"]
    status = {key: body["status"][key] for key in ("phase", "finishedAt")}
    nodes = {objects.name(k): body["status"]["nodes"][objects.name(k)]}
    return await place.kube.patch(path, {"metadata": {"labels": labels}, "status": {**status, "nodes": nodes}})


def _runs(port: int, state: str) -> float:
    return shown(port, f'pipetrail_runs{{state="{state}"')
