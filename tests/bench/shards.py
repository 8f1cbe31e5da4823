"""CPU of one of two shards beside that of one operator for the same work: the same Workflows, changed as often.

Namespaces with names that are alike, each with a target (TensorBoard, so that no server shares the machine's cores).
CPU and not time: on few cores two processes take turns, and what a shard saves is what it need not do.
"""

import asyncio
import contextlib
import itertools
import secrets
from collections.abc import Sequence
from typing import Final

from tests.bench import objects
from tests.bench.child import cpu_of
from tests.bench.place import Place
from tests.bench.table import Row
from tests.cluster.fixtures import Kubectl, sweep
from tests.e2e.stage import Stage, starts
from tests.real.operator import Operator

from pipetrail.kube import ARGO

NAMESPACES: Final = 4
WORKFLOWS: Final = 60  # in each namespace
UPDATES: Final = 600  # of each namespace's
SHORT: Final = 200
BUDGET: Final = 0.56
QUIET_S: Final = 3.0
QUIET_CPU_S: Final = 0.15


async def measure(place: Place) -> list[Row]:
    """One operator, then two shards; each sees all Workflows stand, then so many updates."""
    if not place.cluster.ours:
        return [_row(None, None, "not on a cluster that others use: it watches all namespaces")]
    updates = SHORT if place.short else UPDATES
    mark = secrets.token_hex(3)
    stages = [Stage(place.cluster, place.kube, f"bench-{mark}-team-{letter}") for letter in "abcd"]
    rounds = itertools.count()
    # The namespaces are cut by how many runs they have: what was measured before this left as many as there will be.
    await objects.delete_all(place.kube, f"{ARGO}/namespaces/{place.namespace}/workflows", "")
    try:
        for stage in stages:
            await stage.prepare()
            await stage.target("boards", backend={"tensorboard": {}})
            await objects.make(place.kube, stage.namespace, range(WORKFLOWS))
        place.say(f"shards: {updates} updates in each of {NAMESPACES} namespaces, seen by one operator")
        one = await _cpu_s(place, stages, 1, updates, rounds)
        place.say("shards: the same, seen by two")
        two = await _cpu_s(place, stages, 2, updates, rounds)
    finally:
        for stage in stages:
            with contextlib.suppress(AssertionError):
                await asyncio.to_thread(sweep, place.cluster, Kubectl(place.cluster), stage.namespace)
    if one is None or two is None:
        return [_row(None, None, "no /proc")]
    (alone,) = one
    shown = ", ".join(f"{used:.2f} s" for used in two)
    return [_row(max(two) / alone, 1.0, f"one operator {alone:.2f} s of CPU, two shards {shown}")]


def _row(measured: float | None, anchor: float | None, note: str) -> Row:
    return Row(
        name="shards", what="CPU of the busier of two shards, of one operator's", budget=BUDGET, unit="×",
        measured=measured, anchor=anchor, anchor_is="one operator, the same updates", note=note,
    )  # fmt: skip


async def _cpu_s(
    place: Place, stages: Sequence[Stage], shards: int, updates: int, rounds: "itertools.count[int]"
) -> list[float] | None:
    """CPU that each of so many operators uses for the updates, from the first to the last delivery."""
    common = ("--namespace", place.namespace, "--tensorboard-root", str(place.folder / f"boards-{shards}"))
    (place.folder / f"boards-{shards}").mkdir()
    made = []
    for number in range(shards):
        flags = ("--shard", str(number), "--shards", str(shards), "--identity", f"shard-{number}")
        operator = place.operator(f"shards-{shards}-{number}", *common, *flags, lease=True)
        made.append(operator)
    try:
        await asyncio.gather(*(starts(operator) for operator in made))
        for stage in stages:
            await stage.ready("boards")
        before = await _quiet(made)
        for stage in stages:
            await objects.stir(place.kube, stage.namespace, WORKFLOWS, updates, rounds)
        after = await _quiet(made)
    finally:
        for operator in made:
            await asyncio.to_thread(operator.stop)
    if before is None or after is None:
        return None
    return [b - a for a, b in zip(before, after, strict=True)]


async def _quiet(operators: Sequence[Operator]) -> list[float] | None:
    """The CPU that each has used, once none of them does much any more."""
    last: list[float] | None = None
    while True:
        now = []
        for operator in operators:
            assert operator.process is not None
            used = cpu_of(operator.process.pid)
            if used is None:
                return None
            now.append(used)
        if last is not None and all(b - a < QUIET_CPU_S for a, b in zip(last, now, strict=True)):
            return now
        last = now
        await asyncio.sleep(QUIET_S)
