"""One reading in, one enriched record out: fetches the files and logs that a source named, reads the numbers in them.

Files of any run are untrusted and may be many, big or gone. Each fetch is bounded by the reader (32 MiB an object,
1 000 members, two minutes), the run as a whole by :class:`Limits`; what is beyond them, or could not be had, is an
entry of the record's ``partial``, and everything else still counts.
"""

from typing import Any

from pipetrail.capture.cache import FileCache
from pipetrail.capture.fetching import Capture
from pipetrail.capture.wants import DEFAULT, EVERYTHING, Limits, Logs, Wants, wants
from pipetrail.readers import Reader
from pipetrail.record import Record
from pipetrail.sources import Reading, argo, kfp_v1, kfp_v2

__all__ = ["DEFAULT", "EVERYTHING", "FileCache", "Limits", "Logs", "Wants", "capture", "reading", "wants"]


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
    return await Capture(reading, reader, wants, cache or FileCache(), limits).run()
