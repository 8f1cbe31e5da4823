"""A target whose tracker hangs, beside one that lives: what the live one's p99 loses by it."""

from tests.bench import latency
from tests.bench.place import Place
from tests.bench.table import Row, percentile
from tests.real.proxy import Proxy, Stall


async def measure(place: Place) -> list[Row]:
    """The same replay twice: alone, and with a second target that takes every call and answers none."""
    n = latency.SHORT if place.short else latency.RUNS
    alone = await latency.waits(place, "alone", n)
    async with Proxy(place.tracker().url) as hung:
        hung.decide = lambda _seen: Stall()
        beside = await latency.waits(place, "live", n, beside=(hung.url,))
        calls = len(hung.log)
    before, after = percentile(alone.waits, 99), percentile(beside.waits, 99)
    return [
        Row(
            name="neighbour", what="a hung target beside a live one: the live one's p99", unit="s", strict=True,
            budget=before * 1.1, measured=after, anchor=before,
            anchor_is="the same replay without the hung one",
            note=f"{len(beside.waits)} of {beside.played} runs; the hung one was called {calls} times; replays were at "
            f"worst {alone.late:.1f} and {beside.late:.1f} s behind",
        )
    ]  # fmt: skip
