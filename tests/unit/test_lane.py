"""The lane: keyed, bounded, fair to its tracker. The clock is looptime's, so minutes pass at once."""

import asyncio
import contextlib
import random
import tracemalloc
from collections.abc import Callable

import pytest

from pipetrail.delivery.lane import Done, Halt, Lane, Later, Limiter, Verdict, backoff_s

pytestmark = pytest.mark.looptime


class Desk:
    """Does the work of a lane by a script of verdicts, and writes down when each key was worked on."""

    def __init__(self, script: dict[str, list[Verdict]] | None = None, takes_s: float = 0.0) -> None:
        self.script = script or {}
        self.takes_s = takes_s
        self.done: list[tuple[float, str]] = []
        self.together = 0
        self.most_together = 0

    async def work(self, key: str) -> Verdict:
        self.together += 1
        self.most_together = max(self.most_together, self.together)
        self.done.append((asyncio.get_running_loop().time(), key))
        await asyncio.sleep(self.takes_s)
        self.together -= 1
        verdicts = self.script.get(key, [])
        return verdicts.pop(0) if verdicts else Done()

    @property
    def keys(self) -> list[str]:
        return [key for _, key in self.done]


@contextlib.asynccontextmanager
async def running(desk: Desk, *, concurrency: int = 2, turned: Callable[[], None] = lambda: None):
    lane = Lane(desk.work, concurrency=concurrency, requests_per_second=1000, turned=turned)
    task = asyncio.create_task(lane.run())
    yield lane
    task.cancel()
    await asyncio.wait([task])


async def test_a_key_that_is_offered_many_times_waits_once() -> None:
    desk = Desk()
    async with running(desk) as lane:
        for _ in range(100):
            lane.offer("a")
        await asyncio.sleep(1)
    assert desk.keys == ["a"]


async def test_news_during_the_work_on_a_key_makes_one_more_turn_afterwards() -> None:
    desk = Desk(takes_s=1.0)
    async with running(desk) as lane:
        lane.offer("a")
        await asyncio.sleep(0.5)
        lane.offer("a")
        lane.offer("a")
        await asyncio.sleep(10)
    assert [round(at, 1) for at, _ in desk.done] == [0.0, 1.0]


async def test_never_more_than_its_concurrency_are_worked_on() -> None:
    desk = Desk(takes_s=1.0)
    async with running(desk, concurrency=3) as lane:
        for n in range(9):
            lane.offer(f"k{n}")
        await asyncio.sleep(10)
    assert (desk.most_together, len(desk.done)) == (3, 9)


async def test_retry_after_is_honoured_and_news_does_not_shorten_it() -> None:
    desk = Desk({"a": [Later(after_s=30.0)]})
    async with running(desk) as lane:
        lane.offer("a")
        await asyncio.sleep(1)
        lane.offer("a", after_s=40)
        await asyncio.sleep(100)
    assert [round(at) for at, _ in desk.done] == [0, 30]


async def test_a_planned_second_look_lets_news_through_at_once() -> None:
    desk = Desk({"a": [Later(after_s=60.0, trouble=False)]}, takes_s=1.0)
    async with running(desk) as lane:
        lane.offer("a")
        await asyncio.sleep(0.5)
        lane.offer("a")
        await asyncio.sleep(5)
    assert [round(at, 1) for at, _ in desk.done] == [0.0, 1.0]


async def test_after_three_failures_in_a_row_one_key_at_a_time_is_tried_until_one_gets_through() -> None:
    down = [Later()] * 5
    desk = Desk({f"k{n}": list(down) for n in range(20)}, takes_s=0.1)
    async with running(desk, concurrency=8) as lane:
        for n in range(20):
            lane.offer(f"k{n}")
        await asyncio.sleep(0.14)  # all have failed once, at 0.1; the first probe comes 0.05 later or more
        burst = len(desk.done)
        desk.most_together = 0
        await asyncio.sleep(30)
        assert (burst <= 8, desk.most_together) == (True, 1)
        desk.script.clear()
        await asyncio.sleep(120)
        assert (lane.waiting, lane.breaker) == (0, "Closed")
        assert set(desk.keys) == {f"k{n}" for n in range(20)}


async def test_who_looks_after_the_tracker_is_told_once_when_nothing_gets_through_and_once_when_it_does_again() -> None:
    desk = Desk({"a": [Later()] * 6}, takes_s=0.1)
    told: list[int] = []
    async with running(desk, turned=lambda: told.append(len(desk.done))) as lane:
        lane.offer("a")
        await asyncio.sleep(300)
        lane.offer("b")
        await asyncio.sleep(1)
    assert (told, desk.keys) == ([3, 7], ["a"] * 7 + ["b"])


async def test_a_halted_lane_keeps_its_keys_and_starts_them_at_once_when_resumed() -> None:
    desk = Desk({"a": [Halt()]})
    async with running(desk, concurrency=1) as lane:
        lane.offer("a")
        lane.offer("b")
        await asyncio.sleep(100)
        assert (desk.keys, lane.waiting) == (["a"], 2)
        lane.resume()
        await asyncio.sleep(0.1)
    assert sorted(desk.keys) == ["a", "a", "b"]


