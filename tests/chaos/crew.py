"""The operator, or the two shards that it has become: processes with a Lease each, killed and started again.

Each keeps its identity, so that after a kill it need not wait until its own Lease has run out. That several operators
wait for each other is tested elsewhere (tests/cluster/test_lease.py); here nobody is to be away for longer than needed.
"""

import asyncio
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Final

import msgspec
from tests.e2e.stage import starts, until
from tests.real.mlflow import free_port
from tests.real.operator import Operator

from pipetrail.controller.lease import LEASES
from pipetrail.controller.plans import Plan
from pipetrail.kube import Kube

READY_WITHIN_S: Final = 120.0
RENEWED_WITHIN_S: Final = 60.0
NAMES: Final = ("pipetrail", "pipetrail-1")
"""Of the Leases, by shard."""


class Crew:
    """Who is at work, in the namespace `home`, which has their Leases and the outbox; `flags` are for each.

    `victim` is the number of the one that :meth:`kill` kills.
    """

    def __init__(self, kube: Kube, kubeconfig: Path, folder: Path, home: str, *flags: str) -> None:
        self._kube = kube
        self._kubeconfig = kubeconfig
        self._folder = folder
        self._home = home
        self._flags = flags
        self._addresses: list[str] = []
        self.victim = 0
        self.at_work = [self._made(0)]

    def _made(self, number: int, *flags: str) -> Operator:
        listen = f"127.0.0.1:{free_port()}"
        self._addresses = [*self._addresses[:number], f"http://{listen}/readyz"]
        own = ("--namespace", self._home, "--identity", f"chaos-{number}", "--listen", listen)
        log = self._folder / f"operator{f'-{number}' if number else ''}.log"
        return Operator(self._kubeconfig, log, *self._flags, *own, *flags, lease=True)

    def kill(self) -> None:
        """kill -9 the victim."""
        self.at_work[self.victim].kill()

    def kill_all(self) -> None:
        """kill -9 whoever is at work."""
        for operator in self.at_work:
            operator.kill()

    async def starts(self) -> None:
        """Start the victim, which was killed or never started."""
        await starts(self.at_work[self.victim])

    async def splits(self) -> dict[str, int]:
        """Start two shards in the place of the operator, which has ended. Namespaces with runs, by their shard."""
        self.at_work = [self._made(number, "--shard", str(number), "--shards", "2") for number in range(2)]
        await asyncio.gather(*map(starts, self.at_work))
        path = f"/api/v1/namespaces/{self._home}/configmaps/pipetrail-shards"
        body: Any = await until("the cut is read", lambda: self._kube.get(path))
        plan = msgspec.json.decode(body["data"]["plan"], type=Plan)
        shares = [plan.cut.share(number) for number in range(2)]
        found = await until("the namespaces are listed", lambda: self._kube.get("/api/v1/namespaces"))
        names = [item["metadata"]["name"] for item in found["items"]]
        return {name: n for name in names for n, share in enumerate(shares) if share and share.owns(name)}

    async def joins(self) -> None:
        """Start one operator in the place of the first shard, which has ended; the second one goes meanwhile."""
        second = self.at_work[1]
        self.victim, self.at_work = 0, [self._made(0)]
        try:
            await asyncio.gather(starts(self.at_work[0]), asyncio.to_thread(second.stop))
        finally:
            second.kill()

    async def ready(self) -> None:
        """Wait until all lists are done and all watches stand, and until the Leases say so: a next process knows it."""

        async def all_are() -> bool:
            return all(await asyncio.gather(*(asyncio.to_thread(_ready, url) for url in self._addresses)))

        await until("the operator is ready", all_are, within_s=READY_WITHIN_S, every_s=0.2)
        for _ in range(2):  # one renewal may have begun before
            before = await until("its Lease is read", self._renewed)

            async def later(before: tuple[str, ...] = before) -> bool:
                now = await self._renewed()
                return all(b > a for a, b in zip(before, now, strict=True))

            await until("its Lease is renewed", later, within_s=RENEWED_WITHIN_S)

    async def _renewed(self) -> tuple[str, ...]:
        found = [await self._kube.get(f"{LEASES}/{self._home}/leases/{name}") for name in NAMES[: len(self.at_work)]]
        return tuple(str(lease["spec"].get("renewTime", "")) for lease in found)

    def lines(self, event: str) -> list[dict[str, Any]]:
        """What all of them have logged of one kind."""
        logs = sorted(self._folder.glob("operator*.log"))
        return [line for log in logs for line in Operator(self._kubeconfig, log).lines(event)]


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False
