"""The promise that stands above all: nothing lost and nothing twice, whenever the operator dies.

40 runs are live, each for three trackers at once, while the operator is killed (kill -9) 30 times. Proxies before the
API server, MLflow and Neptune see every call, so a kill can happen just before a call takes effect, just after, or with
the call taking effect later, when the next process has already looked. MLflow is away for a minute, the API server
restarts. Then each tracker's own client or reader reads everything back.
"""

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.stage import Stage, before_the_api, kubeconfig, starts, tool, until
from tests.e2e.trackers import NAMES, read_back, trackers
from tests.e2e.trap import BEGINS, CALLS, Moment, Trap
from tests.real.mlflow import Server
from tests.real.operator import Operator

RUNS = 40
KILLS = 30
OUTAGE_S = 60.0
RUN_S = 60.0
TOGETHER = 14
MIX = {
    "churn-sweep": 9, "retry-third": 6, "hooks-exit": 6, "nested-dags": 5, "loop-retry": 5, "params-kinds": 4,
    "when-omitted": 5,
}  # fmt: skip


def schedule(rng: random.Random) -> tuple[list[Moment], int, int]:
    """Each call before and after, six that take effect late, the rest with many runs in flight.

    No append to Neptune takes effect late: it can't be told from one that never will, so it is there twice then.

    Also the place of the first kill while MLflow is away, when no call but intent can be waited for, and of the first
    one after it.
    """
    exact = [Moment(call, when) for call in CALLS for when in ("before", "after")]
    exact += [Moment(call, "late") for call in ("create", "create", "intent", "opened", "settle", "neptune create")]
    rng.shuffle(exact)
    exact.sort(key=lambda moment: moment.call == "settle")  # runs end later than they begin
    exact[4:] = rng.sample(exact[4:], len(exact) - 4)
    many = [Moment(None)] * (KILLS - len(exact))
    first, last = exact[:8], exact[8:]
    first.insert(rng.randrange(2, 8), many.pop())
    last.insert(rng.randrange(1, 6), many.pop())
    return [*first, *many, *last], len(first) + 1, len(first) + len(many) + 1


