"""What will happen, in which order and when: made from a seed alone, so that a seed plays the same faults again. Pure.

A schedule is a list of steps. Each begins not before its time and not before the steps in front of it have begun; on a
slow machine all of it takes longer, in the same order. Steps lie in chapters: in each one kind of trouble, and kills
and odd answers all along.

What the product does not promise (docs/guarantees.md) is not in it.
"""

import random
from collections.abc import Iterator
from typing import Final, Literal

from tests.chaos import generating
from tests.chaos.steps import (
    PATHS,
    QUICK,
    SLOW,
    ApiRestart,
    Away,
    Deletions,
    DiskFull,
    Fate,
    Home,
    How,
    Join,
    Kill,
    NamespaceEnds,
    Odd,
    Planned,
    Rotate,
    Split,
    Step,
    Submit,
    Tracker,
)
from tests.e2e.trap import BEGINS, CALLS, Call, When

from pipetrail.record import Frozen

# Not among them: runs that are deleted or retried in the recording itself, and two of which those who watched know more
# than those who came later (WATCHED_ALONE), so that what a tracker shows depends on when the operator was killed.
WATCHED_ALONE: Final = ("arch-retry-exhausted", "bad-image")
RECORDED: Final = (
    "churn-sweep", "cli-stop", "containerset", "daemon", "hooks-exit",
    "loop-retry", "loops-all", "memo-second", "nested-dags", "odd-values", "params-kinds", "retry-third",
    "suspend-approve", "wftmpl-ref", "when-omitted",
)  # fmt: skip
MANY: Final = 300
"""Runs from which on trackers are away for minutes."""
HEAVY: Final = frozenset({"loops-all", "loop-retry", "churn-sweep", "hooks-exit"})
BAIT: Final = "made-sweep"  # begins, has children, and is over soon

DELETED: Final[tuple[Fate, ...]] = ("deleted while it runs", "deleted after its end", "TTL 0")

Chapter = Literal[
    "calm", "mlflow away", "mlflow killed", "neptune away", "both away", "api", "compacted", "token", "disk",
    "shards", "namespace",
]  # fmt: skip
LONG: Final[tuple[Chapter, ...]] = (
    "calm", "mlflow away", "mlflow killed", "neptune away", "both away", "api", "compacted", "token", "disk",
    "shards", "namespace", "calm",
)  # fmt: skip
SHORT: Final[tuple[Chapter, ...]] = ("both away", "calm")
"""The last one is calm: there any kill can come that has not found its moment before."""
WITHOUT: Final[dict[Chapter, frozenset[Call]]] = {
    "mlflow away": frozenset({"create", "log-batch"}),
    "mlflow killed": frozenset({"create", "log-batch"}),
    "token": frozenset({"create", "log-batch"}),
    "neptune away": frozenset({"neptune create", "neptune append"}),
    "both away": frozenset({"create", "log-batch", "neptune create", "neptune append"}),
    "disk": frozenset({"opened", "settle"}),
}  # calls that are not made then, so that no kill can wait for one


class Schedule(Frozen, frozen=True):
    """All steps in order."""

    seed: int
    short: bool
    steps: tuple[Step, ...]

    @property
    def runs(self) -> tuple[Planned, ...]:
        """Every run, in the order of submission."""
        found: list[Planned] = []
        for step in self.steps:
            match step:
                case Submit(runs=runs) | Deletions(runs=runs) | NamespaceEnds(runs=runs):
                    found += runs
                case Kill(bait=Planned() as bait):
                    found.append(bait)
                case _:
                    pass
        return tuple(found)

    @property
    def kills(self) -> int:
        """How many times the operator is killed."""
        return sum(isinstance(step, Kill) for step in self.steps)

    @property
    def lines(self) -> Iterator[str]:
        """For people: one a step."""
        for step in self.steps:
            yield f"{step.at_s:6.1f} s  {step}"


def schedule(seed: int, *, runs: int, kills: int, short: bool = False) -> Schedule:
    """The schedule of a seed: at least 20 `runs` (long: 40); half of the `kills` at a chosen call."""
    return _Making(seed, runs, kills, short=short).schedule()


