"""MLflow's runs as ours. Pure."""

from collections.abc import Iterable, Mapping
from typing import Final

from pipetrail.targets.mlflow import links
from pipetrail.targets.mlflow.answers import Point, Run
from pipetrail.targets.mlflow.fit import KEY_TAG, MLFLOW_NOTE, MLFLOW_PARENT, OPENED_TAG, PARENT_TAG
from pipetrail.targets.target import Handle, Held, Metric, RunStatus

TO_MLFLOW: Final[Mapping[RunStatus, str]] = {
    "Running": "RUNNING", "Finished": "FINISHED", "Failed": "FAILED", "Killed": "KILLED",
}  # fmt: skip
_FROM_MLFLOW: Final[Mapping[str, RunStatus]] = {v: k for k, v in TO_MLFLOW.items()}


def handle(run: Run, pages: str) -> Handle:
    """Where `run` is; `pages` is the address for people."""
    info = run.info
    url = links.run_page(pages, info.experiment_id, info.run_id)
    return Handle(id=info.run_id, experiment_id=info.experiment_id, artifacts=info.artifact_uri, url=url)


def held(run: Run, pages: str, history: tuple[Metric, ...] | None = None) -> Held:
    """What MLflow holds of `run`: all points if `history` is given, else the latest of each key."""
    tags = tags_of(run)
    return Held(
        key=tags.get(KEY_TAG, ""), handle=handle(run, pages), name=run.info.run_name,
        status=_FROM_MLFLOW.get(run.info.status, "Running"), started_ms=_int(run.info.start_time),
        finished_ms=_int(run.info.end_time) or None, params={p.key: p.value for p in run.data.params}, tags=tags,
        metrics=tuple(map(metric, run.data.metrics)) if history is None else history,
        note=tags.get(MLFLOW_NOTE, ""), whole=history is not None,
    )  # fmt: skip


def tags_of(run: Run) -> dict[str, str]:
    """The run's tags by key."""
    return {t.key: t.value for t in run.data.tags}


def metric(point: Point) -> Metric:
    """A point; "NaN" is NaN."""
    return Metric(key=point.key, value=float(point.value), step=_int(point.step), time_ms=_int(point.timestamp))


def in_order(runs: Iterable[Run], root: str) -> list[Run]:
    """Parents before children, and of doubles that one first which shall stay.

    That is the one whose create was sent first. MLflow does not tell which it made first, and doubles have one start
    time, so each carries a stamp of ours. A parent on which children hang goes before one without, and a child of
    that parent before one of another: else discarding the later would leave children without a parent.
    """
    every = list(runs)
    parents = {_parent(r) for r in every} - {""}

    def age(run: Run) -> tuple[bool, str, int, str]:
        stamp = tags_of(run).get(OPENED_TAG, "")
        return (run.info.run_id not in parents, stamp, _int(run.info.start_time), run.info.run_id)

    tops = sorted((r for r in every if tags_of(r).get(KEY_TAG) == root), key=age)
    first = tops[0].info.run_id if tops else ""
    rest = [r for r in every if tags_of(r).get(KEY_TAG) != root]
    return [*tops, *sorted(rest, key=lambda r: (_parent(r) != first, age(r)))]


def _parent(run: Run) -> str:
    tags = tags_of(run)
    return tags.get(MLFLOW_PARENT) or tags.get(PARENT_TAG) or ""


def _int(value: int | str | None) -> int:
    return int(value or 0)
