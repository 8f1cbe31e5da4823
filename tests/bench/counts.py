"""How many requests and writes a run costs, counted at proxies before MLflow and the API server."""

import asyncio
from collections import Counter
from typing import Final

from tests.bench.place import Place
from tests.bench.table import Row
from tests.e2e.stage import before_the_api, kubeconfig, until
from tests.real.proxy import Proxy, Seen

RECORDING: Final = "retry-third"
RUNS: Final = 5
TARGET: Final = "counted"


async def measure(place: Place) -> list[Row]:
    """Runs that ended while the target was suspended are sent once each; then some are followed live."""
    server = place.tracker()
    async with before_the_api(place.cluster) as api, Proxy(server.url) as tracker:
        operator = place.operator("requests", kubeconfig=kubeconfig(place.cluster, api.url, place.folder))
        await place.stage.target(TARGET, tracker.url)
        await asyncio.to_thread(operator.start, wait_s=120.0)
        try:
            await place.stage.ready(TARGET)
            place.say(f"requests: {RUNS} runs of {RECORDING} are sent once, {RUNS} live")
            await _deliver(place, 1, speed=float("inf"))  # the experiment is made
            await place.stage.patch_target(TARGET, {"suspend": True})
            await asyncio.sleep(3)
            names = [await place.stage.play(RECORDING, speed=float("inf")) for _ in range(RUNS)]
            asked, wrote = len(tracker.log), len(api.log)
            await place.stage.patch_target(TARGET, {"suspend": False})
            await _synced(place, 1 + len(names))
            await asyncio.sleep(2)
            once, once_writes = calls(tracker.log[asked:]), writes(api.log[wrote:])
            asked, wrote = len(tracker.log), len(api.log)
            await _deliver(place, RUNS, speed=4.0, there=1 + RUNS)
            await asyncio.sleep(2)
            live, live_writes = calls(tracker.log[asked:]), writes(api.log[wrote:])
        finally:
            await asyncio.to_thread(operator.stop)
            await place.stage.delete_target(TARGET)
    return [
        Row(
            name="requests", what="tracker requests per tracker run, sent once", budget=3, unit="",
            measured=sum(once[c] for c in ("runs/create", "runs/log-batch", "runs/update")) / RUNS,
            note=f"5 runs of {RECORDING}: {_said(once)}; live at 4 times its pace: {_said(live)}",
        ),
        Row(
            name="writes", what="API-server writes per run (intent, opened, settled)", budget=3, unit="",
            measured=sum(once_writes.values()) / RUNS, note=f"{_said(once_writes)}; live: {_said(live_writes)}",
        ),
    ]  # fmt: skip


async def _deliver(place: Place, n: int, *, speed: float, there: int = 0) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(n):
            group.create_task(place.stage.play(RECORDING, speed=speed))
    await _synced(place, there + n)


async def _synced(place: Place, n: int) -> None:
    async def synced() -> bool:
        found = await place.stage.tracked(target=TARGET)
        return sum(1 for t in found if (t.get("status") or {}).get("phase") == "Synced") >= n

    await until(f"{n} runs are delivered", synced, within_s=180, every_s=1.0)


def calls(log: list[Seen]) -> Counter[str]:
    """Requests to MLflow by what they are; health checks of the target apart from runs are left out."""
    found: Counter[str] = Counter()
    for seen in log:
        tail = seen.path.partition("/mlflow/")[2] or ("artifact" if "/mlflow-artifacts/" in seen.path else "")
        if tail and not tail.startswith("experiments/search"):
            found["artifact" if "mlflow-artifacts" in seen.path else tail] += 1
    return found


def writes(log: list[Seen]) -> Counter[str]:
    """Writes to TrackedRuns; the target's own status and Events are not of a run."""
    return Counter(seen.method for seen in log if seen.method != "GET" and "/trackedruns" in seen.path)


def _said(found: Counter[str]) -> str:
    return ", ".join(f"{what} {n / RUNS:.3g}" for what, n in found.most_common()) or "none"
