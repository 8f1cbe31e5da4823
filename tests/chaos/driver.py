"""Plays a schedule: starts, submits, breaks, kills, waits until all is delivered, and has it judged.

What it does it writes down, with the time; that timeline and what was submitted are all that the judge is given.
"""

import asyncio
import contextlib
import json
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from tests.chaos import judge, submitting
from tests.chaos.house import house
from tests.chaos.lasting import Lasting, happens
from tests.chaos.schedule import Schedule
from tests.chaos.steps import (
    ApiRestart,
    Away,
    Deletions,
    DiskFull,
    Join,
    Kill,
    NamespaceEnds,
    Odd,
    Planned,
    Rotate,
    Split,
    Step,
    Submit,
)
from tests.cluster.fixtures import ROOT, Cluster
from tests.e2e.stage import until
from tests.e2e.trap import Trap
from tests.real import mlflow

CALL_WITHIN_S: Final = 45.0
ENOUGH: Final = 6
OUR_ERRORS: Final = ("delivery failed", "event failed", "not kept")
SETTLED_WITHIN_S: Final = 240.0
DRAINED_WITHIN_S: Final = 600.0
SAY_EVERY_S: Final = 10.0
OVERDUE_S: Final = 15.0
"""No kill comes while a run that was deleted so long ago is in the operator's memory alone: the API server tells of a
deletion for 75 s, and on a slow machine a start takes 20 of them."""
LINE: Final = 118


class Verdict(msgspec.Struct):
    """What the judge said: its exit code and its table; `errors` are deliveries that our code failed in."""

    code: int
    text: str
    errors: int
    undelivered: tuple[str, ...]
    seconds: float

    @property
    def clean(self) -> bool:
        """Nothing lost, doubled, changed or unexplained, and nothing left over."""
        return self.code == 0 and not self.errors and not self.undelivered


