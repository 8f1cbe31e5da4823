"""One at a time: the second caller waits and says for whom."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .progress import Progress


@contextmanager
def locked(path: Path, progress: Progress) -> Iterator[None]:
    """Hold the lock file at `path`. The kernel frees it when its holder dies, however that happens."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as lock:
        waited = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waited:
                    lock.seek(0)
                    progress.begin(f"waiting for process {lock.read().strip() or '?'}, which is at the same work")
                waited = True
                progress.tick()
                time.sleep(0.2)
        if waited:
            progress.done()
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
