"""The record: our neutral, immutable picture of one pipeline run at one moment.

A source makes it, capture adds what the step's files and logs say, shape turns it into what a tracker is told. As
JSON it is the public format ``pipetrail.record/v1`` (:func:`to_json`): field names as here, times RFC 3339 in UTC,
absent is null, and NaN and the infinities are the strings "NaN", "Infinity" and "-Infinity".

Times are aware datetimes in UTC that come from the cluster, never from our clock, so that the same run always gives
the same record. Mappings are never written to after construction.
"""

import json
import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Literal

import msgspec

SCHEMA: Final = "pipetrail.record/v1"

Status = Literal[
    "running", "succeeded", "failed", "error", "terminated", "stopped", "deleted",
    "pending", "skipped", "omitted", "cached", "not_run", "unknown",
]  # fmt: skip
Role = Literal["step", "exit-handler", "hook"]
Kind = Literal["pod", "container", "suspend", "http", "data", "resource", "importer", "plugin", "composite"]
Number = int | float

MAX_DIGITS: Final = 4000  # of an integer: below Python's own limit, above which neither int() nor str() works

_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_NOT_FINITE: Final = {sign + name: float(sign + name) for sign in ("", "+", "-") for name in ("nan", "inf", "infinity")}


def number(text: str) -> Number | None:
    """`text` as a number if it is one strictly: JSON's grammar, or NaN, inf, Infinity in any case, signed or not.

    "007", "1_000", "1,000", "+1", ".5", "0x1f", "true", "" and " 1" are none. An integer stays exact at any size (up to
    :data:`MAX_DIGITS`); so "1" is an int and "1.0" and "1e3" are floats. What float64 can't hold ("1e400") is none.
    """
    if match := _NUMBER.fullmatch(text):
        if match[1] is None and match[2] is None:
            return int(text) if len(text) <= MAX_DIGITS else None
        value = float(text)
        return value if math.isfinite(value) else None
    return _NOT_FINITE.get(text.lower()) if len(text) <= 9 else None


class Frozen(msgspec.Struct, frozen=True, kw_only=True):
    """Base of everything in a record: immutable, slotted, built by keyword."""


class Outcome(Frozen, frozen=True):
    """How a run, a step or an attempt stands or ended; `reason` is CamelCase (ExitCode, OOMKilled, ...)."""

    status: Status
    reason: str | None = None
    message: str | None = None
    exit_code: int | None = None

    @property
    def settled(self) -> bool:
        """True if nothing more will happen by itself (an ``argo retry`` may still reopen it)."""
        return self.status not in ("running", "pending")


class LoopItem(Frozen, frozen=True):
    """One turn of a loop: its index, and the item as the pipeline gave it (a JSON value)."""

    index: int
    item: Any


class FromFile(Frozen, frozen=True, tag_field="kind", tag="artifact"):
    """The point stood in a file of an artifact.

    `recognised` names the format if the content told it (``huggingface``, ``lightning``, ...: formats/metrics.py);
    `setting` marks numbers of a recognised file that are its settings and not what was measured.
    """

    artifact: str
    file: str
    recognised: str | None = None
    setting: bool = False


class FromParameter(Frozen, frozen=True, tag_field="kind", tag="parameter"):
    """The point is an output parameter that is strictly a number."""

    parameter: str


class FromResult(Frozen, frozen=True, tag_field="kind", tag="result"):
    """The point is the step's ``outputs.result``."""

    result: bool = True


class FromStdout(Frozen, frozen=True, tag_field="kind", tag="stdout"):
    """The point is a line that the main container printed."""

    stdout: bool = True


class FromMlmd(Frozen, frozen=True, tag_field="kind", tag="mlmd"):
    """The point is a property in KFP's metadata store."""

    artifact: str


class FromLog(Frozen, frozen=True, tag_field="kind", tag="log"):
    """The point stood in the log of KFP's launcher (of `artifact`, its output) or of Katib's collector."""

    artifact: str | None = None


PointSource = FromFile | FromParameter | FromResult | FromStdout | FromMlmd | FromLog


class Point(Frozen, frozen=True):
    """One metric value. `step` is null for a single value; `exact` is false where the source has cut digits."""

    key: str
    value: Number
    time: datetime
    source: PointSource
    step: int | None = None
    exact: bool = True


class ConfusionMatrix(Frozen, frozen=True, tag_field="kind", tag="confusion_matrix"):
    """Counts by true (row) and predicted (column) label."""

    labels: tuple[str, ...]
    rows: tuple[tuple[Number, ...], ...]
    name: str | None = None


class RocCurve(Frozen, frozen=True, tag_field="kind", tag="roc_curve"):
    """Receiver operating characteristic: three columns of one length."""

    fpr: tuple[Number, ...]
    tpr: tuple[Number, ...]
    threshold: tuple[Number, ...]
    name: str | None = None


