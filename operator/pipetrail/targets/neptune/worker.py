"""The worker process: hears calls on stdin, answers on stdout, ends when stdin ends or its parent dies.

``python -m pipetrail.targets.neptune.worker``; see :mod:`pipetrail.targets.neptune.process`, which starts, bounds and
kills it. The environment is made by the parent, from nothing.
"""

import contextlib
import ctypes
import os
import queue
import resource
import signal
import sys
import threading
from collections.abc import Callable
from ipaddress import ip_address
from types import ModuleType
from typing import BinaryIO, Final, NoReturn

from pipetrail.targets.addresses import Addresses, networks
from pipetrail.targets.neptune import wire

INBOX: Final = 4
_PR_SET_PDEATHSIG: Final = 1


def main() -> int:
    """Serve until the pipe ends."""
    _die_with_parent()
    # What libraries print is no answer: they get stderr, which goes nowhere.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    say = _Mouth(out)
    setup = wire.SETUP.decode(sys.stdin.buffer.readline(wire.LINE_MOST))
    if setup.memory:
        resource.setrlimit(resource.RLIMIT_AS, (setup.memory, setup.memory))
    threading.Thread(target=_beat, args=(say,), daemon=True).start()
    inbox: queue.Queue[wire.Request] = queue.Queue(INBOX)
    threading.Thread(target=_hear, args=(inbox,), daemon=True).start()
    serve = _serving(setup)
    while True:
        say(serve(inbox.get()))


def _serving(setup: wire.Setup) -> Callable[[wire.Request], wire.Word]:
    _leave_out()
    try:
        from pipetrail.targets.neptune.client import Client
        from pipetrail.targets.neptune.guard import Guard
        from pipetrail.targets.neptune.troubles import Sense
    except ImportError as error:
        lacking = error.name or "neptune"

        def refuse(request: wire.Request) -> wire.Word:
            why = f"the package {lacking} is not installed: install pipetrail[neptune]"
            return wire.Trouble(number=request.number, kind="unusable", reason="ClientMissing", message=why)

        return refuse

    addresses = Addresses(
        allowed=networks(setup.allowed),
        api_server=frozenset((ip_address(address), port) for address, port in setup.api_server),
    )
    guard = Guard(setup.server_uri, setup.http_s, addresses)
    guard.install()
    client = Client(setup)
    sense = Sense(guard, setup.server_uri, setup.project, setup.token)

    def serve(request: wire.Request) -> wire.Word:
        guard.begin()
        try:
            return wire.Answer(number=request.number, result=client.answer(request.call), rss=_rss())
        except Exception as error:  # noqa: BLE001  the package's exceptions share no base class
            return sense.of(request.number, error, logged_in=client.logged_in)

    return serve


def _leave_out() -> None:
    """Half of what the package loads we never use: 75 MiB and more than half of the time that a start takes.

    jsonschema does without grammars of addresses and durations. Of pandas the package wants one name, to tell tables
    among values; of boto3 the module, for artifacts that it tracks in S3 itself.
    """
    for name in ("rfc3987_syntax", "isoduration"):
        sys.modules[name] = None  # type: ignore[assignment]
    pandas = ModuleType("pandas")
    pandas.DataFrame = type("DataFrame", (), {})  # type: ignore[attr-defined]
    sys.modules |= {"pandas": pandas, "boto3": ModuleType("boto3")}


class _Mouth:
    """Whole lines on the pipe, whichever thread speaks."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._lock = threading.Lock()

    def __call__(self, word: wire.Word) -> None:
        line = wire.encode(word) + b"\n"
        with self._lock:
            try:
                self._out.write(line)
                self._out.flush()
            except OSError:
                _end()


def _beat(say: _Mouth) -> NoReturn:
    pause = threading.Event()
    while True:
        say(wire.Beat(rss=_rss()))
        pause.wait(wire.BEAT_S)


def _hear(inbox: "queue.Queue[wire.Request]") -> None:
    """Calls from the pipe. Its end is ours, also while a call hangs."""
    while line := sys.stdin.buffer.readline(wire.LINE_MOST):
        inbox.put(wire.REQUESTS.decode(line))
    _end()


def _end() -> NoReturn:
    os._exit(0)


def _die_with_parent() -> None:
    """Linux kills us when the thread that started us ends; elsewhere the end of stdin has to do."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _rss() -> int:
    """Resident memory in bytes, 0 where /proc does not tell."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[1]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return 0


if __name__ == "__main__":
    sys.exit(main())