@pytest.mark.api
@pytest.mark.slow
@pytest.mark.storm
@pytest.mark.minutes(8)
async def test_forty_live_runs_arrive_once_and_whole_in_three_trackers_though_the_operator_is_killed_30_times(
    stage: Stage, tracker: Server, tmp_path: Path
) -> None:
    seed = int(os.environ.get("PIPETRAIL_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
    rng = random.Random(seed)
    moments, away_from, away_until = schedule(rng)
    print(f"\nseed {seed} (PIPETRAIL_SEED={seed} plays it again): " + "; ".join(map(str, moments)))
    async with before_the_api(stage.cluster) as api_proxy, trackers(tracker, tmp_path, stage.namespace) as three:
        operator = Operator(kubeconfig(stage.cluster, api_proxy.url, tmp_path), tmp_path / "operator.log", *three.flags)
        trap = Trap(operator)
        for proxy in (api_proxy, three.before_mlflow, three.before_neptune):
            trap.watch(proxy)
        await starts(operator)
        try:
            await three.targets(stage, capture={"stdout": "On"}, delivery={"concurrency": 8, "requestsPerSecond": 300})
            runs = await _storm(stage, tracker, operator, trap, moments, (away_from, away_until), rng)
            await _all_settled(stage, trap, len(runs) * len(NAMES))
        finally:
            operator.kill()
        print(f"calls that took effect: {dict(trap.calls)}; operator starts: {operator.starts}")
        wrong, points = await read_back(three, stage, runs, three.before_mlflow.url)
        for name, texts in wrong.items():
            print(f"  {name}", *texts[:6], sep="\n      ")
        print(f"points: {points}; {len(wrong)} of {len(runs) * len(NAMES)} tracked runs differ")
        assert wrong == {}
        assert operator.lines("delivery failed") == []


async def _storm(
    stage: Stage,
    tracker: Server,
    operator: Operator,
    trap: Trap,
    moments: list[Moment],
    away_between: tuple[int, int],
    rng: random.Random,
) -> list[str]:
    """Play, kill, restart; the names of the runs that were played."""
    begun = time.monotonic()
    waiting = [name for name, n in MIX.items() for _ in range(n)]
    rng.shuffle(waiting)
    playing: set[asyncio.Task[Any]] = set()
    names: list[str] = []

    def feed(upto: int) -> None:
        while len(names) < upto:
            recording = waiting.pop() if waiting else rng.choice(list(MIX))
            name = f"{recording}-{len(names):02}"
            names.append(name)
            script = stage.script(recording)
            playing.add(asyncio.create_task(stage.play(recording, run=name, speed=script.duration_s / RUN_S)))

    async def kill(number: int, moment: Moment) -> None:
        await asyncio.sleep(rng.uniform(0.1, 0.8))
        trap.sprung.clear()
        if moment.call is None:
            feed(len(names) + TOGETHER - trap.in_flight)
            await until("10 runs are in flight", _at_least(trap, 10), within_s=60, every_s=0.02)
            await asyncio.sleep(rng.uniform(0.0, 1.0))
            trap.spring("")
        else:
            trap.set_for = moment
            if moment.call in BEGINS:
                feed(len(names) + 1)
            await until(f"a kill {moment}", _sprung(trap), within_s=90, every_s=0.02)
        calls = ", ".join(f"{call} ×{n}" for call, n in sorted(Counter(trap.under_way.values()).items()))
        print(
            f"  {time.monotonic() - begun:5.1f} s  kill {number:2}/{KILLS}  {moment!s:24} {trap.what[:60]:60} "
            f"{trap.in_flight:2} runs in flight; calls under way: {calls or 'none'}",
            flush=True,
        )
        await asyncio.sleep(0.05)
        trap.under_way.clear()
        await starts(operator)

    away: asyncio.Task[None] | None = None
    feed(TOGETHER)
    for number, moment in enumerate(moments, 1):
        feed(max(len(names), TOGETHER + number * (RUNS - TOGETHER) // (KILLS - 4)))
        if number == away_between[0]:
            away = asyncio.create_task(_mlflow_away(tracker, begun))
        if number == away_between[1] and away is not None:
            await away
        if number == KILLS - 2 and stage.cluster.ours:
            print(f"  {time.monotonic() - begun:5.1f} s  the API server restarts", flush=True)
            await asyncio.gather(asyncio.to_thread(tool, "restart", "kube-apiserver"), kill(number, moment))
            continue
        await kill(number, moment)
    for _, _, when in trap.late:
        when.set()
    feed(max(RUNS, len(names)))
    if away is not None:
        await away
    await asyncio.gather(*playing)
    print(f"  {time.monotonic() - begun:5.1f} s  all {len(names)} runs were played", flush=True)
    return names


def _sprung(trap: Trap) -> Callable[[], Any]:
    async def sprung() -> bool:
        return trap.sprung.is_set()

    return sprung


def _at_least(trap: Trap, n: int) -> Callable[[], Any]:
    async def enough() -> bool:
        return trap.in_flight >= n

    return enough


async def _mlflow_away(tracker: Server, begun: float) -> None:
    print(f"  {time.monotonic() - begun:5.1f} s  MLflow goes away", flush=True)
    await asyncio.to_thread(tracker.stop, kill=True)
    await asyncio.sleep(OUTAGE_S)
    tracker.start()
    await asyncio.to_thread(tracker.wait)
    print(f"  {time.monotonic() - begun:5.1f} s  MLflow is back", flush=True)


async def _all_settled(stage: Stage, trap: Trap, played: int) -> None:
    begun = time.monotonic()

    async def settled() -> bool:
        found = await stage.tracked()
        open_ones = [
            t for t in found if (t.get("status") or {}).get("phase") != "Synced" or t["status"].get("doubtfulAt")
        ]
        if int(time.monotonic() - begun) % 10 == 0:
            doubtful = sum(1 for t in open_ones if (t.get("status") or {}).get("phase") == "Synced")
            print(
                f"  +{time.monotonic() - begun:4.0f} s  {len(found)} tracked, "
                f"{len(open_ones)} open, {doubtful} of them doubtful"
            )
        return len(found) == played and not open_ones

    await until("every run is settled and without a doubt", settled, within_s=240, every_s=1.0)