class Table(Frozen, frozen=True, tag_field="kind", tag="table"):
    """A table of text."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    name: str | None = None


class Markdown(Frozen, frozen=True, tag_field="kind", tag="markdown"):
    """Markdown as the step wrote it (not yet sanitised)."""

    text: str
    name: str | None = None


class Html(Frozen, frozen=True, tag_field="kind", tag="html"):
    """HTML as the step wrote it (not yet sanitised)."""

    text: str
    name: str | None = None


Figure = ConfusionMatrix | RocCurve | Table | Markdown | Html


def packed(figure: Figure) -> bytes:
    """The figure in bytes: what tells one from another, and a measure of its size. Equal for equal figures."""
    try:
        return msgspec.msgpack.encode(figure)
    except (OverflowError, UnicodeEncodeError):  # an integer beyond 64 bits, half a surrogate pair
        return json.dumps(plain(figure)).encode()


class Artifact(Frozen, frozen=True):
    """An output artifact by reference. `present` is null where the store was not asked; `size` in bytes."""

    name: str
    uri: str | None = None
    type: str | None = None
    archive: Literal["none", "tar", "zip"] | None = None
    present: bool | None = None
    size: int | None = None
    digest: str | None = None
    media_type: str | None = None
    metadata: Mapping[str, Any] = {}


class Attempt(Frozen, frozen=True):
    """One try of a step: one pod. `queue_s` is the time between the node's creation and main's start."""

    outcome: Outcome
    pod: str | None = None
    pod_uid: str | None = None
    started: datetime | None = None
    finished: datetime | None = None
    queue_s: float | None = None


class Outputs(Frozen, frozen=True):
    """What a step gave to the pipeline: as text exactly as Argo holds it, as JSON values where KFP gives them types."""

    parameters: Mapping[str, Any] = {}
    result: str | None = None


class Resources(Frozen, frozen=True):
    """Requests × time as the source estimates it, in whole seconds (memory in MiB × s)."""

    cpu_s: int | None = None
    memory_mib_s: int | None = None
    gpu_s: int | None = None


class Step(Frozen, frozen=True):
    """One logical unit that a user wrote: a loop's turn is a step of its own, a retry is not.

    `params` are texts, or JSON values where the source gives them types (KFP).
    """

    path: str
    name: str
    outcome: Outcome
    iteration: tuple[LoopItem, ...] | None = None
    role: Role = "step"
    kind: Kind = "pod"
    template: str | None = None
    started: datetime | None = None
    finished: datetime | None = None
    params: Mapping[str, Any] = {}
    attempts: tuple[Attempt, ...] = ()
    outputs: Outputs = Outputs()
    points: tuple[Point, ...] = ()
    figures: tuple[Figure, ...] = ()
    artifacts: tuple[Artifact, ...] = ()
    image: str | None = None
    digest: str | None = None
    resources: Resources | None = None
    log_tail: str | None = None
    cached_from: str | None = None


class Key(Frozen, frozen=True):
    """Which run this is. `generation` tells an ``argo retry`` of the same object from the first go (its start time)."""

    cluster: str
    uid: str
    generation: str = ""

    @property
    def run(self) -> str:
        """The key under which a tracker knows the run."""
        return f"{self.cluster}/{self.uid}"


class Group(Frozen, frozen=True):
    """What runs of one kind have in common: a CronWorkflow, a template, a KFP experiment."""

    kind: Literal["cron", "template", "cluster-template", "experiment"]
    name: str


class Link(Frozen, frozen=True):
    """An address or reference that the run itself names (a git commit, a run in another tracker)."""

    rel: str
    href: str


class Lineage(Frozen, frozen=True):
    """Another run that this one comes from or started."""

    rel: Literal["resubmitted-from", "child", "parent", "cached-from"]
    name: str
    uid: str | None = None


class Partial(Frozen, frozen=True):
    """Something that could not be known: a CamelCase reason, a sentence for people, the step if it is about one."""

    reason: str
    message: str
    step: str | None = None


class Record(Frozen, frozen=True):
    """One run as a whole; see the module's docstring for the rules."""

    key: Key
    source: Literal["argo", "kfp-v1", "kfp-v2", "katib"]
    name: str
    namespace: str
    pipeline: str
    outcome: Outcome
    schema: str = SCHEMA
    display_name: str | None = None
    group: Group | None = None
    trigger: str | None = None
    user: str | None = None
    created: datetime | None = None
    scheduled: datetime | None = None
    started: datetime | None = None
    finished: datetime | None = None
    params: Mapping[str, Any] = {}
    outputs: Outputs = Outputs()
    tags: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}
    steps: tuple[Step, ...] = ()
    links: tuple[Link, ...] = ()
    lineage: tuple[Lineage, ...] = ()
    partial: tuple[Partial, ...] = ()


class Unread(Frozen, frozen=True):
    """What a later capture of the same run may still give: of `steps`, by their indexes; of the run's `structure`."""

    steps: frozenset[int] = frozenset()
    structure: bool = False

    @property
    def nothing(self) -> bool:
        """All that there is was read."""
        return not self.steps and not self.structure


ALL_READ: Final = Unread()


def plain(value: Any) -> Any:
    """Anything of this module as JSON values: times as RFC 3339 text, non-finite floats as their names."""
    return _finite(msgspec.to_builtins(value, builtin_types=(float,)))


def _finite(value: Any) -> Any:
    match value:
        case float() if not math.isfinite(value):
            return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        case dict():
            return {k: _finite(v) for k, v in value.items()}
        case list() | tuple():
            return [_finite(v) for v in value]
        case _:
            return value


def to_json(record: Record, *, indent: int | None = None) -> str:
    """`record` in the public format, integers exact at any size."""
    return json.dumps(plain(record), ensure_ascii=False, allow_nan=False, indent=indent)
