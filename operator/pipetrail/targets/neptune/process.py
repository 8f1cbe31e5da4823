"""The worker process as the operator sees it: started when it is needed, bounded in every way, and killable.

One call at a time is in the worker; the others wait here, so that a call which was never sent is never doubtful. The
worker is killed when a call takes longer than its deadline, when it says nothing for a while (it says so every second,
from a thread of its own), or when it holds too much memory; afterwards the next call starts another one, after a pause
that grows while they keep dying. Between calls it is replaced when it has grown or has done its share. Nothing that
happens to it takes longer than a deadline here, and nothing waits for it but calls of this one target.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from pipetrail.record import Frozen
from pipetrail.targets.neptune import folder as folders
from pipetrail.targets.neptune import wire
from pipetrail.targets.target import Refused, Retry, Unauthorised, Unusable

CHANGING: Final = (wire.Create, wire.Operate, wire.Upload, wire.Trash)
MODULE: Final = "pipetrail.targets.neptune.worker"


class Bounds(Frozen, frozen=True):
    """How long things may take, and how much a worker may hold. Seconds and bytes.

    `start_s` is for a worker's first call: the vendor's package takes 3 to 6 s to import. `address_space` is what the
    kernel allows it; numpy and pandas map much that they never touch.
    """

    start_s: float = 60.0
    call_s: float = 60.0
    http_s: float = 20.0
    silent_s: float = 15.0
    waiting_most: int = 32
    waiting_s: float = 120.0
    calls_most: int = 20_000
    rss_recycle: int = 190 << 20
    rss_most: int = 320 << 20
    address_space: int = 2 << 30
    pause_s: float = 0.5
    pause_most_s: float = 60.0
    closing_s: float = 5.0


class Rejection(Exception):
    """The server understood the call and does not want it: `text` is its reason, one short line."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class Process:
    """One worker and its successors. `setup` is told to each; `ca_pem` becomes a file of its own folder."""

    def __init__(
        self, setup: wire.Setup, *, ca_pem: str | None = None, bounds: Bounds | None = None, module: str = MODULE
    ) -> None:
        self._bounds = bounds or Bounds()
        self._setup = msgspec.structs.replace(
            setup, http_s=self._bounds.http_s, memory=self._bounds.address_space if sys.platform == "linux" else 0
        )
        self._ca_pem = ca_pem
        self._module = module
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._worker: _Worker | None = None
        self._deaths = 0
        self._not_before = 0.0
        self._closed = False

    @property
    def pid(self) -> int | None:
        """The worker's process id while there is one."""
        return self._worker.pid if self._worker is not None else None

    @property
    def rss(self) -> int:
        """The memory that it held when it last said so, in bytes."""
        return self._worker.rss if self._worker is not None else 0

    async def call(self, call: wire.Call) -> wire.Result:
        """Have `call` done. Raises :class:`Rejection` and the errors of targets/target.py, nothing else."""
        if self._closed:
            raise Retry("Unreachable", "the connection to this target is being renewed")
        if self._waiting >= self._bounds.waiting_most:
            raise Retry("WorkerBusy", f"{self._waiting} calls are waiting for the Neptune worker")
        self._waiting += 1
        try:
            async with asyncio.timeout(self._bounds.waiting_s):
                await self._turn.acquire()
        except TimeoutError:
            raise Retry("WorkerBusy", "the Neptune worker is busy with other calls") from None
        finally:
            self._waiting -= 1
        try:
            return await self._do(call)
        finally:
            self._turn.release()

    async def close(self) -> None:
        """Let the call under way end (for a while), then end the worker."""
        self._closed = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._bounds.closing_s), self._turn:
                pass
        await self._end()

    async def _do(self, call: wire.Call) -> wire.Result:
        if self._closed:
            raise Retry("Unreachable", "the connection to this target is being renewed")
        worker = await self._living()
        try:
            async with asyncio.timeout(self._bounds.call_s if worker.done else self._bounds.start_s):
                word = await worker.ask(call)
        except BaseException as error:
            # Whatever it was doing, nobody waits for it any more: what it would still do must not be done.
            await self._end()
            if isinstance(error, TimeoutError):
                self._died()
                raise self._failed("did not answer in time", call) from None
            if isinstance(error, Dead):
                self._died()
                raise self._failed(error.why, call) from None
            raise
        self._deaths = 0
        if worker.done >= self._bounds.calls_most or max(worker.rss, word.rss) > self._bounds.rss_recycle:
            await self._end()
        if isinstance(word, wire.Answer):
            return word.result
        raise _error(word)

    async def _living(self) -> "_Worker":
        if self._worker is not None and self._worker.alive:
            return self._worker
        await self._end()
        left_s = self._not_before - asyncio.get_running_loop().time()
        if left_s > 0:
            raise Retry("WorkerFailed", "the Neptune worker has failed and is started again soon", after_s=left_s)
        self._worker = await _Worker.start(self._setup, self._ca_pem, self._bounds, self._module)
        return self._worker

    async def _end(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            # Also if we are cancelled meanwhile: no worker is left behind.
            await asyncio.shield(worker.end())

    def _died(self) -> None:
        self._deaths += 1
        pause_s = min(self._bounds.pause_most_s, self._bounds.pause_s * 2.0 ** min(self._deaths - 1, 16))
        self._not_before = asyncio.get_running_loop().time() + pause_s

    def _failed(self, why: str, call: wire.Call) -> Retry:
        return Retry("WorkerFailed", f"the Neptune worker {why} and was ended", doubtful=isinstance(call, CHANGING))


class Dead(Exception):
    """The worker has ended, or was ended by its keeper."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class _Worker:
    """One living process: its pipes, its folder, and the task that listens to it."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path, bounds: Bounds) -> None:
        self._process = process
        self._folder = folder
        self._bounds = bounds
        self._number = 0
        self._heard: asyncio.Future[wire.Answer | wire.Trouble] | None = None
        self._why = ""
        self.done = 0
        self.rss = 0
        self._listener = asyncio.create_task(self._listen(), name=f"neptune worker {process.pid}")

    @classmethod
    async def start(cls, setup: wire.Setup, ca_pem: str | None, bounds: Bounds, module: str) -> "_Worker":
        folder = await asyncio.to_thread(folders.make)
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", module, cwd=folder, env=_environment(folder, setup, ca_pem),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
                limit=wire.LINE_MOST, start_new_session=True,
            )  # fmt: skip
        except BaseException:
            folders.remove(folder)
            raise
        worker = cls(process, folder, bounds)
        assert process.stdin is not None
        process.stdin.write(wire.encode(setup) + b"\n")
        return worker

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.returncode is None and not self._listener.done()

    async def ask(self, call: wire.Call) -> wire.Answer | wire.Trouble:
        """Raises :class:`Dead`; the caller sets a deadline."""
        self._number += 1
        self._heard = asyncio.get_running_loop().create_future()
        line = wire.encode(wire.Request(number=self._number, call=call)) + b"\n"
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line)
            await self._process.stdin.drain()
        except (BrokenPipeError, ConnectionResetError):
            raise Dead(self._why or "ended") from None
        hearing: tuple[asyncio.Future[Any], ...] = (self._heard, self._listener)
        await asyncio.wait(hearing, return_when=asyncio.FIRST_COMPLETED)
        if not self._heard.done():
            raise Dead(self._why or "ended")
        self.done += 1
        return self._heard.result()

    async def end(self) -> None:
        """Kill it, and leave nothing of it: no process, no pipe, no folder."""
        self._listener.cancel()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await asyncio.wait([self._listener])
        if self._process.stdin is not None:
            self._process.stdin.close()
        await self._process.wait()
        await asyncio.to_thread(folders.remove, self._folder)

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        silent_s = self._bounds.start_s  # an interpreter and its imports come before the first word
        try:
            while True:
                async with asyncio.timeout(silent_s):
                    line = await self._process.stdout.readline()
                silent_s = self._bounds.silent_s
                if not line:
                    self._why = "ended"
                    return
                word = wire.WORDS.decode(line)
                self.rss = word.rss or self.rss
                if self.rss > self._bounds.rss_most:
                    self._why = f"held {self.rss >> 20} MiB of memory"
                    return
                if isinstance(word, wire.Beat) or word.number != self._number or self._heard is None:
                    continue
                if not self._heard.done():
                    self._heard.set_result(word)
        except TimeoutError:
            self._why = "fell silent"
        except (ValueError, msgspec.DecodeError):  # readline: longer than the limit
            self._why = "said what is no answer"


