"""The nodes of a Workflow: plain, compressed, or known only from their pods.

A node counts once it is *fulfilled* in the persisted Workflow (sources.md §1.1), not when its phase says Succeeded.
"""

import base64
import binascii
import json
import zlib
from collections.abc import Collection, Iterable
from datetime import datetime
from io import BytesIO
from typing import Any, Final

import brotli  # type: ignore[import-untyped]
import zstandard

from pipetrail.record import Frozen, Partial
from pipetrail.sources.argo.body import EMPTY, Json, flag, moment, obj, text, word
from pipetrail.sources.argo.names import Place, place
from pipetrail.sources.argo.pods import PodFacts, ResultFacts

MAX_NODES_BYTES: Final = 64 << 20
"""Unpacked size of compressed nodes. Argo compresses what is over 1 MiB; nodes compress about 20 times."""

TERMINAL: Final = frozenset({"Succeeded", "Failed", "Error"})
STRUCTURE: Final = frozenset({"StepGroup", "TaskGroup"})
COMPOSITE: Final = frozenset({"Steps", "DAG"})


class Node(Frozen, frozen=True):
    """One entry of ``status.nodes``, as far as we use it. `place` says where it stands in the pipeline."""

    id: str
    name: str
    type: str
    phase: str
    place: Place
    fulfilled: bool
    message: str | None = None
    boundary: str = ""
    template: str = ""
    template_ref: Json = EMPTY
    scope: str = ""
    started: datetime | None = None
    finished: datetime | None = None
    daemoned: bool = False
    cached: bool = False
    waiting: str = ""
    inputs: Json = EMPTY
    outputs: Json = EMPTY
    resources: Json = EMPTY

    @property
    def wraps(self) -> bool:
        """A Retry: structure that stands for its attempts."""
        return self.type == "Retry"


class Nodes(Frozen, frozen=True):
    """All nodes by id. `whole` is false where they are only what the pods tell."""

    by_id: dict[str, Node]
    partial: tuple[Partial, ...] = ()
    whole: bool = True


def hydrate(body: Json, pods: Collection[PodFacts], results: dict[str, ResultFacts]) -> Nodes:
    """The nodes in whichever form the Workflow has them (sources.md §1.9); else those that have pods, as `partial`."""
    status = obj(body, "status")
    raw: Any = status.get("nodes")
    partial: tuple[Partial, ...] = ()
    if isinstance(status.get("compressedNodes"), str) and status["compressedNodes"]:
        raw = _decompress(status["compressedNodes"])
        if isinstance(raw, str):
            partial = (Partial(reason="NodesUnreadable", message=f"compressed nodes can't be read: {raw}"),)
    elif not obj(raw) and word(status.get("offloadNodeStatusVersion")):
        said = "Argo keeps this run's nodes in its database; steps are shown as far as their pods tell"
        partial = (Partial(reason="NodesOffloaded", message=said),)
    if partial or (not word(status.get("phase")) and any(pod.ended for pod in pods)):
        return _from_pods(body, pods, results, partial)
    return Nodes(by_id={node.id: node for node in _nodes(body, obj(raw))})


def _nodes(body: Json, raw: Json) -> Iterable[Node]:
    workflow = word(obj(body, "metadata").get("name"))
    status = obj(body, "status")
    synced = obj(status, "taskResultsCompletionStatus")
    ended = word(status.get("phase")) in TERMINAL
    for key, item in raw.items():
        if isinstance(item, dict):
            yield _node(str(key), item, workflow, synced, ended=ended)


def _node(key: str, item: Json, workflow: str, synced: Json, *, ended: bool) -> Node:
    phase, kind = word(item.get("phase")), word(item.get("type"))
    name = word(item.get("name")) or key
    daemoned = flag(item.get("daemoned")) is True
    # Until 3.7.0 the Workflow has one map for what since 3.7.1 stands on each node.
    outputs_there = item.get("taskResultSynced") is not False and synced.get(key) is not False
    fulfilled = (
        (phase in TERMINAL and (outputs_there or ended))
        or phase in ("Skipped", "Omitted")
        or (daemoned and phase != "Pending")
    )
    return Node(
        id=key,
        name=name,
        type=kind,
        phase=phase,
        place=place(name, workflow),
        fulfilled=fulfilled,
        message=text(item.get("message")) or None,
        boundary=word(item.get("boundaryID")),
        template=word(item.get("templateName")),
        template_ref=obj(item, "templateRef"),
        scope=word(item.get("templateScope")),
        started=moment(item.get("startedAt")),
        finished=moment(item.get("finishedAt")),
        daemoned=daemoned,
        cached=obj(item, "memoizationStatus").get("hit") is True,
        waiting=word(obj(item, "synchronizationStatus").get("waiting")),
        inputs=obj(item, "inputs"),
        outputs=obj(item, "outputs"),
        resources=obj(item, "resourcesDuration"),
    )


def _decompress(packed: str) -> Json | str:
    """The nodes, or why they can't be read. The algorithm is told by the first bytes, as Argo itself does."""
    try:
        data = base64.b64decode(packed, validate=False)
        if data.startswith(b"\x28\xb5\x2f\xfd"):
            with zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(BytesIO(data)) as stream:
                plain = stream.read(MAX_NODES_BYTES + 1)
        elif data.startswith(b"\x1f\x8b"):
            plain = zlib.decompressobj(wbits=31).decompress(data, MAX_NODES_BYTES + 1)
        else:
            plain = _brotli(data)
        if len(plain) > MAX_NODES_BYTES:
            return f"they unpack to more than {MAX_NODES_BYTES >> 20} MiB"
        nodes = json.loads(plain)
    except (binascii.Error, zlib.error, zstandard.ZstdError, brotli.error, ValueError, RecursionError) as error:
        return type(error).__name__
    return nodes if isinstance(nodes, dict) else "they are no object"


def _brotli(data: bytes) -> bytes:
    reader = brotli.Decompressor()
    plain = bytearray(reader.process(data, output_buffer_limit=1 << 20))
    while len(plain) <= MAX_NODES_BYTES and not reader.is_finished():
        more = reader.process(b"", output_buffer_limit=1 << 20)
        if not more:
            break
        plain += more
    return bytes(plain)


def _from_pods(
    body: Json, pods: Iterable[PodFacts], results: dict[str, ResultFacts], partial: tuple[Partial, ...]
) -> Nodes:
    """What the pods say of steps, where the Workflow says nothing: phases are Argo's own rules for pods (§1.8)."""
    workflow = word(obj(body, "metadata").get("name"))
    named = bool(partial)
    nodes: dict[str, Node] = {}
    for pod in pods:
        known = nodes.get(pod.node_id)
        if not pod.node_id or (known is not None and pod.created and known.started and pod.created < known.started):
            continue
        result = results.get(pod.node_id)
        outputs = result.outputs if result is not None and result.complete else EMPTY
        name = pod.node_name or pod.node_id
        nodes[pod.node_id] = Node(
            id=pod.node_id,
            name=name,
            type="Pod",
            phase=pod.verdict if named else "",
            place=place(name, workflow),
            fulfilled=named and pod.ended,
            message=pod.message,
            template=pod.template,
            started=pod.created,
            finished=pod.finished,
            outputs=outputs if pod.ended else EMPTY,
        )
    if nodes and not partial:
        said = "the Workflow has no status, though its pods ran: steps are shown as far as their pods tell"
        partial = (Partial(reason="NoStatus", message=said),)
    return Nodes(by_id=nodes, partial=partial, whole=False)
