"""What MLMD holds of a run, by what is looked for: a task's execution, what it gave, its artifacts, metrics, figures.

An execution is found by the id that its driver told its launcher; else by its pod, else by parent, task and turn, of
several the newest (traps 37, 38). States and parents may be anything: a state is only a hint, and nobody walks up.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from pipetrail.record import Artifact, Figure, FromMlmd, Frozen, Point
from pipetrail.sources.argo.body import whole, word
from pipetrail.sources.kfp_v2.figures import KEYS, figures
from pipetrail.sources.kfp_v2.metadata import Event, Execution, Metadata, NoMetadata, RunMetadata, StoredArtifact
from pipetrail.sources.kfp_v2.spec import EXECUTOR_LOGS
from pipetrail.sources.kfp_v2.values import number, struct, unwrapped

SESSION: Final = "store_session_info"
"""How a launcher reaches an artifact's store. It names Secrets: it is compared and goes nowhere (README 3)."""
MLFLOW_RUN: Final = "plugins.mlflow.run_id"

_OUTPUTS: Final = frozenset({"OUTPUT", "DECLARED_OUTPUT"})
_SCALARS: Final = "Metrics"
_CLASSIFICATION: Final = ("ClassificationMetrics", "SlicedClassificationMetrics")


class Found(Frozen, frozen=True):
    """An output artifact: as it is recorded, and the points and figures in it. `session` never leaves the source."""

    artifact: Artifact
    points: tuple[Point, ...] = ()
    figures: tuple[Figure, ...] = ()
    session: str = ""


class Store:
    """The metadata of one run; of a run that the store has not, or has in another namespace, it is empty."""

    def __init__(self, metadata: Metadata, *, run_id: str, namespace: str) -> None:
        self.missing = _missing(metadata, run_id, namespace)
        run = metadata if isinstance(metadata, RunMetadata) and self.missing is None else RunMetadata(run_id=run_id)
        self._by_id = {e.id: e for e in run.executions}
        self._by_pod: dict[str, Execution] = {}
        self._by_task: dict[tuple[int | None, str, int | None], Execution] = {}
        for execution in sorted(run.executions, key=lambda e: e.id):
            if uid := text(execution, "pod_uid"):
                self._by_pod[uid] = execution
            task, turn = text(execution, "task_name"), whole(execution.custom.get("iteration_index"))
            self._by_task[whole(execution.custom.get("parent_dag_id")), task, turn] = execution
        self._artifacts = {a.id: a for a in run.artifacts}
        self._events: dict[int, list[Event]] = defaultdict(list)
        for event in run.events:
            if event.kind in _OUTPUTS:
                self._events[event.execution_id].append(event)
        self.mlflow_run = next((r for e in run.executions if (r := text(e, MLFLOW_RUN))), "")

    def execution(self, id_: int | None) -> Execution | None:
        """The execution with this id, if it is one of the run's."""
        return None if id_ is None else self._by_id.get(id_)

    def of_task(
        self, *, id_: int | None, pods: Iterable[str | None], parent: int | None, task: str, turn: int | None
    ) -> Execution | None:
        """The execution of one task."""
        if (found := self.execution(id_)) is not None:
            return found
        if (by_pod := next((self._by_pod[p] for p in pods if p in self._by_pod), None)) is not None:
            return by_pod
        if id_ is not None:
            return None  # the store has not told of it yet: another one's values are none of its
        return self._by_task.get((parent, task, turn)) or self._by_task.get((parent, task, None))

    def outputs(self, execution: Execution, at: datetime | None) -> tuple[Found, ...]:
        """What `execution` gave, without KFP's own logs; points have the time `at`, and without one there are none."""
        return tuple(
            _found(name, artifact, at)
            for name, artifact in self._named(execution)
            if name.partition(".")[0] != EXECUTOR_LOGS
        )

    def logs(self, execution: Execution) -> tuple[str, str] | None:
        """Address and session of what the task printed, where KFP keeps that as an artifact: of the last try."""
        found = [a for name, a in self._named(execution) if name.partition(".")[0] == EXECUTOR_LOGS]
        last = max(found, key=lambda a: a.id, default=None)
        return None if last is None else (last.uri, word(last.custom.get(SESSION)))

    def addresses(self, execution: Execution) -> tuple[str, ...]:
        """Where all that it gave lies, KFP's own logs included."""
        return tuple(artifact.uri for _, artifact in self._named(execution))

    def _named(self, execution: Execution) -> Iterator[tuple[str, StoredArtifact]]:
        """Artifacts by the output's name; of a list each but the first gets its number."""
        counts: dict[str, int] = defaultdict(int)
        for event in sorted(self._events.get(execution.id, ()), key=_order):
            artifact = self._artifacts.get(event.artifact_id)
            key = next((word(step) for step in event.path if isinstance(step, str)), "")
            if artifact is not None and (name := key or word(artifact.name)):
                nth = counts[name]
                counts[name] += 1
                yield (f"{name}.{nth}" if nth else name), artifact


