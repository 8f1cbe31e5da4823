"""Resident memory with 10 000 Workflows, beside kopf as it comes."""

import asyncio
from typing import Final

from tests.bench import objects
from tests.bench.child import cpu_of, memory_mb, running
from tests.bench.place import Place
from tests.bench.table import Row

WORKFLOWS: Final = 10_000
SHORT: Final = 2_000
QUIET_S: Final = 4.0
QUIET_SHARE: Final = 0.1


async def measure(place: Place) -> list[Row]:
    """The whole operator with a target that takes none: each run is listed, looked at and left. Then kopf alone."""
    n = SHORT if place.short else WORKFLOWS
    tracker = place.tracker()
    place.say(f"memory: {n} Workflows of 20 KB are made")
    there = await objects.count(place.kube, place.namespace)
    await objects.make(place.kube, place.namespace, range(there, n))
    select = {"runSelector": {"matchLabels": {"no": "such-run"}}}
    await place.stage.target("none", tracker.url, select=select)
    operator = place.operator("memory")
    await asyncio.to_thread(operator.start, wait_s=120.0)
    assert operator.process is not None
    try:
        place.say("memory: the operator lists them and looks at each")
        await place.stage.ready("none")
        await _settled(operator.process.pid)
        ours, cpu = memory_mb(operator.process.pid), cpu_of(operator.process.pid)
    finally:
        await asyncio.to_thread(operator.stop)
        await place.stage.delete_target("none")
    context = [place.cluster.context] if place.context_flags and place.cluster.context else []
    words = ("kopf", place.namespace, *context)
    with running("watch_child", *words, env=place.environment, log=place.folder / "kopf-memory.log") as child:
        place.say("memory: kopf lists them")
        await objects.until("kopf has listed the Workflows", lambda: int(child.ask()["events"]) >= n, within_s=900)
        kopf = memory_mb(child.pid)
    place.say(f"memory: peak and now in MB, operator {ours}, kopf {kopf}; the Workflows are deleted")
    await objects.remove(place.kube, place.namespace, n)
    return [
        Row(
            name="memory", what=f"peak RSS with {n:,} Workflows of 20 KB".replace(",", " "), budget=250, unit="MB",
            strict=True, measured=ours and ours[0], anchor=kopf and kopf[0], anchor_is="kopf with its defaults",
            note="needs /proc" if ours is None else f"now {ours[1]:.0f} MB, after {cpu or 0:.0f} s of CPU",
        )
    ]  # fmt: skip


async def _settled(pid: int) -> None:
    """Until a process has done for a while next to nothing."""
    loop = asyncio.get_running_loop()
    end = loop.time() + 900
    before = cpu_of(pid) or 0.0
    quiet = 0
    while quiet < 3 and loop.time() < end:
        await asyncio.sleep(QUIET_S)
        now = cpu_of(pid) or 0.0
        quiet = quiet + 1 if now - before < QUIET_S * QUIET_SHARE else 0
        before = now
