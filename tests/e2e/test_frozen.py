"""Two operators at once: one is frozen in the middle of its work, another takes over, and then the first one wakes.

So it is when a node is paused, or when a rolling update meets a machine that hangs. Each holds the Lease in its turn.
"""

import asyncio
import json
import re
import signal
from collections import Counter
from pathlib import Path

import pytest
from tests.e2e.stage import Stage, starts, until
from tests.e2e.trackers import Trackers, read_back, trackers
from tests.e2e.trap import Call, call_of
from tests.real.mlflow import Server
from tests.real.operator import Operator
from tests.real.proxy import Action, CommitLater, Pass, Proxy, Seen

pytestmark = [pytest.mark.minutes(4), pytest.mark.api, pytest.mark.mlflow, pytest.mark.storm]

RUNS = ("churn-sweep", "nested-dags", "loop-retry")
ONE = {"concurrency": 1, "requestsPerSecond": 200}
"""One call at a time: nothing else is on its way when the process stops."""


class Pair:
    """Two operators that wait for one Lease; the first is frozen when a chosen call arrives, which takes effect."""

    def __init__(self, stage: Stage, three: Trackers, folder: Path) -> None:
        self.stage = stage
        self.proxies = (three.before_mlflow, three.before_neptune)
        self.first, self.second = (
            Operator(
                Path(stage.cluster.kubeconfig or ""), folder / f"{name}.log", *three.flags, "--watch-namespace",
                stage.namespace, "--namespace", stage.namespace, "--identity", name, lease=True,
            )
            for name in ("first", "second")
        )  # fmt: skip
        self.frozen: Seen | None = None

    def freeze_at(self, call: Call, then: Action, proxy: Proxy) -> None:
        """Freeze the first one when it makes `call`, to which `then` happens."""

        def decide(seen: Seen) -> Action:
            if self.frozen is None and call_of(seen) == call:
                assert self.first.process is not None
                self.first.process.send_signal(signal.SIGSTOP)
                self.frozen = seen
                return then
            return Pass()

        proxy.decide = decide

    async def goes_over(self) -> None:
        """Runs are played; the second one begins when the first is frozen, and settles all."""
        await asyncio.gather(*(self.stage.play(name, run=name, speed=10.0) for name in RUNS))

        async def is_frozen() -> bool:
            return self.frozen is not None

        await until("the first one is frozen", is_frozen)
        await asyncio.to_thread(self.second.start, wait_s=90.0)

        async def settled() -> bool:
            found = [t.get("status") or {} for t in await self.stage.tracked()]
            done = [s for s in found if s.get("phase") == "Synced" and not s.get("doubtfulAt")]
            return len(done) == len(RUNS)

        await until("the second one has settled all", settled, within_s=240, every_s=1.0)

    @property
    def calls(self) -> Counter[str]:
        """All that the proxies saw of what matters."""
        return Counter(call for proxy in self.proxies for seen in proxy.log if (call := call_of(seen)) is not None)

    async def wakes(self) -> None:
        """The first one goes on, and finds that another has its Lease."""
        process = self.first.process
        assert process is not None
        process.send_signal(signal.SIGCONT)
        await asyncio.to_thread(process.wait, 60)

    def end(self) -> None:
        """Neither is left."""
        if self.first.process is not None:
            self.first.process.send_signal(signal.SIGCONT)
        self.first.kill()
        self.second.kill()


@pytest.mark.parametrize("call", ["create", "log-batch"])
async def test_one_that_was_frozen_sends_nothing_when_it_wakes_and_each_run_is_there_once(
    stage: Stage, tracker: Server, tmp_path: Path, call: Call
) -> None:
    async with trackers(tracker, tmp_path, stage.namespace) as three:
        pair = Pair(stage, three, tmp_path)
        try:
            await starts(pair.first)
            await three.targets(stage, ["mlflow"], capture={"stdout": "On"}, delivery=ONE)
            pair.freeze_at(call, Pass(), three.before_mlflow)
            await pair.goes_over()
            before = pair.calls
            await pair.wakes()
            assert pair.calls == before
            wrong, _ = await read_back(three, stage, RUNS, three.before_mlflow.url, names=["mlflow"])
            assert wrong == {}
        finally:
            pair.end()


async def test_what_a_frozen_writer_had_under_way_into_neptune_is_there_twice_and_nothing_else(
    stage: Stage, tracker: Server, tmp_path: Path
) -> None:
    """Its request reaches the server when the other has looked and sent the same: nobody can tell the two apart."""
    async with trackers(tracker, tmp_path, stage.namespace) as three:
        pair = Pair(stage, three, tmp_path)
        arrives = asyncio.Event()
        try:
            await starts(pair.first)
            await three.targets(stage, ["neptune"], capture={"stdout": "On"}, delivery=ONE)
            pair.freeze_at("neptune append", CommitLater(arrives), three.before_neptune)
            await pair.goes_over()
            arrives.set()
            await pair.wakes()
            assert pair.frozen is not None
            under_way = sum(len(op["logFloats"]["entries"]) for op in json.loads(pair.frozen.body) if "logFloats" in op)
            wrong, _ = await read_back(three, stage, RUNS, three.before_mlflow.url, names=["neptune"])
            print(f"{under_way} points were under way: {wrong}")
            ((run, texts),) = wrong.items()
            assert run.startswith("neptune ")
            twice = [re.search(r"item='metric'.* wanted='(.+)', held='\1, \1'", text) for text in texts]
            assert (len(twice), None in twice) == (under_way, False)
        finally:
            pair.end()
