"""What MLflow should hold of a run, and what it does hold.

Wanted: the run as it stands on the API server, through capture, redaction, shape and fit, all at once and with no
delivery in between. Held: what MLflow's own client reads, full histories and deleted runs included.
"""

import asyncio
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from pipetrail import api, capture, redact, shape
from pipetrail.delivery.plan import value_id
from pipetrail.kube import Kube
from pipetrail.readers import argo as objects
from pipetrail.readers.live import LiveReader
from pipetrail.settings import Places
from pipetrail.sources import argo
from pipetrail.targets.mlflow.target import MlflowTarget
from pipetrail.targets.target import Handle, TrackerRun, Tree

PLACES = Places()
ACTIVE = 1  # of mlflow's ViewType; mlflow takes seconds to import, which most tests do without
STATUS = {"RUNNING": "Running", "FINISHED": "Finished", "FAILED": "Failed", "KILLED": "Killed"}


class Held(NamedTuple):
    """One run as MLflow's client reads it. Points are (key, step, value's bits, milliseconds)."""

    id: str
    experiment: str
    name: str
    status: str
    started_ms: int
    finished_ms: int
    params: dict[str, str]
    tags: dict[str, str]
    points: list[tuple[str, int, str, int]]

    @property
    def key(self) -> str:
        return self.tags.get("pipetrail.key", "")


async def wanted(
    kube: Kube, body: Any, tracked: Any, places: Places = PLACES, *, mlmd: str = "",
    facts: argo.RunFacts | None = None, cluster_target: bool = False,
) -> Tree:  # fmt: skip
    """The tracker runs of the Workflow `body` as MLflow can hold them; `facts` of its pods where these have gone."""
    return fitted(await shaped(kube, body, tracked, places, mlmd=mlmd, facts=facts, cluster_target=cluster_target))


async def shaped(
    kube: Kube, body: Any, tracked: Any, places: Places = PLACES, *, mlmd: str = "",
    facts: argo.RunFacts | None = None, cluster_target: bool = False,
) -> Tree:  # fmt: skip
    """The tracker runs of `body`, a Workflow, under the policy that its TrackedRun pinned; `mlmd`: the operator's."""
    spec = msgspec.convert(tracked["spec"], api.TrackedRunSpec)
    header = argo.header(body)
    facts = facts or await objects.facts(kube, header)
    cluster = spec.run.key.partition("/")[0]
    reader = LiveReader(kube, mlmd=mlmd)
    try:
        reading = await capture.reading(body, facts, reader, cluster=cluster)
        captured = await capture.capture(reading, reader, capture.wants(spec.policy))
    finally:
        await reader.close()
    record = redact.redact(captured, additional_keys=spec.policy.redact.additional_keys)
    return shape.shape(
        record,
        spec.policy,
        places=places,
        cluster_target=cluster_target,
        attempt=spec.attempt,
        supersedes=spec.supersedes,
    )


def fitted(tree: Tree) -> Tree:
    """`tree` as MLflow can hold it."""
    fit = MlflowTarget("http://127.0.0.1:9").fit
    return Tree(parent=fit(tree.parent), children=tuple(fit(child) for child in tree.children))


