"""Peak memory of the process that speaks to Neptune, beside the vendor's client used as its documentation says."""

import asyncio
import os
import time
from datetime import UTC, datetime
from typing import Final

from tests.bench.child import memory_mb, running
from tests.bench.place import Place
from tests.bench.table import Row
from tests.real import neptune

from pipetrail.targets.neptune.target import NeptuneTarget
from pipetrail.targets.target import Batch, Metric, TrackerRun

RUNS: Final = 200
SHORT: Final = 50
POINTS: Final = 20_000  # of the last run: one that is large


async def measure(place: Place) -> list[Row]:
    """Runs of 10 params and 20 metrics, then one of many points, sent and read back; the peak of one worker."""
    runs = SHORT if place.short else RUNS
    with neptune.serving() as server:
        place.say(f"workers: {runs} runs and one of {POINTS} points into Neptune, by us")
        target = NeptuneTarget(server.url, server.project, server.token())
        try:
            await target.check()
            pid = target.process.pid
            assert pid is not None
            began = time.monotonic()
            for n in range(runs):
                await _one(target, n, 20)
            took = time.monotonic() - began
            await _one(target, runs, POINTS)
            one_worker = target.process.pid == pid
            ours = memory_mb(pid) if one_worker else None
        finally:
            await target.close()
        place.say("workers: ten runs with neptune.init_run, left open as a script would")
        environment = {
            **os.environ, "NEPTUNE_API_TOKEN": server.token(), "NEPTUNE_PROJECT": server.project,
            "OAUTHLIB_INSECURE_TRANSPORT": "1",
        }  # fmt: skip
        log = place.folder / "workers.log"

        def anchor() -> float | None:
            with running("workers_child", "10", env=environment, log=log) as child:
                child.next()
                return (memory_mb(child.pid) or (None,))[0]

        theirs = await asyncio.to_thread(anchor)
    return [
        Row(
            name="workers", what="peak RSS of the Neptune worker", budget=200, unit="MB", strict=True,
            measured=ours and ours[0], anchor=theirs, anchor_is="the client in a script, ten runs open",
            note=f"{runs / took:.1f} runs/s one after the other" + ("" if one_worker else "; it was replaced"),
        )
    ]  # fmt: skip


async def _one(target: NeptuneTarget, n: int, points: int) -> None:
    at = datetime.now(UTC)
    ms = round(at.timestamp() * 1000)
    key = f"bench/{time.time_ns()}-{n}"
    run = target.fit(
        TrackerRun(
            key=key, root=key, experiment="bench", name=f"bench-{n}", status="Finished", started=at, finished=at,
            params={f"param{k}": str(k) for k in range(10)},
            metrics=tuple(Metric(key=f"metric{k % 20}", value=k / 7, step=k // 20, time_ms=ms) for k in range(points)),
        )
    )  # fmt: skip
    handle = await target.open(run, None)
    batch = Batch(params=run.params, metrics=run.metrics, status=run.status, finished=run.finished)
    receipt = await target.write(handle, batch)
    assert receipt.changes == ()
    assert len((await target.read(handle)).metrics) == points
