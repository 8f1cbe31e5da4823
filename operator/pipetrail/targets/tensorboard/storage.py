"""Folders and files below a target's directory, and nothing beside it: the only code here that touches a disk.

Every function blocks and is for threads (target.py). Names come from users, so folders are opened one by one, relative
to the one before and never through a link. One file has one writer at a time, by the system's own lock, which a process
gives back when it dies. Event files are appended to and never replaced: TensorBoard's reader keeps the file it opened.
"""

import contextlib
import errno
import fcntl
import os
import secrets
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from typing import BinaryIO, Final

from pipetrail.targets.target import Refused, Retry, TargetError, Unusable
from pipetrail.targets.tensorboard import paths

LOCK_S: Final = 10.0
CHUNK_BYTES: Final = 256 << 10
PROBE_BYTES: Final = 4096
NAMES_MOST: Final = 20_000  # in one folder

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # not to wait for who opens a named pipe
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class Given:
    """What a thread looks at before it writes: whether whoever asked still waits for it."""

    def __init__(self) -> None:
        self._up = threading.Event()

    def up(self) -> None:
        """Nobody waits any more: write nothing from now on."""
        self._up.set()

    def check(self) -> None:
        """Raises if given up."""
        if self._up.is_set():
            raise Retry("StorageSlow", "it took too long to get to writing", doubtful=True)


class Storage:
    """The directory of one target: `root` is the operator's, `parts` are ours below it."""

    def __init__(self, root: str, parts: tuple[str, ...]) -> None:
        self._root = root
        self._parts = parts
        self.where = "/".join((root.rstrip("/"), *parts))

    @contextlib.contextmanager
    def folder(self, parts: Iterable[str] = (), *, make: bool = False) -> Iterator[int]:
        """A descriptor of the folder at `parts`. Raises FileNotFoundError below the root, TargetError for the root."""
        try:
            fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise Unusable("StorageMissing", f"{self._root} is not there: mount the volume, or mend the root") from None
        except OSError as error:
            raise trouble(error, self._root) from None
        try:
            for part in (*self._parts, *parts):
                below = _step(fd, part, make=make)
                os.close(fd)
                fd = below
            yield fd
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else makes a run's folder meanwhile."""
        with self.folder((paths.OWN,), make=True) as fd:
            lock = os.open("lock", os.O_RDWR | os.O_CREAT | _FILE, 0o644, dir_fd=fd)
            try:
                locked(lock, fcntl.LOCK_EX)
                yield
            finally:
                os.close(lock)

    def probe(self) -> None:
        """Make the directory and write to it as a delivery would."""
        with self.folder((paths.OWN,), make=True) as fd:
            name = f"probe-{secrets.token_hex(6)}"
            try:
                file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FILE, 0o600, dir_fd=fd)
                try:
                    _write(file, bytes(PROBE_BYTES))
                    os.fsync(file)
                finally:
                    os.close(file)
            finally:
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=fd)

    def replace(self, parts: tuple[str, ...], data: bytes, *, durable: bool = True) -> None:
        """A small file, whole or not at all, its folders made where there are none."""
        *folders, name = parts
        with self.folder(folders, make=True) as fd:
            draft = f".{secrets.token_hex(8)}"
            try:
                file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FILE, 0o644, dir_fd=fd)
                try:
                    _write(file, data)
                    if durable:
                        os.fsync(file)
                finally:
                    os.close(file)
                os.rename(draft, name, src_dir_fd=fd, dst_dir_fd=fd)
            except OSError:
                with contextlib.suppress(OSError):
                    os.unlink(draft, dir_fd=fd)
                raise

    def small(self, parts: tuple[str, ...], most: int) -> bytes:
        """The beginning of a small file; empty if there is none."""
        *folders, name = parts
        try:
            with self.folder(folders) as fd, opened(name, fd, os.O_RDONLY) as file:
                return file.read(most)
        except (FileNotFoundError, NotADirectoryError):
            return b""


