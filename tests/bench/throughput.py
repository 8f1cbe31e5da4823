"""Runs a second into a tracker, beside a client that sends the same requests and does nothing else.

The requests are those that a delivery really makes, as a proxy saw them. Ours and the bare client take turns.
"""

import asyncio
import dataclasses
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from tests.bench.child import running
from tests.bench.place import Place
from tests.bench.table import Row
from tests.real import mlflow, postgres
from tests.real.proxy import Proxy

RUNS: Final = 200
SHORT: Final = 60
ROUNDS: Final = 3
CALLS: Final = ("/runs/create", "/runs/log-batch", "/runs/update")


async def measure(place: Place) -> list[Row]:
    """Into MLflow on each of its databases, and into a tracker that answers at once."""
    runs = SHORT if place.short else RUNS
    rows = [await _beside(place, "MLflow on SQLite", place.tracker().url, runs, 1 / 0.9)]
    if why := postgres.missing():
        rows.append(_row("MLflow on PostgreSQL", 1 / 0.9, None, why))
    else:
        with postgres.serving(place.folder, "mlflow", "mlflow") as database:
            made = dataclasses.replace(mlflow.plain(place.folder / "mlflow-postgres"), database=database.url)
            with mlflow.running(made) as server:
                rows.append(await _beside(place, "MLflow on PostgreSQL", server.url, runs, 1 / 0.9))
    with _answering(place) as url:
        rows.append(await _beside(place, "a tracker that answers at once", url, runs * 5, 1 / 0.5))
    return rows


async def _beside(place: Place, what: str, url: str, runs: int, budget: float) -> Row:
    requests = place.folder / "requests.json"
    requests.write_text(json.dumps(await _recorded(place, url)))

    def one(which: str, *more: str) -> dict[str, Any]:
        words = (which, url, str(runs), *more)
        with running("tracker_child", *words, env=os.environ, log=place.folder / f"through-{which}.log") as child:
            return child.next()

    best: dict[str, dict[str, Any]] = {}
    for _ in range(ROUNDS):
        for which, more in (("ours", ()), ("bare", (str(requests),))):
            place.say(f"throughput: {runs} runs into {what}, {which}")
            told = await asyncio.to_thread(one, which, *more)
            best[which] = min(best.get(which, told), told, key=lambda t: float(t["took"]))
    ours, bare = best["ours"], best["bare"]
    return _row(
        what, budget, ours["took"] / bare["took"],
        f"{runs / ours['took']:.1f} runs/s, bare {runs / bare['took']:.1f}; {ours['calls'] / runs:.2f} requests a run; "
        f"CPU a run {ours['cpu'] / runs * 1000:.2f} ms, bare {bare['cpu'] / runs * 1000:.2f}; best of {ROUNDS}",
    )  # fmt: skip


def _row(what: str, budget: float, measured: float | None, note: str) -> Row:
    return Row(
        name=f"throughput, {what}", what=f"time per run into {what}, of a bare client's", budget=round(budget, 2),
        unit="×", measured=measured, anchor=None if measured is None else 1.0,
        anchor_is="" if measured is None else "the same requests by aiohttp alone", note=note,
    )  # fmt: skip


async def _recorded(place: Place, url: str) -> list[dict[str, Any]]:
    """The requests of one run, in order: `path`, `body`."""

    def some(address: str) -> None:
        log = place.folder / "recorded.log"
        with running("tracker_child", "ours", address, "1", env=os.environ, log=log) as child:
            child.next()

    async with Proxy(url) as proxy:
        await asyncio.to_thread(some, proxy.url)
        return [{"path": seen.path, "body": json.loads(seen.body)} for call in CALLS for seen in proxy.calls(call)[-1:]]


@contextmanager
def _answering(place: Place) -> Iterator[str]:
    with running("answering_child", env=os.environ, log=place.folder / "answering.log") as child:
        yield str(child.next()["url"])
