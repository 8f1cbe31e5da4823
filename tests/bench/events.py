"""CPU per Workflow event, from a real API server, beside kopf as it comes.

Twice each: *as they come*, while Workflows are changed as fast as the API server can (some tens a second on two cores,
so that each event wakes the process), and *back to back*: the watcher is stopped (SIGSTOP) during the changes, goes on
afterwards and finds them all waiting.
"""

import asyncio
import itertools
import os
import signal
from typing import Final, NamedTuple

from tests.bench import objects
from tests.bench.child import Child, running
from tests.bench.place import Place
from tests.bench.table import Row

WORKFLOWS: Final = 500
UPDATES: Final = 1_000
SHORT: Final = 300
IDLE_S: Final = 6.0
BUDGET_MS: Final = 1.0


class Cost(NamedTuple):
    """Milliseconds per event, and how many came a second."""

    coming: float
    waiting: float
    rate: float


async def measure(place: Place) -> list[Row]:
    """Both watch the same Workflows, one after the other."""
    updates = SHORT if place.short else UPDATES
    place.say(f"events: {WORKFLOWS} Workflows of 20 KB are made")
    there = await objects.count(place.kube, place.namespace)
    await objects.make(place.kube, place.namespace, range(there, WORKFLOWS))
    rounds = itertools.count()
    ours = await _cost(place, "ours", updates, rounds)
    kopf = await _cost(place, "kopf", updates, rounds)
    anchor = "kopf with its defaults and a handler that does nothing"
    return [
        Row(
            name="events", what="CPU per 20 KB Workflow event, back to back", budget=BUDGET_MS, unit="ms",
            measured=ours.waiting, anchor=kopf.waiting, anchor_is=anchor,
            note=f"{updates} updates of {WORKFLOWS} Workflows on a real API server, all waiting",
        ),
        Row(
            name="events as they come", what="… as they come", budget=BUDGET_MS, unit="ms", measured=ours.coming,
            anchor=kopf.coming, note=f"{ours.rate:.0f} a second ({kopf.rate:.0f} for the anchor); less what each uses "
            "while nothing happens",
        ),
    ]  # fmt: skip


async def _cost(place: Place, which: str, updates: int, rounds: "itertools.count[int]") -> Cost:
    loop = asyncio.get_running_loop()
    context = [place.cluster.context] if place.context_flags and place.cluster.context else []
    words = (which, place.namespace, *context)
    with running("watch_child", *words, env=place.environment, log=place.folder / f"{which}.log") as child:
        await _seen(child, which, WORKFLOWS)
        await asyncio.sleep(3)
        still, since = child.ask(), loop.time()
        await asyncio.sleep(IDLE_S)
        before, begun = child.ask(), loop.time()
        idle = float(before["cpu"] - still["cpu"]) / (begun - since)
        place.say(f"events: {updates} updates, watched by {which}")
        await objects.stir(place.kube, place.namespace, WORKFLOWS, updates, rounds)
        await _seen(child, which, int(before["events"]) + updates)
        after, took = child.ask(), loop.time() - begun
        coming = (float(after["cpu"] - before["cpu"]) - idle * took) / (after["events"] - before["events"])
        place.say(f"events: {updates} updates, waiting for {which}")
        os.kill(child.pid, signal.SIGSTOP)
        await objects.stir(place.kube, place.namespace, WORKFLOWS, updates, rounds)
        os.kill(child.pid, signal.SIGCONT)
        await _seen(child, which, int(after["events"]) + updates)
        last = child.ask()
        waiting = float(last["cpu"] - after["cpu"]) / (last["events"] - after["events"])
    return Cost(coming * 1000, waiting * 1000, updates / took)


async def _seen(child: Child, which: str, n: int) -> None:
    await objects.until(f"{which} has seen {n} events", lambda: int(child.ask()["events"]) >= n)
