"""Fetches what a reading refers to, and reads it: within limits, each thing once."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from fnmatch import fnmatchcase
from functools import partial
from typing import Final, TypeVar

import msgspec
from msgspec.structs import replace

from pipetrail.capture.cache import FileCache, Got
from pipetrail.capture.merging import merged
from pipetrail.capture.wants import Limits, Wants
from pipetrail.formats import Content, Note, RawPoint, executor_output, metrics, pages, stdout, tail, views
from pipetrail.readers import Blob, Fetched, Reader
from pipetrail.record import Figure, FromFile, FromStdout, Partial, Point, PointSource, Record, Unread
from pipetrail.sources import FileRef, GcsLocation, Location, LogRef, Reading, S3Location, Unreadable

_BIG: Final = 256 << 10
T = TypeVar("T")


class Capture:
    """One capture of one run."""

    def __init__(self, reading: Reading, reader: Reader, wants: Wants, cache: FileCache, limits: Limits) -> None:
        self._reading = reading
        self._record = reading.record
        self._reader = reader
        self._wants = wants
        self._cache = cache
        self._limits = limits
        self._slots = asyncio.Semaphore(limits.at_once)
        self._fetches = 0
        self._bytes = 0
        self._missed: set[int] = set()

    async def run(self) -> Record:
        """Fetch, read and merge."""
        files = [r for r in self._reading.files if self._wanted(r)]
        logs = [r for r in self._reading.logs if self._log_wanted(r)]
        late: tuple[Partial, ...] = ()
        try:
            async with asyncio.timeout(self._limits.seconds):
                got_files = await asyncio.gather(*(self._file(ref) for ref in files))
                got_logs = await asyncio.gather(*(self._log(ref) for ref in logs))
        except TimeoutError:
            said = f"files and logs were not read within {self._limits.seconds:.0f} s"
            late = (Partial(reason="CaptureTimeout", message=said),)
            got_files = [self._known(ref, self._file_key(ref)) for ref in files]
            got_logs = [self._known(ref, self._log_key(ref)) for ref in logs]
        self._cache.unread = Unread(steps=frozenset(self._missed), structure=self._reading.again)
        of_files, of_logs = zip(files, got_files, strict=True), zip(logs, got_logs, strict=True)
        return merged(self._record, of_files, of_logs, most=self._limits.points, late=late)

    def _wanted(self, ref: FileRef) -> bool:
        """A file that nothing could use isn't fetched: of a plain one the name tells, an archive may hold anything."""
        if ref.figure is not None:
            return self._wants.figures
        if not self._wants.files:
            return False
        place = f"{ref.artifact}/{(ref.path or '').rstrip('/').rpartition('/')[2]}"
        globs = (self._wants.exclude, self._wants.include)
        excluded, included = (any(fnmatchcase(place, g) for g in some) for some in globs)
        if excluded:
            return False
        return included or ref.archive != "none" or metrics.readable(place)

    def _log_wanted(self, ref: LogRef) -> bool:
        outputs = ref.launcher in ("checked", "alone") and self._wants.files
        return self._wants.stdout or outputs or self._tail_wanted(ref)

    def _tail_wanted(self, ref: LogRef) -> bool:
        match self._wants.logs:
            case "Always":
                return True
            case "OnFailure":
                return ref.failed
            case "Never":
                return False

    # --- fetching -------------------------------------------------------------------------------------------------

    async def _file(self, ref: FileRef) -> Got:
        if isinstance(ref.location, Unreadable):
            return Got(notes=(Note(reason=ref.location.reason, message=ref.location.message),))
        key = self._file_key(ref)
        if (known := self._cache.get(key)) is not None:
            return known
        fetched = await self._fetch(lambda: self._reader.artifact(self._record.namespace, ref))
        points: list[Point] = []
        figures: list[Figure] = []
        notes = list(fetched.notes)
        for blob in fetched.blobs:
            if any(fnmatchcase(f"{ref.artifact}/{blob.path}", g) for g in self._wants.exclude):
                continue
            if ref.figure == "views":
                content, again = await self._views(blob, ref)
                fetched = replace(fetched, again=fetched.again or again)
            else:
                content = await _read_file(blob, ref)
            figures += content.figures
            notes += (Note(reason=n.reason, message=f"{blob.path}: {n.message}") for n in content.notes)
            points += self._points(content.points, ref, partial(_from_file, ref.artifact, blob.path))
        return self._keep(ref, key, fetched, Got(points=tuple(points), figures=tuple(figures), notes=tuple(notes)))

    async def _views(self, blob: Blob, ref: FileRef) -> tuple[Content, bool]:
        """The figures that the file lists; the second value is true if a later try may give more of them."""
        shown, notes = await _aside(blob.data, views.listed)
        found = [Content(notes=notes)]
        again = False
        for view in shown:
            text = view.text
            if text is None or view.kind not in views.DRAWN:
                fetched = await self._elsewhere(view, ref)
                again |= fetched.again
                found.append(Content(notes=fetched.notes))
                text = fetched.blobs[0].data.decode("utf-8", "replace") if fetched.blobs else None
            if text is not None:
                found.append(views.figure(view, text))
        figures = tuple(figure for content in found for figure in content.figures)
        return Content(figures=figures, notes=tuple(note for content in found for note in content.notes)), again

    async def _elsewhere(self, view: views.View, ref: FileRef) -> Fetched:
        """What a view shows, from the run's own store alone: the address is what a user wrote."""
        if view.kind not in views.DRAWN:
            said = f"{view.kind or 'a view'} at {view.address[:200] or 'no address'} is named here and not read"
            return Fetched(notes=(Note(reason="ViewNotRead", message=said),))
        place = _beside(ref.location, view.address)
        if isinstance(place, Unreadable):
            return Fetched(notes=(Note(reason=place.reason, message=f"{view.kind}: {place.message}"),))
        there = replace(ref, location=place, archive="none", path=None)
        fetched = await self._fetch(lambda: self._reader.artifact(self._record.namespace, there))
        if fetched.blobs or fetched.notes:
            return fetched
        gone = Note(reason="ViewGone", message=f"{view.kind}: nothing is at {view.address[:200]}")
        return replace(fetched, notes=(gone,))

    async def _log(self, ref: LogRef) -> Got:
        key = self._log_key(ref)
        if (known := self._cache.get(key)) is not None:
            return known
        if isinstance(ref.archived, Unreadable) and ref.pod is None:
            return Got(notes=(Note(reason=ref.archived.reason, message=ref.archived.message),))
        namespace, wanted = self._record.namespace, self._wants.stdout
        tail_lines = None if wanted or ref.launcher is not None else tail.FETCHED_LINES
        fetched = await self._fetch(lambda: self._reader.log(namespace, ref, tail_lines=tail_lines))
        data = fetched.blobs[0].data if fetched.blobs else b""
        launcher = None
        if ref.launcher is not None and fetched.blobs:
            launcher = await _aside(data, executor_output.read)
            data, launcher = launcher.program, replace(launcher, program=b"")
        content = await _aside(data, stdout.read) if wanted else Content()
        got = Got(
            points=tuple(self._points(content.points, ref, lambda _: FromStdout())),
            notes=(*fetched.notes, *content.notes, *(launcher.notes if launcher is not None else ())),
            launcher=launcher,
            tail=tail.read(data) if self._tail_wanted(ref) else None,
        )
        return self._keep(ref, key, fetched, got)

    async def _fetch(self, work: Callable[[], Awaitable[Fetched]]) -> Fetched:
        if self._fetches >= self._limits.fetches or self._bytes >= self._limits.bytes:
            said = f"the run has more than {self._limits.fetches} files or {self._limits.bytes >> 20} MiB to read"
            return Fetched(notes=(Note(reason="TooMuch", message=said),), present=None, again=True)
        self._fetches += 1
        async with self._slots:
            fetched = await work()
        self._bytes += sum(len(b.data) for b in fetched.blobs)
        return fetched

    def _keep(self, ref: FileRef | LogRef, key: bytes, fetched: Fetched, got: Got) -> Got:
        got = replace(
            got, present=fetched.present, size=fetched.size, digest=fetched.digest, media_type=fetched.media_type
        )
        if fetched.again:
            self._missed.add(ref.step)
        else:
            self._cache.put(key, got)
        return got

    def _known(self, ref: FileRef | LogRef, key: bytes) -> Got:
        if (known := self._cache.get(key)) is not None:
            return known
        self._missed.add(ref.step)
        return Got()

    def _file_key(self, ref: FileRef) -> bytes:
        # A step's index changes as the run grows.
        return msgspec.json.encode((replace(ref, step=0), self._wants.exclude))

    def _log_key(self, ref: LogRef) -> bytes:
        # What the launcher printed is read whether or not the store can be asked about it.
        same = replace(ref, step=0, launcher=None if ref.launcher is None else "silent")
        return msgspec.json.encode((same, self._wants.stdout, self._wants.logs))

    def _points(
        self, raw: Iterable[RawPoint], ref: FileRef | LogRef, source: Callable[[RawPoint], PointSource]
    ) -> Iterable[Point]:
        for point in raw:
            if (at := point.time or ref.at) is not None:
                yield Point(key=point.key, value=point.value, step=point.step, time=at, source=source(point))


