"""All that stands around the operator while things go wrong: trackers, proxies before them, namespaces, targets.

The operator has a namespace of its own, with its Lease and its outbox. Runs are in another one, in the long form in two
more, one of which ends.
"""

import asyncio
import contextlib
import os
import random
import secrets
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.chaos.crew import Crew
from tests.chaos.faults import Disk, Faults
from tests.chaos.generating import UNWELCOME
from tests.chaos.reading import Place
from tests.chaos.steps import Tracker
from tests.chaos.submitting import Submitting, policy_of
from tests.cluster.fixtures import Cluster, Kubectl, connect, sweep
from tests.e2e.stage import Stage, before_the_api, kubeconfig, until
from tests.real import mlflow, neptune
from tests.real.proxy import Proxy

from pipetrail import replay
from pipetrail.delivery import outbox
from pipetrail.delivery.secret_chunks import COVER, LABEL
from pipetrail.kube import Kube

TOKENS: Final = ("a first token", "a second token")
DELIVERY: Final = {"concurrency": 8, "requestsPerSecond": 300}
SAFE_WITHIN_S: Final = 300.0
OVER: Final = ("Synced", "Stopped", "Failed")
"""Nothing more is sent; whether that is well is for the judge to say."""


@dataclass
class House:
    """What the driver acts on. `homes` have all runs but those of `doomed`, a namespace that ends; `own` is the
    operator's namespace.
    """

    cluster: Cluster
    folder: Path
    crew: Crew
    kube: Kube
    own: str
    api: Proxy
    proxies: dict[Tracker, Proxy]
    faults: dict[Tracker, Faults]
    mlflow: mlflow.Server
    neptune: neptune.Server
    boards: Path
    homes: tuple[Submitting, ...]
    doomed: Submitting | None
    end_doomed: Callable[[], None]
    second: mlflow.Server | None = None
    disk: Disk | None = None
    no_disk: str = ""
    doomed_ended: bool = False

    @property
    def submitted(self) -> tuple[Submitting, ...]:
        """Each namespace's."""
        return self.homes if self.doomed is None else (*self.homes, self.doomed)

    @property
    def places(self) -> tuple[Place, ...]:
        """For the judge: where it reads, and what the operator was told."""
        all_ = tuple(each.stage.namespace for each in self.submitted)
        found = [
            Place("mlflow", "mlflow", self.mlflow.url, self.proxies["mlflow"].url, all_),
            Place("tensorboard", "tensorboard", str(self.boards), "", all_),
            Place("neptune", "neptune", self.neptune.url, self.proxies["neptune"].url, all_),
        ]
        if self.second is not None:
            found.append(Place("second", "mlflow", self.second.url, self.proxies["second"].url, all_[:1]))
        return tuple(found)

    async def secret(self, token: str) -> None:
        """What MLflow's proxy lets in, where the targets look for it."""
        for each in self.submitted:
            if each is not self.doomed or not self.doomed_ended:
                await each.stage.secret("login", token=token)

    @contextlib.asynccontextmanager
    async def nothing_to_forget(self) -> AsyncIterator[None]:
        """No run is deleted meanwhile, and of each that was, every target has it or the outbox.

        An API server that starts anew has forgotten deletions, and with them last bodies that nobody was told of.
        """
        for home in self.homes:
            await home.hold()
        try:
            await self.safe()
            yield
            await self.crew.ready()
        finally:
            for home in self.homes:
                home.go_on()

    async def copies(self) -> list[outbox.Cover]:
        """What lies in the outbox, a cover for each chunk."""
        found = await self.kube.get(f"/api/v1/namespaces/{self.own}/secrets", labelSelector=LABEL)
        read = [outbox.from_text(item["metadata"]["annotations"][COVER]) for item in found["items"]]
        return [cover for cover in read if cover is not None]

    async def safe(self, older_s: float = 0.0) -> None:
        """Wait until every run that was deleted so long ago is in the outbox or in its tracker, for each target."""
        neither: set[tuple[str, str, str]] = set()

        async def all_are() -> bool:
            nonlocal neither
            neither = await self._unsafe(time.time() - older_s)
            return not neither

        await until(
            "what was deleted is delivered or kept", all_are, within_s=SAFE_WITHIN_S, every_s=1.0,
            otherwise=lambda: f"neither: {sorted(neither)}",
        )  # fmt: skip

    async def _unsafe(self, before: float) -> set[tuple[str, str, str]]:
        """(namespace, run, target) of what was deleted before a time and is known to the operator's memory at most."""
        found: set[tuple[str, str, str]] = set()
        for home in self.homes:
            deleted = {run for run, at in home.gone_at.items() if at <= before} - home.safe
            if not deleted:
                continue
            namespace, targets = home.stage.namespace, await home.targets()
            held = {(c.run, c.target.name) for c in await self.copies() if c.namespace == namespace}
            for tracked in await home.stage.tracked():
                if (tracked.get("status") or {}).get("phase") in OVER:
                    held.add((tracked["spec"]["run"]["name"], tracked["spec"]["target"]["name"]))
            missing = {(run, target) for run in deleted for target in targets} - held
            home.safe |= deleted - {run for run, _ in missing}
            found |= {(namespace, *each) for each in missing}
        return found


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
    names = [f"chaos-{mark}"] if short else [f"chaos-{mark}", f"chaos-{mark}-beside", f"chaos-{mark}-doomed"]
    own = f"chaos-{mark}-operator"
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
        connection = await stack.enter_async_context(await connect(cluster))
        crew = Crew(connection, kubeconfig(cluster, api.url, folder), folder, own, "--tensorboard-root", str(boards))
        stages = [Stage(cluster, connection, name) for name in names]
        ended: set[str] = set()

        def end(name: str) -> None:
            if name not in ended:
                ended.add(name)
                with contextlib.suppress(AssertionError):
                    sweep(cluster, kubectl, name)

        await replay.prepare(connection, own)
        stack.push_async_callback(asyncio.to_thread, end, own)
        for stage in stages:
            await stage.prepare()
            stack.push_async_callback(asyncio.to_thread, end, stage.namespace)
            await _targets(stage, proxies, contract)
        if second is not None:
            await stages[0].target(
                "second", proxies["second"].url, capture={"stdout": "On"}, delivery={**DELIVERY, "concurrency": 4}
            )
            await asyncio.to_thread(second.wait)
        stack.callback(crew.kill_all)
        await crew.starts()
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
        homes, doomed = tuple(made[:1] if short else made[:-1]), None if short else made[-1]
        yield House(
            cluster, folder, crew, connection, own, api, proxies, faults, server, contract, boards, homes, doomed,
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
