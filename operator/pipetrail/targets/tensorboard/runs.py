"""Tracker runs as folders of one directory. Blocking; target.py calls it from threads.

A run's folder is found by its root key: an index of tiny files says where it lies, however it is called by now, and
where the index is lost, the names that it would get. Children are its subfolders. That a folder is a run's is said by
its event file alone: by name, and by the key in it. What others put beside it is left alone.
"""

import fcntl
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import BinaryIO, Final

from pipetrail.record import Frozen
from pipetrail.targets.target import Batch, Change, File, Refused, Retry, TrackerRun
from pipetrail.targets.tensorboard import batches, journal, paths
from pipetrail.targets.tensorboard.journal import Journal, Opening, State
from pipetrail.targets.tensorboard.page import Drawn
from pipetrail.targets.tensorboard.storage import Given, Storage, append, locked, names, opened, trouble

REMEMBERED: Final = 64
REMEMBERED_CHARS: Final = 128 << 10  # of one run
PATH_BYTES: Final = 2000

Parts = tuple[str, ...]


class Found(Frozen, frozen=True):
    """A tracker run and the folder that it lies in."""

    parts: Parts
    state: State
    journal: Journal


class _Known(Frozen, frozen=True):
    """A file as we left it, so that the next write need not read it: valid while it is that file and that long."""

    name: str
    inode: int
    end: int
    state: State