def _beside(location: Location, address: str) -> Location:
    """`address`, which a user wrote, if it lies in the store that `location` is in; that alone is asked."""
    scheme, _, rest = address.partition("://")
    bucket, _, key = rest.partition("/")
    if not bucket or not key or any(sign in rest for sign in "?#*"):
        return Unreadable(reason="NoLocation", message=f"{address[:200] or 'its address'} is no address of an object")
    match location:
        case S3Location() if scheme in ("s3", "minio"):
            return replace(location, bucket=bucket, key=key)
        case GcsLocation() if scheme == "gs":
            return replace(location, bucket=bucket, key=key)
        case _:
            said = f"{address[:200]} lies in another store than the run's artifact repository names"
            return Unreadable(reason="ForeignStore", message=said)


async def _read_file(blob: Blob, ref: FileRef) -> Content:
    if ref.figure == "markdown" or ref.figure == "html":
        return pages.read(ref.artifact, blob.data, ref.figure)
    if len(blob.data) < _BIG:
        return metrics.read(blob.path, blob.data)
    return await asyncio.to_thread(metrics.read, blob.path, blob.data)


async def _aside(data: bytes, read: Callable[[bytes], T]) -> T:
    return read(data) if len(data) < _BIG else await asyncio.to_thread(read, data)


def _from_file(artifact: str, file: str, point: RawPoint) -> FromFile:
    return FromFile(artifact=artifact, file=file, recognised=point.recognised, setting=point.setting)
