"""CPU per Workflow event, from a real API server, beside kopf as it comes."""

import asyncio
import itertools
from typing import Final

from tests.bench import objects
from tests.bench.child import running
from tests.bench.place import Place
from tests.bench.table import Row

WORKFLOWS: Final = 500
UPDATES: Final = 2_000
ANCHOR_UPDATES: Final = 700
IDLE_S: Final = 6.0


async def measure(place: Place) -> list[Row]:
    """Both watch the same Workflows while these are changed back to back; one after the other."""
    updates, anchor_updates = (600, 300) if place.short else (UPDATES, ANCHOR_UPDATES)
    place.say(f"events: {WORKFLOWS} Workflows of 20 KB are made")
    await objects.make(place.kube, place.namespace, range(WORKFLOWS))
    rounds = itertools.count()
    ours = await _cost(place, "ours", updates, rounds)
    kopf = await _cost(place, "kopf", anchor_updates, rounds)
    return [
        Row(
            name="events", what="CPU per 20 KB Workflow event, real API server", budget=1.0, unit="ms",
            measured=ours * 1000, anchor=kopf * 1000, anchor_is="kopf with its defaults, a handler that does nothing",
            note=f"{updates} updates over {WORKFLOWS} Workflows, {anchor_updates} for the anchor; "
            "less what each uses while nothing happens",
        )
    ]  # fmt: skip


async def _cost(place: Place, which: str, updates: int, rounds: "itertools.count[int]") -> float:
    loop = asyncio.get_running_loop()
    context = [place.cluster.context] if place.context_flags and place.cluster.context else []
    with running(
        "watch_child", which, place.namespace, *context, env=place.environment, log=place.folder / f"{which}.log"
    ) as child:

        def seen(n: int) -> bool:
            return int(child.ask()["events"]) >= n

        await objects.until(f"{which} has listed the Workflows", lambda: seen(WORKFLOWS))
        await asyncio.sleep(3)
        still, since = child.ask(), loop.time()
        await asyncio.sleep(IDLE_S)
        before, begun = child.ask(), loop.time()
        idle = float(before["cpu"] - still["cpu"]) / (begun - since)
        place.say(f"events: {updates} updates, watched by {which}")
        await objects.stir(place.kube, place.namespace, WORKFLOWS, updates, rounds)
        await objects.until(f"{which} has seen the updates", lambda: seen(int(before["events"]) + updates))
        after, took = child.ask(), loop.time() - begun
    events = int(after["events"]) - int(before["events"])
    place.say(f"events: {which} saw {events / took:.0f} a second")
    return (float(after["cpu"] - before["cpu"]) - idle * took) / events