def text(execution: Execution, name: str) -> str:
    """A property of an execution that is a text; empty if there is none."""
    return word(execution.custom.get(name))


def parameters(execution: Execution, side: str) -> Mapping[str, Any]:
    """The ``inputs`` or ``outputs`` of an execution; numbers are doubles."""
    value = struct(execution.custom.get(side))
    return value if isinstance(value, Mapping) else {}


def scalars(kind: str | None) -> bool:
    """Whether an artifact of this type holds metrics as entries of its metadata."""
    return _title(kind) == _SCALARS


def plots(kind: str | None) -> bool:
    """Whether an artifact of this type holds figures in its metadata."""
    return _title(kind) in _CLASSIFICATION


def _title(kind: str | None) -> str:
    return (kind or "").partition("@")[0].rpartition(".")[2]


def _found(name: str, stored: StoredArtifact, at: datetime | None) -> Found:
    metadata = {
        word(k): value
        for k, v in sorted(stored.custom.items())
        # Both are KFP's own; only a metric that is called display_name is a number there (trap 48).
        if k != SESSION and not (k == "display_name" and isinstance(v, str)) and (value := unwrapped(v)) is not None
    }
    points: tuple[Point, ...] = ()
    drawn: tuple[Figure, ...] = ()
    if scalars(stored.type):
        if at is not None:
            points = tuple(_points(name, metadata, at))
        metadata = {k: v for k, v in metadata.items() if number(v) is None}
    elif plots(stored.type):
        drawn = figures(name, metadata, stored=True)
        metadata = {k: v for k, v in metadata.items() if k not in KEYS}
    artifact = Artifact(
        name=name, uri=word(stored.uri) or None, type=word(stored.type) or None, archive="none", metadata=metadata
    )
    return Found(artifact=artifact, points=points, figures=drawn, session=word(stored.custom.get(SESSION)))


def _points(name: str, metadata: Mapping[str, Any], at: datetime) -> Iterator[Point]:
    for key, given in metadata.items():
        if (value := number(given)) is not None:
            yield Point(
                key=key, value=value, time=at, source=FromMlmd(artifact=name), exact=not isinstance(value, float)
            )


def _order(event: Event) -> tuple[int, int]:
    return next((s for s in event.path if isinstance(s, int)), 0), event.artifact_id


def _missing(metadata: Metadata, run_id: str, namespace: str) -> NoMetadata | None:
    """Why nothing of `metadata` counts. MLMD knows no tenants: what is another namespace's is not taken (trap 79)."""
    match metadata:
        case NoMetadata():
            return metadata
        case RunMetadata(run_id=told) if told != run_id:
            return NoMetadata(reason="MlmdOtherRun", message="the metadata that was read is of another run")
        case RunMetadata(namespace=told) if told != namespace:
            said = "KFP's metadata store has a run of this id in another namespace: nothing of it is taken"
            return NoMetadata(reason="MlmdOtherNamespace", message=said)
        case _:
            return None
