"""From the moment at which a step's values can be known to the point in MLflow, beside when Argo's node says so."""

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import msgspec
from tests.bench.child import cpu_of, running
from tests.bench.place import Place
from tests.bench.steps import STEPS
from tests.bench.table import Row, percentile
from tests.e2e import oracle
from tests.real.proxy import Proxy, Seen

RATE: Final = 5.0
RUNS: Final = 200
SHORT: Final = 50
SETTLE_S: Final = 240.0
CPU_PER_RUN_MS: Final = 20.0
LATE_S: Final = 2.0
LIMITS: Final = {"concurrency": 8, "requestsPerSecond": 300}


class Clock:
    """When each of MLflow's runs got its first points, as the proxy before MLflow sees it."""

    def __init__(self) -> None:
        self.first: dict[str, float] = {}
        self.requests = 0

    def on_response(self, seen: Seen, status: int) -> None:
        """A request is answered, the answer is on its way back."""
        self.requests += 1
        if status == 200 and seen.ends("/runs/log-batch"):
            body = json.loads(seen.body)
            if body.get("metrics"):
                self.first.setdefault(body["run_id"], time.monotonic())


class Waits(NamedTuple):
    """What one replay at :data:`RATE` came to, in seconds; `cpu_s` is the operator's, None where it can't be had."""

    waits: list[float]
    nodes: list[float]
    played: int
    late: float
    calls: int
    cpu_s: float | None


async def measure(place: Place) -> list[Row]:
    """Runs begin at 5 a second and are played at their own pace."""
    n = SHORT if place.short else RUNS
    found = await waits(place, "latency", n)
    beyond = (
        f"; this machine cannot play {RATE:.0f} runs/s: what is measured is its queue" if found.late > LATE_S else ""
    )
    note = (
        f"{len(found.waits)} of {found.played} runs; {sum(w < 0 for w in found.waits)} before the pod ended; "
        f"at most {max(found.waits):.2f} s; replays at worst {found.late:.1f} s behind; "
        f"{found.calls / n:.1f} tracker requests a run, live{beyond}"
    )
    rows = [
        Row(
            name=f"p{percent}", what=f"values known → point in MLflow, {RATE:.0f} runs/s, p{percent}", budget=budget,
            unit="s", strict=True, measured=percentile(found.waits, percent), anchor=percentile(found.nodes, percent),
            anchor_is="when Argo's node says so, in the same replays" if percent == 50 else "",
            note=note if percent == 50 else "",
        )
        for percent, budget in ((50, 0.5), (99, 2.0))
    ]  # fmt: skip
    return [
        *rows,
        Row(
            name="cpu per run", what="the operator's CPU per run, end to end", budget=CPU_PER_RUN_MS, unit="ms",
            measured=None if found.cpu_s is None else found.cpu_s / n * 1000,
            note="all that the process used while those runs ran",
        ),
    ]  # fmt: skip


async def waits(place: Place, name: str, n: int, *, beside: Sequence[str] = ()) -> Waits:
    """Play `n` runs into the target `name`, with targets at the addresses `beside` that want the same runs."""
    server = place.tracker()
    clock = Clock()
    async with Proxy(server.url) as proxy:
        proxy.on_response = clock.on_response
        operator = place.operator(name)
        await place.stage.target(name, proxy.url, delivery=LIMITS)
        for number, address in enumerate(beside):
            await place.stage.target(f"{name}-beside-{number}", address, delivery=LIMITS)
        await asyncio.to_thread(operator.start, wait_s=120.0)
        assert operator.process is not None
        try:
            await place.stage.ready(name)
            await _play(place, len(STEPS))  # the experiments are made
            await _settled(place, name, len(STEPS))
            cpu, calls = cpu_of(operator.process.pid), clock.requests
            place.say(f"{name}: {n} runs of {', '.join(STEPS)}, {RATE:.0f} begin each second")
            played = await _play(place, n)
            await _settled(place, name, n + len(STEPS))
            used = None if cpu is None else (cpu_of(operator.process.pid) or cpu) - cpu
            calls = clock.requests - calls
        finally:
            await asyncio.to_thread(operator.stop)
            for target in (name, *(f"{name}-beside-{number}" for number in range(len(beside)))):
                await place.stage.delete_target(target)
        uids = {run.id: run.key.rpartition("/")[2] for run in await oracle.held(server.url)}
    points = {uids[run]: at for run, at in clock.first.items() if run in uids}
    return Waits(
        waits=[points[run["uid"]] - run["ready"] for run in played if run["uid"] in points],
        nodes=[run["node"] - run["ready"] for run in played], played=len(played),
        late=max(run["late"] for run in played), calls=calls, cpu_s=used,
    )  # fmt: skip


async def _play(place: Place, n: int) -> list[dict[str, Any]]:
    store = msgspec.json.encode(place.stage.store).decode()
    context = [place.cluster.context] if place.context_flags and place.cluster.context else []
    words = (place.namespace, str(RATE), str(n), store, *context)
    with running("replay_child", *words, env=place.environment, log=place.folder / "replay.log") as child:

        def told() -> Iterator[dict[str, Any]]:
            for _ in range(n):
                yield child.next()

        return await asyncio.to_thread(lambda: list(told()))


async def _settled(place: Place, target: str, n: int) -> None:
    """Until `n` TrackedRuns of `target` are Synced; asked for seldom, so that the asking costs little."""
    loop = asyncio.get_running_loop()
    end = loop.time() + SETTLE_S
    while loop.time() < end:
        found = await place.stage.tracked(target=target)
        if sum((t.get("status") or {}).get("phase") == "Synced" for t in found) >= n:
            return
        await asyncio.sleep(2)
    raise TimeoutError(f"not all {n} runs were delivered within {SETTLE_S:.0f} s")
