"""The courier and the Neptune target together, with doubts, kills and late effects: each point once, and settled.

The ledger writes nowhere; everything else is the real thing. Times are the courier's own, made short.
"""

import asyncio
import os
import random
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from tests.real import neptune
from tests.real.neptune import Server
from tests.real.proxy import Answer, Drop, Pass, Proxy, Seen

from pipetrail import api, record
from pipetrail.delivery.courier import Courier
from pipetrail.delivery.lane import Limiter
from pipetrail.delivery.ledger import Entry, Ledger
from pipetrail.delivery.progress import Progress
from pipetrail.targets.neptune.process import Bounds
from pipetrail.targets.neptune.target import NeptuneTarget
from pipetrail.targets.target import Metric, Retry, TrackerRun, Tree, Unauthorised, Unusable
from pipetrail.targets.verify import differences

START = datetime(2025, 11, 3, 9, 30, 0, 123000, tzinfo=UTC)
BOUNDS = Bounds(call_s=10.0, http_s=2.0, pause_s=0.05)


class Nowhere(Ledger):
    """Keeps what is written in the entry alone."""

    def __init__(self) -> None: ...

    async def write(self, entry: Entry, **status: Any) -> Entry:
        return msgspec.structs.replace(entry, status=msgspec.structs.replace(entry.status, **status))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with neptune.serving() as running:
        yield running


def points(key: str, many: int) -> tuple[Metric, ...]:
    ms = round(START.timestamp() * 1000)
    return tuple(Metric(key=key, value=1 / (n + 3), step=n, time_ms=ms + 1007 * n) for n in range(many))


def tree(uid: str) -> Tree:
    """A sweep: a parent and two turns."""
    key = f"c/{uid}"

    def run(name: str, of: str, metrics: tuple[Metric, ...], params: dict[str, str]) -> TrackerRun:
        return TrackerRun(
            key=of, root=key, experiment=f"sweep {uid}", name=name, status="Finished", started=START,
            finished=START + timedelta(minutes=3), params=params, metrics=metrics, note=f"# {name}",
            tags={"pipetrail.run": uid},
        )  # fmt: skip

    turns = tuple(run(f"train depth={d}", f"{key}-{d}", points("loss", 4), {"depth": str(d)}) for d in (2, 4))
    return Tree(parent=run(uid, key, points("prep/rows", 2), {"rate": "1e-3"}), children=turns)


def entry(uid: str) -> Entry:
    run = api.RunRef(source="argo", name=uid, uid=uid, key=f"c/{uid}", pipeline="sweep")
    target = api.TargetRef(name="t", namespace="n")
    spec = api.TrackedRunSpec(run=run, target=target, policy=api.Policy(), experiment=f"sweep {uid}")
    return Entry(name="e", namespace="n", version="1", spec=spec, status=api.TrackedRunStatus())


def ended(uid: str) -> record.Record:
    return record.Record(
        key=record.Key(cluster="c", uid=uid), source="argo", name=uid, namespace="n", pipeline="sweep",
        outcome=record.Outcome(status="succeeded"),
    )  # fmt: skip


async def settled(target: NeptuneTarget, uid: str, *, fresh: bool = True) -> int:
    """Deliver until it is settled, as the lane would; the tries that it took."""
    courier = Courier(target, Nowhere(), Limiter(1000.0))
    progress = Progress(entry(uid), unsure=not fresh)
    for tries in range(1, 60):
        try:
            if await courier.deliver(progress, tree(uid), ended(uid)):
                return tries
        except Retry as trouble:
            await asyncio.sleep(min(trouble.after_s or 0.0, 0.1))
        except (Unauthorised, Unusable):
            continue  # whoever looks after the target has let the lane go on
    raise AssertionError("it is never settled")


async def assert_whole(server: Server, *uids: str) -> None:
    """What the server holds, read by a target of its own: each run once, whole, and nothing twice."""
    target = NeptuneTarget(server.url, server.project, server.token(), bounds=BOUNDS)
    try:
        for uid in uids:
            wanted = [target.fit(run) for run in tree(uid).runs]
            found = await target.find(wanted[0])
            assert [h.key for h in found] == [run.key for run in wanted]
            for run, held in zip(wanted, found, strict=True):
                assert differences(run, await target.read(held.handle), note=run.note) == ()
            there = {run["short"]: run["attributes"] for run in server.runs()}
            below = [there[h.handle.id].get("pipetrail/parent", ("", ""))[1] for h in found]
            assert below == ["", *([found[0].handle.id] * 2)]
    finally:
        await target.close()


async def test_a_sweep_is_delivered_at_the_first_try(server: Server) -> None:
    target = NeptuneTarget(server.url, server.project, server.token(), bounds=BOUNDS)
    try:
        assert await settled(target, "calm") == 1
        assert await settled(target, "calm", fresh=False) == 1  # as after a restart
    finally:
        await target.close()
    await assert_whole(server, "calm")


@pytest.mark.parametrize("status", [429, 401])
async def test_a_request_that_is_turned_away_does_not_have_those_before_it_sent_again(
    server: Server, status: int
) -> None:
    """Of each delivery another one is, once: the points that the ones before it brought are there already."""
    async with Proxy(server.url) as proxy:
        target = NeptuneTarget(proxy.url, server.project, server.token(proxy.url), bounds=BOUNDS)
        try:
            for number in range(8):
                left = iter([Pass()] * number + [Answer(status)])

                def decide(seen: Seen, left: Iterator[Any] = left) -> Any:
                    return next(left, Pass()) if seen.ends("/attributes/operations") else Pass()

                proxy.decide = decide
                assert await settled(target, f"turned-away-{status}-{number}") == 2
        finally:
            await target.close()
    await assert_whole(server, *(f"turned-away-{status}-{number}" for number in range(8)))


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_is_lost_or_killed_on_the_way_each_point_is_there_once(server: Server, seed: int) -> None:
    """A third of the requests fail in one of the ways that there are; now and then the worker is killed."""
    chance = random.Random(seed)
    uid = f"storm-{seed}"
    ways = (
        Drop(),
        Drop(commit=True),
        Answer(429),
        Answer(503),
        Answer(503, commit=True),
        Answer(200, b"<<<", commit=True),
    )

    async with Proxy(server.url) as proxy:
        target = NeptuneTarget(proxy.url, server.project, server.token(proxy.url), bounds=BOUNDS)
        await target.check()
        left = 12

        def decide(seen: Seen) -> Any:
            nonlocal left
            if not left or chance.random() > 0.3 or "swagger" in seen.path:
                return Pass()
            left -= 1
            return chance.choice(ways)

        def kill(seen: Seen, _status: int) -> None:
            if seen.method == "POST" and chance.random() < 0.08 and target.process.pid is not None:
                os.kill(target.process.pid, signal.SIGKILL)

        proxy.decide, proxy.on_response = decide, kill
        try:
            async with asyncio.timeout(150):
                await settled(target, uid)
        finally:
            proxy.on_response = None
            await target.close()
    await assert_whole(server, uid)
