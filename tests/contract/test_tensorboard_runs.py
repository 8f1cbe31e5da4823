"""Recorded runs, brought by the courier to a volume that fills up and is swept, by operators that come and go.

The ledger writes nowhere; courier, target and file system are real, and TensorBoard's own reader says what arrived.
"""

import contextlib
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.contract.tensorboard_driver import TensorboardDriver
from tests.unit.shape_cases import policy, tree

from pipetrail import api
from pipetrail.delivery.courier import Courier
from pipetrail.delivery.lane import Limiter
from pipetrail.delivery.ledger import Entry, Ledger
from pipetrail.delivery.progress import Progress
from pipetrail.record import Record
from pipetrail.targets.target import TargetError, Tree
from pipetrail.targets.tensorboard.fit import fit
from pipetrail.targets.verify import differences

DATA = Path(__file__).parents[1] / "data" / "shape"
NAMES = sorted(path.name.removesuffix(".record.json") for path in DATA.glob("*.record.json"))


class Nowhere(Ledger):
    """Remembers in the entry alone."""

    def __init__(self) -> None:
        pass

    async def write(self, entry: Entry, **status: Any) -> Entry:
        return msgspec.structs.replace(entry, status=msgspec.structs.replace(entry.status, **status))


def entry(record: Record) -> Entry:
    run = api.RunRef(
        source=record.source, name=record.name, uid=record.key.uid, key=record.key.run, pipeline=record.pipeline
    )
    spec = api.TrackedRunSpec(
        run=run, target=api.TargetRef(name="boards", namespace="team-a"), policy=api.Policy(), experiment="e"
    )
    return Entry(name="e", namespace="team-a", version="1", spec=spec, status=api.TrackedRunStatus())


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB, or a folder where none can be mounted."""
    folder = tmp_path / "volume"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]
    subprocess.run(command, capture_output=True, check=False)
    yield folder
    if folder.is_mount():
        subprocess.run(["umount", "-l", folder], check=True)


def mounted(volume: Path) -> bool:
    return volume.is_mount()


def fill(volume: Path, left: int) -> None:
    """Leave so many bytes free, if the volume is so small."""
    filler = volume / "filler"
    filler.unlink(missing_ok=True)
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.tell() < (1 << 20):
            file.write(bytes(1024))
    with filler.open("r+b") as file:
        file.truncate(max(0, filler.stat().st_size - left))


@pytest.mark.parametrize("name", NAMES)
async def test_a_recorded_run_arrives_once_though_the_volume_is_full_now_and_then(volume: Path, name: str) -> None:
    rng = random.Random(name)
    record = msgspec.json.decode((DATA / f"{name}.record.json").read_bytes(), type=Record)
    wanted = tree(record, policy())
    driver = TensorboardDriver(volume)
    target = driver.target(None)
    progress = Progress(entry(record), unsure=True)
    failures: list[str] = []
    for attempt in range(40):
        room = 0 if attempt < 2 else rng.choice([0, 0, 12_288, 81_920]) if attempt < 30 else 1 << 20
        fill(volume, room)
        if rng.random() < 0.3:  # another operator: it knows what the files say
            target, progress = driver.target(None), Progress(entry(record), unsure=True)
        try:
            if await Courier(target, Nowhere(), Limiter(10_000.0)).deliver(progress, wanted, record):
                break
        except TargetError as trouble:
            failures.append(trouble.reason)
    assert set(failures) == ({"StorageFull"} if mounted(volume) else set())
    fill(volume, 1 << 20)
    assert_arrived(driver, wanted)


def assert_arrived(driver: TensorboardDriver, wanted: Tree) -> None:
    """Every run as TensorBoard's reader has it, and no other."""
    fitted = {run.key: fit(run) for run in wanted.runs}
    held = driver.oracle(wanted.parent.experiment)
    assert sorted(h.key for h in held) == sorted(fitted)
    for found in held:
        run = fitted[found.key]
        assert differences(run, found, note=found.note) == ()
        assert found.note.endswith(run.note)