def _environment(folder: Path, setup: wire.Setup, ca_pem: str | None) -> Mapping[str, str]:
    """Nothing of ours: no credentials, no proxies, no home. What is here is named.

    NEPTUNE_RETRIES_TIMEOUT=1 is one try: with 0 the client makes none, with more it repeats appends by itself.
    """
    environment = {
        "HOME": str(folder), "TMPDIR": str(folder), "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1", "PYTHONWARNINGS": "ignore", "NEPTUNE_RETRIES_TIMEOUT": "1",
        "NEPTUNE_REQUEST_TIMEOUT": str(max(1, int(setup.http_s))), "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "2",
    }  # fmt: skip
    environment |= {k: os.environ[k] for k in ("PYTHONPATH", "PYTHONHOME") if k in os.environ}
    if setup.server_uri.startswith("http://"):
        environment["OAUTHLIB_INSECURE_TRANSPORT"] = "1"  # the admin named an address without TLS
    if ca_pem is not None:
        path = folder / "ca.pem"
        path.write_text(ca_pem)
        environment["REQUESTS_CA_BUNDLE"] = str(path)
    return environment


def _error(trouble: wire.Trouble) -> Exception:
    match trouble.kind:
        case "retry":
            return Retry(trouble.reason, trouble.message, after_s=trouble.after_s, doubtful=trouble.doubtful)
        case "unauthorised":
            return Unauthorised(trouble.reason, trouble.message)
        case "unusable":
            return Unusable(trouble.reason, trouble.message)
        case "refused":
            return Refused(trouble.reason, trouble.message)
        case "rejected":
            return Rejection(trouble.message)
