"""Scalars of TensorBoard event files, without TensorFlow: TFRecords of Event protobufs, checksums verified.

A value is a float32, widened, as TensorBoard's own reader gives it. Read are ``simple_value`` and tensors of one float
or double of the plugin "scalars"; images, histograms, graphs and hyperparameters are not. A damaged record ends the
file: what stands before it counts.
"""

import struct
from datetime import UTC, datetime
from typing import Final

from pipetrail.formats import protobuf
from pipetrail.formats.points import Points
from pipetrail.formats.tfrecord import FOOT_BYTES, HEAD_BYTES, masked_crc, payload_bytes

_MAX_RECORD: Final = 64 << 10  # a scalar takes about 100 bytes; what is bigger is an image, an audio or a graph


def events(data: bytes, points: Points) -> None:
    """Add the scalars of an event file, each at its step and wall time."""
    plugins: dict[str, str] = {}  # only the first value of a tag need name its plugin
    at = 0
    while at < len(data) and not points.full:
        size = payload_bytes(data, at)
        stop = at + HEAD_BYTES + (size or 0)
        if size is None or stop + FOOT_BYTES > len(data):
            points.note("TensorBoardDamaged", f"the event file breaks off or is damaged at byte {at}")
            return
        if size <= _MAX_RECORD:
            record = data[at + HEAD_BYTES : stop]
            if masked_crc(record) != int.from_bytes(data[stop : stop + FOOT_BYTES], "little"):
                points.note("TensorBoardDamaged", f"the event file is damaged at byte {at}")
                return
            try:
                _event(record, points, plugins)
            except (struct.error, ValueError, OverflowError):
                points.note("TensorBoardDamaged", f"the event file holds something else at byte {at}")
                return
        at = stop + FOOT_BYTES


def _event(record: bytes, points: Points, plugins: dict[str, str]) -> None:
    step, time, summaries = 0, None, []
    for field, value in protobuf.fields(record):
        match field, value:
            case 1, bytes():
                time = datetime.fromtimestamp(struct.unpack("<d", value)[0], UTC)
            case 2, int():
                step = value - (1 << 64) if value >> 63 else value
            case 5, bytes():
                summaries.append(value)
    for summary in summaries:
        for field, entry in protobuf.fields(summary):
            if field == 1 and isinstance(entry, bytes) and (found := _scalar(entry, plugins)):
                points.add(found[0], found[1], step, time=time, recognised="tensorboard")


def _scalar(entry: bytes, plugins: dict[str, str]) -> tuple[str, float] | None:
    tag, simple, tensor = "", None, None
    for field, value in protobuf.fields(entry):
        match field, value:
            case 1, bytes():
                tag = value.decode()
            case 2, bytes() if len(value) == 4:
                simple = struct.unpack("<f", value)[0]
            case 8, bytes():
                tensor = value
            case 9, bytes():
                plugin = next((v for f, v in protobuf.fields(value) if f == 1 and isinstance(v, bytes)), b"")
                name = next((v for f, v in protobuf.fields(plugin) if f == 1 and isinstance(v, bytes)), b"")
                plugins.setdefault(tag, name.decode())
    if simple is None and tensor is not None and plugins.get(tag) == "scalars":
        simple = _tensor(tensor)
    return None if simple is None else (tag, simple)


def _tensor(tensor: bytes) -> float | None:
    raw = b"".join(v for f, v in protobuf.fields(tensor) if f in (4, 5, 6) and isinstance(v, bytes))
    kind = next((v for f, v in protobuf.fields(tensor) if f == 1), 0)
    form = {1: "<f", 2: "<d"}.get(kind if isinstance(kind, int) else 0)  # DT_FLOAT, DT_DOUBLE
    return struct.unpack(form, raw)[0] if form and len(raw) == struct.calcsize(form) else None
