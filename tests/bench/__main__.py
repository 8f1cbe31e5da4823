"""`python -m tests.bench`: measure the budgets and print the table. Exit code 1 if one does not hold."""

import argparse
import asyncio
import os
import platform
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Final

from rich.console import Console
from tests.bench import (
    boards,
    counts,
    events,
    growth,
    latency,
    memory,
    metadata,
    neighbour,
    shards,
    startup,
    throughput,
    trackers,
    waiting,
    workers,
)
from tests.bench.place import Place, Trouble, place
from tests.bench.table import Row, plain, show

BEGUN: Final = time.monotonic()
MEASUREMENTS: Final[dict[str, Callable[[Place], Awaitable[list[Row]]]]] = {
    "events": events.measure,
    "memory": memory.measure,
    "waiting": waiting.measure,
    "startup": startup.measure,
    "tracker": trackers.measure,
    "throughput": throughput.measure,
    "boards": boards.measure,
    "workers": workers.measure,
    "requests": counts.measure,
    "metadata": metadata.measure,
    "latency": latency.measure,
    "neighbour": neighbour.measure,
    "shards": shards.measure,
    "growth": growth.measure,
}


def main() -> int:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--context", help="a kubeconfig context; default: an API server of the benchmark's own")
    parser.add_argument("--only", choices=MEASUREMENTS, action="append", help="measure this only (may be repeated)")
    parser.add_argument("--short", action="store_true", help="smaller numbers (2 000 Workflows); nothing is scaled up")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    wanted = parser.parse_args()
    try:
        rows, remarks = asyncio.run(_measure(wanted.context, wanted.only or list(MEASUREMENTS), short=wanted.short))
    except Trouble as trouble:
        print(f"bench: {trouble}", file=sys.stderr)
        return 3
    if wanted.output == "json":
        print(plain(rows, remarks=remarks))
    else:
        show(rows, Console(width=120, highlight=False), remarks=remarks)
    return 0 if all(row.verdict == "holds" for row in rows) else 1


async def _measure(context: str | None, names: list[str], *, short: bool) -> tuple[list[Row], list[str]]:
    begun = os.getloadavg()[0]
    rows: list[Row] = []
    async with place(context, short=short, say=_say) as where:
        for name in names:
            rows += await MEASUREMENTS[name](where)
    machine = f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}, Python {platform.python_version()}"
    remarks = [f"machine: {machine}; load average before {begun:.1f}; all parts run on this one machine"]
    if short:
        remarks.append("--short: fewer objects and runs; figures are as measured, nothing is scaled up")
    return rows, remarks


def _say(text: str) -> None:
    print(f"  {time.monotonic() - BEGUN:6.1f} s  {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
