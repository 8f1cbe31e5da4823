"""Which process is meant: a pid alone is reused, a pid with its start time is not.

The start time is counted from boot, so the boot's own id belongs to it as well.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True)
class Identity:
    """One process on this machine: `started` is the kernel's own figure, `boot` the boot it counts from."""

    pid: int
    started: str
    boot: str


@dataclass(frozen=True)
class Stat:
    """The parts of /proc/PID/stat that matter here."""

    state: str
    started: str


def parse_stat(text: str) -> Stat:
    """Read a stat line; the command in brackets may hold blanks and brackets itself, so count from its end."""
    fields = text[text.rindex(")") + 1 :].split()
    return Stat(state=fields[0], started=fields[19])


def boot_id() -> str:
    """What tells this boot from every other."""
    try:
        return (PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "-"  # not Linux: the start time is a date there


def identify(pid: int) -> Identity | None:
    """Who runs under this pid now; None if nobody does. One that ended and is not yet reaped is nobody."""
    if sys.platform == "linux":
        try:
            stat = parse_stat((PROC / str(pid) / "stat").read_text())
        except (OSError, ValueError):
            return None
        return None if stat.state in "ZX" else Identity(pid, stat.started, boot_id())
    told = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    state, _, started = told.stdout.strip().partition(" ")
    return None if told.returncode or state.startswith("Z") else Identity(pid, started.strip(), boot_id())


def is_running(who: Identity | None) -> bool:
    """Whether this very process still runs, and not another under its pid."""
    return who is not None and identify(who.pid) == who


def resident_bytes(pid: int) -> int | None:
    """Memory that a process holds; None where it cannot be told."""
    try:
        pages = int((PROC / str(pid) / "statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")
