"""Artifacts as a store holds them, to files: tar, tar.gz, zip, gzip or plain, told by their first bytes.

Argo archives a file under its base name, a directory under a root folder: the path's base name in a tar, the artifact's
name in a zip. That folder is taken off, so that a path is always relative to the artifact's root.

Everything is untrusted: members, bytes and ratio are limited; a path that leaves the root, a link, a device, a sparse
or an encrypted member is left out with a note; of a damaged archive counts what could be read before the damage.
"""

import gzip
import io
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from typing import IO, Final

from pipetrail.formats import Note
from pipetrail.record import Frozen


class Limits(Frozen, frozen=True):
    """Bounds of one artifact's archive."""

    members: int = 1_000  #: entries of any kind
    member_bytes: int = 32 << 20  #: of one file, unpacked; a bigger one is left out
    total_bytes: int = 64 << 20  #: of all that is unpacked, kept or not
    ratio: int = 500  #: unpacked to packed, beyond the first `ratio_from_bytes`
    ratio_from_bytes: int = 4 << 20


class Unpacked(Frozen, frozen=True):
    """The files of an artifact as (path, bytes), in the archive's order, and what was left out."""

    blobs: tuple[tuple[str, bytes], ...] = ()
    notes: tuple[Note, ...] = ()


DEFAULT: Final = Limits()

_GZIP: Final = b"\x1f\x8b\x08"
_ZIP: Final = (b"PK\x03\x04", b"PK\x05\x06")
# Zips that are a file format of their own: what is in them is nobody's metrics.
_OWN_FORMAT: Final = (".pt", ".pth", ".npz", ".keras", ".xlsx", ".docx", ".pptx", ".jar", ".whl", ".egg", ".ckpt")
_DAMAGE: Final = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, OverflowError, IndexError,
    KeyError, RecursionError, NotImplementedError, MemoryError,
)  # fmt: skip


class _Enough(Exception):
    """A limit was reached; its argument is the note."""


def unpack(
    name: str, data: bytes, limits: Limits = DEFAULT, *, wanted: Callable[[str], bool] | None = None
) -> Unpacked:
    """The files in `data`, an object whose key ends in `name`.

    A plain file is one blob under its base name. With `wanted`, files whose path it refuses are not kept.
    """
    taker = _Taker(limits, len(data), wanted)
    base = name.replace("\\", "/").rstrip("/").rpartition("/")[2]
    try:
        if data.startswith(_GZIP):
            _gzip(base, data, taker)
        elif data.startswith(_ZIP) and not base.lower().endswith(_OWN_FORMAT):
            _zip(data, taker)
        elif _is_tar(data[:512]):
            _tar(io.BytesIO(data), taker)
        else:
            return Unpacked(blobs=((base, data),) if wanted is None or wanted(base) else ())
    except _Enough as stop:
        taker.notes.append(stop.args[0])
    except _DAMAGE as error:
        taker.note("ArchiveDamaged", f"the archive {base} breaks off or is damaged ({type(error).__name__})")
    return Unpacked(blobs=_without_root(taker.blobs), notes=tuple(taker.notes))


class _Taker:
    """Takes files one by one and keeps count of the limits."""

    def __init__(self, limits: Limits, packed: int, wanted: Callable[[str], bool] | None) -> None:
        self.limits = limits
        self.blobs: list[tuple[str, bytes]] = []
        self.notes: list[Note] = []
        self._packed = max(packed, 1)
        self._wanted = wanted
        self._members = 0
        self._bytes = 0

    def note(self, reason: str, message: str) -> None:
        if not any(note.reason == reason for note in self.notes):
            self.notes.append(Note(reason=reason, message=message))

    def wants(self, path: str) -> bool:
        """True if a file of this path is to be kept."""
        return self._wanted is None or self._wanted(path)

    def member(self, path: str) -> str | None:
        """Count a member and give its path with ``/`` and without ``./``, or None if it leaves the root."""
        self._members += 1
        if self._members > self.limits.members:
            raise _Enough(
                Note(reason="TooManyFiles", message=f"only the first {self.limits.members} files of the archive count")
            )
        parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".")]
        if path.startswith(("/", "\\")) or path[1:2] == ":" or ".." in parts or "\0" in path:
            self.note("UnsafePath", "a member whose path leaves the archive is left out")
            return None
        return "/".join(parts) or None

    def unpacked(self, size: int) -> None:
        """Count bytes that came out of the archive, kept or not."""
        self._bytes += size
        limits = self.limits
        if self._bytes > limits.total_bytes:
            raise _Enough(
                Note(reason="TooLarge", message=f"the archive holds more than {limits.total_bytes} bytes unpacked")
            )
        if self._bytes > limits.ratio_from_bytes and self._bytes > limits.ratio * self._packed:
            raise _Enough(
                Note(reason="ArchiveBomb", message=f"the archive unpacks to more than {limits.ratio} times its size")
            )

    def file(self, path: str, stream: IO[bytes], size: int, *, counted: bool) -> None:
        """Read a file of `size` bytes; `counted`: the stream below already counts."""
        if not self.wants(path):
            return
        if size > self.limits.member_bytes:
            self.note("TooLarge", f"{path[-200:]} has {size} bytes; up to {self.limits.member_bytes} are read")
            return
        data = bytearray()
        while chunk := stream.read(1 << 16):
            data += chunk
            if not counted:
                self.unpacked(len(chunk))
            if len(data) > self.limits.member_bytes:
                self.note("TooLarge", f"{path[-200:]} is bigger than it says")
                return
        if len(data) < size:
            self.note("ArchiveDamaged", f"{path[-200:]} breaks off after {len(data)} of {size} bytes")
            return
        self.blobs.append((path, bytes(data)))