class _Making:
    def __init__(self, seed: int, runs: int, kills: int, *, short: bool) -> None:
        self.rng = random.Random(f"{seed} {runs} {kills} {short}")
        self.seed, self.short, self.total, self.kills = seed, short, runs, kills
        self.numbers: dict[str, int] = {}
        few = max(2, runs // 25)
        self.doomed = 0 if short else few
        self.fates: list[Fate] = [*DELETED] * few
        self.moments = self._moments()
        self.left = runs - len(self.fates) - self.doomed - sum(call is not None for call, _ in self.moments)
        self.now = 0.0

    def schedule(self) -> Schedule:
        chapters = list(SHORT if self.short else LONG)
        first, between, last = chapters[:1], chapters[1:-1], chapters[-1:]
        self.rng.shuffle(between)
        self.rng.shuffle(self.fates)
        chapters = [*first, *between, *last]
        bursts = sum(c != "namespace" for c in chapters)
        steps: list[Step] = []
        for chapter in chapters:
            if chapter == "namespace":
                steps.append(NamespaceEnds(self.now, tuple(self._of_doom() for _ in range(self.doomed))))
                self.now += 2.0
            else:
                steps += self._shards(bursts) if chapter == "shards" else self._chapter(chapter, bursts)
                bursts -= 1
        return Schedule(self.seed, self.short, tuple(steps))

    def _chapter(self, chapter: Chapter, chapters_left: int) -> list[Step]:
        steps: list[Step] = [*self._odd(self.now, chapter), *self._burst(self._share(chapters_left))]
        trouble = self._trouble(chapter)
        if trouble is not None:
            steps.append(trouble)
        steps += self._deletions(chapters_left)
        kills = len(self.moments) // chapters_left
        for moment in self._suiting(kills, chapter):
            self.now += self.rng.uniform(0.5, 1.5) if self.short else self.rng.uniform(2, 5)
            call, when = moment
            bait = None if call is None else self._run(shape=BAIT, lasts_s=2.0 if call in BEGINS else 4.0)
            steps.append(Kill(self.now, call, when, bait))
            if not self.short and self.rng.random() < 0.5:
                steps += self._odd(self.now, chapter)[:1]
        ends = trouble.at_s + trouble.for_s if isinstance(trouble, Away | Rotate | DiskFull) else self.now
        self.now = max(self.now, ends) + 2.0
        return steps

    def _shards(self, chapters_left: int) -> list[Step]:
        """One operator, two and one again, with runs all along; one of the two is killed."""
        steps = self._odd(self.now, "shards")
        n = self._share(chapters_left)
        steps += self._burst(n - 2 * (n // 3))
        steps.append(Split(self.now))
        self.now += 2.0
        steps += self._burst(n // 3)
        steps += self._deletions(chapters_left)
        self.now += self.rng.uniform(2, 5)
        steps.append(Kill(self.now, None, shard=self.rng.randrange(2)))
        self.now += 2.0
        steps += self._burst(n // 3)
        self.now += self.rng.uniform(2, 5)
        steps.append(Join(self.now))
        self.now += 2.0
        return steps

    def _share(self, chapters_left: int) -> int:
        """How many of the runs that are left a chapter has."""
        n = self.left // chapters_left
        self.left -= n
        return n

    def _burst(self, n: int) -> list[Step]:
        made = Submit(self.now, tuple(self._run() for _ in range(n)), self.rng.uniform(5, 20))
        self.now += min(n / made.per_s, 4.0) + 1.0
        return [made] if n else []

    def _deletions(self, chapters_left: int) -> list[Step]:
        """Of the runs that are to be deleted one share."""
        n = -(-len(self.fates) // chapters_left)
        some, self.fates = self.fates[:n], self.fates[n:]
        return [Deletions(self.now, tuple(self._run(fate) for fate in some))] if some else []

    def _trouble(self, chapter: Chapter) -> Step | None:
        now, draw = self.now, self.rng.uniform
        for_s = draw(4, 6) if self.short else draw(30, 60) if self.total >= MANY else draw(10, 25)
        match chapter:
            case "mlflow away":
                return Away(now, ("mlflow",), for_s)
            case "mlflow killed":
                return Away(now, ("mlflow",), draw(2, 10), killed=True)
            case "neptune away":
                return Away(now, ("neptune",), for_s)
            case "both away":
                return Away(now, ("mlflow", "neptune"), draw(120, 180) if self.total >= MANY else for_s)
            case "api" | "compacted":
                return ApiRestart(now, compacted=chapter == "compacted")
            case "token":
                return Rotate(now, draw(10, 40))
            case "disk":
                return DiskFull(now, draw(15, 30))
            case _:
                return None

    def _odd(self, at_s: float, chapter: Chapter) -> list[Step]:
        """Odd answers of trackers that are there."""
        gone: set[Tracker] = set()
        if "mlflow" in chapter or chapter in ("both away", "token"):
            gone.add("mlflow")
        if chapter in ("neptune away", "both away"):
            gone.add("neptune")
        if self.short and chapter != "calm":
            return []
        there: list[Tracker] = [tracker for tracker in PATHS if tracker not in gone]
        found: list[Step] = []
        for tracker in there:
            for _ in range(2 if self.short else 3):
                how: How = self.rng.choice(QUICK)
                path = self.rng.choice(PATHS[tracker])
                if not self.short and self.rng.random() < 0.25:
                    how = self.rng.choice(SLOW)
                    if tracker == "mlflow" and self.rng.random() < 0.4:
                        how, path = "late", "/runs/create"
                times = 1 if self.short or how in SLOW or how == "late" else self.rng.randrange(1, 4)
                found.append(Odd(at_s, tracker, path, how, times))
        return found

    def _moments(self) -> list[tuple[Call | None, When]]:
        """Half of the kills at a call, each call in turn, one of a shard; no append to Neptune takes effect late.

        It can't be told from one that never will, so it would be there twice: docs/guarantees.md, 4.
        """
        exact: list[tuple[Call | None, When]] = []
        while len(exact) < self.kills // 2:
            some: list[tuple[Call | None, When]] = [(call, when) for call in CALLS for when in ("before", "after")]
            if not self.short:
                some += [(call, "late") for call in ("create", "intent", "opened", "settle", "neptune create")]
            self.rng.shuffle(some)
            exact += some
        moments = exact[: self.kills // 2]
        moments += [(None, "before")] * (self.kills - len(moments) - (not self.short))
        self.rng.shuffle(moments)
        return moments

    def _suiting(self, n: int, chapter: Chapter) -> list[tuple[Call | None, When]]:
        """The next `n` moments that can come in this chapter."""
        without = WITHOUT.get(chapter, frozenset())
        chosen = [m for m in self.moments if m[0] not in without][:n]
        for moment in chosen:
            self.moments.remove(moment)
        return chosen

    def _run(self, fate: Fate = "stands", *, shape: str = "", lasts_s: float = 0.0) -> Planned:
        light = self.short or self.rng.random() < 0.4
        if not shape:
            shape = self.rng.choice([*generating.SHAPES] * 2 + [r for r in RECORDED if not (light and r in HEAVY)])
        if fate == "deleted while it runs":
            shape = self.rng.choice(("made-steps", "made-sweep", "nested-dags", "churn-sweep"))
        low, high = (2.0, 6.0) if self.short else (5.0, 40.0)
        home: Home = 1 if not self.short and self.rng.random() < 0.4 else 0
        return Planned(self._name(shape), shape, lasts_s or self.rng.uniform(low, high), fate, home)

    def _of_doom(self) -> Planned:
        return self._run("ends with its namespace", shape=self.rng.choice(generating.SHAPES), lasts_s=3.0)

    def _name(self, shape: str) -> str:
        self.numbers[shape] = self.numbers.get(shape, 0) + 1
        return f"{shape}-{self.numbers[shape]:03}"
