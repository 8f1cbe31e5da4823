"""One reading in, one enriched record out: fetches the files and logs that a source named, reads the numbers in them.

Files of any run are untrusted and may be many, big or gone. Each fetch is bounded by the reader (32 MiB an object,
1 000 members, two minutes), the run as a whole by :class:`Limits`; what is beyond them, or could not be had, is an
entry of the record's ``partial``, and everything else still counts.
"""

import asyncio
from collections import OrderedDict, defaultdict
from collections.abc import Awaitable, Callable, Iterable
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, Final, Literal, TypeVar

import msgspec
from msgspec.structs import replace

from pipetrail.api import Policy
from pipetrail.formats import Content, Note, RawPoint, executor_output, metrics, pages, stdout, tail
from pipetrail.formats.executor_output import LauncherLog
from pipetrail.readers import Blob, Fetched, Reader
from pipetrail.record import (
    Artifact,
    Figure,
    FromFile,
    FromStdout,
    Frozen,
    Partial,
    Point,
    PointSource,
    Record,
    Step,
)
from pipetrail.sources import FileRef, LogRef, Reading, Unreadable, argo, kfp_v1, kfp_v2

_BIG: Final = 256 << 10
T = TypeVar("T")

Logs = Literal["OnFailure", "Always", "Never"]


class Wants(Frozen, frozen=True):
    """What is to be fetched. `include` and `exclude` are globs on ``artifact/file``; exclude goes first."""

    files: bool = True
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    stdout: bool = False
    logs: Logs = "OnFailure"
    figures: bool = True


EVERYTHING: Final = Wants(stdout=True)


class Limits(Frozen, frozen=True):
    """Bounds of one capture of one run."""

    fetches: int = 2_000  #: files and logs that are not known yet
    at_once: int = 8
    bytes: int = 512 << 20  #: of all that is fetched
    points: int = 500_000  #: of all files and logs
    seconds: float = 300.0


DEFAULT: Final = Limits()


def wants(policy: Policy) -> Wants:
    """What a target's pinned policy asks for."""
    chosen = policy.capture
    return Wants(
        files=chosen.metrics != "None",
        include=chosen.files.include,
        exclude=chosen.files.exclude,
        stdout=chosen.stdout == "On" and chosen.metrics != "None",
        logs=chosen.logs,
        figures=chosen.figures != "None",
    )


class _Got(Frozen, frozen=True):
    """What one fetch came to."""

    points: tuple[Point, ...] = ()
    figures: tuple[Figure, ...] = ()
    notes: tuple[Note, ...] = ()
    present: bool | None = None
    size: int | None = None
    digest: str | None = None
    media_type: str | None = None
    tail: str | None = None
    launcher: LauncherLog | None = None


class FileCache:
    """What was fetched for one live run, so that each update fetches only what is new.

    Kept by node, pod, artifact and place: another attempt or an ``argo retry`` is another content under the same key in
    the store. `again` is true if the last capture missed something that a later one may get.
    """

    MAX: Final = 10_000

    def __init__(self) -> None:
        self._got: OrderedDict[bytes, _Got] = OrderedDict()
        self.again = False

    def get(self, key: bytes) -> _Got | None:
        """What is known under `key`."""
        return self._got.get(key)

    def put(self, key: bytes, got: _Got) -> None:
        """Remember it; the oldest goes if there are too many."""
        self._got[key] = got
        while len(self._got) > self.MAX:
            self._got.popitem(last=False)


async def reading(body: Any, facts: argo.RunFacts, reader: Reader, *, cluster: str) -> Reading:
    """The reading of the source that the run comes from. A run of KFP v2 asks `reader` for KFP's metadata."""
    header = argo.header(body)
    match header.source:
        case "argo":
            return argo.read(body, facts, cluster=cluster)
        case "kfp-v1":
            return kfp_v1.read(body, facts, cluster=cluster)
        case "kfp-v2":
            metadata = await reader.metadata(header.namespace, header.labels[argo.KFP_RUN])
            return kfp_v2.read(body, facts, metadata, cluster=cluster)


