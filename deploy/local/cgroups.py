"""Control groups of our own: whatever a container runtime begets stays in them and is found there again.

On the first version of control groups every controller has a tree of its own; a group is made in each.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from .trouble import Trouble

ROOT = Path("/sys/fs/cgroup")
EMPTY_WITHIN_S = 15.0


def trees() -> list[Path]:
    """The roots of all control group trees: one on version 2, one for each controller on version 1."""
    if (ROOT / "cgroup.controllers").exists():
        return [ROOT]
    return sorted({path.resolve() for path in ROOT.iterdir() if (path / "cgroup.procs").exists()})


def make(name: str) -> None:
    """Make the group in every tree."""
    for tree in trees():
        group = tree / name
        group.mkdir(exist_ok=True)
        # A new cpuset has no processors and no memory, and takes no process until it has.
        for setting in ("cpuset.cpus", "cpuset.mems"):
            given = group / setting
            if given.exists() and (tree / "cgroup.procs").exists() and not given.read_text().strip():
                with suppress(OSError):
                    given.write_text((tree / setting).read_text())


def enter(name: str, pid: int) -> None:
    """Put a process into the group; what it starts from now on is in it too."""
    for tree in trees():
        with suppress(OSError):  # a tree that takes no process (version 1's hugetlb of some kernels) tells nothing
            (tree / name / "cgroup.procs").write_text(str(pid))


def members(name: str) -> set[int]:
    """Every process in the group and in those below it."""
    pids: set[int] = set()
    for tree in trees():
        for folder in _with_children(tree / name):
            with suppress(OSError):
                pids.update(int(line) for line in (folder / "cgroup.procs").read_text().split())
    return pids - {0}


def remove(name: str) -> None:
    """Kill all that is in the group and remove it from every tree."""
    until = time.monotonic() + EMPTY_WITHIN_S
    while pids := members(name):
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > until:
            raise Trouble(f"processes {sorted(pids)} of the control group {name} do not end even when killed")
        time.sleep(0.05)
    for tree in trees():
        for folder in _with_children(tree / name):
            _remove_folder(folder, until)


def _remove_folder(folder: Path, until: float) -> None:
    while True:
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            # The kernel lets go of the last process's group a moment after its end.
            if time.monotonic() > until:
                raise Trouble(f"{folder} is still in use and cannot be removed") from None
            time.sleep(0.05)
        else:
            return


def _with_children(group: Path) -> Iterator[Path]:
    """The groups below, children first, then the group itself."""
    for folder, _, _ in os.walk(group, topdown=False):
        yield Path(folder)