def names(fd: int) -> list[os.DirEntry[str]]:
    """What lies in a folder, by name; not more than :data:`NAMES_MOST`."""
    found = []
    with os.scandir(fd) as entries:
        for entry in entries:
            found.append(entry)
            if len(found) >= NAMES_MOST:
                break
    return sorted(found, key=lambda e: e.name)


@contextlib.contextmanager
def opened(name: str, fd: int, flags: int) -> Iterator[BinaryIO]:
    """The regular file `name` in the folder `fd`, buffered for reading. FileNotFoundError if it is no such."""
    file = os.open(name, flags | _FILE, 0o644, dir_fd=fd)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise FileNotFoundError(errno.ENOENT, "no regular file", name)
    with os.fdopen(file, "rb" if flags & (os.O_WRONLY | os.O_RDWR) == 0 else "r+b", CHUNK_BYTES) as made:
        yield made


def locked(file: int, how: int) -> None:
    """Take the lock of `file`, or :class:`Retry` when another has it for long; closing gives it back."""
    end = time.monotonic() + LOCK_S
    while True:
        try:
            fcntl.flock(file, how | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise Retry("StorageBusy", f"another process has held the file for {LOCK_S:.0f} s") from None
            time.sleep(0.02)
        else:
            return


def append(file: int, at: int, records: Iterable[bytes], given: Given) -> int:
    """Write `records` at the byte `at`, where the file is cut first, and flush; the byte behind them is returned.

    If that fails the file is cut at `at` again. :class:`Unusable` says that the disk is full and none of it is there, a
    doubtful :class:`Retry` that what is there must be read.
    """
    given.check()
    try:
        os.ftruncate(file, at)
        end = _append(file, at, records)
        os.fsync(file)
    except BaseException as error:
        gone = _cut(file, at)
        if not isinstance(error, OSError):
            raise
        cause = trouble(error, "the event file")
        if gone and error.errno in _FULL:
            raise cause from None
        raise Retry(cause.reason, cause.message, doubtful=True) from None
    return end


def _cut(file: int, at: int) -> bool:
    """True if the file surely ends at `at` now."""
    try:
        os.ftruncate(file, at)
        os.fsync(file)
    except OSError:
        return False
    return True


def _append(file: int, at: int, records: Iterable[bytes]) -> int:
    os.lseek(file, at, os.SEEK_SET)
    waiting = bytearray()
    for record in records:
        waiting += record
        if len(waiting) >= CHUNK_BYTES:
            _write(file, bytes(waiting))
            at += len(waiting)
            waiting.clear()
    _write(file, bytes(waiting))
    return at + len(waiting)


def _write(file: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]


def _step(fd: int, part: str, *, make: bool) -> int:
    try:
        return os.open(part, _FOLDER, dir_fd=fd)
    except FileNotFoundError:
        if not make:
            raise
    with contextlib.suppress(FileExistsError):
        os.mkdir(part, 0o755, dir_fd=fd)
    return os.open(part, _FOLDER, dir_fd=fd)


def trouble(error: OSError, where: str) -> TargetError:
    """What a failed call means for a delivery. (A file that is not there is the caller's to judge.)"""
    said = f"{where}: {error.strerror or error}"
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return Unusable("StorageFull", f"{said}: make room, or let the volume grow")
        case errno.EROFS:
            return Unusable("StorageReadOnly", f"{said}: mount the volume for writing")
        case errno.EACCES | errno.EPERM:
            return Unusable("StorageDenied", f"{said}: the folder must belong to the operator's user or group")
        case errno.ELOOP | errno.ENOTDIR:
            return Unusable("StorageOccupied", f"{said}: a link or a file stands where a folder should")
        case errno.ENAMETOOLONG | errno.EILSEQ | errno.EINVAL:
            return Refused("Rejected", f"{said}: the file system does not take the name")
        case _:
            return Retry("StorageFailed", said)
