"""The contract suite's driver for TensorBoard: a folder; TensorBoard's own reader is the oracle.

What people see (scalars, HPARAMS, text) is held against what our entries say, so that the two can't tell two stories.
"""

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import SessionEndInfo, SessionStartInfo

from pipetrail.record import Number
from pipetrail.targets.target import Handle, Held, Metric
from pipetrail.targets.tensorboard.target import TensorboardTarget

EVERYTHING = dict.fromkeys(("compressedHistograms", "images", "audio", "scalars", "histograms", "tensors"), 0)
STATUS = {"Finished": 1, "Failed": 2, "Killed": 2}


class TensorboardDriver:
    """One directory below a root, as a namespaced target has it."""

    url: str | None = None
    create = write = ""
    remembers_deleted = False
    apart = False

    def __init__(self, root: Path, parts: tuple[str, ...] = ("team-a", "boards")) -> None:
        self.root = root
        self.parts = parts
        self.directory = root.joinpath(*parts)

    def target(self, url: str | None) -> TensorboardTarget:
        assert url is None
        return TensorboardTarget(str(self.root), self.parts, ui_uri="https://boards.example.com")

    def oracle(self, experiment: str) -> Sequence[Held]:
        said = json.dumps(experiment, ensure_ascii=False).encode()
        files = sorted(self.directory.rglob("events.out.tfevents.*"))
        return [self.held(file) for file in files if b'"experiment":' + said in file.read_bytes()]

    def parent(self, held: Held) -> str:
        above = self.directory / held.handle.id / ".."
        return str(above.resolve().relative_to(self.directory)) if list(above.glob("events.out.*")) else ""

    def stored(self, value: Number) -> Number:
        """float32, where that is more than another number of digits."""
        try:
            rounded = struct.unpack("<f", struct.pack("<f", value))[0]
        except (OverflowError, struct.error):
            return value
        exact = isinstance(value, float) or int(float(value)) == value
        return rounded if exact and (rounded != 0 or value == 0) else value

    def held(self, file: Path) -> Held:
        """A run as TensorBoard's reader gives it."""
        reader = accumulated(file)
        entries = [json.loads(e.tensor_proto.string_val[0]) for e in reader.Tensors("pipetrail/state")]
        opening = next(e["opening"] for e in entries if "opening" in e)
        params: dict[str, str] = {}
        tags: dict[str, str] = {}
        note, status, finished_ms = "", "Running", None
        for entry in entries:
            params |= entry.get("params", {})
            tags |= entry.get("tags", {})
            note = entry.get("note", note)
            if "status" in entry:
                status, finished_ms = entry["status"], entry.get("finished_ms")
        self._shown(reader, opening, params, entries)
        return Held(
            key=tags.get("pipetrail.key", ""), handle=Handle(id=str(file.parent.relative_to(self.directory))),
            name=opening["name"], status=status, started_ms=opening["started_ms"], finished_ms=finished_ms,
            params=params, tags=tags, note=note, metrics=points(reader), figures=figures(reader), whole=True,
        )  # fmt: skip

    def _shown(self, reader: "EventAccumulator", opening: dict, params: dict[str, str], entries: list[dict]) -> None:
        ended = next((e for e in entries if e.get("session")), None)
        told = session(reader)
        if ended is None:
            assert told is None
            return
        assert told is not None
        start, end = told
        assert start.start_time_secs == opening["started_ms"] / 1000
        assert end.status == STATUS[ended["status"]]
        assert round(end.end_time_secs * 1000) == ended.get("finished_ms", 0)
        for key, value in start.hparams.items():
            if value.HasField("number_value"):
                assert float(params[key]) == value.number_value
            else:
                assert params[key] == value.string_value


def accumulated(file: Path) -> "EventAccumulator":
    """`file` read whole, nothing sampled."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(file), size_guidance=EVERYTHING)
    reader.Reload()
    return reader


def points(reader: "EventAccumulator") -> tuple[Metric, ...]:
    """All scalars in their order."""
    return tuple(
        Metric(key=tag, value=e.value, step=e.step, time_ms=round(e.wall_time * 1000))
        for tag in reader.Tags()["scalars"]
        for e in reader.Scalars(tag)
    )


def figures(reader: "EventAccumulator") -> frozenset[str]:
    """Paths of the figures: each has a text beside its image, if it has one."""
    texts = (tag for tag in reader.Tags()["tensors"] if tag.endswith("/text"))
    return frozenset(tag.removesuffix("/text") for tag in texts)


def session(reader: "EventAccumulator") -> "tuple[SessionStartInfo, SessionEndInfo] | None":
    """What HPARAMS makes of the run."""
    from tensorboard.plugins.hparams import metadata as hparams

    try:
        contents = reader.PluginTagToContent("hparams")
    except KeyError:
        return None
    if hparams.SESSION_START_INFO_TAG not in contents:
        return None
    return (
        hparams.parse_session_start_info_plugin_data(contents[hparams.SESSION_START_INFO_TAG]),
        hparams.parse_session_end_info_plugin_data(contents[hparams.SESSION_END_INFO_TAG]),
    )
