"""Writing a recording: a live run is watched to its end, an ended one is taken as it is; redacted, then written.

Everything is held in memory until the end, since only then is it known which values are secret: nothing unredacted
ever lies on a disk. What can't be redacted (an archive that holds a secret) is left out and named in ``meta.json``.
"""

import asyncio
import gzip
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import msgspec

from pipetrail import capture, recording_mlmd_writer, redact
from pipetrail.kube import ARGO, ApiError, Kube, Unreachable
from pipetrail.readers.live import LiveReader
from pipetrail.record import Frozen
from pipetrail.recording import MLMD, Event
from pipetrail.recording_redaction import clean, named, scrubbed, scrubbed_metadata
from pipetrail.sources import AzureLocation, Location, Unreadable, argo
from pipetrail.sources.kfp_v2.metadata import NoMetadata, RunMetadata

MAX_EVENTS_BYTES: Final = 256 << 20
MAX_STORE_BYTES: Final = 64 << 20
MAX_LOG_BYTES: Final = 10 << 20
QUIET_S: Final = 3.0  # how long nothing must happen after the run's end
AFTERWARDS_S: Final = 45.0  # pods of a deleted run go on for up to 30 s
RECONNECT_S: Final = 0.5
ENDED: Final = ("Succeeded", "Failed", "Error")
OWN: Final = ("init", "wait")  # Argo's own containers

Seen = Callable[[Event], None]


class TooBig(Exception):
    """The run says more than a recording may hold."""


class Recorded(Frozen, frozen=True):
    """What was written."""

    name: str
    uid: str
    events: int
    objects: int
    logs: int
    left_out: tuple[str, ...]


