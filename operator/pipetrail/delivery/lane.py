"""The lane: the queue, the workers and the limits of one target, so that one tracker's trouble stays its own.

A key waits at most once, whatever happens to its run meanwhile; a key that is offered while it is worked on is worked
on again afterwards. So the queue is bounded by the runs that are not settled, and an event costs nothing more. Which
key is next says :mod:`pipetrail.delivery.queue`: live before backfill, and each namespace in its turn.

When calls keep failing the breaker opens: one key at a time is tried, with growing pauses, until one gets through.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from collections.abc import Set as AbstractSet
from typing import Final, Literal

from pipetrail import observe
from pipetrail.delivery.queue import ORDER, Priority, Queue
from pipetrail.record import Frozen

BACKOFF_FIRST_S: Final = 1.0
BACKOFF_MOST_S: Final = 300.0
PROBE_MOST_S: Final = 15.0
FAILURES_TO_OPEN: Final = 3
TICK_S: Final = 1e-6
"""What is due within it is due: asyncio's timers fire up to its clock's resolution early, and to wait for the rest of
it with another one spins for as long as the clock does not move."""


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


class Errand:
    """What is remembered of a key from its news to its :class:`Done`."""

    __slots__ = ("again", "failures", "group", "news", "priority")

    def __init__(self, group: str, priority: Priority, news: float) -> None:
        self.group = group
        self.priority = priority
        self.news = news  # since when it waits for a Done
        self.failures = 0
        self.again: float | None = None  # news that came while it was worked on: when to look


class Lane:
    """Calls `work` for each key that is due, at most `concurrency` at a time, never twice at once for one key.

    `turned` is called when the breaker opens, and when a key gets through again.
    """

    def __init__(
        self, work: Callable[[str], Awaitable[Verdict]], *, concurrency: int, requests_per_second: float,
        permit: Permit = always, turned: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self._work = work
        self._turned = turned
        self._concurrency = concurrency
        self.limiter = Limiter(requests_per_second, permit)
        self._queue = Queue()
        self._errands: dict[str, Errand] = {}  # of each key that waits or is worked on
        self._busy: set[str] = set()
        self._in_a_row = 0
        self._not_before = 0.0
        self._halted = False
        self._only: AbstractSet[str] | None = None
        self.resumed_at = float("-inf")
        """When it last went on after a halt (the loop's time): a run that was failing before did not fail meanwhile."""
        self._changed = asyncio.Event()

    def limit(self, *, concurrency: int, requests_per_second: float) -> None:
        """New limits; what is under way ends under the old ones."""
        self._concurrency = concurrency
        self.limiter.rate = requests_per_second
        self._changed.set()

    @property
    def waiting(self) -> int:
        """Keys that are due, now or later, or being worked on."""
        return len(self._errands)

    @property
    def busy(self) -> int:
        """Keys that are being worked on now."""
        return len(self._busy)

    @property
    def idle(self) -> bool:
        """True if nothing is being worked on and nothing could be started now."""
        return not self._busy and self._wait_s() != 0.0

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

    def offer(self, key: str, *, after_s: float = 0.0, group: str = "", priority: Priority = "Live") -> None:
        """`key`, of `group`, has news. The earliest of several offers counts, and the higher priority."""
        if self._only is not None and key not in self._only:
            return
        now = asyncio.get_running_loop().time()
        errand = self._errands.get(key)
        if errand is None:
            errand = self._errands[key] = Errand(group, priority, now)
        elif ORDER.index(priority) < ORDER.index(errand.priority):
            errand.priority = priority
        if key in self._busy:
            errand.again = now + after_s if errand.again is None else min(now + after_s, errand.again)
        elif self._queue.put(key, now + after_s, group=errand.group, priority=errand.priority):
            self._changed.set()

    def forget(self, key: str) -> None:
        """Drop `key` from the queue; if it is being worked on, news that came meanwhile are dropped."""
        self._queue.drop(key)
        errand = self._errands.get(key)
        if errand is not None and key in self._busy:
            errand.again = None
        elif errand is not None:
            del self._errands[key]

    def halt(self) -> None:
        """Start nothing more; what is under way ends by itself."""
        self._halted = True

    def resume(self) -> None:
        """Start again at once: the address, the credentials or the tracker's health have changed."""
        now = asyncio.get_running_loop().time()
        if self._halted:
            self.resumed_at = now
        self._halted = False
        self._in_a_row = 0
        self._not_before = 0.0
        for errand in self._errands.values():
            errand.failures = 0
        self._queue.hasten(now)
        self._changed.set()

    def drain(self, only: AbstractSet[str]) -> None:
        """From now on start and take nothing but `only`: keys whose runs can't be read again after us."""
        self._only = only
        for key in self._queue.keys():  # noqa: SIM118  a copy: the queue changes
            if key not in only:
                self.forget(key)

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                wait_s = self._wait_s()
                key = self._queue.take(asyncio.get_running_loop().time() + TICK_S) if wait_s == 0.0 else None
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

    def _wait_s(self) -> float | None:
        """How long until a key may be started: 0 for now, null for when something changes."""
        if self._halted or len(self._busy) >= (1 if self._in_a_row >= FAILURES_TO_OPEN else self._concurrency):
            return None
        at = self._queue.next_at()
        if at is None:
            return None
        wait_s = max(at, self._not_before) - asyncio.get_running_loop().time()
        return 0.0 if wait_s <= TICK_S else wait_s

    async def _one(self, key: str) -> None:
        errand = self._errands[key]
        try:
            verdict = await self._work(key)
        except asyncio.CancelledError:
            mine = asyncio.current_task()
            if mine is not None and mine.cancelling():
                raise  # we are being stopped
            # Something that `work` waited for was cancelled by others: that must not cost the key its place.
            observe.count("handler_errors")
            observe.log().error("delivery cancelled", key=key)
            verdict = Later(after_s=BACKOFF_FIRST_S, trouble=False)
        finally:
            self._busy.discard(key)
            self._changed.set()
        again, errand.again = errand.again, None
        del self._errands[key]
        match verdict:
            case Done(sent=sent):
                opened, self._in_a_row = self.breaker != "Closed", 0
                if opened:
                    self._turned()
                if sent:
                    observe.lags.add(asyncio.get_running_loop().time() - errand.news)
            case Later(after_s=after_s, trouble=False):
                self._return(key, errand, after_s or BACKOFF_FIRST_S)
            case Later(after_s=after_s):
                self._return(key, errand, self._failed(errand, after_s))
                again = None  # news of the run must not shorten the pause that its tracker asked for
            case Halt():
                self._halted = True
                self._return(key, errand, 0.0)
        if again is not None:
            now = asyncio.get_running_loop().time()
            self.offer(key, after_s=max(0.0, again - now), group=errand.group, priority=errand.priority)

    def _failed(self, errand: Errand, after_s: float | None) -> float:
        """One more failure, of the key and in a row: how long the key waits now."""
        errand.failures += 1
        self._in_a_row += 1
        pause_s = backoff_s(errand.failures) if after_s is None else after_s
        if self._in_a_row < FAILURES_TO_OPEN:
            return pause_s
        if self._in_a_row == FAILURES_TO_OPEN:
            self._turned()
        probe_s = backoff_s(self._in_a_row - FAILURES_TO_OPEN + 1, PROBE_MOST_S)
        self._not_before = asyncio.get_running_loop().time() + max(probe_s, after_s or 0.0)
        return min(pause_s, PROBE_MOST_S)

    def _return(self, key: str, errand: Errand, after_s: float) -> None:
        """`key` waits again, with what is remembered of it."""
        if self._only is None or key in self._only:
            self._errands[key] = errand
            self.offer(key, after_s=after_s, group=errand.group, priority=errand.priority)