def client(url: str) -> Any:
    """MLflow's own client."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow

        return mlflow.MlflowClient(tracking_uri=url)


async def held(url: str, experiments: Sequence[str] = ()) -> list[Held]:
    """All living runs that carry a key of ours, in some experiments or all."""
    return await asyncio.to_thread(_held, url, experiments)


def _held(url: str, names: Sequence[str]) -> list[Held]:
    asked = client(url)
    experiments = [e for e in asked.search_experiments() if not names or e.name in names]
    found: list[Held] = []
    for experiment in experiments:
        token = None
        while True:
            page = asked.search_runs(
                [experiment.experiment_id], run_view_type=ACTIVE, max_results=500, page_token=token
            )
            found += [_one(asked, experiment.name, run) for run in page if "pipetrail.key" in run.data.tags]
            token = page.token
            if not token:
                break
    return found


def _one(asked: Any, experiment: str, run: Any) -> Held:
    points = [
        (p.key, p.step, value_id(p.value), p.timestamp)
        for key in run.data.metrics
        for p in asked.get_metric_history(run.info.run_id, key)
    ]
    return Held(
        id=run.info.run_id, experiment=experiment, name=run.info.run_name, status=STATUS[run.info.status],
        started_ms=run.info.start_time, finished_ms=run.info.end_time or 0, params=dict(run.data.params),
        tags=dict(run.data.tags), points=points,
    )  # fmt: skip


def differences(tree: Tree, there: Sequence[Held], url: str) -> list[str]:
    """All in which MLflow differs from `tree`; empty if each run of it is there, once, and equal."""
    by_key: dict[str, list[Held]] = {}
    for run in there:
        by_key.setdefault(run.key, []).append(run)
    found: list[str] = []
    known = {run.key for run in tree.runs}
    found += [
        f"{run.name}: a run of this tree that nobody wants, {run.key}"
        for run in there
        if run.tags.get("pipetrail.root") == tree.parent.root and run.key not in known
    ]
    for run in tree.runs:
        mine = by_key.get(run.key, [])
        if len(mine) != 1:
            found.append(f"{run.name}: there {len(mine)} times")
            continue
        found += [f"{run.name}: {text}" for text in _run(run, mine[0])]
    parents = by_key.get(tree.parent.key, [])
    children = [by_key[c.key][0] for c in tree.children if by_key.get(c.key)]
    if len(parents) == 1:
        found += [
            f"{c.name}: hangs on {c.tags.get('mlflow.parentRunId')}, the parent is {parents[0].id}"
            for c, run in zip(children, tree.children, strict=False)
            if run.nested and c.tags.get("mlflow.parentRunId") != parents[0].id
        ]
        handles = [Handle(id=c.id, experiment_id=_experiment_id(url, c)) for c in children]
        note = MlflowTarget(url).describe(tree.parent, handles)
        if parents[0].tags.get("mlflow.note.content", "") != note:
            found.append(
                f"{tree.parent.name}: the note differs: {parents[0].tags.get('mlflow.note.content')!r} {note!r}"
            )
    return found


def _experiment_id(url: str, run: Held) -> str:
    return str(client(url).get_experiment_by_name(run.experiment).experiment_id)


def _run(run: TrackerRun, there: Held) -> Iterator[str]:
    pairs: list[tuple[str, Any, Any]] = [
        ("experiment", run.experiment, there.experiment),
        ("name", run.name, there.name),
        ("status", run.status, there.status),
        ("start", round(run.started.timestamp() * 1000), there.started_ms),
        ("end", round(run.finished.timestamp() * 1000) if run.finished else 0, there.finished_ms),
        ("params", dict(run.params), there.params),
        ("tags", dict(run.tags), {k: v for k, v in there.tags.items() if k in run.tags}),
    ]
    for what, wanted_one, held_one in pairs:
        if wanted_one != held_one:
            if isinstance(wanted_one, dict):
                names = {k for k in wanted_one.keys() | held_one.keys() if wanted_one.get(k) != held_one.get(k)}
                wanted_one, held_one = ({k: d.get(k) for k in names} for d in (wanted_one, held_one))
            yield f"{what} should be {wanted_one!r} and is {held_one!r}"
    points = Counter((m.key, m.step, value_id(m.value), m.time_ms) for m in run.metrics)
    actual = Counter(there.points)
    twice = [p for p, n in actual.items() if n > max(1, points[p])]
    if twice:
        yield f"points are there more than once: {twice[:5]}"
    if missing := points - actual:
        yield f"points are missing: {list(missing)[:5]} of {points.total()}"
    if extra := actual - points:
        yield f"points that nobody wants: {list(extra)[:5]} of {actual.total()}"
