"""A target's body, whoever let it in: found or invalid, never an exception (design §6).

The API server has judged it already if it knows the CRD's rules; an older one, or one where validation was switched
off, has not.
"""

import contextlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from msgspec import inspect

from pipetrail.api.backfill import BACKFILL_ANNOTATION, Backfill, backfill_of
from pipetrail.api.conditions import CONFIRM_ANNOTATION, HELD
from pipetrail.api.model import API_VERSION, Rule
from pipetrail.api.schema import model_of
from pipetrail.api.status import Condition, ShardStatus
from pipetrail.api.target import ClusterTargetSpec, TargetKind, TargetRef, TargetSpec

_SPECS: Final[Mapping[TargetKind, type[TargetSpec]]] = {
    "TrackingTarget": TargetSpec,
    "ClusterTrackingTarget": ClusterTargetSpec,
}
_BEGINNING: Final = datetime(1970, 1, 1, tzinfo=UTC)


class FoundTarget(msgspec.Struct, frozen=True, kw_only=True):
    """A target that can be used: who it is, what it asks for, which edit of it this is.

    `hold` is its condition MassOrphanGuard if that stands, and `confirmed` which one someone confirmed. `backfill` is
    the wish for older runs as someone wrote it, and `backfilled` what its status says of the last one.
    `shards` says how a cluster's target stands with each of several operators.
    """

    ref: TargetRef
    spec: TargetSpec
    uid: str = ""
    generation: int = 0
    created: datetime = _BEGINNING
    labels: Mapping[str, str] = {}
    confirmed: str = ""
    hold: Condition | None = None
    backfill: str = ""
    backfilled: Backfill | None = None
    shards: tuple[ShardStatus, ...] = ()


class InvalidTarget(msgspec.Struct, frozen=True, kw_only=True):
    """A target that asks for what there is not: `message` names the field and the fix."""

    ref: TargetRef
    reason: str
    message: str
    uid: str = ""
    generation: int = 0


def decode_target(body: Any) -> FoundTarget | InvalidTarget:
    """What `body` (JSON values of a TrackingTarget or ClusterTrackingTarget) asks for."""
    body = body if isinstance(body, Mapping) else {}
    meta = body.get("metadata")
    meta = meta if isinstance(meta, Mapping) else {}
    kind: TargetKind = "ClusterTrackingTarget" if body.get("kind") == "ClusterTrackingTarget" else "TrackingTarget"
    namespace = "" if kind == "ClusterTrackingTarget" else _text(meta.get("namespace"))
    ref = TargetRef(kind=kind, name=_text(meta.get("name")), namespace=namespace)
    uid, generation = _text(meta.get("uid")), _count(meta.get("generation"))
    wrong = _envelope(body, ref)
    spec: TargetSpec | None = None
    if not wrong:
        try:
            spec = msgspec.convert(_spelt(body.get("spec")), _SPECS[kind])
        except (msgspec.ValidationError, RecursionError, ValueError, TypeError, OverflowError) as error:
            wrong = _located(str(error))
    if spec is not None:
        wrong = "; ".join(f"{path}: {message}" for path, message in broken(spec, "spec"))
    if spec is None or wrong:
        return InvalidTarget(ref=ref, reason="InvalidSpec", message=wrong[:1000], uid=uid, generation=generation)
    notes = _labels(meta.get("annotations"))
    return FoundTarget(
        ref=ref, spec=spec, uid=uid, generation=generation, created=_time(meta.get("creationTimestamp")),
        labels=_labels(meta.get("labels")), confirmed=notes.get(CONFIRM_ANNOTATION, ""),
        hold=_hold(body.get("status")), backfill=notes.get(BACKFILL_ANNOTATION, ""),
        backfilled=backfill_of(body.get("status")), shards=shards_of(body),
    )  # fmt: skip


def broken(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Each rule that `value` (a model) breaks, as the path of the field and the rule's message."""
    yield from _struct(value, inspect.type_info(type(value)), path)


def _struct(value: Any, info: inspect.Type, path: str) -> Iterator[tuple[str, str]]:
    assert isinstance(info, inspect.StructType)
    yield from _judge(value, model_of(info).RULES, path)
    for field in info.fields:
        inner = getattr(value, field.name)
        if inner is not msgspec.UNSET and inner != field.default:
            yield from _value(inner, field.type, f"{path}.{field.encode_name}")


def _value(value: Any, info: inspect.Type, path: str) -> Iterator[tuple[str, str]]:
    match info:
        case inspect.Metadata(type=inner):
            yield from _judge(value, (info.extra or {}).get("rules", ()), path)
            yield from _value(value, inner, path)
        case inspect.StructType():
            yield from _struct(value, info, path)
        case inspect.VarTupleType(item_type=item):
            for i, each in enumerate(value):
                yield from _value(each, item, f"{path}[{i}]")
        case _:
            return


def _judge(value: Any, rules: tuple[Rule, ...], path: str) -> Iterator[tuple[str, str]]:
    for rule in rules:
        if not rule.holds(value):
            yield path, rule.message


def _envelope(body: Mapping[str, Any], ref: TargetRef) -> str:
    match body.get("apiVersion"), body.get("kind"):
        case version, _ if version != API_VERSION:
            return f"apiVersion: write {API_VERSION}"
        case _, kind if kind not in _SPECS:
            return "kind: write TrackingTarget or ClusterTrackingTarget"
    if not ref.name:
        return "metadata.name: give the target a name"
    if ref.kind == "TrackingTarget" and not ref.namespace:
        return "metadata.namespace: a TrackingTarget lies in the namespace whose runs it sees"
    return ""


def _spelt(spec: Any) -> Any:
    """`spec` as it was meant: YAML 1.1, which kubectl reads, takes a bare On or Off for true or false."""
    if isinstance(spec, Mapping) and isinstance(spec.get("capture"), Mapping):
        capture = spec["capture"]
        if isinstance(capture.get("stdout"), bool):
            return {**spec, "capture": {**capture, "stdout": "On" if capture["stdout"] else "Off"}}
    return spec


def _located(error: str) -> str:
    """msgspec's ``what - at `$.a.b[0]``` the other way round, as the API server puts it."""
    what, _, where = error.partition(" - at `")
    return f"spec{where.rstrip('`').removeprefix('$')}: {what}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0


def _labels(value: Any) -> dict[str, str]:
    pairs = value.items() if isinstance(value, Mapping) else ()
    return {k: v for k, v in pairs if isinstance(k, str) and isinstance(v, str)}


def _hold(status: Any) -> Condition | None:
    """The condition that an operator before us left: what it held stays held."""
    found = status.get("conditions") if isinstance(status, Mapping) else None
    for each in found if isinstance(found, list) else ():
        if isinstance(each, Mapping) and each.get("type") == HELD and each.get("status") == "True":
            try:
                return msgspec.convert(each, Condition)
            except msgspec.ValidationError:
                return None
    return None


def shards_of(body: Mapping[str, Any]) -> tuple[ShardStatus, ...]:
    """What several operators left in a target's status; what can't be read is left out."""
    status = body.get("status")
    found = status.get("shards") if isinstance(status, Mapping) else None
    read = []
    for each in found if isinstance(found, list) else ():
        with contextlib.suppress(msgspec.ValidationError):
            read.append(msgspec.convert(each, ShardStatus))
    return tuple(read)


def _time(value: Any) -> datetime:
    try:
        moment = datetime.fromisoformat(_text(value))
    except ValueError:
        return _BEGINNING
    return moment if moment.tzinfo else _BEGINNING
