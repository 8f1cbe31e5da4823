"""An event file as the journal of one tracker run: what it says is there, and where its last whole record ends. Pure.

Points are TensorBoard's own values. All else that must be known to go on (key, params, tags, what was shown already) is
in *entries*: JSON in values of a plugin that TensorBoard does not have, in the same record as what they speak of. So a
file that breaks off anywhere, and is cut after its last whole record, is the journal of a run that got that far.
"""

import math
import struct
from collections.abc import Iterator, Mapping
from typing import BinaryIO, Final

import msgspec

from pipetrail.formats import protobuf
from pipetrail.formats.tfrecord import FOOT_BYTES, HEAD_BYTES, masked_crc, payload_bytes
from pipetrail.record import Frozen
from pipetrail.targets.target import Metric, RunStatus
from pipetrail.targets.tensorboard.events import STATE_TAG

RECORD_MOST: Final = 64 << 20
FILE_MOST: Final = 512 << 20
POINTS_MOST: Final = 4_000_000


class Opening(Frozen, frozen=True):
    """What a tracker run is made with, once. `opened_ns` tells which of two was made first (our clock)."""

    key: str
    root: str
    name: str
    experiment: str
    started_ms: int
    opened_ns: int


class Entry(Frozen, frozen=True, omit_defaults=True):
    """One step of the journal; what is empty does not change. `texts` maps a tag to a digest of what it shows now.

    With `status` the end is what `finished_ms` says, null too. `session`: HPARAMS was told the end with it.
    """

    opening: Opening | None = None
    params: Mapping[str, str] = {}
    tags: Mapping[str, str] = {}
    note: str | None = None
    status: RunStatus | None = None
    finished_ms: int | None = None
    texts: Mapping[str, str] = {}
    figures: tuple[str, ...] = ()
    session: bool = False


class State(Frozen, frozen=True):
    """All entries so far. `shown` counts how often each tag was written; `session` is the end that HPARAMS keeps."""

    opening: Opening
    params: Mapping[str, str] = {}
    tags: Mapping[str, str] = {}
    note: str = ""
    status: RunStatus = "Running"
    finished_ms: int | None = None
    texts: Mapping[str, str] = {}
    shown: Mapping[str, int] = {}
    figures: frozenset[str] = frozenset()
    session: tuple[RunStatus, int | None] | None = None

    @property
    def chars(self) -> int:
        """How much text it holds."""
        return len(self.note) + sum(len(k) + len(v) for texts in (self.params, self.tags) for k, v in texts.items())


class Journal(Frozen, frozen=True):
    """What a file holds: `end` is the byte behind its last whole record. `state` is None if it holds no opening."""

    state: State | None
    metrics: tuple[Metric, ...]
    end: int


def after(state: State | None, entry: Entry) -> State | None:
    """The state once `entry` is written behind `state`."""
    if state is None:
        if entry.opening is None:
            return None
        state = State(opening=entry.opening)
    shown = dict(state.shown)
    for tag in (*entry.texts, *entry.figures):
        shown[tag] = shown.get(tag, 0) + 1
    ended = entry.status is not None
    return State(
        opening=state.opening,
        params={**state.params, **entry.params},
        tags={**state.tags, **entry.tags},
        note=state.note if entry.note is None else entry.note,
        status=entry.status or state.status,
        finished_ms=entry.finished_ms if ended else state.finished_ms,
        texts={**state.texts, **entry.texts},
        shown=shown,
        figures=state.figures | frozenset(entry.figures),
        session=(entry.status, entry.finished_ms) if entry.session and entry.status else state.session,
    )


def written(entry: Entry) -> bytes:
    """`entry` as JSON."""
    return msgspec.json.encode(entry)


def read(file: BinaryIO, *, points: bool = True) -> Journal:
    """The journal from the beginning of `file` to where it ends or breaks off; without its points if so wished.

    What comes behind a damaged record is unreadable to TensorBoard too: it counts as not there.
    """
    state: State | None = None
    metrics: list[Metric] = []
    keys: dict[bytes, str] = {}
    end = 0
    for payload, behind in _records(file):
        try:
            for found in _told(payload, keys):
                match found:
                    case Entry():
                        state = after(state, found)
                    case Metric() if points and len(metrics) < POINTS_MOST:
                        metrics.append(found)
        except (ValueError, struct.error, msgspec.MsgspecError):
            break
        end = behind
    return Journal(state=state, metrics=tuple(metrics), end=end)


def opening(file: BinaryIO) -> Opening | None:
    """What `file` was made with, from its first records alone."""
    for n, (payload, _) in enumerate(_records(file)):
        try:
            for found in _told(payload, {}):
                if isinstance(found, Entry) and found.opening is not None:
                    return found.opening
        except (ValueError, struct.error, msgspec.MsgspecError):
            return None
        if n >= 1:
            return None
    return None


def _records(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Payloads that are whole, each with the byte behind its record."""
    at = 0
    while True:
        head = file.read(HEAD_BYTES)
        size = payload_bytes(head, 0)
        if size is None or size > RECORD_MOST:
            return
        payload, foot = file.read(size), file.read(FOOT_BYTES)
        if len(foot) < FOOT_BYTES or masked_crc(payload) != int.from_bytes(foot, "little"):
            return
        at += HEAD_BYTES + size + FOOT_BYTES
        yield payload, at


def _told(payload: bytes, keys: dict[bytes, str]) -> Iterator[Metric | Entry]:
    """Points and entries of one event; what else is in it is for TensorBoard."""
    time_ms, step = 0, 0
    for field, value in protobuf.fields(payload):
        match field:
            case 1:
                wall_s = protobuf.double(value)
                time_ms = round(wall_s * 1000) if math.isfinite(wall_s) else 0
            case 2:
                step = protobuf.signed(value)
            case 5:
                for number, entry in protobuf.fields(protobuf.message(value)):
                    if number == 1 and (found := _value(protobuf.message(entry), time_ms, step, keys)) is not None:
                        yield found


def _value(message: bytes, time_ms: int, step: int, keys: dict[bytes, str]) -> Metric | Entry | None:
    tag, value, tensor = b"", None, b""
    for field, raw in protobuf.fields(message):
        match field:
            case 1:
                tag = protobuf.message(raw)
            case 2:
                value = struct.unpack("<f", protobuf.message(raw))[0]
            case 8:
                tensor = protobuf.message(raw)
    if value is not None:
        key = keys.get(tag)
        if key is None:
            key = keys[tag] = tag.decode()
        return Metric(key=key, value=value, step=step, time_ms=time_ms)
    if tag == STATE_TAG.encode():
        json = next((raw for field, raw in protobuf.fields(tensor) if field == 8), b"")
        return msgspec.json.decode(protobuf.message(json), type=Entry)
    return None
