"""Readers: the only code that fetches what a run left behind (object stores, pod logs, KFP's metadata store).

Capture asks through the :class:`Reader` protocol; a live cluster (:mod:`pipetrail.readers.live`) and a recording
(:mod:`pipetrail.recording`) both answer it. A reader never raises for what a store or the API server says: what could
not be had is a note. Every fetch is bounded in bytes, members and seconds.
"""

from typing import Protocol

from pipetrail.formats import Note
from pipetrail.record import Frozen
from pipetrail.sources import FileRef, LogRef
from pipetrail.sources.kfp_v2.metadata import Metadata


class Blob(Frozen, frozen=True):
    """One file, already taken out of its archive; `path` is relative to the artifact's root, or its base name."""

    path: str
    data: bytes


class Fetched(Frozen, frozen=True):
    """What a fetch gave. `present` is false if the store says that nothing is there, null if it could not be asked.

    `again` is true where a later attempt may give more (a time-out, a 503, a missing RoleBinding).
    """

    blobs: tuple[Blob, ...] = ()
    notes: tuple[Note, ...] = ()
    present: bool | None = True
    size: int | None = None
    digest: str | None = None
    media_type: str | None = None
    again: bool = False


class Reader(Protocol):
    """Fetches for one run's namespace."""

    async def artifact(self, namespace: str, ref: FileRef) -> Fetched:
        """The files of an artifact."""
        ...

    async def log(self, namespace: str, ref: LogRef, *, tail_lines: int | None = None) -> Fetched:
        """The main container's log as one blob, each line led by its RFC 3339 stamp where the source has stamps."""
        ...

    async def metadata(self, namespace: str, run_id: str) -> Metadata:
        """What KFP's metadata store says of the run that KFP calls `run_id`, or why there is nothing."""
        ...
