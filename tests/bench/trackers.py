"""CPU of the client per delivered tracker run, beside MLflow's own client."""

import asyncio
import os
from typing import Any, Final

from tests.bench.child import running
from tests.bench.place import Place
from tests.bench.table import Row

RUNS: Final = 150
SHORT: Final = 40
QUIET: Final = {"MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}


async def measure(place: Place) -> list[Row]:
    """Ours, then theirs, against the same server."""
    runs = SHORT if place.short else RUNS
    url = place.tracker().url

    def one(which: str) -> dict[str, Any]:
        log = place.folder / f"tracker-{which}.log"
        with running("tracker_child", which, url, str(runs), env={**os.environ, **QUIET}, log=log) as child:
            return child.next()

    place.say(f"tracker: {runs} runs with 10 params and 20 metrics, by us")
    ours = await asyncio.to_thread(one, "ours")
    place.say(f"tracker: {runs} runs, by MlflowClient")
    theirs = await asyncio.to_thread(one, "client")
    return [
        Row(
            name="tracker", what="client CPU per tracker run (10 params, 20 metrics)", budget=5, unit="ms",
            measured=ours["cpu"] / runs * 1000, anchor=theirs["cpu"] / runs * 1000, anchor_is="MlflowClient",
            note=f"{runs} runs each; ours 4 at a time {runs / ours['took']:.1f} runs/s, MlflowClient one at a time "
            f"{runs / theirs['took']:.1f}; {ours['calls'] / runs:.2f} requests a run",
        ),
    ]  # fmt: skip
