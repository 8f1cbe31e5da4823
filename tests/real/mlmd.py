"""The genuine MLMD store with what a recording's mlmd.sqlite holds: ``with serving(file) as store: store.address``.

Its server (mlmd_store/serve.py) runs in an environment of its own, which uv makes once and keeps.
"""

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.real.mlflow import free_port

SERVER = Path(__file__).parent / "mlmd_store" / "serve.py"
START_S = 300.0  # the first time uv fetches the package: 12 MB


@dataclass
class Store:
    """A server on `file` that was started; what it said lies beside it."""

    file: Path
    port: int
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def address(self) -> str:
        """host:port."""
        return f"127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        """A line for each call."""
        return self.file.with_suffix(".log")

    def start(self) -> None:
        """Start it and wait until it answers; raises with what it said if it does not."""
        before = self._said("ready")
        command = [uv(), "run", "--quiet", "--locked", "--script", str(SERVER), str(self.file), str(self.port)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
            )
        end = time.monotonic() + START_S
        while self._said("ready") == before:
            if self.process.poll() is not None or time.monotonic() > end:
                said = self.log.read_text()[-2000:]
                self.stop()
                raise RuntimeError(f"the MLMD store did not start:\n{said}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Kill it: this server's own process group, nothing else."""
        process, self.process = self.process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
            assert process.stdin is not None
            process.stdin.close()

    def calls(self) -> Counter[str]:
        """How often each method was called so far."""
        return Counter(line.split()[0] for line in self._calls())

    def connections(self) -> set[str]:
        """The addresses that calls came from: one for each connection."""
        return {line.split()[1] for line in self._calls()}

    def _calls(self) -> list[str]:
        text = self.log.read_text() if self.log.exists() else ""
        return [line for line in text.splitlines() if line.startswith("Get")]

    def _said(self, word: str) -> int:
        text = self.log.read_text() if self.log.exists() else ""
        return sum(1 for line in text.splitlines() if line.startswith(word))


def uv() -> str:
    """uv as `uv run` names it, as the PATH has it, or where the Makefile put it."""
    state = Path(os.environ.get("PIPETRAIL_STATE") or Path.home() / ".cache" / "pipetrail")
    return os.environ.get("UV") or shutil.which("uv") or str(state / "uv" / "bin" / "uv")


def copied(file: Path, to: Path, namespaces: Mapping[str, str], stores: Mapping[str, str] | None = None) -> Path:
    """A copy of a metadata store whose runs are in other namespaces, their artifacts at other hosts, than recorded."""
    shutil.copyfile(file, to)
    with contextlib.closing(sqlite3.connect(to)) as store, store:
        for table in ("ContextProperty", "ExecutionProperty"):
            for old, new in namespaces.items():
                store.execute(
                    f"UPDATE {table} SET string_value = ? WHERE name = 'namespace' AND string_value = ?", (new, old)
                )
        for old, new in (stores or {}).items():
            store.execute(
                "UPDATE ArtifactProperty SET string_value = replace(string_value, ?, ?) "
                "WHERE name = 'store_session_info'",
                (f'"{old}"', f'"{new}"'),
            )
    return to


@contextlib.contextmanager
def serving(file: Path, *, port: int = 0) -> Iterator[Store]:
    """A store that answers, on `file` itself; stopped at the end."""
    store = Store(file, port or free_port())
    store.start()
    try:
        yield store
    finally:
        store.stop()