async def test_a_key_that_is_due_in_less_than_a_tick_of_the_clock_is_due() -> None:
    desk = Desk()
    async with running(desk) as lane:
        lane.offer("a", after_s=3e-10)
        await asyncio.sleep(1)
    assert desk.keys == ["a"]


async def test_a_limiter_spreads_what_exceeds_a_second_s_worth() -> None:
    limiter = Limiter(10)
    began = asyncio.get_running_loop().time()
    for _ in range(30):
        await limiter.acquire()
    assert 1.9 <= asyncio.get_running_loop().time() - began <= 3.1


def test_backoff_is_full_jitter_up_to_its_cap() -> None:
    rng = random.Random(7)
    pauses = [backoff_s(n, rng=rng) for n in range(1, 40) for _ in range(20)]
    assert (min(pauses) >= 0.05, max(pauses) <= 300.0, max(pauses) > 250.0) == (True, True, True)


async def test_each_namespace_gets_its_turn_though_one_has_five_thousand_runs_waiting() -> None:
    desk = Desk(takes_s=0.01)
    async with running(desk, concurrency=2) as lane:
        for n in range(5000):
            lane.offer(f"busy{n}", group="busy")
        await asyncio.sleep(1)
        before = len(desk.done)
        lane.offer("quiet", group="quiet")
        await asyncio.sleep(0.1)
    assert "quiet" in desk.keys[before : before + 2]


async def test_live_runs_go_before_backfill_and_one_that_fails_keeps_its_place_in_the_order() -> None:
    desk = Desk({"old0": [Later(after_s=1.0)]}, takes_s=0.1)
    async with running(desk, concurrency=1) as lane:
        for n in range(20):
            lane.offer(f"old{n}", group="a", priority="Backfill")
        await asyncio.sleep(0.05)
        for n in range(12):
            lane.offer(f"new{n}", group="a")
        await asyncio.sleep(10)
    assert desk.keys[0] == "old0"
    assert desk.keys[1:13] == [f"new{n}" for n in range(12)]
    assert desk.keys.count("old0") == 2


async def test_a_live_run_waits_for_none_of_thousands_of_old_ones_and_each_namespace_has_its_turn_among_those() -> None:
    desk = Desk(takes_s=0.01)
    async with running(desk, concurrency=2) as lane:
        for n in range(5000):
            lane.offer(f"busy{n}", group="busy", priority="Backfill")
        await asyncio.sleep(1)
        before = len(desk.done)
        lane.offer("quiet", group="quiet", priority="Backfill")
        lane.offer("live", group="busy")
        await asyncio.sleep(0.1)
    # Two are under way when they come.
    assert "live" in desk.keys[before : before + 3]
    assert "quiet" in desk.keys[before : before + 5]


async def test_news_of_a_run_that_is_being_backfilled_makes_it_live() -> None:
    desk = Desk(takes_s=0.1)
    async with running(desk, concurrency=1) as lane:
        for n in range(20):
            lane.offer(f"old{n}", priority="Backfill")
        await asyncio.sleep(0.05)
        lane.offer("old0")
        await asyncio.sleep(5)
    assert desk.keys[:3] == ["old0", "old0", "old1"]


async def test_a_cancellation_that_is_not_the_lane_s_own_costs_a_key_nothing_but_a_second() -> None:
    turns = []

    async def work(key: str) -> Verdict:
        turns.append(round(asyncio.get_running_loop().time(), 1))
        if len(turns) == 1:
            raise asyncio.CancelledError  # as from a future that someone else cancelled
        return Done()

    lane = Lane(work, concurrency=2, requests_per_second=1000)
    task = asyncio.create_task(lane.run())
    lane.offer("a")
    await asyncio.sleep(10)
    assert (turns, lane.waiting, task.done()) == ([0.0, 1.0], 0, False)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def test_a_lane_that_drains_ends_what_is_under_way_and_starts_only_what_cannot_be_read_again() -> None:
    desk = Desk(takes_s=1.0)
    async with running(desk, concurrency=1) as lane:
        for key in ("a", "b", "c"):
            lane.offer(key)
        await asyncio.sleep(0.5)
        lane.drain({"c"})
        lane.offer("b")
        lane.offer("d")
        assert (lane.idle, lane.waiting) == (False, 2)
        await asyncio.sleep(10)
        assert (desk.keys, lane.idle, lane.waiting) == (["a", "c"], True, 0)


async def test_when_a_lane_went_on_after_a_halt_is_known_and_a_resume_of_a_lane_that_went_is_none() -> None:
    async with running(Desk()) as lane:
        await asyncio.sleep(5)
        lane.resume()
        before = lane.resumed_at
        lane.halt()
        await asyncio.sleep(5)
        lane.resume()
    assert (before, round(lane.resumed_at)) == (float("-inf"), 10)


async def test_what_a_lane_keeps_of_a_waiting_key_is_less_than_a_kibibyte() -> None:
    lane = Lane(Desk().work, concurrency=1, requests_per_second=1)
    keys = [f"{n:036}" for n in range(5000)]
    tracemalloc.start()
    try:
        for _ in range(3):
            for n, key in enumerate(keys):
                lane.offer(key, group=f"team-{n % 50}")
        held = tracemalloc.get_traced_memory()[0] / len(keys)
    finally:
        tracemalloc.stop()
    assert held < 1024, f"{held:.0f} bytes a key"
