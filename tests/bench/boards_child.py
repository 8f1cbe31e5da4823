"""A process that writes one run of many points as event files: `ours|vendor FOLDER POINTS`, then says what it took.

*ours* is the TensorBoard target, flushed to the disk; *vendor* is the writer in TensorBoard's package.
"""

import asyncio
import contextlib
import datetime as dt
import json
import sys
import time
from pathlib import Path
from typing import Any

from tests.bench.child import cpu_s

BEGUN = dt.datetime(2025, 11, 3, 9, 30, tzinfo=dt.UTC)
BEGUN_MS = round(BEGUN.timestamp() * 1000)


def value(n: int) -> float:
    """Some number."""
    return 1 / (n + 3)


def forget_peak() -> None:
    """Count the peak of memory from here on (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_mb() -> float:
    """The most memory that this process has had; 0 where there is no /proc."""
    status = Path("/proc/self/status")
    text = status.read_text() if status.exists() else ""
    return next((int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith("VmHWM")), 0.0)


async def ours(folder: str, many: int) -> dict[str, Any]:
    """Make the run, write its points in one batch, read them back."""
    from pipetrail.targets.target import Batch, Metric, TrackerRun
    from pipetrail.targets.tensorboard.target import TensorboardTarget

    target = TensorboardTarget(folder, ("bench",))
    key = str(time.time_ns())
    points = tuple(Metric(key="loss", value=value(n), step=n, time_ms=BEGUN_MS + n) for n in range(many))
    run = target.fit(
        TrackerRun(key=key, root=key, experiment="bench", name="run", status="Running", started=BEGUN, metrics=points)
    )
    handle = await target.open(run, None)
    forget_peak()
    before, cpu, at = peak_mb(), cpu_s(), time.monotonic()
    await target.write(handle, Batch(metrics=run.metrics))
    took, used, after = time.monotonic() - at, cpu_s() - cpu, peak_mb()
    at = time.monotonic()
    held = await target.read(handle)
    assert held.metrics == run.metrics
    return {"took": took, "cpu": used, "more": after - before, "read": time.monotonic() - at}


def vendor(folder: str, many: int) -> dict[str, Any]:
    """The same points with TensorBoard's own record writer and messages."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    cpu, at = cpu_s(), time.monotonic()
    with (Path(folder) / "events.out.tfevents.vendor").open("wb") as file:
        writer = RecordWriter(file)
        for n in range(many):
            summary = Summary(value=[Summary.Value(tag="loss", simple_value=value(n))])
            event = Event(step=n, wall_time=(BEGUN_MS + n) / 1000, summary=summary)
            writer.write(event.SerializeToString())
        writer.flush()
    return {"took": time.monotonic() - at, "cpu": cpu_s() - cpu}


if __name__ == "__main__":
    which, where, points = sys.argv[1:4]
    told = asyncio.run(ours(where, int(points))) if which == "ours" else vendor(where, int(points))
    print(json.dumps(told), flush=True)
