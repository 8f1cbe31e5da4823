"""What the trackers hold, as their own clients and readers see it: the judge's eyes. Nothing of our delivery is asked.

MLflow by its own client, TensorBoard's files by its own reader, and of Neptune's contract server (which stands in for a
vendor's that can't be had) all that it holds, by its read API.
"""

import itertools
import json
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Protocol

from tests.contract.neptune_driver import held as neptune_held
from tests.contract.tensorboard_driver import TensorboardDriver
from tests.e2e import oracle
from tests.real.neptune import token

from pipetrail.record import Frozen
from pipetrail.targets.mlflow.target import MlflowTarget
from pipetrail.targets.neptune.target import NeptuneTarget
from pipetrail.targets.target import Handle, Held, Metric, TrackerRun
from pipetrail.targets.tensorboard.target import TensorboardTarget

READERS: Final = 6


class Fits(Protocol):
    """The pure part of a target: what it can hold of a run, and what the run's note says in the end."""

    def fit(self, run: TrackerRun) -> TrackerRun:
        """`run` as the tracker can hold it."""
        ...

    def describe(self, run: TrackerRun, children: Sequence[Handle]) -> str:
        """The note with links."""
        ...


class Place(Frozen, frozen=True):
    """One tracker: `url` is where the judge reads it, `address` where the operator was told that it is."""

    name: str
    kind: str
    url: str
    address: str
    namespaces: tuple[str, ...]


class Read(Frozen, frozen=True):
    """All runs of ours in a tracker, what is there that could not be read as one, and a child's id -> its parent's."""

    runs: tuple[Held, ...]
    strange: tuple[str, ...] = ()
    parents: Mapping[str, str] = {}


def read(place: Place) -> Read:
    """Everything that carries a key of ours."""
    return _READ[place.kind](place)


def fits(place: Place) -> Fits:
    """What the tracker at `place` can hold."""
    match place.kind:
        case "mlflow":
            return MlflowTarget(place.address)
        case "neptune":
            return NeptuneTarget(place.address, "team-a/pipelines", token(place.address))
        case _:
            return TensorboardTarget(place.url, place.namespaces[:1])


def _mlflow(place: Place) -> Read:
    client = oracle.client(place.url)
    experiments = [e.experiment_id for e in client.search_experiments()]
    runs: list[Any] = []
    for some in itertools.batched(experiments, 50) if hasattr(itertools, "batched") else [experiments]:
        token = None
        while True:
            page = client.search_runs(list(some), run_view_type=oracle.ACTIVE, max_results=500, page_token=token)
            runs += page
            token = page.token
            if not token:
                break
    ours = [run for run in runs if "pipetrail.key" in run.data.tags]
    with ThreadPoolExecutor(READERS) as pool:
        held = tuple(pool.map(lambda run: of_mlflow(client, run), ours))
    strange = tuple(f"run {run.info.run_id} without a key" for run in runs if "pipetrail.key" not in run.data.tags)
    return Read(runs=held, strange=strange, parents={h.handle.id: h.tags.get("mlflow.parentRunId", "") for h in held})


def of_mlflow(client: Any, run: Any) -> Held:
    """One run with every point of its histories."""
    points = [p for key in run.data.metrics for p in client.get_metric_history(run.info.run_id, key)]
    return Held(
        key=run.data.tags["pipetrail.key"], name=run.info.run_name, status=oracle.STATUS[run.info.status],
        handle=Handle(id=run.info.run_id, experiment_id=run.info.experiment_id), started_ms=run.info.start_time,
        finished_ms=run.info.end_time, params=run.data.params, tags=run.data.tags, whole=True,
        note=run.data.tags.get("mlflow.note.content", ""),
        metrics=tuple(Metric(key=p.key, value=p.value, step=p.step, time_ms=p.timestamp) for p in points),
    )  # fmt: skip


def _tensorboard(place: Place) -> Read:
    runs: list[Held] = []
    strange: list[str] = []
    parents: dict[str, str] = {}
    for namespace in place.namespaces:
        driver = TensorboardDriver(Path(place.url), (namespace,))
        for file in sorted(driver.directory.rglob("events.out.tfevents.*")):
            try:
                runs.append(driver.held(file))
                parents[runs[-1].handle.id] = driver.parent(runs[-1])
            except (AssertionError, StopIteration, ValueError, KeyError) as error:
                strange.append(f"{file.relative_to(driver.root)}: {type(error).__name__} {error}"[:200])
    return Read(runs=tuple(runs), strange=tuple(strange), parents=parents)


def _neptune(place: Place) -> Read:
    request = urllib.request.Request(f"{place.url}/control/runs", b"{}", method="POST")
    with urllib.request.urlopen(request, timeout=60) as answer:
        found: list[dict[str, Any]] = json.load(answer)
    runs: list[Held] = []
    strange: list[str] = []
    for run in found:
        if run["trashed"]:
            continue
        attributes = run["attributes"]
        atoms = {path: value for path, (kind, value) in attributes.items() if kind not in ("floatSeries", "file")}
        series = {
            path: [(p["value"], int(p["step"]), p["timestampMillis"]) for p in value]
            for path, (kind, value) in attributes.items()
            if kind == "floatSeries"
        }
        files = [path for path, (kind, _) in attributes.items() if kind == "file"]
        try:
            runs.append(neptune_held({"short": run["short"], "atoms": atoms, "series": series, "files": files}))
        except (AssertionError, KeyError) as error:
            strange.append(f"{run['short']}: {type(error).__name__} {error}"[:200])
    parents = {run.handle.id: run.tags.get("pipetrail.parent", "") for run in runs}
    return Read(runs=tuple(runs), strange=tuple(strange), parents=parents)


_READ: Final[dict[str, Callable[[Place], Read]]] = {
    "mlflow": _mlflow, "tensorboard": _tensorboard, "neptune": _neptune
}  # fmt: skip
