"""The messages of MLMD's service that we send and read, by their field numbers. Pure.

The numbers are those of ml_metadata/proto/metadata_store.proto and metadata_store_service.proto (1.17.1; the same since
1.0, types' names are in what is read since 1.11). Answers raise :class:`~pipetrail.formats.protobuf.Malformed` or
:class:`~pipetrail.formats.protobuf.TooMuch`.
"""

from collections.abc import Sequence
from itertools import islice
from typing import Any, Final, get_args

from pipetrail.formats.protobuf import Budget, double, encoded, fields, json_object, message, signed, text
from pipetrail.record import Frozen
from pipetrail.sources.kfp_v2.metadata import Event, EventKind, Execution, ExecutionState, StoredArtifact, Value

RUN_TYPE: Final = "system.PipelineRun"
PAGE: Final = 100  # the most that MLMD gives at once (metadata_store.proto, ListOperationOptions)

_STATES: Final = get_args(ExecutionState)
_KINDS: Final = get_args(EventKind)


class Context(Frozen, frozen=True):
    """What stands for the run in the store."""

    id: int
    type: str
    name: str
    namespace: str


def ask_context(run_id: str) -> bytes:
    """GetContextByTypeAndNameRequest for the context of a run."""
    return encoded({1: RUN_TYPE, 2: run_id})


def ask_executions(context_id: int, page_token: str) -> bytes:
    """GetExecutionsByContextRequest for the page that `page_token` names."""
    return encoded({1: context_id, 2: encoded({1: PAGE, 3: page_token})})


def ask_events(execution_ids: Sequence[int]) -> bytes:
    """GetEventsByExecutionIDsRequest."""
    return encoded({1: tuple(execution_ids)})


def ask_artifacts(artifact_ids: Sequence[int]) -> bytes:
    """GetArtifactsByIDRequest."""
    return encoded({1: tuple(artifact_ids)})


def context(answer: bytes, budget: Budget) -> Context | None:
    """The context in a GetContextByTypeAndNameResponse; null if the store has none (it answers with nothing)."""
    found = [raw for number, raw in fields(answer) if number == 1]
    if not found:
        return None
    id_, type_, name, namespace = 0, "", "", ""
    for number, raw in fields(message(found[-1])):
        match number:
            case 1:
                id_ = signed(raw)
            case 3:
                name = text(raw)
            case 5:
                key, value = _property(raw, budget)
                if key == "namespace" and isinstance(value, str):
                    namespace = value
            case 6:
                type_ = text(raw)
    return Context(id=id_, type=type_, name=name, namespace=namespace)


def executions(answer: bytes, budget: Budget) -> tuple[list[Execution], str]:
    """Those of a GetExecutionsByContextResponse, and the token of the page that follows (empty: there is none)."""
    found, token = [], ""
    for number, raw in fields(answer):
        if number == 1:
            found.append(_execution(message(raw), budget))
        elif number == 2:
            token = text(raw)
    return found, token


def events(answer: bytes, budget: Budget, at_most: int) -> list[Event]:
    """The first ones of a GetEventsByExecutionIDsResponse."""
    found = (_event(message(raw), budget) for number, raw in fields(answer) if number == 1)
    return list(islice(found, at_most))


def artifacts(answer: bytes, budget: Budget) -> list[StoredArtifact]:
    """Those of a GetArtifactsByIDResponse."""
    return [_artifact(message(raw), budget) for number, raw in fields(answer) if number == 1]


def _execution(raw: bytes, budget: Budget) -> Execution:
    budget.spend()
    made: dict[str, Any] = {"id": 0, "type": "", "properties": {}, "custom": {}}
    for number, value in fields(raw):
        match number:
            case 1:
                made["id"] = signed(value)
            case 3:
                made["state"] = _named(value, _STATES)
            case 4 | 5:
                _add(made["properties" if number == 4 else "custom"], value, budget)
            case 6:
                made["name"] = text(value)
            case 7:
                made["type"] = text(value)
            case 8:
                made["created_ms"] = signed(value)
            case 9:
                made["updated_ms"] = signed(value)
    return Execution(**made)


def _artifact(raw: bytes, budget: Budget) -> StoredArtifact:
    budget.spend()
    made: dict[str, Any] = {"id": 0, "type": "", "properties": {}, "custom": {}}
    for number, value in fields(raw):
        match number:
            case 1:
                made["id"] = signed(value)
            case 3:
                made["uri"] = text(value)
            case 4 | 5:
                _add(made["properties" if number == 4 else "custom"], value, budget)
            case 7:
                made["name"] = text(value)
            case 8:
                made["type"] = text(value)
            case 9:
                made["created_ms"] = signed(value)
    return StoredArtifact(**made)


def _event(raw: bytes, budget: Budget) -> Event:
    budget.spend()
    made: dict[str, Any] = {"artifact_id": 0, "execution_id": 0}
    for number, value in fields(raw):
        match number:
            case 1:
                made["artifact_id"] = signed(value)
            case 2:
                made["execution_id"] = signed(value)
            case 3:
                steps = (s for n, s in fields(message(value)) if n == 1)
                made["path"] = tuple(_step(message(step), budget) for step in steps)
            case 4:
                made["kind"] = _named(value, _KINDS)
    return Event(**made)


def _step(raw: bytes, budget: Budget) -> str | int:
    budget.spend()
    made: str | int = ""
    for number, value in fields(raw):
        if number == 1:
            made = signed(value)
        elif number == 2:
            made = text(value)
    return made


def _named(value: int | bytes, names: Sequence[str]) -> str:
    """An enumeration's name; one that we do not know is UNKNOWN, which is 0 in both."""
    number = signed(value)
    return names[number if 0 <= number < len(names) else 0]


def _add(properties: dict[str, Value], entry: int | bytes, budget: Budget) -> None:
    key, value = _property(entry, budget)
    if value is not None:
        properties[key] = value


def _property(entry: int | bytes, budget: Budget) -> tuple[str, Value | None]:
    """An entry of a map of properties; the value is null if it is of a kind that nobody here reads (a proto)."""
    budget.spend()
    key, value = "", b""
    for number, raw in fields(message(entry)):
        if number == 1:
            key = text(raw)
        elif number == 2:
            value = message(raw)
    made: Value | None = None
    for number, raw in fields(value):
        match number:
            case 1:
                made = signed(raw)
            case 2:
                made = double(raw)
            case 3:
                made = text(raw)
            case 4:
                made = json_object(raw, budget)
            case 5:
                made = None
            case 6:
                made = bool(signed(raw))
    return key, made
