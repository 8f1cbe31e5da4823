"""The watch events of a recording's folder (`events.jsonl`, or `.gz` of it), in the order of their arrival."""

import gzip
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from pipetrail.replay.play import ReplayError

MAX_BYTES: Final = 1 << 30


class Event(msgspec.Struct, frozen=True):
    """One line: `at` is unix time of arrival, `object` the whole body."""

    at: float
    kind: str
    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR"]
    object: dict[str, Any]


def read(folder: Path) -> list[Event]:
    """The events in `folder`; raises :class:`ReplayError` that names the file and line at fault."""
    packed, plain = folder / "events.jsonl.gz", folder / "events.jsonl"
    path = packed if packed.exists() else plain
    if not path.exists():
        raise ReplayError(f"{folder} is no recording: it has no events.jsonl; `pipetrail record` makes one")
    decoder = msgspec.json.Decoder(Event)
    events: list[Event] = []
    n = 0
    try:
        with gzip.open(path, "rb") if path is packed else path.open("rb") as lines:
            for line in lines:
                n += 1  # noqa: SIM113 - the number is needed where the loop breaks
                if line.strip():
                    events.append(decoder.decode(line))
    except (msgspec.DecodeError, EOFError, OSError) as error:
        raise ReplayError(f"{path}, line {max(n, 1)}: {error}") from None
    return events
