"""What KFP's metadata store said of a run that we follow, and when that may be told.

It is asked again when a task of the run ended, else never.

KFP publishes what a task gave before the task's pod ends, that of a cached one before its driver's does (sources.md
§4.6): between two such ends the store has nothing new that we read. An answer that says to try again is not kept,
and one that lags behind what a task gave is forgotten (:meth:`Said.forget`).
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from pipetrail.readers import Fetched, Reader
from pipetrail.sources import FileRef, LogRef
from pipetrail.sources.argo.nodes import TERMINAL
from pipetrail.sources.kfp_v2.metadata import Metadata, NoMetadata

DRIVER: Final = "-driver"  # of a template's name: system-dag-driver, system-container-driver
CACHED: Final = "cached-decision"
Moment = tuple[int | str, ...]


class Said:
    """The last answer about one run."""

    def __init__(self) -> None:
        self._moment: Moment = ()
        self._answer: Metadata | None = None
        self._asking = asyncio.Lock()  # two targets may want the same run at once

    def at(self, body: Any, reader: Reader) -> Reader:
        """`reader` for a run that stands as `body` does: it asks the store only if what is known may be old."""
        return _Reminded(self, reader, _moment(body))

    def forget(self) -> None:
        """Ask again at the next reading, whatever has ended until then: a task gave what the answer lacks."""
        self._answer = None

    async def metadata(self, reader: Reader, moment: Moment, namespace: str, run_id: str) -> Metadata:
        """What is known at `moment`, asked for if need be."""
        asked = (*moment, namespace, run_id)
        async with self._asking:
            if self._answer is not None and self._moment == asked:
                return self._answer
            answer = await reader.metadata(namespace, run_id)
            keep = not (isinstance(answer, NoMetadata) and answer.again)
            self._moment, self._answer = asked, answer if keep else None
            return answer


class _Reminded:
    """A reader that is reminded of what the metadata store said."""

    def __init__(self, said: Said, reader: Reader, moment: Moment) -> None:
        self._said = said
        self._reader = reader
        self._moment = moment

    async def artifact(self, namespace: str, ref: FileRef) -> Fetched:
        """The files of an artifact."""
        return await self._reader.artifact(namespace, ref)

    async def log(self, namespace: str, ref: LogRef, *, tail_lines: int | None = None) -> Fetched:
        """The main container's log."""
        return await self._reader.log(namespace, ref, tail_lines=tail_lines)

    async def metadata(self, namespace: str, run_id: str) -> Metadata:
        """What KFP's metadata store says of the run."""
        return await self._said.metadata(self._reader, self._moment, namespace, run_id)


def _moment(body: Any) -> Moment:
    """Equal for two bodies of one run if none of its tasks ended between them."""
    status = body.get("status") if isinstance(body, Mapping) else None
    if not isinstance(status, Mapping):
        return ()
    nodes = status.get("nodes")
    ended = frozenset(
        (key, str(node.get("phase")), str(node.get("finishedAt")))
        for key, node in (nodes.items() if isinstance(nodes, Mapping) else ())
        if isinstance(node, Mapping) and node.get("type") == "Pod" and str(node.get("phase")) in TERMINAL
        if _gives(node)
    )
    # A big run's nodes are packed, or lie in Argo's database: then each version counts.
    packed = (str(status.get("compressedNodes")), str(status.get("offloadNodeStatusVersion")))
    return hash(ended), hash(packed), str(status.get("phase"))


def _gives(node: Mapping[str, Any]) -> bool:
    """False for a driver, unless it says that its task is cached: then what it gave is known."""
    if not str(node.get("templateName")).endswith(DRIVER):
        return True
    outputs = node.get("outputs")
    given = outputs.get("parameters") if isinstance(outputs, Mapping) else None
    return isinstance(given, list) and any(
        isinstance(one, Mapping) and (one.get("name"), one.get("value")) == (CACHED, "true") for one in given
    )