class Recorder:
    """Records one run. `seen` is told each event as it comes."""

    def __init__(self, kube: Kube, body: Mapping[str, Any], seen: Seen = lambda _: None) -> None:
        meta = body["metadata"]
        self.name, self.namespace, self.uid = str(meta["name"]), str(meta["namespace"]), str(meta["uid"])
        self._kube = kube
        self._seen = seen
        self._events: list[Event] = []
        self._bytes = 0
        self._last: dict[tuple[str, str], str] = {}
        self._logs: dict[str, bytes] = {}
        self._reading: set[asyncio.Task[None]] = set()
        self._live: set[str] = set()
        self._over = asyncio.Event()
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Watch until the run has ended and nothing happens any more; raises what ends the watches early."""
        paths = {
            "Workflow": (
                f"{ARGO}/namespaces/{self.namespace}/workflows",
                {"fieldSelector": f"metadata.name={self.name}"},
            ),
            "Pod": (f"/api/v1/namespaces/{self.namespace}/pods", self._labelled()),
            "WorkflowTaskResult": (f"{ARGO}/namespaces/{self.namespace}/workflowtaskresults", self._labelled()),
        }
        # One list after the other, the run first, so that its events stand before its pods'.
        versions = {kind: await self._list(kind, path, query) for kind, (path, query) in paths.items()}
        watches = [
            asyncio.create_task(self._watch(kind, path, query, versions[kind])) for kind, (path, query) in paths.items()
        ]
        ending = asyncio.create_task(self._ended())
        try:
            done, _ = await asyncio.wait([*watches, ending], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (*watches, ending):
                task.cancel()
            await asyncio.gather(*watches, ending, return_exceptions=True)
        await asyncio.gather(*self._reading)

    def _labelled(self) -> dict[str, Any]:
        return {"labelSelector": f"workflows.argoproj.io/workflow={self.name}"}

    async def _ended(self) -> None:
        await self._over.wait()
        until = time.monotonic() + AFTERWARDS_S
        while time.monotonic() < until:
            self._changed.clear()
            try:
                async with asyncio.timeout(QUIET_S):
                    await self._changed.wait()
            except TimeoutError:
                if not self._live:
                    return

    async def _list(self, kind: str, path: str, query: Mapping[str, Any]) -> str:
        at = ""
        async for page in self._kube.pages(path, **query):
            at = page["metadata"]["resourceVersion"]
            for item in page.get("items", ()):
                self._take(kind, "ADDED", item)
        return at

    async def _watch(self, kind: str, path: str, query: Mapping[str, Any], at: str) -> None:
        while True:
            try:
                async for event in self._kube.watch(path, **query, resourceVersion=at):
                    at = event["object"]["metadata"]["resourceVersion"]
                    if event["type"] != "BOOKMARK":
                        self._take(kind, event["type"], event["object"])
                continue  # it ends by itself every few minutes
            except Unreachable:
                pass
            except ApiError as error:
                if error.status == 410:
                    at = await self._list(kind, path, query)
                elif error.status not in (429, 500, 503, 504):
                    raise
            await asyncio.sleep(RECONNECT_S)

    def _take(self, kind: str, type_: str, body: dict[str, Any]) -> None:
        meta = body["metadata"]
        uids = {meta.get("uid"), *(owner.get("uid") for owner in meta.get("ownerReferences", ()))}
        if self.uid not in uids:
            return  # another run's, under the same name
        known = self._last.get((kind, meta["name"]))
        if known == meta["resourceVersion"] and type_ != "DELETED":
            return  # a list that was read again
        self._last[kind, meta["name"]] = meta["resourceVersion"]
        meta.pop("managedFields", None)
        body.setdefault("kind", kind)
        body.setdefault("apiVersion", "v1" if kind == "Pod" else "argoproj.io/v1alpha1")
        event = Event(kind=kind, type="MODIFIED" if known and type_ == "ADDED" else type_, body=body, at=time.time())
        self._bytes += len(msgspec.json.encode(body))
        if self._bytes > MAX_EVENTS_BYTES:
            raise TooBig(f"the run's events hold more than {MAX_EVENTS_BYTES >> 20} MiB")
        self._events.append(event)
        self._changed.set()
        if kind == "Pod":
            self._pod(event)
        if kind == "Workflow" and (type_ == "DELETED" or (body.get("status") or {}).get("phase") in ENDED):
            self._over.set()
        elif kind == "Workflow":
            self._over.clear()  # `argo retry`
        self._seen(event)

    def _pod(self, event: Event) -> None:
        name, phase = event.body["metadata"]["name"], (event.body.get("status") or {}).get("phase")
        ended = event.type == "DELETED" or phase in ENDED or not event.body["spec"].get("nodeName")
        (self._live.discard if ended else self._live.add)(name)
        if event.type != "DELETED" and phase in ENDED and event.body["spec"].get("nodeName"):
            # At once: podGC may take the pod away seconds from now.
            for container in event.body["spec"].get("containers", ()):
                if container["name"] not in OWN and f"{name}/{container['name']}" not in self._logs:
                    self._logs[f"{name}/{container['name']}"] = b""
                    task = asyncio.create_task(self._log(name, container["name"]))
                    self._reading.add(task)

    async def _log(self, pod: str, container: str) -> None:
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod}/log"
        try:
            data = await self._kube.get_bytes(
                path, most=MAX_LOG_BYTES, container=container, timestamps="true", limitBytes=MAX_LOG_BYTES
            )
        except (ApiError, Unreachable):
            self._logs.pop(f"{pod}/{container}", None)
        else:
            self._logs[f"{pod}/{container}"] = data

    async def write(self, folder: Path, reader: LiveReader, *, additional_keys: Sequence[str] = ()) -> Recorded:
        """Fetch the objects that the run's artifacts name, and KFP's metadata; redact all, and write the folder."""
        last = next(e.body for e in reversed(self._events) if e.kind == "Workflow")
        header = argo.header(last)
        of_kfp = header.source == "kfp-v2"
        metadata = await reader.metadata(self.namespace, header.labels[argo.KFP_RUN]) if of_kfp else None
        told = [*(event.body for event in self._events), msgspec.to_builtins(metadata)]
        scrub = redact.texts(named(told), additional_keys=additional_keys)
        lines: list[bytes] = []
        for n, event in enumerate(self._events, 1):
            line = {
                "n": n,
                "at": event.at,
                "kind": event.kind,
                "type": event.type,
                "object": scrubbed(event.body, scrub),
            }
            lines.append(msgspec.json.encode(line) + b"\n")
        _put(folder / "events.jsonl.gz", gzip.compress(b"".join(lines), 6, mtime=0))
        _put(folder / "final.json", json.dumps(scrubbed(last, scrub), indent=1).encode())
        for place, data in self._logs.items():
            _put(folder / "logs" / f"{place}.log", scrub(data.decode("utf-8", "replace")).encode())
        objects, left_out = await self._objects(folder / "store", reader, scrub, last)
        match metadata:
            case RunMetadata():
                recording_mlmd_writer.write(folder / MLMD, scrubbed_metadata(metadata, scrub))
            case NoMetadata(message=why):
                left_out.append(f"{MLMD}: {why}")
        meta = {
            "name": self.name, "uid": self.uid, "namespace": self.namespace, "events": len(lines), "redacted": True,
            "recorder": f"pipetrail {version('pipetrail')}", "not_stored": left_out,
        }  # fmt: skip
        _put(folder / "meta.json", json.dumps(meta, indent=1).encode())
        return Recorded(
            name=self.name, uid=self.uid, events=len(lines), objects=objects, logs=len(self._logs),
            left_out=tuple(left_out),
        )  # fmt: skip

    async def _objects(
        self, store: Path, reader: LiveReader, scrub: Callable[[str], str], body: Mapping[str, Any]
    ) -> tuple[int, list[str]]:
        stored, left, left_out = 0, MAX_STORE_BYTES, []
        by_bucket = argo.header(body).source != "argo"  # KFP's artifacts lie in another bucket than Argo's
        places = await self._places(body, reader)
        async for key, data, why in _fetched(reader, self.namespace, places, by_bucket=by_bucket):
            path = store.joinpath(*(part for part in key.split("/") if part not in ("", ".", "..")))
            if data is None:
                left_out.append(f"{key}: {why}")
            elif len(data) > left:
                left_out.append(f"{key}: a recording holds at most {MAX_STORE_BYTES >> 20} MiB of objects")
            elif (cleaned := clean(key, data, scrub)) is None:
                left_out.append(f"{key}: it holds a secret and can't be redacted")
            else:
                left -= len(data)
                stored += 1
                _put(path, cleaned)
        return stored, left_out

    async def _places(self, body: Mapping[str, Any], reader: LiveReader) -> list[Location]:
        facts = argo.RunFacts()
        for event in self._events:
            if event.kind == "Pod" and (pod := argo.pod_facts(event.body)) is not None:
                facts = facts.with_pod(pod)
            elif event.kind == "WorkflowTaskResult" and (result := argo.result_facts(event.body)) is not None:
                facts = facts.with_result(result)
        reading = await capture.reading(body, facts, reader, cluster="recording")
        places = [ref.location for ref in reading.files] + [ref.archived for ref in reading.logs if ref.archived]
        return [place for place in dict.fromkeys(places) if not isinstance(place, Unreadable)]


async def _fetched(
    reader: LiveReader, namespace: str, places: Sequence[Location], *, by_bucket: bool
) -> AsyncIterator[tuple[str, bytes | None, str]]:
    for place in places:
        if isinstance(place, Unreadable):
            continue
        got = await reader.raw(namespace, place)
        bucket = place.container if isinstance(place, AzureLocation) else place.bucket
        prefix = f"{bucket}/" if by_bucket else ""
        if not got.blobs:
            yield prefix + place.key, None, "; ".join(note.message for note in got.notes) or "nothing lies there"
        for blob in got.blobs:
            yield prefix + blob.path, blob.data, ""


def _put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
