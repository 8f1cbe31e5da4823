"""A recording in which anything may be torn, missing or something else: a record in seconds, or one sentence."""

import gzip
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.property.test_argo_fuzz import JSON, changed, spots

from pipetrail import recording
from pipetrail.cli.preview import of_recording
from pipetrail.record import to_json

DATA = Path(__file__).parent.parent / "data"
RUNS = sorted(p for kind in ("argo", "kfp") for p in (DATA / kind).iterdir() if p.is_dir())
SECONDS = 10.0


def copy(source: Path, target: Path) -> Path:
    """The recording `source` alone, with what MLMD says of it."""
    folder = target / source.name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder)
    if (source.parent / recording.MLMD).is_file():
        shutil.copy(source.parent / recording.MLMD, folder)
    return folder


def lines(folder: Path) -> list[Any]:
    packed = folder / "events.jsonl.gz"
    text = gzip.decompress(packed.read_bytes()) if packed.exists() else (folder / "events.jsonl").read_bytes()
    return [json.loads(line) for line in text.splitlines()]


def files(folder: Path) -> Iterator[Path]:
    """All but the events."""
    yield from sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("events.jsonl"))


def spoil_events(data: st.DataObject, events: list[Any]) -> list[Any]:
    for _ in range(data.draw(st.integers(0, 5))):
        at = data.draw(st.integers(0, len(events) - 1))
        match data.draw(st.sampled_from(["gone", "doubled", "moved", "changed", "changed"])):
            case "gone" if len(events) > 1:
                del events[at]
            case "doubled":
                events.insert(data.draw(st.integers(0, len(events))), events[at])
            case "moved":
                events.insert(data.draw(st.integers(0, len(events) - 1)), events.pop(at))
            case "changed":
                events[at] = json.loads(json.dumps(events[at]))
                places = spots(events[at])
                changed(events[at], data.draw(st.sampled_from(places)), data.draw(JSON | st.just(...)))
    return events


def spoil_file(data: st.DataObject, file: Path, others: list[Path]) -> None:
    held = file.read_bytes()
    match data.draw(st.sampled_from(["gone", "cut", "flipped", "repeated", "swapped", "folder", "link"])):
        case "gone":
            file.unlink()
        case "cut":
            start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(held))] * 2)))
            file.write_bytes(held[start:end])
        case "flipped" if held:
            bytes_ = bytearray(held)
            for at in data.draw(st.lists(st.integers(0, len(held) - 1), max_size=20)):
                bytes_[at] ^= 0xFF
            file.write_bytes(bytes_)
        case "repeated":
            file.write_bytes(held * data.draw(st.integers(2, 40)))
        case "swapped":
            other = data.draw(st.sampled_from(others))
            file.write_bytes(other.read_bytes() if other.is_file() else b"")
        case "folder":
            file.unlink()
            file.mkdir()
        case "link":
            file.unlink()
            os.symlink("/etc/passwd", file)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
async def test_a_recording_with_anything_spoiled_is_a_record_in_seconds_or_says_what_is_wrong(tmp_path_factory, data):
    folder = copy(data.draw(st.sampled_from(RUNS)), tmp_path_factory.mktemp("spoiled"))
    events = spoil_events(data, lines(folder))
    for packed in folder.glob("events.jsonl*"):
        packed.unlink()
    (folder / "events.jsonl").write_text("".join(f"{json.dumps(event)}\n" for event in events))
    there = list(files(folder))
    for file in data.draw(st.lists(st.sampled_from(there), max_size=4, unique=True)) if there else ():
        spoil_file(data, file, there)
    began = time.process_time()
    try:
        said = to_json(await of_recording(folder, cluster="c"))
    except recording.BadRecording as error:
        said = str(error)
    assert said.encode()
    assert "root:x:0:0" not in said
    assert time.process_time() - began < SECONDS
    shutil.rmtree(folder)
