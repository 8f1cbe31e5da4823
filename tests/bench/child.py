"""Child processes that measure themselves: a word on stdin, a JSON line on stdout."""

import contextlib
import json
import resource
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any


class Child:
    """A module of the benchmark in a process of its own."""

    def __init__(self, process: "subprocess.Popen[str]", log: Path) -> None:
        self._process = process
        self._log = log

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def ask(self, word: str = "read") -> dict[str, Any]:
        """What it says to `word`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(word + "\n")
            self._process.stdin.flush()
        return self.next()

    def next(self) -> dict[str, Any]:
        """Its next line."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a child ended with {self._process.wait(10)}:\n{self._log.read_text()[-2000:]}")
        told: dict[str, Any] = json.loads(line)
        return told


@contextlib.contextmanager
def running(module: str, *words: str, env: Mapping[str, str], log: Path) -> Iterator[Child]:
    """`python -m tests.bench.MODULE WORDS`, ended at the end."""
    with log.open("ab") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", f"tests.bench.{module}", *words], env=dict(env), stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=err, text=True, cwd=Path(__file__).parents[2],
        )  # fmt: skip
    try:
        yield Child(process, log)
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def cpu_s() -> float:
    """User and system time of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def cpu_of(pid: int) -> float | None:
    """User and system time of another process; None where there is no /proc."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100.0  # clock ticks are hundredths on Linux
    return None


def memory_mb(pid: int) -> tuple[float, float] | None:
    """(peak, now) of a process's resident memory; None where there is no /proc."""
    with contextlib.suppress(OSError, KeyError, ValueError):
        lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        return tuple(int(lines[key].split()[0]) / 1024 for key in ("VmHWM", "VmRSS"))  # type: ignore[return-value]
    return None


def shown(port: int, beginning: str) -> float:
    """The sum of what an operator's page of metrics shows in the lines with that beginning."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as page:
        lines = page.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(beginning))


def answer(read: Callable[[], Mapping[str, Any]]) -> None:
    """In a child: answer each word with what `read` gives, from a thread of its own."""

    def serve() -> None:
        for _ in sys.stdin:
            print(json.dumps(dict(read())), flush=True)

    threading.Thread(target=serve, daemon=True).start()
