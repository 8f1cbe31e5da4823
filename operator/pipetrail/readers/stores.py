"""Object stores: S3 and what speaks like it, Google Cloud Storage, Azure Blob Storage.

An artifact is asked for by HEAD before it is downloaded; a key that is no object may be a directory, whose objects are
listed and fetched one by one. All is bounded by :class:`Limits`; what could not be had is a note.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Callable
from typing import Any, Final, cast

from msgspec.structs import replace

from pipetrail.formats import Note, archives
from pipetrail.formats.metrics import readable
from pipetrail.readers import Blob, Fetched
from pipetrail.readers.buckets import Bucket, Credentials, Failed, describe, failure
from pipetrail.readers.transport import Answer, BadCertificate, Refused, Transport, Unreachable
from pipetrail.record import Frozen
from pipetrail.sources import Location


class Limits(Frozen, frozen=True):
    """Bounds of one artifact or log. Beyond them nothing is downloaded, or of a log its end is kept."""

    object_bytes: int = 32 << 20
    log_bytes: int = 10 << 20
    prefix_objects: int = 1_000  #: listed below a key that is a directory
    prefix_bytes: int = 64 << 20  #: of all objects below it
    artifact_s: float = 120.0  #: for all requests of one artifact


_BIG: Final = 1 << 20

DEFAULT: Final = Limits()
ANONYMOUS: Final = Credentials()


class Stores:
    """Fetches artifacts and archived logs. One for the whole process; `close` it."""

    def __init__(self, transport: Transport | None = None, limits: Limits = DEFAULT, *, at_once: int = 16) -> None:
        self.limits = limits
        self._transport = transport or Transport()
        self._at_once = asyncio.Semaphore(at_once)
        self._heavy = asyncio.Semaphore(2)  # big objects and archives being unpacked: what memory can be asked for

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    async def fetch(
        self, location: Location, credentials: Credentials = ANONYMOUS, *, path: str | None = None,
        wanted: Callable[[str], bool] = readable, head_only: bool = False,
    ) -> Fetched:  # fmt: skip
        """The files of an artifact, taken out of their archive.

        `path` is the artifact's path in the pod: it names a plain file. Files that `wanted` refuses are not kept, below
        a prefix not even fetched. `head_only` asks just whether it is there and how big it is.
        """

        async def work(bucket: Bucket) -> Fetched:
            head = await bucket.request("HEAD")
            if head.status == 404:
                return await self._prefix(bucket, wanted, head_only=head_only)
            if head_only or (size := head.size or 0) > self.limits.object_bytes:
                found = Fetched(size=head.size, media_type=head.media_type)
                if not head_only:
                    found = _too_large(bucket.where, size, self.limits.object_bytes)
                return found
            if size > _BIG:
                async with self._heavy:
                    return await self._object(bucket, path, wanted)
            return await self._object(bucket, path, wanted, light=True)

        return await self._guarded(location, credentials, work)

    async def raw(self, location: Location, credentials: Credentials = ANONYMOUS) -> Fetched:
        """The object itself, packed as it lies there, its key as path; below a key that is a directory all objects."""

        async def work(bucket: Bucket) -> Fetched:
            head = await bucket.request("HEAD")
            if head.status == 404:
                found = await self._prefix(bucket, lambda _: True, head_only=False)
                base = bucket.key.rstrip("/")
                return replace(found, blobs=tuple(Blob(path=f"{base}/{b.path}", data=b.data) for b in found.blobs))
            if (size := head.size or 0) > self.limits.object_bytes:
                return _too_large(bucket.where, size, self.limits.object_bytes)
            got = await bucket.request("GET", limit=self.limits.object_bytes)
            if got.status == 404 or not got.whole:
                return Fetched(present=False)
            return Fetched(blobs=(Blob(path=bucket.key, data=got.data),), size=len(got.data))

        return await self._guarded(location, credentials, work)

    async def log(
        self, location: Location, credentials: Credentials = ANONYMOUS, *, tail_lines: int | None = None
    ) -> Fetched:
        """An archived log as one blob: its first 10 MiB, or its last `tail_lines` lines within its last 10 MiB."""

        async def work(bucket: Bucket) -> Fetched:
            limit = self.limits.log_bytes
            head = await bucket.request("HEAD")
            if head.status == 404:
                return Fetched(present=False)
            size = head.size or 0
            start = max(0, size - limit) if tail_lines is not None else 0
            if size == 0:
                return Fetched(blobs=(Blob(path="main.log", data=b""),), size=0)
            got = await bucket.request("GET", limit=limit, span=f"{start}-{start + limit - 1}")
            if got.status == 404:
                return Fetched(present=False)
            data = got.data
            notes: tuple[Note, ...] = ()
            if tail_lines is not None:
                data = last_lines(data[data.find(b"\n") + 1 :] if start else data, tail_lines)
            elif size > len(data):
                notes = (cut_note(len(data), size),)
            return Fetched(blobs=(Blob(path="main.log", data=data),), notes=notes, size=size)

        return await self._guarded(location, credentials, work)

    async def _object(
        self, bucket: Bucket, path: str | None, wanted: Callable[[str], bool], *, light: bool = False
    ) -> Fetched:
        got = await bucket.request("GET", limit=self.limits.object_bytes)
        if got.status == 404:
            return Fetched(present=False)
        if (got.size or 0) > self.limits.object_bytes:
            return _too_large(bucket.where, got.size or 0, self.limits.object_bytes)
        if not got.whole:
            raise Unreachable("the connection broke off")
        async with self._heavy if light else contextlib.nullcontext():
            return await asyncio.to_thread(_opened, bucket.key, path, got, wanted)

    async def _guarded(self, location: Location, credentials: Credentials, work: Any) -> Fetched:
        where = describe(location)
        try:
            async with self._at_once, asyncio.timeout(self.limits.artifact_s):
                return cast("Fetched", await work(Bucket(location, credentials, self._transport)))
        except Failed as failed:
            return cast("Fetched", failed.args[0])
        except Refused as refused:
            return failure("StoreRefused", f"{where}: {refused}; such an address is never asked")
        except BadCertificate as bad:
            return failure("StoreKeyUnusable", f"{where}: {bad}")
        except Unreachable as unreachable:
            return failure("StoreUnreachable", f"{where}: {unreachable}", again=True)
        except TimeoutError:
            return failure("StoreUnreachable", f"{where}: not done in {self.limits.artifact_s:.0f} s", again=True)

    async def _prefix(self, bucket: Bucket, wanted: Callable[[str], bool], *, head_only: bool) -> Fetched:
        notes: dict[str, Note] = {}
        chosen: list[tuple[str, str, int]] = []
        listed = total = 0
        async for key, size in bucket.objects():
            listed += 1
            if listed > self.limits.prefix_objects:
                notes["TooManyFiles"] = Note(
                    reason="TooManyFiles", message=f"only the first {self.limits.prefix_objects} files count"
                )
                break
            total += size
            path = key[len(bucket.key.strip("/")) + 1 :]
            if wanted(path):
                chosen.append((key, path, size))
        if not listed:
            return Fetched(present=False)
        blobs: list[Blob] = []
        left = self.limits.prefix_bytes
        for key, path, size in () if head_only else chosen:
            if size > min(left, self.limits.object_bytes):
                message = f"{path[-200:]} has {size} bytes; up to {self.limits.object_bytes} a file and "
                message += f"{self.limits.prefix_bytes} an artifact are read"
                notes.setdefault("TooLarge", Note(reason="TooLarge", message=message))
                continue
            got = await bucket.request("GET", key=key, limit=min(left, self.limits.object_bytes))
            if got.status == 200 and got.whole:
                left -= len(got.data)
                blobs.append(Blob(path=path, data=got.data))
            else:
                message = f"{path[-200:]} changed or went while it was read"
                notes.setdefault("StoreChanged", Note(reason="StoreChanged", message=message))
        return Fetched(blobs=tuple(blobs), notes=tuple(notes.values()), size=total)


def _opened(key: str, path: str | None, got: Answer, wanted: Callable[[str], bool]) -> Fetched:
    unpacked = archives.unpack(key, got.data, wanted=None)
    name = (path or "").rstrip("/").rpartition("/")[2]
    blobs = unpacked.blobs
    if name and len(blobs) == 1 and blobs[0][1] is got.data:
        blobs = ((name, got.data),)  # a key may be anything; the pod's path is what the user called the file
    return Fetched(
        blobs=tuple(Blob(path=p, data=data) for p, data in blobs if wanted(p)), notes=unpacked.notes,
        size=len(got.data), digest=f"sha256:{hashlib.sha256(got.data).hexdigest()}", media_type=got.media_type,
    )  # fmt: skip


def last_lines(data: bytes, count: int) -> bytes:
    """The last `count` lines of `data`."""
    at = len(data) - (1 if data.endswith(b"\n") else 0)
    for _ in range(count):
        at = data.rfind(b"\n", 0, at)
        if at < 0:
            return data
    return data[at + 1 :]


def cut_note(read: int, size: int | None = None) -> Note:
    """Says that only the beginning of a log was read."""
    of = f" of {size}" if size else ""
    return Note(reason="LogCut", message=f"the first {read}{of} bytes of the log count")


def _too_large(where: str, size: int, limit: int) -> Fetched:
    message = f"{where} has {size} bytes; up to {limit} are read"
    return Fetched(notes=(Note(reason="TooLarge", message=message),), size=size)