class Driver:
    """One run of a schedule."""

    def __init__(self, plan: Schedule, folder: Path) -> None:
        self.plan = plan
        self.folder = folder
        self._begun = time.monotonic()
        self._lines = (folder / judge.TIMELINE).open("a")
        self._playing: set[asyncio.Task[Any]] = set()
        self._troubles: set[asyncio.Task[Any]] = set()
        self._killed = 0

    def mark(self, text: str, what: str = "fault", *, shown: bool = True) -> None:
        """One line of the timeline."""
        self._lines.write(json.dumps({"at": time.time(), "what": what, "text": text}) + "\n")
        self._lines.flush()
        if shown:
            print(f"{time.monotonic() - self._begun:6.1f} s  {text}"[:LINE], flush=True)

    async def play(self, cluster: Cluster, server: mlflow.Server) -> Verdict:
        """All of it."""
        with self._lines:
            return await self._play_in_house(cluster, server)

    async def _play_in_house(self, cluster: Cluster, server: mlflow.Server) -> Verdict:
        (self.folder / "schedule.txt").write_text("\n".join(self.plan.lines) + "\n")
        async with house(
            cluster, server, self.folder, seed=self.plan.seed, short=self.plan.short,
            say=lambda text: self.mark(text, shown=False),
        ) as where:  # fmt: skip
            self.where = where
            self.trap = Trap(where.crew)
            self.trap.watch(where.api)
            for tracker, proxy in where.proxies.items():
                if tracker != "second":
                    self.trap.watch(proxy, where.faults[tracker].decide)
            self._begun = time.monotonic()
            self.mark("the operator is up, all targets are ready", "operator up")
            await self._steps()
            undelivered = await self._end()
            (self.folder / judge.PLACES).write_bytes(msgspec.json.encode(where.places))
            submitted = [run for each in where.submitted for run in each.done.values()]
            submitting.save(submitted, self.folder)
            never = {run.name for run in self.plan.runs} - {run.name for run in submitted}
            undelivered += [f"{name} was never submitted" for name in sorted(never)]
            where.crew.kill_all()
            self.mark("judging", "operator down")
            code, text = await asyncio.to_thread(self._judge)
            errors = sum(len(where.crew.lines(event)) for event in OUR_ERRORS)
        return Verdict(code, text, errors, tuple(undelivered), time.monotonic() - self._begun)

    async def _steps(self) -> None:
        slip = 0.0
        for step in self.plan.steps:
            now = time.monotonic() - self._begun
            if now < step.at_s + slip:
                await asyncio.sleep(step.at_s + slip - now)
            else:
                slip = now - step.at_s
            await self._do(step)

    async def _do(self, step: Step) -> None:
        match step:
            case Submit(runs=runs, per_s=per_s):
                self.mark(str(step), "submit")
                self._play(self._burst(runs, per_s))
            case Kill():
                await self._kill(step)
            case Odd(tracker=tracker):
                self.mark(str(step), shown=False)
                self.where.faults[tracker].add(step)
            case Away() | ApiRestart() | Rotate() | DiskFull():
                self.mark(str(step))
                self._troubles.add(asyncio.create_task(self._lasts(step)))
            case Deletions(runs=runs):
                self.mark(str(step), "deletions")
                for run in runs:
                    self._play(self._deleted(run))
            case Split() | Join():
                await asyncio.gather(*self._troubles)
                await self._changed(step)
            case NamespaceEnds(runs=runs):
                async with self._calm():
                    self.mark(str(step), "deletions")
                    assert self.where.doomed is not None
                    await asyncio.gather(*(self.where.doomed.submit(r) for r in runs))
                    await self._settled(runs)
                    await self.where.doomed.collect()
                    await asyncio.to_thread(self.where.end_doomed)
                    self.where.doomed_ended = True

    # --- kills ------------------------------------------------------------------------------------------------------

    async def _kill(self, step: Kill) -> None:
        await self.where.safe(OVERDUE_S)
        self._killed += 1
        self.where.crew.victim = step.shard or 0
        self.trap.sprung.clear()
        self.trap.what = ""
        if step.call is None:
            with contextlib.suppress(AssertionError):
                await until("runs are in flight", self._enough, within_s=5, every_s=0.02)
            self.trap.spring("")
        else:
            self.trap.set_for = step.moment
            if step.bait is not None:
                self._play(self._home(step.bait).submit(step.bait))
            try:
                await until(str(step), self._sprung, within_s=CALL_WITHIN_S, every_s=0.02)
            except AssertionError:
                self.trap.spring(f"no such call within {CALL_WITHIN_S:.0f} s")
        calls = sorted(set(self.trap.under_way.values()))
        what = f"{step.moment!s:25} {self.trap.what[:30]:30} {self.trap.in_flight:3} in flight; {', '.join(calls)}"
        if step.shard is not None:
            what += f"; shard {step.shard}, the other one works on"
        down, up = ("operator down", "operator up") if step.shard is None else ("fault", "fault")
        self.mark(f"kill {self._killed:2}/{self.plan.kills}  {what}", down)
        await asyncio.sleep(0.05)
        self.trap.under_way.clear()
        await self.where.crew.starts()
        self.mark("the operator is up", up, shown=False)

    async def _changed(self, step: Split | Join) -> None:
        """How many operators there are: whoever ends is stopped as Kubernetes does it."""
        crew = self.where.crew
        self.mark(str(step))
        code = await asyncio.to_thread(crew.at_work[0].stop)
        if isinstance(step, Split):
            self.mark(f"the operator has ended with {code}", "operator down")
            shares = await crew.splits()
            self.mark("two shards are up", "operator up")
            mine = {each.stage.namespace: shares[each.stage.namespace] for each in self.where.homes}
            self.mark(f"namespaces by shard: {mine}", shown=False)
            assert set(mine.values()) == {0, 1}, f"one shard has nothing to do: {mine}"
        else:
            await crew.joins()
            self.mark("one operator is up")

    async def _sprung(self) -> bool:
        return self.trap.sprung.is_set()

    async def _enough(self) -> bool:
        return self.trap.in_flight >= ENOUGH

    # --- calm -------------------------------------------------------------------------------------------------------

    async def _lasts(self, step: Lasting) -> None:
        how = await happens(self.where, step)
        self.mark(how or f"over: {step}")

    @contextlib.asynccontextmanager
    async def _calm(self) -> AsyncIterator[None]:
        """Nothing is away and nothing is odd: what is deleted now can be read until it is."""
        await asyncio.gather(*self._troubles)
        for faults in self.where.faults.values():
            faults.heal()
        yield
        if "second" in self.where.faults:
            self.where.faults["second"].half_dead(random.Random(self.plan.seed + self._killed))

    # --- runs -------------------------------------------------------------------------------------------------------

    def _play(self, call: Any) -> None:
        self._playing.add(asyncio.create_task(call))

    def _home(self, run: Planned) -> submitting.Submitting:
        return self.where.homes[run.home]

    async def _deleted(self, run: Planned) -> None:
        if run.fate == "deleted while it runs":
            await self._home(run).submit_and_delete(run)
        else:
            await self._home(run).submit(run)

    async def _burst(self, runs: Sequence[Planned], per_s: float) -> None:
        for run in runs:
            self._play(self._home(run).submit(run))
            await asyncio.sleep(1 / per_s)

    async def _settled(self, runs: Sequence[Planned]) -> None:
        names = {run.name for run in runs}
        open_ones: list[str] = []

        async def settled() -> bool:
            nonlocal open_ones
            open_ones = []
            for place in self.where.submitted:
                found = [t for t in await place.stage.tracked() if t["spec"]["run"]["name"] in names]
                want = sum(run in place.planned.values() for run in runs) * len(await place.targets())
                open_ones += [_told(t) for t in found if not _over(t, doubts=False)]
                if len(found) != want:
                    open_ones.append(f"{len(found)} of {want} TrackedRuns are there in {place.stage.namespace}")
            return not open_ones

        await until(
            "the runs that are deleted are settled", settled, within_s=SETTLED_WITHIN_S, every_s=0.5,
            otherwise=lambda: "\n".join(open_ones),
        )  # fmt: skip

    async def _end(self) -> list[str]:
        """All played, all healed, all delivered; what is not after a long time."""
        await asyncio.gather(*self._troubles)
        for faults in self.where.faults.values():
            faults.heal()
        for _, _, when in self.trap.late:
            when.set()
        while self._playing:
            done, self._playing = await asyncio.wait(self._playing, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        runs = len(self.plan.runs)
        self.mark(f"all {runs} runs were played, nothing goes wrong any more", "played")
        odd = sum(faults.happened for faults in self.where.faults.values())
        self.mark(f"calls that took effect: {dict(self.trap.calls)}; odd answers: {odd}", shown=False)
        open_ones: list[str] = []
        said_at = time.monotonic()
        for home in self.where.homes:
            await home.collect()

        async def drained() -> bool:
            nonlocal open_ones, said_at
            open_ones = []
            for home in self.where.homes:
                found = await home.stage.tracked()
                want = len(home.planned) * len(await home.targets())
                open_ones += [_told(t) for t in found if not _over(t, doubts=not self.plan.short)]
                if len(found) != want:
                    open_ones.append(f"{len(found)} of {want} TrackedRuns are there in {home.stage.namespace}")
            # A doubt is looked at when it is a minute old, and a copy stays so long: the short form waits for neither.
            if not open_ones and not self.plan.short and (copies := await self.where.copies()):
                open_ones.append(f"{len(copies)} copies lie in the outbox")
            if open_ones and time.monotonic() > said_at + SAY_EVERY_S:
                said_at = time.monotonic()
                self.mark(f"{len(open_ones)} are open: {'; '.join(open_ones[:5])}"[:2000], shown=False)
            return not open_ones

        try:
            await until("all is delivered", drained, within_s=DRAINED_WITHIN_S, every_s=0.5)
        except AssertionError:
            tracked = [found for home in self.where.homes for found in await home.stage.tracked()]
            (self.folder / "trackedruns.json").write_text(json.dumps(tracked, indent=1))
        self.mark(f"delivered, but for {len(open_ones)}" if open_ones else "all is delivered", "delivered")
        return open_ones

    def _judge(self) -> tuple[int, str]:
        command = [sys.executable, "-m", "tests.chaos.judge", str(self.folder)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
        text = done.stdout + done.stderr  # whatever it says there is no verdict
        (self.folder / "verdict.txt").write_text(text)
        return done.returncode, text


def _over(tracked: Any, *, doubts: bool) -> bool:
    status = tracked.get("status") or {}
    return status.get("phase") == "Synced" and not (doubts and status.get("doubtfulAt"))


def _told(tracked: Any) -> str:
    status = tracked.get("status") or {}
    why = f"{status.get('phase', 'Pending')} {status.get('reason', '')} {status.get('lastError', '')}"
    return f"{tracked['metadata']['name']}: {why.strip()}"
