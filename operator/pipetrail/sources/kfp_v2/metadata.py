"""What KFP's metadata store (MLMD) says of one pipeline run, as plain data: readers fetch it, this package reads it.

Ids are the store's own. Times are milliseconds since 1970 UTC. A value is MLMD's ``int_value``, ``double_value``,
``string_value``, ``bool_value`` or a ``struct_value`` as JSON values.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pipetrail.record import Frozen

Value = str | int | float | bool | Mapping[str, Any]

ExecutionState = Literal["UNKNOWN", "NEW", "RUNNING", "COMPLETE", "FAILED", "CACHED", "CANCELED"]
EventKind = Literal[
    "UNKNOWN", "DECLARED_OUTPUT", "DECLARED_INPUT", "INPUT", "OUTPUT", "INTERNAL_INPUT", "INTERNAL_OUTPUT",
    "PENDING_OUTPUT",
]  # fmt: skip


class Execution(Frozen, frozen=True):
    """A container task, a DAG or an importer. `type` is its type's name (``system.ContainerExecution``)."""

    id: int
    type: str
    state: ExecutionState = "UNKNOWN"
    name: str = ""
    properties: Mapping[str, Value] = {}
    custom: Mapping[str, Value] = {}
    created_ms: int | None = None
    updated_ms: int | None = None


class StoredArtifact(Frozen, frozen=True):
    """One artifact. `type` is its type's name (``system.Metrics``); metrics are among the `custom` properties."""

    id: int
    type: str
    uri: str = ""
    name: str = ""
    properties: Mapping[str, Value] = {}
    custom: Mapping[str, Value] = {}
    created_ms: int | None = None


class Event(Frozen, frozen=True):
    """An execution used or made an artifact; `path` holds the steps of MLMD's path (the output's name, an index)."""

    execution_id: int
    artifact_id: int
    kind: EventKind = "UNKNOWN"
    path: tuple[str | int, ...] = ()


class RunMetadata(Frozen, frozen=True):
    """All of one pipeline run. `namespace` is what the run's context names, for the check against the Workflow's.

    `experiment` is the name of KFP's experiment, which its API alone knows; empty where nobody asked.
    """

    run_id: str
    namespace: str = ""
    experiment: str = ""
    executions: tuple[Execution, ...] = ()
    artifacts: tuple[StoredArtifact, ...] = ()
    events: tuple[Event, ...] = ()


class NoMetadata(Frozen, frozen=True):
    """Why there is none: a CamelCase reason and a sentence. `again` is true where a later try may give it."""

    reason: str
    message: str
    again: bool = False
    experiment: str = ""


Metadata = RunMetadata | NoMetadata
