"""Starts and stops the parts, and asks them how they are.

A part's process is held at a gate until its identity is in the record: should this program die in
between, the gate closes and the part never starts, so nothing runs that nobody knows of.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from . import cgroups
from .identity import identify, is_running
from .layout import Layout
from .progress import Progress
from .recipes import digest_of
from .record import Ledger, Process, write_private
from .trouble import Trouble

GATE = 'read -r _ && exec "$0" "$@" </dev/null'
# Proxies of the user's session are left out: the parts talk to each other alone.
INHERITED = ("PATH", "LANG", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR")
SYSTEM_FOLDERS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
READY_WITHIN_S = 90.0
STOP_WITHIN_S = 8.0
KILLED_WITHIN_S = 10.0
POLL_S = 0.05
LOG_TAIL_LINES = 12


class Unhealthy(Exception):
    """A probe's answer: what is wrong with a part that runs."""


@dataclass(frozen=True)
class Part:
    """One process of the cluster and all that decides how it is started.

    `probe` raises Unhealthy (or OSError) until the part does its work. `files` are written before the
    start. With `cgroup` it starts inside that control group, so that all it begets can be found again.
    """

    name: str
    version: str
    argv: tuple[str, ...]
    address: str
    probe: Callable[[], None]
    env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[Path, str] = field(default_factory=dict)
    folders: tuple[Path, ...] = ()
    cgroup: str | None = None

    @property
    def spec(self) -> str:
        """Digest of all that it is started with: a part whose spec changed is restarted."""
        files = {str(path): text for path, text in self.files.items()}
        return digest_of(json.dumps([self.version, self.argv, dict(self.env), files, self.cgroup], sort_keys=True))


def start(part: Part, layout: Layout, ledger: Ledger) -> None:
    """Start a part; it is in the record before it runs. Does not wait until it is ready."""
    for folder in part.folders:
        folder.mkdir(parents=True, exist_ok=True)
    for path, text in part.files.items():
        write_private(path, text)
    layout.logs.mkdir(parents=True, exist_ok=True)
    log = layout.logs / f"{part.name}.log"
    environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
    environment |= {"PATH": f"{os.environ.get('PATH', '')}:{SYSTEM_FOLDERS}", "HOME": str(layout.cluster), **part.env}
    with log.open("ab") as out:
        child = subprocess.Popen(
            ["/bin/sh", "-c", GATE, *part.argv],
            cwd=layout.cluster,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    assert child.stdin is not None
    who = identify(child.pid)
    ledger.add(Process(part.name, part.version, part.spec, part.address, str(log), who))
    if part.cgroup:
        cgroups.enter(part.cgroup, child.pid)
    with suppress(BrokenPipeError):  # it died already; wait_ready tells
        child.stdin.write(b"go\n")
        child.stdin.close()
    # It is meant to outlive this program, so nobody here waits for it.
    child.returncode = 0


def stop(process: Process, ledger: Ledger, *, gently_s: float = STOP_WITHIN_S) -> None:
    """End a recorded process, if it is still that very one, and forget it."""
    who = process.identity
    if who is not None and is_running(who):
        with suppress(ProcessLookupError):
            os.kill(who.pid, signal.SIGTERM if gently_s else signal.SIGKILL)
        if not _gone(process, gently_s):
            with suppress(ProcessLookupError):
                os.kill(who.pid, signal.SIGKILL)
            if not _gone(process, KILLED_WITHIN_S):
                raise Trouble(f"{process.name} (process {who.pid}) does not end even when killed; see {process.log}")
    ledger.drop(process)


def _gone(process: Process, within_s: float) -> bool:
    until = time.monotonic() + within_s
    while is_running(process.identity):
        if time.monotonic() > until:
            return False
        with suppress(ChildProcessError):  # one that this very program started must be reaped by it
            os.waitpid(process.identity.pid if process.identity else 0, os.WNOHANG)
        time.sleep(POLL_S)
    return True


def complaint(part: Part, recorded: Process | None) -> str | None:
    """What is wrong with a part; None if it is well."""
    if recorded is None:
        return "not started"
    if not is_running(recorded.identity):
        return "not running"
    try:
        part.probe()
    except (Unhealthy, OSError) as wrong:
        return f"no answer: {wrong}"
    return None


def wait_ready(parts: Sequence[Part], ledger: Ledger, progress: Progress, expected_s: float) -> None:
    """Wait until all of the parts do their work; Trouble with the log's end if one dies or takes too long."""
    if not parts:
        return
    progress.begin(f"starting {', '.join(part.name for part in parts)}", expected_s)
    waiting = list(parts)
    until = time.monotonic() + READY_WITHIN_S
    while waiting:
        record = ledger.now()
        for part in list(waiting):
            recorded = record.process(part.name)
            wrong = complaint(part, recorded)
            if wrong is None:
                waiting.remove(part)
            elif recorded is not None and (not is_running(recorded.identity) or time.monotonic() > until):
                happened = "ended at once" if wrong == "not running" else f"is not ready ({wrong})"
                raise Trouble(f"{part.name} {happened}; the end of {recorded.log}:\n{log_tail(recorded)}")
        progress.tick()
        time.sleep(POLL_S)
    progress.done("ready")


def log_tail(process: Process) -> str:
    """The last lines that a part said."""
    try:
        lines = Path(process.log).read_text(errors="replace").splitlines()
    except OSError:
        lines = ["(no log)"]
    return "\n".join(f"    {text[:300]}" for text in lines[-LOG_TAIL_LINES:])


def reconcile(parts: Sequence[Part], layout: Layout, ledger: Ledger, progress: Progress, expected_s: float = 5) -> bool:
    """Start the parts that do not run as they should now; True if any had to be started."""
    record = ledger.now()
    stale = [part for part in parts if _is_stale(part, record.process(part.name))]
    for part in stale:
        if (old := record.process(part.name)) is not None:
            stop(old, ledger)
        start(part, layout, ledger)
    wait_ready(stale, ledger, progress, expected_s)
    return bool(stale)


def _is_stale(part: Part, recorded: Process | None) -> bool:
    return recorded is None or recorded.spec != part.spec or not is_running(recorded.identity)
