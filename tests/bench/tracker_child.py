"""A process that delivers runs of 10 params and 20 metrics: `ours|client URL RUNS` or `bare URL RUNS FILE`.

*ours* is the courier with the MLflow target and a ledger that writes nowhere; *client* is MLflow's own; *bare* sends
the requests that a file holds, with aiohttp. It says the CPU that it used and how long it took.
"""

import asyncio
import datetime as dt
import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from tests.bench.child import cpu_s

WARM: Final = 10
AT_ONCE: Final = 4
PARAMS: Final = {f"param{k}": str(k) for k in range(10)}
METRICS: Final = {f"metric{k}": k / 7 for k in range(20)}


async def some(one: Callable[[int], Awaitable[None]], numbers: range) -> None:
    """One run after another, so many of them at a time."""
    waiting = iter(numbers)

    async def worker() -> None:
        for n in waiting:
            await one(n)

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(worker())


async def bare(url: str, runs: int, requests: list[dict[str, Any]]) -> dict[str, Any]:
    """The requests of a run, with each run's own name, key and id; of the answers nothing is kept but the id."""
    import aiohttp

    create, *rest = requests

    async with aiohttp.ClientSession() as session:

        async def send(request: dict[str, Any], **own: Any) -> Any:
            async with session.post(url + request["path"], json={**request["body"], **own}) as answer:
                answer.raise_for_status()
                return await answer.json()

        async def one(n: int) -> None:
            key = f"bare/{time.time_ns()}-{n}"
            tags = [{**tag, "value": key} if tag["key"] == "pipetrail.key" else tag for tag in create["body"]["tags"]]
            made = await send(create, run_name=f"bench-{n}", tags=tags)
            for request in rest:
                await send(request, run_id=made["run"]["info"]["run_id"])

        await some(one, range(WARM))
        cpu, at = cpu_s(), time.monotonic()
        await some(one, range(WARM, WARM + runs))
        return {"cpu": cpu_s() - cpu, "took": time.monotonic() - at}


async def ours(url: str, runs: int) -> dict[str, Any]:
    """Create, log and close through :class:`Courier`, some at a time."""
    import msgspec

    from pipetrail import api, observe, record
    from pipetrail.delivery.courier import Courier
    from pipetrail.delivery.lane import Limiter
    from pipetrail.delivery.ledger import Entry, Ledger
    from pipetrail.delivery.progress import Progress
    from pipetrail.targets.mlflow.target import MlflowTarget
    from pipetrail.targets.target import Metric, TrackerRun, Tree

    class Nowhere(Ledger):
        def __init__(self) -> None:
            pass

        async def write(self, entry: Entry, **status: Any) -> Entry:
            return msgspec.structs.replace(entry, status=msgspec.structs.replace(entry.status, **status))

    target = MlflowTarget(url)
    courier = Courier(target, Nowhere(), Limiter(10_000.0))
    begun = dt.datetime.now(dt.UTC)

    async def one(n: int) -> None:
        uid = f"{time.time_ns()}-{n}"
        run = api.RunRef(source="argo", name=f"bench-{n}", uid=uid, key=f"bench/{uid}", pipeline="bench")
        spec = api.TrackedRunSpec(
            run=run, target=api.TargetRef(name="t", namespace="bench"), policy=api.Policy(), experiment="bench"
        )
        entry = Entry(name="e", namespace="bench", version="1", spec=spec, status=api.TrackedRunStatus())
        rec = record.Record(
            key=record.Key(cluster="bench", uid=uid, generation=""), source="argo", name=run.name, namespace="bench",
            pipeline="bench", outcome=record.Outcome(status="succeeded"),
        )  # fmt: skip
        at = round(begun.timestamp() * 1000)
        wanted = TrackerRun(
            key=run.key, root=run.key, experiment="bench", name=run.name, status="Finished", started=begun,
            finished=begun, params=PARAMS,
            metrics=tuple(Metric(key=k, value=v, step=0, time_ms=at) for k, v in METRICS.items()),
        )  # fmt: skip
        assert await courier.deliver(Progress(entry, unsure=False), Tree(parent=wanted), rec)

    await some(one, range(WARM))
    cpu, calls, at = cpu_s(), observe.counts["tracker_calls"], time.monotonic()
    await some(one, range(WARM, WARM + runs))
    used, calls, took = cpu_s() - cpu, observe.counts["tracker_calls"] - calls, time.monotonic() - at
    await target.close()
    return {"cpu": used, "calls": calls, "took": took}


def client(url: str, runs: int) -> dict[str, Any]:
    """The same with MLflow's own client, one run after the other."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    own = MlflowClient(tracking_uri=url)
    experiment = own.get_experiment_by_name("bench-client")
    where = experiment.experiment_id if experiment else own.create_experiment("bench-client")

    def one(n: int) -> None:
        at = time.time_ns() // 1_000_000
        run = own.create_run(where, start_time=at, run_name=f"bench-{n}", tags={"pipetrail.key": f"bench/{n}"})
        own.log_batch(
            run.info.run_id, metrics=[Metric(k, v, at, 0) for k, v in METRICS.items()],
            params=[Param(k, v) for k, v in PARAMS.items()],
        )  # fmt: skip
        own.set_terminated(run.info.run_id, end_time=at)

    for n in range(WARM):
        one(n)
    cpu, at = cpu_s(), time.monotonic()
    for n in range(runs):
        one(n)
    return {"cpu": cpu_s() - cpu, "took": time.monotonic() - at}


if __name__ == "__main__":
    which, address, wanted_runs = sys.argv[1:4]
    match which:
        case "ours":
            told = asyncio.run(ours(address, int(wanted_runs)))
        case "bare":
            told = asyncio.run(bare(address, int(wanted_runs), json.loads(Path(sys.argv[4]).read_text())))
        case _:
            told = client(address, int(wanted_runs))
    print(json.dumps(told), flush=True)
