"""The lane: the queue, the workers and the limits of one target, so that one tracker's trouble stays its own.

A key waits at most once, whatever happens to its run meanwhile; a key that is offered while it is worked on is worked
on again afterwards. So the queue is bounded by the runs that are not settled, and an event costs nothing more.

When calls keep failing the breaker opens: one key at a time is tried, with growing pauses, until one gets through.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from heapq import heappop, heappush
from typing import Final, Literal

from pipetrail import observe
from pipetrail.record import Frozen

BACKOFF_FIRST_S: Final = 1.0
BACKOFF_MOST_S: Final = 300.0
PROBE_MOST_S: Final = 15.0
FAILURES_TO_OPEN: Final = 3


class Done(Frozen, frozen=True):
    """The key needs nothing more for now. `sent` says that something was sent for it."""

    sent: bool = False


class Later(Frozen, frozen=True):
    """Try the key again after `after_s` (null: by backoff). `trouble` counts against the tracker, not the run."""

    after_s: float | None = None
    trouble: bool = True


class Halt(Frozen, frozen=True):
    """The tracker accepts nothing as things are: stop until :meth:`Lane.resume`."""


Verdict = Done | Later | Halt
Breaker = Literal["Closed", "Open", "HalfOpen"]


def backoff_s(failures: int, most_s: float = BACKOFF_MOST_S, *, rng: random.Random | None = None) -> float:
    """Full jitter: anywhere between 0 and 1 s × 2^(failures - 1), at most `most_s`; never under 50 ms."""
    top = min(most_s, BACKOFF_FIRST_S * 2.0 ** min(failures - 1, 16))
    return max(0.05, (rng or random).uniform(0.0, top))


Permit = Callable[[], Awaitable[None]]
"""Waits until calls may be made at all: while another operator may be making them, they may not."""


async def always() -> None:
    """The permit of an operator that is alone."""


class Limiter:
    """A token bucket: at most `rate` calls a second in the long run, `rate` at once, and none without a `permit`."""

    def __init__(self, rate: float, permit: Permit = always) -> None:
        self.rate = rate
        self._permit = permit
        self._free_at = 0.0

    async def acquire(self) -> None:
        """Wait for a token, then for the permit."""
        now = asyncio.get_running_loop().time()
        self._free_at = max(self._free_at, now - 1.0) + 1.0 / self.rate
        if self._free_at > now:
            await asyncio.sleep(self._free_at - now)
        await self._permit()


class Lane:
    """Calls `work` for each key that is due, at most `concurrency` at a time, never twice at once for one key."""

    def __init__(
        self, work: Callable[[str], Awaitable[Verdict]], *, concurrency: int, requests_per_second: float,
        permit: Permit = always,
    ) -> None:  # fmt: skip
        self._work = work
        self._concurrency = concurrency
        self.limiter = Limiter(requests_per_second, permit)
        self._due: dict[str, float] = {}  # key -> when; the truth, of which the heap is an index
        self._heap: list[tuple[float, str]] = []
        self._busy: set[str] = set()
        self._again: dict[str, float] = {}
        self._news: dict[str, float] = {}  # since when a key waits for a Done
        self._failures: dict[str, int] = {}
        self._in_a_row = 0
        self._not_before = 0.0
        self._halted = False
        self._changed = asyncio.Event()

    def limit(self, *, concurrency: int, requests_per_second: float) -> None:
        """New limits; what is under way ends under the old ones."""
        self._concurrency = concurrency
        self.limiter.rate = requests_per_second
        self._changed.set()

    @property
    def waiting(self) -> int:
        """Keys that are due, now or later, or being worked on."""
        return len(self._due.keys() | self._busy)

    @property
    def busy(self) -> int:
        """Keys that are being worked on now."""
        return len(self._busy)

    def working(self, key: str) -> bool:
        """True while `key` is being worked on."""
        return key in self._busy

    @property
    def breaker(self) -> Breaker:
        """Closed: all is well. Open: pausing. HalfOpen: one key is tried."""
        if self._in_a_row < FAILURES_TO_OPEN:
            return "Closed"
        return "HalfOpen" if self._busy else "Open"

    @property
    def halted(self) -> bool:
        """True between a :class:`Halt` (or :meth:`halt`) and :meth:`resume`."""
        return self._halted

    def offer(self, key: str, *, after_s: float = 0.0) -> None:
        """`key` has news. The earliest of several offers counts."""
        now = asyncio.get_running_loop().time()
        when = now + after_s
        self._news.setdefault(key, now)
        if key in self._busy:
            self._again[key] = min(when, self._again.get(key, when))
            return
        if when < self._due.get(key, float("inf")):
            self._due[key] = when
            heappush(self._heap, (when, key))
            self._changed.set()

    def forget(self, key: str) -> None:
        """Drop `key` from the queue."""
        self._due.pop(key, None)
        self._again.pop(key, None)
        self._failures.pop(key, None)
        self._news.pop(key, None)

    def halt(self) -> None:
        """Start nothing more; what is under way ends by itself."""
        self._halted = True

    def resume(self) -> None:
        """Start again at once: the address, the credentials or the tracker's health have changed."""
        self._halted = False
        self._in_a_row = 0
        self._not_before = 0.0
        self._failures.clear()
        now = asyncio.get_running_loop().time()
        for key in list(self._due):
            self._due[key] = now
            heappush(self._heap, (now, key))
        self._changed.set()

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                key, wait_s = self._next()
                if key is not None:
                    self._busy.add(key)
                    tasks.create_task(self._one(key), name=f"deliver {key}")
                    continue
                self._changed.clear()
                try:
                    async with asyncio.timeout(wait_s):
                        await self._changed.wait()
                except TimeoutError:
                    pass

    def _next(self) -> tuple[str | None, float | None]:
        """A key to start now, or how long to wait for one (null: until something changes)."""
        if self._halted or len(self._busy) >= (1 if self._in_a_row >= FAILURES_TO_OPEN else self._concurrency):
            return None, None
        now = asyncio.get_running_loop().time()
        while self._heap and self._due.get(self._heap[0][1]) != self._heap[0][0]:
            heappop(self._heap)
        if not self._heap:
            return None, None
        at = max(self._heap[0][0], self._not_before)
        if at > now:
            return None, at - now
        _, key = heappop(self._heap)
        del self._due[key]
        return key, None

    async def _one(self, key: str) -> None:
        began = asyncio.get_running_loop().time()
        news = self._news.pop(key, began)
        try:
            verdict = await self._work(key)
        finally:
            self._busy.discard(key)
            self._changed.set()
        again = self._again.pop(key, None)
        if not isinstance(verdict, Done):
            self._news[key] = news
        match verdict:
            case Done(sent=sent):
                self._in_a_row = 0
                self._failures.pop(key, None)
                if sent:
                    observe.lags.add(asyncio.get_running_loop().time() - news)
            case Later(after_s=after_s, trouble=trouble):
                if not trouble:
                    self.offer(key, after_s=after_s or BACKOFF_FIRST_S)
                else:
                    failures = self._failures[key] = self._failures.get(key, 0) + 1
                    pause_s = backoff_s(failures) if after_s is None else after_s
                    self._in_a_row += 1
                    if self._in_a_row >= FAILURES_TO_OPEN:
                        probe_s = backoff_s(self._in_a_row - FAILURES_TO_OPEN + 1, PROBE_MOST_S)
                        self._not_before = asyncio.get_running_loop().time() + max(probe_s, after_s or 0.0)
                        pause_s = min(pause_s, PROBE_MOST_S)
                    again = None  # news of the run must not shorten the pause that its tracker asked for
                    self.offer(key, after_s=pause_s)
            case Halt():
                self._halted = True
                self.offer(key)
        if again is not None:
            self.offer(key, after_s=max(0.0, again - asyncio.get_running_loop().time()))
