"""The three kinds of tracker, side by side, for tests that bring the same runs to all of them.

Each is a real one but Neptune, for which a server that speaks its recorded protocol stands in (tests/real/neptune.py);
each is read back by its own client or reader.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.contract.driver import Driver
from tests.contract.neptune_driver import NeptuneDriver
from tests.contract.tensorboard_driver import TensorboardDriver
from tests.e2e import oracle
from tests.e2e.stage import Stage
from tests.real import mlflow, neptune
from tests.real.neptune_oracle import Oracle
from tests.real.proxy import Proxy

from pipetrail.targets.target import Held, TrackerRun, Tree
from pipetrail.targets.verify import differences

NAMES = ("mlflow", "tensorboard", "neptune")


class Trackers(NamedTuple):
    """Where they are. `root` is the folder that the operator is told of; the proxies see every call."""

    mlflow: mlflow.Server
    before_mlflow: Proxy
    before_neptune: Proxy
    neptune: neptune.Server
    root: Path
    others: dict[str, Driver]

    @property
    def flags(self) -> tuple[str, ...]:
        """What the operator needs to be told."""
        return ("--tensorboard-root", str(self.root))

    async def targets(self, stage: Stage, names: Sequence[str] = NAMES, **spec: Any) -> None:
        """A target for each of `names`, in the stage's namespace."""
        await stage.secret("neptune", token=self.neptune.token(self.before_neptune.url))
        address = {
            "serverUri": self.before_neptune.url, "project": self.neptune.project,
            "apiTokenSecretRef": {"name": "neptune", "key": "token"},
        }  # fmt: skip
        backends = {
            "mlflow": {"mlflow": {"trackingUri": self.before_mlflow.url}}, "tensorboard": {"tensorboard": {}},
            "neptune": {"neptune": address},
        }  # fmt: skip
        for name in names:
            await stage.target(name, backend=backends[name], **spec)
        for name in names:
            await stage.ready(name)

    async def held(self, name: str, experiments: Sequence[str]) -> list[Held]:
        """All that TensorBoard or Neptune holds of some experiments, as their own readers see it."""
        driver = self.others[name]
        return [held for e in experiments for held in await asyncio.to_thread(driver.oracle, e)]

    def wrong(self, name: str, tree: Tree, there: Sequence[Held]) -> list[str]:
        """All in which what TensorBoard or Neptune holds differs from `tree`."""
        driver = self.others[name]
        fit = driver.target(driver.url).fit
        return [text for run in tree.runs for text in _wrong(fit(run), there)]


def _wrong(run: TrackerRun, there: Sequence[Held]) -> list[str]:
    mine = [held for held in there if held.key == run.key]
    if len(mine) != 1:
        return [f"{run.name}: there {len(mine)} times"]
    return [f"{run.name}: {difference}" for difference in differences(run, mine[0])]


@contextlib.asynccontextmanager
async def trackers(server: mlflow.Server, folder: Path, namespace: str) -> AsyncIterator[Trackers]:
    """All three for one namespace; MLflow's server is the caller's."""
    root = folder / "boards"
    root.mkdir()
    with neptune.serving() as contract, contextlib.closing(Oracle(contract.token(), contract.project)) as client:
        async with Proxy(server.url) as before_mlflow, Proxy(contract.url) as before_neptune:
            others: dict[str, Driver] = {
                "tensorboard": TensorboardDriver(root, (namespace,)), "neptune": NeptuneDriver(contract, client),
            }  # fmt: skip
            yield Trackers(server, before_mlflow, before_neptune, contract, root, others)


async def read_back(
    three: Trackers, stage: Stage, runs: Sequence[str], mlflow_url: str, *, mlmd: str = "", names: Sequence[str] = NAMES
) -> tuple[dict[str, list[str]], dict[str, int]]:
    """What differs, by tracker and run, and how many points each tracker should hold; `mlmd`: the operator's store."""
    wrong: dict[str, list[str]] = {}
    points: dict[str, int] = dict.fromkeys(names, 0)
    in_mlflow = await oracle.held(three.mlflow.url)
    for name in names:
        tracked = {t["spec"]["run"]["name"]: t for t in await stage.tracked(target=name)}
        trees = {r: await oracle.shaped(stage.kube, await stage.workflow(r), tracked[r], mlmd=mlmd) for r in runs}
        experiments = sorted({tree.parent.experiment for tree in trees.values()})
        there = [] if name == "mlflow" else await three.held(name, experiments)
        for run, tree in trees.items():
            points[name] += sum(len(each.metrics) for each in tree.runs)
            found = (
                await asyncio.to_thread(oracle.differences, oracle.fitted(tree), in_mlflow, mlflow_url)
                if name == "mlflow"
                else three.wrong(name, tree, there)
            )
            if found:
                wrong[f"{name} {run}"] = found
        ours = [held.key for held in (in_mlflow if name == "mlflow" else there)]
        doubled = {key for key in ours if ours.count(key) > 1}
        if doubled:
            wrong[f"{name}: twice"] = sorted(doubled)
    return wrong, points
