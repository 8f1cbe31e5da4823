"""All that stands around the operator while things go wrong: trackers, proxies before them, namespaces, targets."""

import asyncio
import contextlib
import os
import random
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.chaos.faults import Disk, Faults
from tests.chaos.generating import UNWELCOME
from tests.chaos.reading import Place
from tests.chaos.steps import Tracker
from tests.chaos.submitting import Submitting, policy_of
from tests.cluster.fixtures import Cluster, Kubectl, connect, sweep
from tests.e2e.stage import Stage, before_the_api, kubeconfig, starts
from tests.real import mlflow, neptune
from tests.real.operator import Operator
from tests.real.proxy import Proxy

TOKENS: Final = ("a first token", "a second token")
DELIVERY: Final = {"concurrency": 8, "requestsPerSecond": 300}


@dataclass
class House:
    """What the driver acts on. `home` has all runs but those of `doomed`, a namespace that ends."""

    cluster: Cluster
    folder: Path
    operator: Operator
    api: Proxy
    proxies: dict[Tracker, Proxy]
    faults: dict[Tracker, Faults]
    mlflow: mlflow.Server
    neptune: neptune.Server
    boards: Path
    home: Submitting
    doomed: Submitting | None
    end_doomed: Callable[[], None]
    second: mlflow.Server | None = None
    disk: Disk | None = None
    no_disk: str = ""
    doomed_ended: bool = False

    @property
    def submitted(self) -> tuple[Submitting, ...]:
        """Each namespace's."""
        return (self.home,) if self.doomed is None else (self.home, self.doomed)

    @property
    def places(self) -> tuple[Place, ...]:
        """For the judge: where it reads, and what the operator was told."""
        both = tuple(each.stage.namespace for each in self.submitted)
        found = [
            Place("mlflow", "mlflow", self.mlflow.url, self.proxies["mlflow"].url, both),
            Place("tensorboard", "tensorboard", str(self.boards), "", both),
            Place("neptune", "neptune", self.neptune.url, self.proxies["neptune"].url, both),
        ]
        if self.second is not None:
            found.append(Place("second", "mlflow", self.second.url, self.proxies["second"].url, both[:1]))
        return tuple(found)

    async def secret(self, token: str) -> None:
        """What MLflow's proxy lets in, where the targets look for it."""
        for each in self.submitted:
            if each is self.home or not self.doomed_ended:
                await each.stage.secret("login", token=token)


async def _targets(stage: Stage, proxies: dict[Tracker, Proxy], server: neptune.Server) -> None:
    await stage.secret("neptune", token=server.token(proxies["neptune"].url))
    await stage.secret("login", token=TOKENS[0])
    address = {
        "serverUri": proxies["neptune"].url, "project": server.project,
        "apiTokenSecretRef": {"name": "neptune", "key": "token"},
    }  # fmt: skip
    login = {"auth": {"bearerTokenSecretRef": {"name": "login", "key": "token"}}}
    spec: dict[str, Any] = {"capture": {"stdout": "On"}, "delivery": DELIVERY}
    await stage.target("mlflow", proxies["mlflow"].url, mlflow=login, **spec)
    await stage.target("tensorboard", backend={"tensorboard": {}}, **spec)
    await stage.target("neptune", backend={"neptune": address}, **spec)


@contextlib.asynccontextmanager
async def house(
    cluster: Cluster, server: mlflow.Server, folder: Path, *, seed: int, short: bool, say: Callable[[str], None]
) -> AsyncIterator[House]:
    """Everything up, every target Ready; gone at the end. The API server and MLflow's server are the caller's."""
    kubectl = Kubectl(cluster)
    mark = secrets.token_hex(3)
    names = [f"chaos-{mark}"] if short else [f"chaos-{mark}", f"chaos-{mark}-doomed"]
    async with contextlib.AsyncExitStack() as stack:
        contract = stack.enter_context(neptune.serving())
        second = None if short else _second(folder, stack)
        upstream: dict[Tracker, str] = {"mlflow": server.url, "neptune": contract.url}
        if second is not None:
            upstream["second"] = second.url
        faults = {tracker: Faults(tracker, say) for tracker in upstream}
        proxies = {
            tracker: await stack.enter_async_context(Proxy(url, faults[tracker].decide))
            for tracker, url in upstream.items()
        }
        contract.faults(refuse=UNWELCOME)
        faults["mlflow"].token = TOKENS[0]
        boards, disk, no_disk = await _boards(folder, stack, small=not short)
        api = await stack.enter_async_context(before_the_api(cluster))
        flags = ("--tensorboard-root", str(boards))
        operator = Operator(kubeconfig(cluster, api.url, folder), folder / "operator.log", *flags)
        stack.callback(operator.kill)
        connection = await stack.enter_async_context(await connect(cluster))
        stages = [Stage(cluster, connection, name) for name in names]
        ended: set[str] = set()

        def end(name: str) -> None:
            if name not in ended:
                ended.add(name)
                with contextlib.suppress(AssertionError):
                    sweep(cluster, kubectl, name)

        for stage in stages:
            await stage.prepare()
            stack.push_async_callback(asyncio.to_thread, end, stage.namespace)
            await _targets(stage, proxies, contract)
        if second is not None:
            await stages[0].target(
                "second", proxies["second"].url, capture={"stdout": "On"}, delivery={**DELIVERY, "concurrency": 4}
            )
            await asyncio.to_thread(second.wait)
        await starts(operator)
        for stage in stages:
            for target in ("mlflow", "tensorboard", "neptune"):
                await stage.ready(target)
        if second is not None:
            await stages[0].ready("second")
            faults["second"].half_dead(random.Random(seed))
        cluster_uid = (await connection.get("/api/v1/namespaces/kube-system"))["metadata"]["uid"]
        pinned = await policy_of(stages[0], "mlflow")
        made = [Submitting(stage, cluster_uid, pinned, seed) for stage in stages]
        for each in made:
            stack.push_async_callback(each.close)
        home, doomed = made[0], made[1] if len(made) > 1 else None
        yield House(
            cluster, folder, operator, api, proxies, faults, server, contract, boards, home, doomed,
            lambda: end(names[-1]), second, disk, no_disk,
        )  # fmt: skip


def _second(folder: Path, stack: contextlib.AsyncExitStack) -> mlflow.Server:
    server = mlflow.plain(folder / "second")
    server.start(bound=True)
    stack.callback(server.stop)
    return server


async def _boards(folder: Path, stack: contextlib.AsyncExitStack, *, small: bool) -> tuple[Path, Disk | None, str]:
    """TensorBoard's folder; on a small volume of its own if it is to be filled up, and why not if it can't be."""
    root = folder / "boards"
    root.mkdir()
    if not small:
        return root, None, "not in the short form"
    if os.geteuid() != 0:
        return root, None, "a volume of its own takes root"
    disk = Disk(root)
    if why := await disk.mount():
        return root, None, why
    stack.push_async_callback(disk.unmount)
    return root, disk, ""