async def capture(
    reading: Reading, reader: Reader, wants: Wants, cache: FileCache | None = None, limits: Limits = DEFAULT
) -> Record:
    """The record of `reading` with points, figures and log tails of what it refers to. Never raises for bad input."""
    return await _Capture(reading, reader, wants, cache or FileCache(), limits).run()


class _Capture:
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
        self._partial: list[Partial] = []
        cache.again = reading.again

    async def run(self) -> Record:
        files = [r for r in self._reading.files if self._wanted(r)]
        logs = [r for r in self._reading.logs if self._log_wanted(r)]
        try:
            async with asyncio.timeout(self._limits.seconds):
                got_files = await asyncio.gather(*(self._file(ref) for ref in files))
                got_logs = await asyncio.gather(*(self._log(ref) for ref in logs))
        except TimeoutError:
            self._say(None, "CaptureTimeout", f"files and logs were not read within {self._limits.seconds:.0f} s")
            self._cache.again = True
            got_files = [self._known(self._file_key(ref)) for ref in files]
            got_logs = [self._known(self._log_key(ref)) for ref in logs]
        return self._merged(list(zip(files, got_files, strict=True)), list(zip(logs, got_logs, strict=True)))

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

    async def _file(self, ref: FileRef) -> _Got:
        if isinstance(ref.location, Unreadable):
            return _Got(notes=(Note(reason=ref.location.reason, message=ref.location.message),))
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
            content = await _read_file(blob, ref)
            figures += content.figures
            notes += (Note(reason=n.reason, message=f"{blob.path}: {n.message}") for n in content.notes)
            points += self._points(content.points, ref, partial(_from_file, ref.artifact, blob.path))
        return self._keep(key, fetched, _Got(points=tuple(points), figures=tuple(figures), notes=tuple(notes)))

    async def _log(self, ref: LogRef) -> _Got:
        key = self._log_key(ref)
        if (known := self._cache.get(key)) is not None:
            return known
        if isinstance(ref.archived, Unreadable) and ref.pod is None:
            return _Got(notes=(Note(reason=ref.archived.reason, message=ref.archived.message),))
        namespace, wanted = self._record.namespace, self._wants.stdout
        tail_lines = None if wanted or ref.launcher is not None else tail.FETCHED_LINES
        fetched = await self._fetch(lambda: self._reader.log(namespace, ref, tail_lines=tail_lines))
        data = fetched.blobs[0].data if fetched.blobs else b""
        launcher = None
        if ref.launcher is not None and fetched.blobs:
            launcher = await _aside(data, executor_output.read)
            data, launcher = launcher.program, replace(launcher, program=b"")
        content = await _aside(data, stdout.read) if wanted else Content()
        got = _Got(
            points=tuple(self._points(content.points, ref, lambda _: FromStdout())),
            notes=(*fetched.notes, *content.notes, *(launcher.notes if launcher is not None else ())),
            launcher=launcher,
            tail=tail.read(data) if self._tail_wanted(ref) else None,
        )
        return self._keep(key, fetched, got)

    async def _fetch(self, work: Callable[[], Awaitable[Fetched]]) -> Fetched:
        if self._fetches >= self._limits.fetches or self._bytes >= self._limits.bytes:
            said = f"the run has more than {self._limits.fetches} files or {self._limits.bytes >> 20} MiB to read"
            return Fetched(notes=(Note(reason="TooMuch", message=said),), present=None, again=True)
        self._fetches += 1
        async with self._slots:
            fetched = await work()
        self._bytes += sum(len(b.data) for b in fetched.blobs)
        return fetched

    def _keep(self, key: bytes, fetched: Fetched, got: _Got) -> _Got:
        got = replace(
            got, present=fetched.present, size=fetched.size, digest=fetched.digest, media_type=fetched.media_type
        )
        if fetched.again:
            self._cache.again = True
        else:
            self._cache.put(key, got)
        return got

    def _known(self, key: bytes) -> _Got:
        return self._cache.get(key) or _Got()

    def _file_key(self, ref: FileRef) -> bytes:
        # A step's index changes as the run grows.
        return msgspec.json.encode((replace(ref, step=0), self._wants.exclude))

    def _log_key(self, ref: LogRef) -> bytes:
        return msgspec.json.encode((replace(ref, step=0), self._wants.stdout, self._wants.logs))

    def _points(
        self, raw: Iterable[RawPoint], ref: FileRef | LogRef, source: Callable[[RawPoint], PointSource]
    ) -> Iterable[Point]:
        for point in raw:
            if (at := point.time or ref.at) is not None:
                yield Point(key=point.key, value=point.value, step=point.step, time=at, source=source(point))

    # --- merging --------------------------------------------------------------------------------------------------

    def _merged(self, files: list[tuple[FileRef, _Got]], logs: list[tuple[LogRef, _Got]]) -> Record:
        of_files: dict[int, dict[str, _Got]] = defaultdict(dict)
        of_logs: dict[int, list[_Got]] = defaultdict(list)
        launchers: dict[int, tuple[LogRef, LauncherLog]] = {}
        for ref, got in files:
            of_files[ref.step][ref.artifact] = got
            self._note(ref.step, got, prefix=f"artifact {ref.artifact}: ")
        for log_ref, got in logs:
            of_logs[log_ref.step].append(got)
            if got.launcher is not None:
                launchers[log_ref.step] = log_ref, got.launcher
            self._note(log_ref.step, got, prefix="log: ")
        left = self._limits.points
        steps: list[Step] = []
        for index, step in enumerate(self._record.steps):
            gots = [*of_files.get(index, {}).values(), *of_logs.get(index, ())]
            if not gots:
                steps.append(step)
                continue
            if index in launchers:
                log_ref, launcher = launchers[index]
                step, unknown = kfp_v2.merged(step, launcher, log_ref.launcher or "silent", log_ref.at)
                self._partial += unknown
            points = [p for got in gots for p in got.points]
            if len(points) > left:
                said = f"files and logs of the run hold more than {self._limits.points} points; the rest is left out"
                self._say(index, "TooManyPoints", said)
                points = points[:left]
            left -= len(points)
            artifacts = tuple(_described(a, of_files.get(index, {}).get(a.name)) for a in step.artifacts)
            steps.append(
                replace(
                    step,
                    points=(*step.points, *points),
                    figures=(*step.figures, *(f for got in gots for f in got.figures)),
                    artifacts=artifacts,
                    log_tail=next((got.tail for got in gots if got.tail), step.log_tail),
                )
            )
        said_once = dict.fromkeys((*self._record.partial, *self._partial))
        return replace(self._record, steps=tuple(steps), partial=tuple(said_once))

    def _note(self, step: int, got: _Got, prefix: str) -> None:
        for note in got.notes:
            self._say(step, note.reason, prefix + note.message)

    def _say(self, step: int | None, reason: str, message: str) -> None:
        path = self._record.steps[step].path if step is not None and step < len(self._record.steps) else None
        self._partial.append(Partial(reason=reason, message=message[:1000], step=path))


async def _read_file(blob: Blob, ref: FileRef) -> Content:
    if ref.figure is not None:
        return pages.read(ref.artifact, blob.data, ref.figure)
    if len(blob.data) < _BIG:
        return metrics.read(blob.path, blob.data)
    return await asyncio.to_thread(metrics.read, blob.path, blob.data)


async def _aside(data: bytes, read: Callable[[bytes], T]) -> T:
    return read(data) if len(data) < _BIG else await asyncio.to_thread(read, data)


def _from_file(artifact: str, file: str, point: RawPoint) -> FromFile:
    return FromFile(artifact=artifact, file=file, recognised=point.recognised, setting=point.setting)


def _described(artifact: Artifact, got: _Got | None) -> Artifact:
    if got is None or got.present is None:
        return artifact
    return replace(artifact, present=got.present, size=got.size, digest=got.digest, media_type=got.media_type)
