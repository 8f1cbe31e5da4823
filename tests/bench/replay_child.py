"""A process that plays recordings at a rate: `NAMESPACE RATE RUNS STORE`. One JSON line per run, with its moments.

A process of its own, so that its work delays neither the proxy that takes the times nor the operator's loop.
"""

import asyncio
import json
import sys
import time
from typing import Final

import msgspec
from tests.bench.steps import STEPS, Watched
from tests.e2e.stage import RECORDINGS

from pipetrail import recording, replay
from pipetrail.kube import Kube


async def main(namespace: str, rate: float, runs: int, store: replay.Store | None, context: str | None) -> None:
    """Begin a run every 1/rate seconds, each played at its own pace."""
    scripts = [
        (name, replay.script(recording.load(RECORDINGS / name).events(), namespace=namespace, store=store, thin=True))
        for name in STEPS
    ]
    begun = time.monotonic()
    async with await Kube.connect(context) as kube, asyncio.TaskGroup() as group:
        for n in range(runs):
            await asyncio.sleep(max(0.0, begun + n / rate - time.monotonic()))
            group.create_task(_one(kube, *scripts[n % len(scripts)]))


async def _one(kube: Kube, name: str, script: replay.Script) -> None:
    watched = Watched(script.name, STEPS[name])
    called = replay.fresh_name(script)
    await replay.upload(RECORDINGS / name, script, kube, name=called)
    done = await replay.replay(
        script, kube, name=called, on_move=lambda played: watched.saw(played.move, time.monotonic())
    )
    moments = {"ready": watched.ready, "node": watched.node, "late": done.worst_delay_s}
    print(json.dumps({"name": done.name, "uid": done.uid, **moments}), flush=True)


if __name__ == "__main__":
    where, per_s, many, stored, *rest = sys.argv[1:]
    found: Final = msgspec.json.decode(stored, type=replay.Store | None)
    asyncio.run(main(where, float(per_s), int(many), found, rest[0] if rest else None))