class _Counted(io.RawIOBase):
    """A stream that counts what is read from it."""

    def __init__(self, stream: gzip.GzipFile, taker: _Taker) -> None:
        self._stream = stream
        self._taker = taker

    def read(self, size: int = -1, /) -> bytes:
        data = self._stream.read(size)
        self._taker.unpacked(len(data))
        return data


def _gzip(base: str, data: bytes, taker: _Taker) -> None:
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
        head = stream.read(512)
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
        counted = _Counted(stream, taker)
        if _is_tar(head):
            _tar(counted, taker)
            return
        path = base[:-3] if base.lower().endswith(".gz") else base
        whole = bytearray()
        while chunk := counted.read(1 << 16):
            whole += chunk
            if len(whole) > taker.limits.member_bytes:
                taker.note("TooLarge", f"{path[-200:]} has more than {taker.limits.member_bytes} bytes unpacked")
                return
        if taker.member(path) and taker.wants(path):
            taker.blobs.append((path, bytes(whole)))


def _tar(stream: IO[bytes] | io.RawIOBase, taker: _Taker) -> None:
    counted = isinstance(stream, _Counted)
    with tarfile.open(fileobj=stream, mode="r|", bufsize=tarfile.RECORDSIZE) as archive:
        for member in archive:
            path = taker.member(member.name)
            if path is None or member.isdir():
                continue
            if member.issparse() or not member.isreg():
                taker.note("SpecialFile", "a link, device or sparse file in the archive is left out")
                continue
            content = archive.extractfile(member)
            if content is not None:
                taker.file(path, content, member.size, counted=counted)


def _zip(data: bytes, taker: _Taker) -> None:
    # A central directory may list more entries than memory holds; each begins with this mark.
    if data.count(b"PK\x01\x02") > 20 * taker.limits.members:
        raise _Enough(Note(reason="TooManyFiles", message=f"more than {20 * taker.limits.members} files in a zip"))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for info in archive.infolist():
            path = taker.member(info.filename)
            if path is None or info.is_dir():
                continue
            kind = info.external_attr >> 28  # the upper bits of st_mode, where a Unix made the zip
            if kind not in (0, 8):
                taker.note("SpecialFile", "a link or device in the archive is left out")
            elif info.flag_bits & 1:
                taker.note("Encrypted", "an encrypted member of the archive is left out")
            elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                taker.note("UnknownCompression", "a member that is neither stored nor deflated is left out")
            else:
                try:
                    with archive.open(info) as content:
                        taker.file(path, content, info.file_size, counted=False)
                except _DAMAGE as error:
                    taker.note("ArchiveDamaged", f"{path[-200:]} is damaged ({type(error).__name__})")


def _is_tar(head: bytes) -> bool:
    """True if `head` begins with a tar header: its checksum is right."""
    if len(head) < 512 or not head.strip(b"\0"):
        return False
    try:
        return int(head[148:156].strip(b" \0") or b"x", 8) == sum(head[:148]) + 8 * 32 + sum(head[156:512])
    except ValueError:
        return False


def _without_root(blobs: list[tuple[str, bytes]]) -> tuple[tuple[str, bytes], ...]:
    roots = {path.partition("/")[0] if "/" in path else None for path, _ in blobs}
    if len(roots) != 1 or None in roots:
        return tuple(blobs)
    return tuple((path.partition("/")[2], data) for path, data in blobs)
