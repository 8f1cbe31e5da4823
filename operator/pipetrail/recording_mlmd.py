"""KFP's metadata store as a recording keeps it: MLMD's own SQLite file, read as its gRPC service would answer.

The file may be anything that someone sent us: it is opened read-only, for one run, with limits on rows and time.
"""

import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, get_args
from urllib.parse import quote

from pipetrail.sources.kfp_v2.metadata import (
    Event,
    EventKind,
    Execution,
    ExecutionState,
    Metadata,
    NoMetadata,
    RunMetadata,
    StoredArtifact,
    Value,
)
from pipetrail.sources.kfp_v2.values import struct

MAX_ROWS: Final = 200_000  #: of one table that are read of one run
MAX_VALUE_BYTES: Final = 8 << 20
MAX_SECONDS: Final = 20.0

_STATES: Final = get_args(ExecutionState)
_KINDS: Final = get_args(EventKind)
_AT_ONCE: Final = 500
_STEPS: Final = 100_000  # of SQLite's machine between two looks at the clock


class _TooMuch(Exception):
    """The run has more rows than are read."""


def read(file: Path, run_id: str) -> Metadata:
    """All that `file` holds of the run; never raises, whatever the file is."""
    if not file.is_file():
        return NoMetadata(reason="NoMetadata", message="the recording has no metadata store")
    deadline = time.monotonic() + MAX_SECONDS
    try:
        address = f"file:{quote(str(file.absolute()))}?mode=ro&immutable=1"
        connection = sqlite3.connect(address, uri=True, timeout=1.0)
        try:
            connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
            connection.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
            return _Run(connection).read(run_id)
        finally:
            connection.close()
    except _TooMuch:
        return NoMetadata(reason="MlmdTooMuch", message=f"the run has more than {MAX_ROWS} rows in {file.name}")
    except (sqlite3.Error, OverflowError, ValueError, MemoryError) as error:
        return NoMetadata(reason="MlmdGarbage", message=f"{file.name} can't be read: {type(error).__name__}")


class _Run:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._types = {row[0]: _text(row[1]) for row in self._rows("SELECT id, name FROM Type")}

    def read(self, run_id: str) -> Metadata:
        contexts = self._rows(
            "SELECT c.id FROM Context c JOIN Type t ON t.id = c.type_id "
            "WHERE t.name = 'system.PipelineRun' AND c.name = ?", run_id,
        )  # fmt: skip
        found = [row[0] for row in contexts]
        if len(found) != 1:
            return NoMetadata(reason="MlmdRunUnknown", message="the recorded metadata store has no run of this id")
        about = dict(self._properties("Context", found)).get(found[0], {})
        namespace = about.get("namespace")
        executions = self._executions(found[0])
        events = self._events([e.id for e in executions])
        artifacts = self._artifacts(sorted({e.artifact_id for e in events}))
        return RunMetadata(
            run_id=run_id, namespace=namespace if isinstance(namespace, str) else "", executions=tuple(executions),
            artifacts=tuple(artifacts), events=tuple(events),
        )  # fmt: skip

    def _executions(self, context: Any) -> list[Execution]:
        rows = [
            *self._rows(
                "SELECT e.id, e.type_id, e.last_known_state, e.name, e.create_time_since_epoch, "
                "e.last_update_time_since_epoch FROM Execution e JOIN Association a ON a.execution_id = e.id "
                "WHERE a.context_id = ? ORDER BY e.id", context,
            )
        ]  # fmt: skip
        custom = dict(self._properties("Execution", [row[0] for row in rows]))
        return [
            Execution(
                id=row[0], type=self._types.get(row[1], ""), state=_named(row[2], _STATES), name=_text(row[3]),
                custom=custom.get(row[0], {}), created_ms=_whole(row[4]), updated_ms=_whole(row[5]),
            )
            for row in rows
            if isinstance(row[0], int)
        ]  # fmt: skip

    def _events(self, executions: Sequence[int]) -> list[Event]:
        rows = [*self._of("SELECT id, execution_id, artifact_id, type FROM Event WHERE execution_id IN", executions)]
        paths: dict[Any, list[str | int]] = {}
        steps = "SELECT event_id, is_index_step, step_index, step_key FROM EventPath WHERE event_id IN"
        for event, is_index, index, key in self._of(steps, [row[0] for row in rows]):
            paths.setdefault(event, []).append((_whole(index) or 0) if is_index else _text(key))
        return [
            Event(
                execution_id=row[1], artifact_id=row[2], kind=_named(row[3], _KINDS), path=tuple(paths.get(row[0], ()))
            )
            for row in rows
            if isinstance(row[1], int) and isinstance(row[2], int)
        ]

    def _artifacts(self, ids: Sequence[int]) -> list[StoredArtifact]:
        query = "SELECT id, type_id, uri, name, create_time_since_epoch FROM Artifact WHERE id IN"
        custom = dict(self._properties("Artifact", ids))
        return [
            StoredArtifact(
                id=row[0], type=self._types.get(row[1], ""), uri=_text(row[2]), name=_text(row[3]),
                custom=custom.get(row[0], {}), created_ms=_whole(row[4]),
            )
            for row in self._of(query, ids)
        ]  # fmt: skip

    def _properties(self, table: str, ids: Sequence[Any]) -> Iterator[tuple[Any, dict[str, Value]]]:
        key = f"{table.lower()}_id"
        query = f"SELECT {key}, name, int_value, double_value, string_value, bool_value FROM {table}Property "  # noqa: S608  our own names
        found: dict[Any, dict[str, Value]] = {}
        for owner, name, *values in self._of(f"{query}WHERE is_custom_property = 1 AND {key} IN", ids):
            if (value := _value(values)) is not None:
                found.setdefault(owner, {})[_text(name)] = value
        return iter(found.items())

    def _of(self, query: str, ids: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
        for start in range(0, len(ids), _AT_ONCE):
            some = ids[start : start + _AT_ONCE]
            yield from self._rows(f"{query} ({','.join('?' * len(some))})", *some)

    def _rows(self, query: str, *values: Any) -> Iterable[tuple[Any, ...]]:
        found = self._connection.execute(query, values).fetchmany(MAX_ROWS + 1)
        if len(found) > MAX_ROWS:
            raise _TooMuch
        return found


def _value(columns: Sequence[Any]) -> Value | None:
    whole, real, text, flag = columns
    if isinstance(whole, int):
        return whole
    if isinstance(real, int | float):
        return float(real)
    if isinstance(text, str):
        value = struct(text)
        return value if isinstance(value, str | dict) else None
    return None if flag is None else bool(flag)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _named(value: Any, names: Sequence[Any]) -> Any:
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else names[0]
