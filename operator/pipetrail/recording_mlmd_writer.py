"""A run's metadata as a recording keeps it: the tables of MLMD's own SQLite file that :mod:`.recording_mlmd` reads.

Only rows of the one run are in it, and only columns that are read: it is no store that MLMD itself would open.
"""

import base64
import contextlib
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, get_args

from pipetrail.formats import protobuf
from pipetrail.sources.kfp_v2.metadata import EventKind, ExecutionState, RunMetadata, Value

CONTEXT: Final = 1
_RUN: Final = "system.PipelineRun"
_STATES: Final = get_args(ExecutionState)
_KINDS: Final = get_args(EventKind)
_VALUES: Final = "int_value, double_value, string_value, bool_value"
_TIMES: Final = "create_time_since_epoch INT, last_update_time_since_epoch INT"
_TABLES: Final = (
    "Type (id INTEGER PRIMARY KEY, name TEXT)",
    "Context (id INTEGER PRIMARY KEY, type_id INT, name TEXT)",
    f"Execution (id INTEGER PRIMARY KEY, type_id INT, last_known_state INT, name TEXT, {_TIMES})",
    "Artifact (id INTEGER PRIMARY KEY, type_id INT, uri TEXT, name TEXT, create_time_since_epoch INT)",
    "Association (context_id INT, execution_id INT)",
    "Event (id INTEGER PRIMARY KEY, execution_id INT, artifact_id INT, type INT)",
    "EventPath (event_id INT, is_index_step INT, step_index INT, step_key TEXT)",
    *(f"{owner}Property ({owner}_id INT, name TEXT, is_custom_property INT, {_VALUES})"
      for owner in ("Context", "Execution", "Artifact")),
)  # fmt: skip


def write(file: Path, run: RunMetadata) -> None:
    """Write `run`, of which nothing is withheld here, into a file that is not there yet."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(file)) as store, store:
        for table in _TABLES:
            store.execute(f"CREATE TABLE {table}")
        types = {name: n for n, name in enumerate(dict.fromkeys(_types(run)), 1)}
        _insert(store, "Type", [(n, name) for name, n in types.items()])
        _insert(store, "Context", [(CONTEXT, types[_RUN], run.run_id)])
        _properties(store, "Context", CONTEXT, {"namespace": run.namespace})
        for e in run.executions:
            row = (e.id, types[e.type], _STATES.index(e.state), e.name, e.created_ms, e.updated_ms)
            _insert(store, "Execution", [row])
            _insert(store, "Association", [(CONTEXT, e.id)])
            _properties(store, "Execution", e.id, e.custom)
        for a in run.artifacts:
            _insert(store, "Artifact", [(a.id, types[a.type], a.uri, a.name, a.created_ms)])
            _properties(store, "Artifact", a.id, a.custom)
        for n, event in enumerate(run.events, 1):
            _insert(store, "Event", [(n, event.execution_id, event.artifact_id, _KINDS.index(event.kind))])
            path = ((n, 1, s, None) if isinstance(s, int) else (n, 0, None, s) for s in event.path)
            _insert(store, "EventPath", [*path])


def _types(run: RunMetadata) -> Iterable[str]:
    yield _RUN
    yield from (e.type for e in run.executions)
    yield from (a.type for a in run.artifacts)


def _properties(store: sqlite3.Connection, owner: str, id_: int, properties: Mapping[str, Value]) -> None:
    _insert(store, f"{owner}Property", [(id_, name, 1, *_columns(value)) for name, value in properties.items()])


def _columns(value: Value) -> tuple[Any, ...]:
    """The value's own column of int, double, string and bool; an object as MLMD's backends keep it."""
    match value:
        case bool():
            return None, None, None, int(value)
        case int():
            return value, None, None, None
        case float():
            return None, value, None, None
        case str():
            return None, None, value, None
        case _:
            packed = base64.b64encode(protobuf.encoded_object(value)).decode()
            return None, None, f"mlmd-struct::{packed}", None


def _insert(store: sqlite3.Connection, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
    if rows:
        store.executemany(f"INSERT INTO {table} VALUES ({','.join('?' * len(rows[0]))})", rows)  # noqa: S608  our own names
