"""The worker's keeper: real processes that hang, fall silent, leak, die and talk nonsense; nothing is left of any."""

import asyncio
import contextlib
import glob
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from pipetrail.targets.neptune import folder, wire
from pipetrail.targets.neptune.process import Bounds, Process
from pipetrail.targets.target import Retry

QUICK = Bounds(start_s=20.0, call_s=0.5, silent_s=0.4, pause_s=0.2, closing_s=0.2, rss_most=512 << 20)
CHECK = wire.Check()
WRITE = wire.Operate(run="r", operations=())
Keeper = Callable[..., Process]


@pytest.fixture
async def keeper(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Keeper]:
    """Makes processes that misbehave as they are told, and ends them."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    made: list[Process] = []

    def make(how: str, bounds: Bounds = QUICK) -> Process:
        setup = wire.Setup(server_uri="http://127.0.0.1:9", project=how, token="t0ken")
        made.append(Process(setup, bounds=bounds, module="tests.real.neptune_misbehaving"))
        return made[-1]

    yield make
    for process in made:
        await process.close()


def gone(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return False
    return True


async def warmed(process: Process) -> int:
    """Its first call has more time; how it goes wrong is seen at the second."""
    return int((await process.call(CHECK)).version)


async def test_no_process_is_started_before_the_first_call_and_none_is_left_after_close(keeper: Keeper) -> None:
    process = keeper("well")
    assert process.pid is None
    pid = await warmed(process)
    assert process.pid == pid
    assert await warmed(process) == pid
    await process.close()
    assert gone(pid)
    with pytest.raises(Retry, match="being renewed"):
        await process.call(CHECK)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("hang", "did not answer in time"), ("silent", "fell silent"), ("die", "ended and"),
        ("nonsense", "said what is no answer"), ("leak", "held 10000 MiB of memory"),
    ],
)  # fmt: skip
async def test_a_worker_that_goes_wrong_is_ended_and_the_next_call_after_a_pause_has_another(
    keeper: Keeper, how: str, said: str
) -> None:
    # What is not about a time-out must not meet one on a busy machine.
    start_s, call_s = (4.0, 0.5) if how == "hang" else (30.0, 20.0)
    process = keeper(
        how, Bounds(start_s=start_s, call_s=call_s, silent_s=0.4, pause_s=0.2, closing_s=0.2, rss_most=512 << 20)
    )
    with pytest.raises(Retry, match=said) as caught:
        await process.call(WRITE)
    assert (caught.value.reason, caught.value.doubtful) == ("WorkerFailed", True)
    assert process.pid is None
    with pytest.raises(Retry, match="started again soon") as caught:
        await process.call(WRITE)
    assert not caught.value.doubtful
    assert 0 < caught.value.after_s <= 0.2
    await asyncio.sleep(0.2)
    with pytest.raises(Retry, match=said) as caught:
        await process.call(CHECK)
    assert not caught.value.doubtful  # a call that only asks leaves nothing in doubt


async def test_the_pause_grows_while_workers_keep_dying(keeper: Keeper) -> None:
    process = keeper("die", Bounds(pause_s=0.5, pause_most_s=1.5))
    pauses = []
    for _ in range(4):
        with pytest.raises(Retry, match="was ended"):
            await process.call(CHECK)
        with pytest.raises(Retry) as caught:
            await process.call(CHECK)
        pauses.append(caught.value.after_s)
        await asyncio.sleep(caught.value.after_s)
    for pause, most in zip(pauses, (0.5, 1.0, 1.5, 1.5), strict=True):
        assert most - 0.4 < pause <= most


async def test_a_worker_that_is_killed_from_outside_is_replaced(keeper: Keeper) -> None:
    process = keeper("well", Bounds(pause_s=0.0))
    pid = await warmed(process)
    os.kill(pid, signal.SIGKILL)
    await asyncio.sleep(0.1)
    assert await warmed(process) != pid


async def test_a_worker_that_has_grown_is_replaced_between_calls(keeper: Keeper) -> None:
    process = keeper("grow", Bounds(rss_recycle=500 << 20, rss_most=2000 << 20))
    first = (await process.call(CHECK)).version
    assert process.pid is None
    assert gone(int(first))
    assert (await process.call(CHECK)).version != first


async def test_a_worker_that_has_done_its_share_is_replaced(keeper: Keeper) -> None:
    process = keeper("well", Bounds(calls_most=2))
    pids = [await warmed(process) for _ in range(4)]
    assert (pids[0], pids[2]) == (pids[1], pids[3])
    assert pids[0] != pids[2]


async def test_an_answer_to_another_call_is_not_taken_for_this_one(keeper: Keeper) -> None:
    assert (await keeper("late").call(CHECK)).version == "its own"


async def test_a_call_that_nobody_waits_for_any_more_is_ended_with_its_worker(keeper: Keeper) -> None:
    process = keeper("hang", Bounds())
    call = asyncio.create_task(process.call(WRITE))
    while process.pid is None:  # noqa: ASYNC110  it tells nobody
        await asyncio.sleep(0.01)
    pid = process.pid
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert process.pid is None
    assert gone(pid)


async def test_only_so_many_calls_wait_and_those_that_were_never_sent_are_not_doubtful(keeper: Keeper) -> None:
    process = keeper("hang", Bounds(start_s=1.5, waiting_most=2, waiting_s=0.3))
    calls = [asyncio.create_task(process.call(WRITE)) for _ in range(4)]
    ended = await asyncio.gather(*calls, return_exceptions=True)
    assert [(e.reason, e.doubtful) for e in ended] == [
        ("WorkerFailed", True), ("WorkerBusy", False), ("WorkerBusy", False), ("WorkerBusy", False),
    ]  # fmt: skip


async def test_one_that_hangs_delays_no_other(keeper: Keeper) -> None:
    hanging, well = keeper("hang", Bounds(start_s=5.0)), keeper("well")
    await warmed(well)
    stuck = asyncio.create_task(hanging.call(CHECK))
    loop = asyncio.get_running_loop()
    longest = 0.0
    while not stuck.done():
        before = loop.time()
        await well.call(CHECK)
        longest = max(longest, loop.time() - before)
        await asyncio.sleep(0.01)
    assert longest < 2.5
    with pytest.raises(Retry, match="did not answer in time"):
        await stuck


async def test_its_environment_is_made_from_nothing(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NEPTUNE_API_TOKEN", "another")
    said = json.loads((await keeper("environment").call(CHECK)).version)
    ours = {"LC_CTYPE", "PYTHONPATH"}  # what Python adds, and where this test keeps its worker
    assert said["environment"].keys() - ours == {
        "HOME", "TMPDIR", "LANG", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "PYTHONWARNINGS", "MALLOC_ARENA_MAX",
        "NEPTUNE_RETRIES_TIMEOUT", "NEPTUNE_REQUEST_TIMEOUT", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS",
        "OAUTHLIB_INSECURE_TRANSPORT",
    }  # fmt: skip
    assert "t0ken" not in json.dumps(said)
    assert said["environment"]["NEPTUNE_RETRIES_TIMEOUT"] == "1"
    assert said["environment"]["HOME"] == said["folder"]


async def test_nothing_of_its_folder_is_left(keeper: Keeper) -> None:
    process = keeper("environment")
    its = json.loads((await process.call(CHECK)).version)["folder"]
    assert await asyncio.to_thread(os.path.isdir, its)
    await process.close()
    assert not await asyncio.to_thread(os.path.exists, its)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
async def test_the_real_worker_ends_with_an_operator_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import asyncio\n"
        "from pipetrail.targets.neptune import wire\n"
        "from pipetrail.targets.neptune.process import Process\n"
        "async def main():\n"
        "    setup = wire.Setup(server_uri='http://127.0.0.1:9', project='a/b', token='x')\n"
        "    process = Process(setup)\n"
        "    call = asyncio.create_task(process.call(wire.Check()))\n"
        "    while process.pid is None: await asyncio.sleep(0.01)\n"
        "    print(process.pid, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    operator = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    assert operator.stdout is not None
    pid = int(await operator.stdout.readline())
    assert not gone(pid)
    operator.kill()
    await operator.wait()
    (left,) = await asyncio.to_thread(glob.glob, f"{tempfile.gettempdir()}/{folder.PREFIX}{operator.pid}-*")
    async with asyncio.timeout(10):
        while not gone(pid):  # noqa: ASYNC110  it is nobody's child any more
            await asyncio.sleep(0.05)
    folder.remove(await asyncio.to_thread(folder.make))  # the next operator tidies up
    assert not await asyncio.to_thread(os.path.exists, left)