class Runs:
    """All tracker runs of a directory."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._known: OrderedDict[Parts, _Known] = OrderedDict()
        self._guard = threading.Lock()

    def find(self, run: TrackerRun) -> Sequence[Found]:
        """The parent and its children, oldest first, whole; none if the parent is not there."""
        for parts in self._places(run):
            parent = self._there(parts, run.root)
            if parent is not None:
                children = [c for c in self._children(parts) if c.state.opening.root == run.root]
                return [parent, *sorted(children, key=lambda c: c.state.opening.opened_ns)]
        return []

    def open(self, run: TrackerRun, parent: Parts | None, given: Given) -> Parts:
        """A folder and a file for `run`; :class:`Retry` if there is one already, which a look-up will find."""
        above = paths.experiment(run.experiment) if parent is None else parent
        with self._storage.alone():
            given.check()
            for name in paths.candidates(run.name, run.key):
                parts = (*above, name)
                if self._taken(parts, run.key):
                    continue
                if parent is None:
                    self._storage.replace(paths.index(run.root), "/".join(parts).encode(), durable=False)
                self._make(parts, run, given)
                return parts
        raise Refused("Rejected", f"all folder names for run {run.name!r} are taken")

    def write(self, parts: Parts, batch: Batch, drawn: Sequence[Drawn], given: Given) -> tuple[Change, ...]:
        """Append what `batch` has, then lay its files beside it."""
        try:
            with self._storage.folder(parts) as fd:
                known = self._recall(parts)
                name = known.name if known is not None else self._event_file(fd)
                with opened(name, fd, os.O_RDWR) as file:
                    locked(file.fileno(), fcntl.LOCK_EX)
                    state, end = self._stands(file, known)
                    addition = batches.added(state, batch, drawn)
                    end = append(file.fileno(), end, addition.records, given)
                    inode = os.fstat(file.fileno()).st_ino
            self._remember(parts, _Known(name=name, inode=inode, end=end, state=addition.state))
        except FileNotFoundError:
            raise self._gone(parts) from None
        laid = (self._lay(parts, file) for file in (*batch.files, *(d.file for d in drawn if d.file is not None)))
        return (*addition.changes, *(change for change in laid if change is not None))

    def _lay(self, parts: Parts, file: File) -> Change | None:
        """A small file into the run's folder. The points are there by now: they must not be sent again unread."""
        try:
            self._storage.replace((*parts, *paths.file(file.path)), file.data)
        except (IsADirectoryError, NotADirectoryError):
            said = "something else lies in its place in the run's folder"
            return Change(item="file", key=file.path, reason="FileNotKept", detail=said)
        except OSError as error:
            cause = trouble(error, file.path)
            raise Retry(cause.reason, cause.message, doubtful=True) from None
        return None

    def read(self, parts: Parts) -> Found:
        """All that the run's file holds."""
        try:
            with self._storage.folder(parts) as fd, opened(self._event_file(fd), fd, os.O_RDONLY) as file:
                found = self._journal(file)
        except FileNotFoundError:
            raise self._gone(parts) from None
        if found.state is None:
            raise self._gone(parts)
        return Found(parts=parts, state=found.state, journal=found)

    def discard(self, parts: Parts) -> None:
        """Delete the run's event file, and its folder if nothing else is in it; nothing if it is gone already."""
        try:
            with self._storage.folder(parts) as fd:
                os.unlink(self._event_file(fd), dir_fd=fd)
            with self._storage.folder(parts[:-1]) as fd:
                os.rmdir(parts[-1], dir_fd=fd)
        except FileNotFoundError:
            pass
        except OSError:  # other things lie in the folder: it is not ours to empty
            pass
        finally:
            with self._guard:
                self._known.pop(parts, None)

    def _places(self, run: TrackerRun) -> Iterator[Parts]:
        """Folders where the parent may lie, the likeliest first."""
        said = self._storage.small(paths.index(run.root), PATH_BYTES).decode(errors="replace")
        indexed = paths.parts(said)
        if indexed is not None:
            yield indexed
        if run.key == run.root:
            above = paths.experiment(run.experiment)
            for name in paths.candidates(run.name, run.key):
                if (*above, name) != indexed:
                    yield (*above, name)

    def _there(self, parts: Parts, key: str) -> Found | None:
        """The tracker run of `key` in that folder, if it is there."""
        try:
            with self._storage.folder(parts) as fd:
                for entry in names(fd):
                    if paths.owner(entry.name) == paths.digest(key):
                        with opened(entry.name, fd, os.O_RDONLY) as file:
                            found = self._journal(file)
                        if found.state is not None and found.state.opening.key == key:
                            return Found(parts=parts, state=found.state, journal=found)
        except FileNotFoundError:
            pass
        return None

    def _children(self, parts: Parts) -> Iterator[Found]:
        with self._storage.folder(parts) as fd:
            below = [entry.name for entry in names(fd) if entry.is_dir(follow_symlinks=False)]
        for name in below:
            try:
                yield self.read((*parts, name))
            except Refused:
                continue

    def _event_file(self, fd: int) -> str:
        """The file of ours in a folder: named after the key that it was opened with. FileNotFoundError if none is."""
        for entry in names(fd):
            owner = paths.owner(entry.name)
            if owner:
                with opened(entry.name, fd, os.O_RDONLY) as file:
                    made = journal.opening(file)
                if made is not None and paths.digest(made.key) == owner:
                    return entry.name
        raise FileNotFoundError

    def _taken(self, parts: Parts, key: str) -> bool:
        """True if the folder is someone's; it is made here if it was not there."""
        with self._storage.folder(parts, make=True) as fd:
            entries = names(fd)
            for entry in entries:
                if paths.owner(entry.name) == paths.digest(key):
                    with opened(entry.name, fd, os.O_RDONLY) as file:
                        if journal.opening(file) is not None:
                            raise Retry("AlreadyThere", f"{'/'.join(parts)} is that run already", doubtful=True)
                    return False  # we were killed before its first records were whole
            return bool(entries)

    def _make(self, parts: Parts, run: TrackerRun, given: Given) -> None:
        opening = Opening(
            key=run.key, root=run.root, name=run.name, experiment=run.experiment,
            started_ms=batches.milliseconds(run.started), opened_ns=time.time_ns(),
        )  # fmt: skip
        first = batches.opened(opening, run.tags, run.note)
        name = paths.event_file(run.started, run.key)
        with self._storage.folder(parts) as fd:
            name = next((e.name for e in names(fd) if paths.owner(e.name) == paths.digest(run.key)), name)
            with opened(name, fd, os.O_RDWR | os.O_CREAT) as file:
                locked(file.fileno(), fcntl.LOCK_EX)
                end = append(file.fileno(), 0, first.records, given)
                inode = os.fstat(file.fileno()).st_ino
            os.fsync(fd)
        self._remember(parts, _Known(name=name, inode=inode, end=end, state=first.state))

    def _stands(self, file: BinaryIO, known: _Known | None) -> tuple[State, int]:
        """Where the next record goes: as we left the file, else as it reads; what is torn behind that is cut."""
        stat = os.fstat(file.fileno())
        if known is not None and (known.inode, known.end) == (stat.st_ino, stat.st_size):
            return known.state, known.end
        found = self._measured(file, points=False)
        if found.state is None:
            raise FileNotFoundError
        return found.state, found.end

    def _journal(self, file: BinaryIO) -> Journal:
        locked(file.fileno(), fcntl.LOCK_SH)
        return self._measured(file, points=True)

    def _measured(self, file: BinaryIO, *, points: bool) -> Journal:
        size = os.fstat(file.fileno()).st_size
        if size > journal.FILE_MOST:
            raise Refused("FileTooLarge", f"an event file of {size} bytes; up to {journal.FILE_MOST} are read")
        return journal.read(file, points=points)

    def _gone(self, parts: Parts) -> Refused:
        with self._guard:
            self._known.pop(parts, None)
        return Refused("RunGone", f"{'/'.join(parts)} is no longer in {self._storage.where}")

    def _recall(self, parts: Parts) -> _Known | None:
        with self._guard:
            return self._known.get(parts)

    def _remember(self, parts: Parts, known: _Known) -> None:
        with self._guard:
            self._known.pop(parts, None)
            if known.state.chars <= REMEMBERED_CHARS:
                self._known[parts] = known
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
