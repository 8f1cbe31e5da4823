"""Event files on a disk that is full, read-only, missing, someone else's, slow, or written by two; and kills."""

import asyncio
import errno
import fcntl
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from msgspec.structs import replace

from pipetrail.delivery import plan as plans
from pipetrail.record import Markdown
from pipetrail.targets.target import Batch, File, Handle, Metric, Plot, Refused, Retry, TrackerRun, Unusable
from pipetrail.targets.tensorboard.storage import Given, append
from pipetrail.targets.tensorboard.target import TensorboardTarget
from pipetrail.targets.verify import differences

START = datetime(2025, 11, 3, 9, 30, tzinfo=UTC)
START_MS = round(START.timestamp() * 1000)


def points(n: int, key: str = "loss") -> tuple[Metric, ...]:
    return tuple(Metric(key=key, value=float(k), step=k, time_ms=START_MS + k) for k in range(n))


RUN = TrackerRun(
    key="c/u", root="c/u", experiment="churn", name="churn-x7k2p", status="Finished", started=START, finished=START,
    params={"depth": "4"}, metrics=points(500), note="a note",
)  # fmt: skip


def everything(run: TrackerRun) -> Batch:
    return Batch(params=run.params, tags=run.tags, metrics=run.metrics, status=run.status, finished=run.finished)


async def bring(target: TensorboardTarget, run: TrackerRun) -> Handle:
    """What delivery does after a start: look, read, and send what is missing."""
    found = await target.find(run)
    handle = found[0].handle if found else await target.open(run, None)
    held = await target.read(handle)
    batch = plans.plan(run, run.note, plans.from_held(held)).batch
    await target.write(handle, batch)
    return handle


def files(root: Path) -> dict[Path, bytes]:
    """Every file below a folder."""
    return {p: p.read_bytes() for p in root.rglob("*") if p.is_file()}


async def whole(target: TensorboardTarget, run: TrackerRun) -> bool:
    held = await target.find(run)
    return len(held) == 1 and differences(run, held[0], note=run.note) == ()


