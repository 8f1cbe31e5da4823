"""One reading in, one enriched record out: fetches the files and logs that a source named, reads the numbers in them.

Files of any run are untrusted and may be many, big or gone. Each fetch is bounded by the reader (32 MiB an object,
1 000 members, two minutes), the run as a whole by :class:`Limits`; what is beyond them, or could not be had, is an
entry of the record's ``partial``, and everything else still counts.
"""

from typing import Any, Final

from pipetrail.capture.cache import FileCache
from pipetrail.capture.fetching import Capture
from pipetrail.capture.wants import DEFAULT, EVERYTHING, Limits, Logs, Wants, wants
from pipetrail.readers import Reader
from pipetrail.record import Record
from pipetrail.sources import Reading, argo, kfp_v1, kfp_v2
from pipetrail.sources.kfp_v2.metadata import Metadata, NoMetadata

__all__ = ["DEFAULT", "EVERYTHING", "FileCache", "Limits", "Logs", "Wants", "capture", "reading", "wants"]

NOT_ASKED: Final[Metadata] = NoMetadata(reason="MlmdNotAsked", message="KFP's metadata store was not asked")


async def reading(body: Any, facts: argo.RunFacts, reader: Reader | None, *, cluster: str) -> Reading:
    """The reading of the source that the run comes from. Of a run of KFP v2 `reader` is asked for KFP's metadata.

    Without a reader such a run is read from its Workflow alone.
    """
    header = argo.header(body)
    match header.source:
        case "argo":
            return argo.read(body, facts, cluster=cluster)
        case "kfp-v1":
            return kfp_v1.read(body, facts, cluster=cluster)
        case "kfp-v2":
            run_id = header.labels[argo.KFP_RUN]
            metadata = NOT_ASKED if reader is None else await reader.metadata(header.namespace, run_id)
            return kfp_v2.read(body, facts, metadata, cluster=cluster)


async def capture(
    reading: Reading, reader: Reader, wants: Wants, cache: FileCache | None = None, limits: Limits = DEFAULT
) -> Record:
    """The record of `reading` with points, figures and log tails of what it refers to. Never raises for bad input."""
    return await Capture(reading, reader, wants, cache or FileCache(), limits).run()
