"""Event files as bytes: the few protobuf messages that we write, each in a checksummed record. Pure.

Field numbers are those of event.proto, summary.proto, tensor.proto and hparams/plugin_data.proto of TensorBoard 2.21,
whose own reader is the oracle of the tests. The first value of a tag decides for ever what TensorBoard takes the tag
for, and its metadata is all that HPARAMS reads: a session that was written can't be corrected.
"""

import math
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from pipetrail.formats.protobuf import as_varint
from pipetrail.formats.tfrecord import framed
from pipetrail.record import number
from pipetrail.targets.target import Metric, RunStatus

STATE_TAG: Final = "pipetrail/state"
STATE_PLUGIN: Final = "pipetrail"  # a plugin that TensorBoard does not have: it keeps the value and shows nothing
SESSION_START_TAG: Final = "_hparams_/session_start_info"
SESSION_END_TAG: Final = "_hparams_/session_end_info"

_VERSION: Final = "brain.Event:2"
_DT_FLOAT, _DT_STRING = 1, 7
_DATA_CLASS_TENSOR: Final = 2
_STATUS: Final[Mapping[RunStatus, int]] = {"Finished": 1, "Failed": 2, "Killed": 2, "Running": 3}


def version(wall_s: float) -> bytes:
    """The record that every event file begins with."""
    return framed(_double(1, wall_s) + _bytes(3, _VERSION.encode()))


def event(wall_s: float, step: int, values: Iterable[bytes]) -> bytes:
    """One record of several values: they are all there or none is."""
    summary = b"".join(_bytes(1, value) for value in values)
    return framed(_double(1, wall_s) + _int(2, step) + _bytes(5, summary))


def scalars(metrics: Iterable[Metric]) -> Iterator[bytes]:
    """A record for each point: `simple_value` is float32, `wall_time` seconds."""
    heads: dict[str, bytes] = {}
    for m in metrics:
        head = heads.get(m.key)
        if head is None:
            tag = _bytes(1, m.key.encode())
            value = len(tag) + 5
            summary = 1 + len(as_varint(value)) + value
            head = heads[m.key] = b"\x2a" + as_varint(summary) + b"\x0a" + as_varint(value) + tag + b"\x15"
        yield framed(_double(1, m.time_ms / 1000) + _int(2, m.step) + head + struct.pack("<f", m.value))


def text(tag: str, markdown: str) -> bytes:
    """A value of the plugin *text*, which renders markdown and takes scripts out of it."""
    return _value(tag, "text", _strings(markdown.encode()), data_class=_DATA_CLASS_TENSOR)


def image(tag: str, png: bytes) -> bytes:
    """A value of the plugin *images*; the size stands in the PNG's header."""
    width, height = struct.unpack(">II", png[16:24])
    picture = _int(1, height) + _int(2, width) + _int(3, 4) + _bytes(4, png)
    return _bytes(1, tag.encode()) + _bytes(4, picture)


def state(json: bytes) -> bytes:
    """A value for our own reader (journal.py)."""
    return _value(STATE_TAG, STATE_PLUGIN, _strings(json))


def session(
    params: Mapping[str, str], started_s: float, status: RunStatus, finished_s: float | None
) -> Sequence[bytes]:
    """A run in HPARAMS, with its end: one session, in a group of its own."""
    entries = (_bytes(1, k.encode()) + _bytes(2, _hparam(v)) for k, v in params.items())
    start = b"".join(_bytes(1, entry) for entry in entries) + _double(5, started_s)
    end = _int(1, _STATUS[status]) + (_double(2, finished_s) if finished_s is not None else b"")
    return (
        _value(SESSION_START_TAG, "hparams", _NOTHING, content=_bytes(3, start)),
        _value(SESSION_END_TAG, "hparams", _NOTHING, content=_bytes(4, end)),
    )


def hparam(text: str) -> float | str:
    """A param as HPARAMS gets it: a number where it is strictly one that float64 holds, so that columns have a scale.

    NaN and the infinities are texts: TensorBoard drops them as numbers (hparams/json_format_compat.py).
    """
    value = number(text)
    if value is None or not math.isfinite(_as_float(value)) or _as_float(value) != value:
        return text
    return _as_float(value)


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _hparam(value: str) -> bytes:
    match hparam(value):
        case float() as found:
            return _double(2, found)
        case found:
            return _bytes(3, found.encode())


def _value(tag: str, plugin: str, tensor: bytes, *, content: bytes = b"", data_class: int = 0) -> bytes:
    """A ``Summary.Value`` with a tensor and the plugin that it is for."""
    data = _bytes(1, plugin.encode()) + (_bytes(2, content) if content else b"")
    metadata = _bytes(1, data) + (_int(4, data_class) if data_class else b"")
    return _bytes(1, tag.encode()) + _bytes(8, tensor) + _bytes(9, metadata)


def _strings(one: bytes) -> bytes:
    """A scalar tensor of one string."""
    return _int(1, _DT_STRING) + _bytes(2, b"") + _bytes(8, one)


def _bytes(field: int, raw: bytes) -> bytes:
    return as_varint(field << 3 | 2) + as_varint(len(raw)) + raw


def _int(field: int, value: int) -> bytes:
    return as_varint(field << 3) + as_varint(value & (1 << 64) - 1)


def _double(field: int, value: float) -> bytes:
    return struct.pack("<Bd", field << 3 | 1, value)


_NOTHING: Final = _int(1, _DT_FLOAT) + _bytes(2, _bytes(2, b""))  # a vector of no floats: the metadata is all
