"""The operator as users run it: a process with a kubeconfig, whose log lines are JSON.

The trackers of tests listen on loopback, which an operator does not call unless it is told to: so it is, but for tests
of just that (`allow=""`). Several operators look at parts of one cluster, so only tests of the Lease have one.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LOOPBACK = "127.0.0.0/8"


class Operator:
    """`pipetrail run`, to be started, killed and started again. Every start appends to one log."""

    def __init__(
        self,
        kubeconfig: Path,
        log: Path,
        *flags: str,
        env: dict[str, str] | None = None,
        allow: str = LOOPBACK,
        lease: bool = False,
    ) -> None:
        self.kubeconfig = kubeconfig
        self.log = log
        self.flags = (*flags, *(("--allow-address", allow) if allow else ()), *(() if lease else ("--no-lease",)))
        self.env = env or {}
        self.process: subprocess.Popen[bytes] | None = None
        self.starts = 0

    def start(self, *, wait_s: float = 30.0) -> None:
        """Start it and wait until it has read the ledger and watches."""
        before = len(self.lines("started"))
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pipetrail.cli", "run", "--log-format", "json", *self.flags],
                env={**os.environ, **self.env, "KUBECONFIG": str(self.kubeconfig)}, stdout=out, stderr=out,
            )  # fmt: skip
        self.starts += 1
        end = time.monotonic() + wait_s
        while len(self.lines("started")) == before:
            if self.process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"the operator did not start:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.02)

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGKILL)
            self.process.wait(10)

    def stop(self) -> int:
        """SIGTERM, as Kubernetes does; the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(40)

    def lines(self, event: str | None = None) -> list[dict[str, Any]]:
        """What it has logged so far, all starts together, or only lines of one event."""
        if not self.log.exists():
            return []
        return [line for line in _json_lines(self.log) if event is None or line.get("event") == event]


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for line in file:
            with contextlib.suppress(ValueError):
                yield json.loads(line)
