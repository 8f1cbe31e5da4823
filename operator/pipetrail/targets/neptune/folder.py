"""The folder that a worker has for its own: made before it starts, gone after it, in the end also if we are killed.

Its name says which process made it (its id, and when it started, since ids come back). Whoever makes one takes away
those whose maker is gone; where there is no ``/proc`` nobody can tell, and they stay.
"""

import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Final

PREFIX: Final = "pipetrail-neptune-"
_NAME: Final = re.compile(rf"{PREFIX}([0-9]+)-([0-9]+)-\w+")


def make() -> Path:
    """A new one, for this user alone; those of makers that are gone are taken away."""
    _sweep(Path(tempfile.gettempdir()))
    pid = os.getpid()
    return Path(tempfile.mkdtemp(prefix=f"{PREFIX}{pid}-{_started(pid)}-"))


def remove(folder: Path) -> None:
    """Take it away, whatever is in it."""
    shutil.rmtree(folder, ignore_errors=True)


def _sweep(where: Path) -> None:
    if not _started(os.getpid()):
        return
    for entry in os.scandir(where):
        match = _NAME.fullmatch(entry.name)
        if match and entry.is_dir(follow_symlinks=False) and _started(int(match[1])) != int(match[2]):
            remove(Path(entry.path))


def _started(pid: int) -> int:
    """When a process started, in ticks since the machine did; 0 if there is none, or nobody tells."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0
