"""The outbox's format: a finished record that its tracker does not take yet, as bytes that outlive its source. Pure.

A copy is a record, redacted for its target, with the intent that its TrackedRun holds; so it can be delivered also
where neither the run nor its namespace is there any more. Outside stands a cover: whose copy it is, how long, and its
digest. A copy counts if all of its chunks are there and have that digest; anything else is :class:`Torn`, never sent.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import zstandard

from pipetrail.api import TargetRef, TrackedRunSpec
from pipetrail.record import Frozen, Record

FORMAT: Final = "pipetrail.outbox/v1"
CHUNK_BYTES: Final = 700 << 10
"""A Secret holds 1 MiB; as base64 this is below the 1 MiB that aiohttp sends at once without holding up its loop."""
MAX_UNPACKED_BYTES: Final = 512 << 20
_PLAIN, _EXACT = b"m", b"j"  # MessagePack; JSON where an integer is beyond 64 bits, or a text holds half a character


class Torn(Exception):
    """A copy is not what was written; the text says in what."""


class Cover(Frozen, frozen=True):
    """What is known of a copy without opening it.

    `version` and `generation` are the run object's when the copy was made. `pods_go` says that the run asks for its
    pods to be deleted. `namespace_uid` tells a namespace from a later one of the same name. `bytes` are those of the
    packed copy.
    """

    namespace: str
    run: str
    uid: str
    target: TargetRef
    digest: str
    bytes: int
    chunks: int
    generation: str = ""
    version: str = ""
    pods_go: bool = False
    namespace_uid: str = ""
    kept_at: str = ""
    format: str = FORMAT

    @property
    def id(self) -> str:
        """One for each run × target, a label's value: a newer copy of the same takes the place of an older one."""
        return copy_id(self.namespace, self.uid, self.target)

    @property
    def stem(self) -> str:
        """A name for this very copy."""
        return f"{self.id}.{self.digest[:12]}"


class Copy(Frozen, frozen=True):
    """What is kept: the intent and the record as it is to be delivered."""

    spec: TrackedRunSpec
    record: Record


def copy_id(namespace: str, uid: str, target: TargetRef) -> str:
    """20 hex digits for a run × target."""
    identity = (namespace, uid, target.kind, target.namespace, target.name)
    return hashlib.sha256("\0".join(identity).encode()).hexdigest()[:20]


def pack(copy: Copy) -> bytes:
    """`copy` as compressed bytes: the same for the same copy."""
    try:
        plain = _PLAIN + msgspec.msgpack.encode(copy)
    except (OverflowError, UnicodeEncodeError):
        plain = _EXACT + json.dumps(msgspec.to_builtins(copy)).encode()
    return zstandard.ZstdCompressor(level=3).compress(plain)


def unpack(data: bytes) -> Copy:
    """The copy that :func:`pack` made `data` of; raises :class:`Torn` for anything else."""
    try:
        # Read as a stream: a frame may lie about its size.
        with zstandard.ZstdDecompressor().stream_reader(data) as reader:
            plain = reader.read(MAX_UNPACKED_BYTES + 1)
    except zstandard.ZstdError:
        raise Torn("it can't be unpacked") from None
    if len(plain) > MAX_UNPACKED_BYTES:
        raise Torn(f"unpacked it is larger than {MAX_UNPACKED_BYTES >> 20} MiB")
    try:
        match plain[:1]:
            case b"m":
                return msgspec.msgpack.decode(memoryview(plain)[1:], type=Copy)
            case b"j":
                return msgspec.convert(json.loads(plain[1:]), Copy)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        pass
    raise Torn("it is no record that this version can read")


def digest(data: bytes) -> str:
    """SHA-256, in hex."""
    return hashlib.sha256(data).hexdigest()


def cut(data: bytes, most: int = CHUNK_BYTES) -> tuple[bytes, ...]:
    """`data` in chunks of at most `most` bytes; one, if empty, where there is nothing."""
    return tuple(data[at : at + most] for at in range(0, max(1, len(data)), most))


def joined(cover: Cover, chunks: Mapping[int, bytes]) -> bytes:
    """The packed copy out of its `chunks` by number; raises :class:`Torn` if they are not what `cover` says."""
    missing = [number for number in range(cover.chunks) if number not in chunks]
    if missing:
        raise Torn(f"chunk {missing[0] + 1} of {cover.chunks} is missing")
    data = b"".join(chunks[number] for number in range(cover.chunks))
    if len(data) != cover.bytes or digest(data) != cover.digest:
        raise Torn("its digest is another than when it was written")
    return data


def opened(cover: Cover, data: bytes) -> Copy:
    """The copy in `data`, which must be of the run and target that `cover` names; else :class:`Torn`."""
    copy = unpack(data)
    spec, record = copy.spec, copy.record
    there = copy_id(record.namespace, spec.run.uid, spec.target), record.key.uid
    if there != (cover.id, cover.uid):
        raise Torn("it is a copy of another run")
    return copy


def to_text(cover: Cover) -> str:
    """A cover as it stands on the outside."""
    return msgspec.json.encode(cover).decode()


def from_text(text: Any) -> Cover | None:
    """The cover in `text`; null if it is none of this version."""
    try:
        cover = msgspec.json.decode(str(text), type=Cover)
    except (msgspec.MsgspecError, UnicodeEncodeError):
        return None
    sound = cover.format == FORMAT and cover.chunks > 0 and cover.bytes >= 0
    return cover if sound else None