@pytest.fixture
def target(tmp_path: Path) -> TensorboardTarget:
    return TensorboardTarget(str(tmp_path), ("team-a",))


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", folder]
    made = subprocess.run(command, capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"cannot mount a file system here: {made.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


async def test_a_full_disk_takes_nothing_and_the_run_arrives_once_there_is_room(small: Path) -> None:
    target = TensorboardTarget(str(small), ("team-a",))
    run = target.fit(replace(RUN, metrics=points(8000)))
    handle = await target.open(run, None)
    filler = small / "filler"
    filler.write_bytes(bytes(256 << 10))
    before = await target.read(handle)
    with pytest.raises(Unusable) as caught:
        await target.write(handle, everything(run))
    assert caught.value.reason == "StorageFull"
    assert await target.read(handle) == before
    with filler.open("ab") as more, pytest.raises(OSError, match="No space"):
        more.write(bytes(1 << 20))
    with pytest.raises(Unusable) as caught:
        await target.check()
    assert caught.value.reason == "StorageFull"
    filler.unlink()
    assert (await target.check()).version
    await target.write(handle, everything(run))
    assert await whole(target, run)


def remount(folder: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", folder], check=True)


async def test_a_disk_that_is_read_only_is_said_so_and_the_run_arrives_later(small: Path) -> None:
    target = TensorboardTarget(str(small), ("team-a",))
    run = target.fit(RUN)
    handle = await target.open(run, None)
    remount(small, "ro")
    for call in (target.check(), target.write(handle, everything(run)), target.open(replace(run, key="b"), None)):
        with pytest.raises(Unusable) as caught:
            await call
        assert caught.value.reason == "StorageReadOnly"
    assert len(await target.find(run)) == 1
    remount(small, "rw")
    await target.write(handle, everything(run))
    assert await whole(target, run)


async def test_a_missing_root_is_never_made(tmp_path: Path) -> None:
    target = TensorboardTarget(str(tmp_path / "not-mounted"), ("team-a",))
    run = target.fit(RUN)
    for call in (target.check(), target.open(run, None), target.find(run)):
        with pytest.raises(Unusable) as caught:
            await call
        assert caught.value.reason == "StorageMissing"
    assert not (tmp_path / "not-mounted").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="takes another user's place")
async def test_a_folder_of_someone_else_is_said_so(tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents[:-1]):
        if folder.stat().st_uid == os.getuid() and folder.is_relative_to(tmp_path.parents[1]):
            folder.chmod(0o755)
    target = TensorboardTarget(str(tmp_path), ("team-a",))
    os.seteuid(65534)
    try:
        with pytest.raises(Unusable) as caught:
            await target.check()
    finally:
        os.seteuid(0)
    assert caught.value.reason == "StorageDenied"


async def test_no_link_below_the_root_is_followed(tmp_path: Path, target: TensorboardTarget) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (tmp_path / "team-a").mkdir()
    (tmp_path / "team-a" / "churn").symlink_to(secret)
    with pytest.raises(Unusable) as caught:
        await target.open(target.fit(RUN), None)
    assert caught.value.reason == "StorageOccupied"
    assert list(secret.iterdir()) == []


async def test_an_event_file_that_became_a_link_is_not_written_through(
    tmp_path: Path, target: TensorboardTarget
) -> None:
    run = target.fit(RUN)
    handle = await target.open(run, None)
    (file,) = (tmp_path / "team-a" / handle.id).iterdir()
    moved = tmp_path / "elsewhere"
    file.rename(moved)
    file.symlink_to(moved)
    before = moved.read_bytes()
    again = TensorboardTarget(str(tmp_path), ("team-a",))
    for one in (target, again):
        with pytest.raises((Unusable, Refused)):
            await one.write(handle, everything(run))
    assert moved.read_bytes() == before


async def test_a_named_pipe_in_the_place_of_a_file_holds_nobody_up(tmp_path: Path, target: TensorboardTarget) -> None:
    run = target.fit(RUN)
    handle = await target.open(run, None)
    (file,) = (tmp_path / "team-a" / handle.id).iterdir()
    file.unlink()
    os.mkfifo(file)
    async with asyncio.timeout(5):
        assert await TensorboardTarget(str(tmp_path), ("team-a",)).find(run) == []
        with pytest.raises(Refused):
            await target.write(handle, everything(run))


@pytest.mark.parametrize("name", ["../../escape", "/etc/x", "..", "a/../../../b", "x\x00/../y", ".pipetrail"])
async def test_no_name_leads_out_of_the_targets_folder(tmp_path: Path, target: TensorboardTarget, name: str) -> None:
    file = File(path=f"f/{name}", media_type="t", data=b"x")
    run = target.fit(replace(RUN, experiment=name, name=name, files=(file,)))
    parent = await target.open(run, None)
    child = target.fit(replace(run, key="child", name=name))
    await target.open(child, parent)
    await target.write(parent, Batch(files=run.files))
    assert [h.key for h in await target.find(run)] == ["c/u", "child"]
    there = [p.relative_to(tmp_path) for p in files(tmp_path)]
    assert {p.parts[0] for p in there} == {"team-a"}
    seen = [p for p in there if p.parts[1] != ".pipetrail"]
    assert sorted("tfevents" in p.name for p in seen) == [False, True, True]


async def test_a_file_whose_place_is_taken_is_a_change(target: TensorboardTarget) -> None:
    run = target.fit(RUN)
    parent = await target.open(run, None)
    await target.open(target.fit(replace(run, key="child", name="train")), parent)
    receipt = await target.write(parent, Batch(files=(File(path="train", media_type="t", data=b"x"),)))
    assert [(c.item, c.key, c.reason) for c in receipt.changes] == [("file", "train", "FileNotKept")]


async def test_a_ledger_that_was_tampered_with_leads_nowhere(target: TensorboardTarget) -> None:
    await target.open(target.fit(RUN), None)
    for handle in ("../team-b/churn/x", "/etc/passwd", "churn", ".pipetrail/runs/aa", "churn/../churn/churn-x7k2p"):
        for call in (target.read(Handle(id=handle)), target.write(Handle(id=handle), everything(RUN))):
            with pytest.raises(Refused) as caught:
                await call
            assert caught.value.reason == "RunGone"


async def test_two_runs_of_one_name_have_a_folder_each(target: TensorboardTarget) -> None:
    first, second = (target.fit(replace(RUN, key=key, root=key)) for key in ("c/1", "c/2"))
    handles = await asyncio.gather(target.open(first, None), target.open(second, None))
    ids = sorted(h.id for h in handles)
    assert ids[0] == "churn/churn-x7k2p"
    assert ids[1].startswith("churn/churn-x7k2p-")
    assert len(ids[1]) == len(ids[0]) + 5
    for run in (first, second):
        assert [h.key for h in await target.find(run)] == [run.key]


async def test_a_run_is_found_whatever_it_is_called_by_now(tmp_path: Path, target: TensorboardTarget) -> None:
    run = target.fit(RUN)
    handle = await target.open(run, None)
    again = TensorboardTarget(str(tmp_path), ("team-a",))
    (held,) = await again.find(replace(run, name="renamed", experiment="other"))
    assert (held.handle.id, held.name) == (handle.id, "churn-x7k2p")


async def test_a_run_is_found_by_name_if_the_index_is_lost(tmp_path: Path, target: TensorboardTarget) -> None:
    run = target.fit(RUN)
    handle = await target.open(run, None)
    for file in (tmp_path / "team-a" / ".pipetrail" / "runs").rglob("*"):
        if file.is_file():
            file.unlink()
    assert [h.handle.id for h in await TensorboardTarget(str(tmp_path), ("team-a",)).find(run)] == [handle.id]


async def test_a_run_that_is_there_is_never_opened_beside_itself(target: TensorboardTarget) -> None:
    run = target.fit(RUN)
    handle = await target.open(run, None)
    with pytest.raises(Retry) as caught:
        await target.open(run, None)
    assert caught.value.doubtful
    assert [h.handle.id for h in await target.find(run)] == [handle.id]


@pytest.mark.parametrize("left", [0, 10, 60, 200])
async def test_a_create_that_was_cut_short_is_made_good(tmp_path: Path, target: TensorboardTarget, left: int) -> None:
    run = target.fit(RUN)
    handle = await target.open(run, None)
    (file,) = (tmp_path / "team-a" / handle.id).iterdir()
    os.truncate(file, left)
    again = TensorboardTarget(str(tmp_path), ("team-a",))
    assert await again.find(run) == []
    assert await again.open(run, None) == handle
    await again.write(handle, everything(run))
    assert await whole(again, run)
    assert len(list(file.parent.iterdir())) == 1


async def test_what_others_put_there_is_left_alone_and_does_no_harm(tmp_path: Path, target: TensorboardTarget) -> None:
    run = target.fit(RUN)
    handle = await target.open(run, None)
    folder = tmp_path / "team-a" / handle.id
    foreign = {
        folder / "events.out.tfevents.1762162200.host.1.0": b"not a record",
        folder / "events.out.tfevents.1762162200.0123456789abcdef": b"named like ours",
        folder / "checkpoint.bin": bytes(1000),
        tmp_path / "team-a" / "events.out.tfevents.1": b"",
    }
    (folder / "validation").mkdir()
    foreign[folder / "validation" / "events.out.tfevents.2"] = b"x"
    for path, data in foreign.items():
        path.write_bytes(data)
    again = TensorboardTarget(str(tmp_path), ("team-a",))
    await bring(again, run)
    assert await whole(again, run)
    assert {path: path.read_bytes() for path in foreign} == foreign


async def test_a_copy_of_a_runs_file_is_not_that_run(tmp_path: Path, target: TensorboardTarget) -> None:
    run = target.fit(RUN)
    handle = await bring(target, run)
    (file,) = (tmp_path / "team-a" / handle.id).iterdir()
    copy = tmp_path / "team-a" / "churn" / "copy"
    copy.mkdir()
    (copy / file.name).write_bytes(file.read_bytes())
    assert [h.handle.id for h in await TensorboardTarget(str(tmp_path), ("team-a",)).find(run)] == [handle.id]


async def test_another_writer_is_waited_for_and_its_points_are_kept(tmp_path: Path, target: TensorboardTarget) -> None:
    run = target.fit(RUN)
    handle = await target.open(run, None)
    other = TensorboardTarget(str(tmp_path), ("team-a",))
    await target.write(handle, Batch(metrics=points(10, "first")))
    await other.write(handle, Batch(metrics=points(10, "second")))
    await target.write(handle, Batch(metrics=points(10, "third")))
    held = await other.read(handle)
    assert [m.key for m in held.metrics] == ["first"] * 10 + ["second"] * 10 + ["third"] * 10


async def test_two_processes_never_tear_each_others_records(tmp_path: Path, target: TensorboardTarget) -> None:
    run = target.fit(RUN)
    handle = await target.open(run, None)
    writers = [started(tmp_path, handle, key, 40) for key in ("left", "right")]
    assert [await asyncio.to_thread(w.wait, 60) for w in writers] == [0, 0]
    held = await target.read(handle)
    for key in ("left", "right"):
        assert [m.value for m in held.metrics if m.key == key] == [float(k) for k in range(40 * 50)]


def started(root: Path, handle: Handle, key: str, batches: int) -> subprocess.Popen:
    """A process that appends batches of 50 points under a key."""
    code = (
        "import asyncio, sys\n"
        "from pipetrail.targets.target import Batch, Handle, Metric\n"
        "from pipetrail.targets.tensorboard.target import TensorboardTarget\n"
        "async def main():\n"
        f"    target = TensorboardTarget({str(root)!r}, ('team-a',))\n"
        f"    for n in range({batches}):\n"
        f"        some = tuple(Metric(key={key!r}, value=float(k), step=k, time_ms={START_MS} + k)\n"
        "                     for k in range(n * 50, n * 50 + 50))\n"
        f"        await target.write(Handle(id={handle.id!r}), Batch(metrics=some))\n"
        "asyncio.run(main())\n"
    )
    return subprocess.Popen([sys.executable, "-c", code])


async def test_a_writer_that_is_killed_anywhere_leaves_a_run_that_can_be_finished(
    tmp_path: Path, target: TensorboardTarget
) -> None:
    rng = random.Random(7)
    run = target.fit(replace(RUN, metrics=points(4000)))
    handle = await target.open(run, None)
    killed = 0
    for _ in range(8):
        writer = started(tmp_path, handle, "loss", 80)
        await asyncio.to_thread(begun, tmp_path / "team-a" / handle.id, writer)
        await asyncio.sleep(rng.uniform(0.0, 0.05))
        writer.send_signal(signal.SIGKILL)
        killed += writer.wait() == -signal.SIGKILL
        again = TensorboardTarget(str(tmp_path), ("team-a",))
        (held,) = await again.find(run)
        steps = [m.step for m in held.metrics]
        assert len(steps) == len(set(steps)) == len(held.metrics)
        await again.write(handle, plans.plan(run, run.note, plans.from_held(held)).batch)
        assert await whole(again, run)
        await again.discard(handle)
        handle = await again.open(run, None)
    assert killed >= 6


def begun(folder: Path, writer: subprocess.Popen) -> None:
    """Returns once the writer has begun to append."""
    (file,) = folder.glob("events.out.tfevents.*")
    before = file.stat().st_size
    while file.stat().st_size == before and writer.poll() is None:
        time.sleep(0.001)


async def test_a_file_that_another_holds_for_long_is_tried_again_later(
    tmp_path: Path, target: TensorboardTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipetrail.targets.tensorboard.storage.LOCK_S", 0.1)
    run = target.fit(RUN)
    handle = await target.open(run, None)
    (file,) = (tmp_path / "team-a" / handle.id).iterdir()
    with file.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(Retry) as caught:
            await target.write(handle, everything(run))
    assert (caught.value.reason, caught.value.doubtful) == ("StorageBusy", False)
    await target.write(handle, everything(run))
    assert await whole(target, run)


async def test_what_takes_too_long_is_given_up_and_does_not_write_later(tmp_path: Path) -> None:
    target = TensorboardTarget(str(tmp_path), ("team-a",), call_s=0.2)
    run = target.fit(RUN)
    handle = await target.open(run, None)
    (file,) = (tmp_path / "team-a" / handle.id).iterdir()
    before = file.read_bytes()
    with file.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(Retry) as caught:
            await target.write(handle, everything(run))
        assert (caught.value.reason, caught.value.doubtful) == ("StorageSlow", True)
    await asyncio.sleep(0.3)  # the thread has the lock by now
    assert file.read_bytes() == before
    await bring(target, run)
    assert await whole(target, run)


def test_an_append_that_fails_half_way_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    file = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.write(file, b"whole and torn")

    def records() -> Iterator[bytes]:
        yield bytes(300 << 10)
        raise OSError(errno.EIO, "the disk")

    with pytest.raises(Retry) as caught:
        append(file, 5, records(), Given())
    os.close(file)
    assert (caught.value.reason, caught.value.doubtful) == ("StorageFailed", True)
    assert (tmp_path / "file").read_bytes() == b"whole"


async def test_points_that_were_not_fitted_spoil_nothing(target: TensorboardTarget) -> None:
    run = target.fit(RUN)
    handle = await target.open(run, None)
    wild = (Metric(key="a", value=1e300, step=0, time_ms=0), Metric(key="b", value=1.0, step=2**70, time_ms=0))
    receipt = await target.write(handle, Batch(metrics=(*wild, *run.metrics[:1])))
    assert [(c.item, c.key, c.reason) for c in receipt.changes] == [
        ("metric", "a", "Rejected"), ("metric", "b", "Rejected"),
    ]  # fmt: skip
    assert (await target.read(handle)).metrics == run.metrics[:1]


async def test_what_comes_after_the_end_is_said_to_be_missing_in_hparams(target: TensorboardTarget) -> None:
    run = target.fit(RUN)
    handle = await bring(target, run)
    receipt = await target.write(handle, Batch(params={"late": "1"}, status="Failed", finished=START))
    assert {(c.item, c.key, c.reason) for c in receipt.changes} == {
        ("run", "status", "FirstEndKept"), ("param", "late", "NotInHparams"),
    }  # fmt: skip
    held = await target.read(handle)
    assert (held.status, held.params) == ("Failed", {"depth": "4", "late": "1"})


async def test_a_figure_is_sent_once_however_often_a_process_starts(tmp_path: Path, target: TensorboardTarget) -> None:
    run = target.fit(replace(RUN, figures=(Plot(path="report", figure=Markdown(text="# hi"), time_ms=START_MS),)))
    await bring(target, run)
    before = files(tmp_path)
    again = TensorboardTarget(str(tmp_path), ("team-a",))
    await bring(again, run)
    assert files(tmp_path) == before


async def test_a_target_that_was_closed_says_so(target: TensorboardTarget) -> None:
    await target.close()
    with pytest.raises(Retry):
        await target.check()


async def test_threads_end_with_their_target(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    target = TensorboardTarget(str(tmp_path))
    await target.check()
    (own,) = set(threading.enumerate()) - before
    await target.close()
    await asyncio.to_thread(own.join, 5)
    assert not own.is_alive()
