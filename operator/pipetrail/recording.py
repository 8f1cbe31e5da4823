"""Recordings: all that the cluster said about one run, as a folder (design §14).

``events.jsonl[.gz]`` holds watch events of the Workflow, its pods and its task results in the order of their arrival,
``store/`` the objects that its artifacts name (path = key), ``logs/<pod>/<container>.log`` the containers' logs. Tests,
``preview`` and ``replay`` read them; a bug report is one.
"""

import asyncio
import gzip
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from msgspec.structs import replace

from pipetrail import recording_mlmd
from pipetrail.formats import Note, archives, pages
from pipetrail.formats.metrics import readable
from pipetrail.readers import Blob, Fetched
from pipetrail.record import Frozen
from pipetrail.sources import AzureLocation, FileRef, GcsLocation, Location, LogRef, S3Location, Unreadable, argo
from pipetrail.sources.kfp_v2.metadata import Metadata

MAX_OBJECT_BYTES: Final = 32 << 20
MAX_FILES: Final = 1000
MAX_SIBLINGS: Final = 200
MLMD: Final = "mlmd.sqlite"


class BadRecording(Exception):
    """The folder is no recording; the text says what is missing."""


class Event(Frozen, frozen=True):
    """One watch event: `type` is ADDED, MODIFIED or DELETED, `at` its arrival in Unix seconds."""

    kind: str
    type: str
    body: Mapping[str, Any]
    at: float = 0.0


class Recording:
    """One recorded run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def events(self) -> Iterator[Event]:
        """All events in order of arrival."""
        plain, packed = self.folder / "events.jsonl", self.folder / "events.jsonl.gz"
        number = 0
        try:
            with plain.open("rb") if plain.exists() else gzip.open(packed) as lines:
                for line in lines:
                    number += 1
                    if line.strip():
                        yield _event(json.loads(line))
        except (OSError, EOFError) as error:
            raise BadRecording(f"{self.folder}: events can't be read: {error}") from None
        except ValueError as error:
            raise BadRecording(f"{self.folder}: line {number} of the events is no JSON: {error}") from None

    def fold(self) -> tuple[Mapping[str, Any], argo.RunFacts]:
        """The run's last body and the facts around it, as a live operator has them after the last event."""
        body: Mapping[str, Any] | None = None
        facts = argo.RunFacts()
        for event in self.events():
            body, facts = self.after(body, facts, event)
        return (self._final() if body is None else body), facts

    @cached_property
    def uid(self) -> str:
        """The recorded run's uid. Other runs of its name, and their pods, may be among the events."""
        return next((argo.header(e.body).uid for e in self.events() if e.kind == "Workflow"), "") or self._final_uid()

    def after(
        self, body: Mapping[str, Any] | None, facts: argo.RunFacts, event: Event
    ) -> tuple[Mapping[str, Any] | None, argo.RunFacts]:
        """Body and facts once `event` has arrived. Facts may come before the body does."""
        match event.kind:
            case "Workflow" if argo.header(event.body).uid == self.uid:
                if event.type == "DELETED":
                    return event.body, facts.gone()
                return body if body is not None and _before(event.body, body) else event.body, facts
            case "Pod":
                pod = argo.pod_facts(event.body)
                if pod is not None and pod.owner_uid == self.uid:
                    facts = facts.with_pod(replace(pod, deleted=event.type == "DELETED"))
            case "WorkflowTaskResult" if event.type != "DELETED":
                # That a result goes away says nothing: all are deleted when the run ends.
                result = argo.result_facts(event.body)
                if result is not None and result.owner_uid == self.uid:
                    facts = facts.with_result(result)
        return body, facts

    def _final_uid(self) -> str:
        return argo.header(self._final()).uid

    def _final(self) -> Mapping[str, Any]:
        try:
            body = json.loads((self.folder / "final.json").read_bytes())
        except (OSError, ValueError) as error:
            raise BadRecording(
                f"{self.folder}: no event of a Workflow, and final.json can't be read: {error}"
            ) from None
        if not isinstance(body, dict):
            raise BadRecording(f"{self.folder}: final.json is no object")
        return body

    def reader(self) -> "RecordedReader":
        """Reads artifacts from ``store/`` and logs from ``logs/``."""
        return RecordedReader(self.folder)


def load(folder: Path) -> Recording:
    """The recording in `folder`. Raises :class:`BadRecording` if it is none."""
    if not folder.is_dir():
        raise BadRecording(f"{folder} is no folder")
    if not any((folder / name).exists() for name in ("events.jsonl", "events.jsonl.gz")):
        raise BadRecording(f"{folder} has no events.jsonl: it is no recording")
    return Recording(folder)


def _before(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """True if `one` stood before `other`, and a list from an old cache brought it back. Versions of one kind grow."""
    versions = [argo.header(body).version for body in (one, other)]
    if not all(version.isascii() and version.isdigit() and len(version) < 20 for version in versions):
        return False
    return int(versions[0]) < int(versions[1])


def _event(line: Any) -> Event:
    if not isinstance(line, dict) or not isinstance(line.get("object"), dict):
        return Event(kind="", type="", body={})
    at = line.get("at")
    return Event(
        kind=str(line.get("kind")),
        type=str(line.get("type")),
        body=line["object"],
        at=float(at) if isinstance(at, int | float) else 0.0,
    )


class RecordedReader:
    """Implements :class:`pipetrail.readers.Reader` for one recording."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self._store = folder / "store"
        self._logs = folder / "logs"

    async def artifact(self, namespace: str, ref: FileRef) -> Fetched:
        """The files of an artifact, whatever store its key names."""
        path = self._find(ref.location)
        if path is None:
            return Fetched(present=False)
        wanted = readable if ref.figure is None else pages.readable
        if path.is_dir():
            return _directory(path, wanted)
        name = (ref.path or "").rstrip("/").rpartition("/")[2]
        return _object(path, name, wanted)

    def _find(self, location: Location) -> Path | None:
        """An object of the recorded store. A cached task's lie where its first run put them: beside, in that recording.

        Only recordings of one KFP, which share their metadata store, look at each other.
        """
        stores = [self._store]
        if (self._folder.parent / MLMD).is_file():
            beside = sorted(self._folder.parent.iterdir())[:MAX_SIBLINGS]
            stores += [folder / "store" for folder in beside if folder != self._folder]
        paths = (_below(store, place) for store in stores for place in _places(location))
        return next((path for path in paths if path is not None and path.exists()), None)

    async def log(self, namespace: str, ref: LogRef, *, tail_lines: int | None = None) -> Fetched:
        """A container's log with stamps, else Argo's archived copy, which has none."""
        live = _below(self._logs, f"{ref.pod}/{ref.container}.log") if ref.pod else None
        archived = self._find(ref.archived) if ref.archived is not None else None
        for path in (live, archived):
            if path is not None and path.is_file():
                data = path.read_bytes()[:MAX_OBJECT_BYTES]
                return Fetched(blobs=(Blob(path=path.name, data=data),), size=len(data))
        return Fetched(present=False, notes=(Note(reason="LogGone", message="the recording has no log of it"),))

    async def metadata(self, namespace: str, run_id: str) -> Metadata:
        """What the metadata store that was recorded with the run, or with a set of runs, says."""
        file = next((f for f in (self._folder / MLMD, self._folder.parent / MLMD) if f.is_file()), self._folder / MLMD)
        found = await asyncio.to_thread(recording_mlmd.read, file, run_id)
        return replace(found, experiment=_experiment(self._folder / "api" / "experiment.json"))


def _places(location: Location) -> tuple[str, ...]:
    """Where an object may lie below ``store/``: its key is its path, or comes after its bucket's name."""
    match location:
        case Unreadable():
            return ()
        case AzureLocation(container=bucket, key=key) | S3Location(bucket=bucket, key=key):
            return key, f"{bucket}/{key}"
        case GcsLocation(bucket=bucket, key=key):
            return key, f"{bucket}/{key}"


def _experiment(file: Path) -> str:
    """The experiment's name, if KFP's API was recorded."""
    try:
        body = json.loads(file.read_bytes()[:MAX_OBJECT_BYTES])
    except (OSError, ValueError, RecursionError):
        return ""
    name = body.get("display_name") if isinstance(body, dict) else None
    return name if isinstance(name, str) else ""


def _below(root: Path, key: str) -> Path | None:
    """`key` as a path below `root`; None if it would lead out of it."""
    parts = [part for part in key.split("/") if part not in ("", ".")]
    if not parts or ".." in parts or "\0" in key:
        return None
    path = root.joinpath(*parts)
    try:
        return path if path.resolve().is_relative_to(root.resolve()) else None
    except OSError:
        return None


def _object(path: Path, name: str, wanted: Callable[[str], bool]) -> Fetched:
    size = path.stat().st_size
    if size > MAX_OBJECT_BYTES:
        return Fetched(notes=(Note(reason="TooLarge", message=f"{path.name} has {size} bytes"),), size=size)
    data = path.read_bytes()
    unpacked = archives.unpack(path.name, data)
    blobs = unpacked.blobs
    if name and len(blobs) == 1 and blobs[0][1] is data:
        blobs = ((name, data),)  # a key may be anything; the pod's path is what the user called the file
    return Fetched(
        blobs=tuple(Blob(path=p, data=d) for p, d in blobs if wanted(p)),
        notes=unpacked.notes,
        size=size,
        digest=f"sha256:{hashlib.sha256(data).hexdigest()}",
    )


def _directory(path: Path, wanted: Callable[[str], bool]) -> Fetched:
    files = sorted(p for p in path.rglob("*") if p.is_file() and not p.is_symlink())
    blobs = [
        Blob(path=p.relative_to(path).as_posix(), data=p.read_bytes())
        for p in files[:MAX_FILES]
        if wanted(p.name) and p.stat().st_size <= MAX_OBJECT_BYTES
    ]
    return Fetched(blobs=tuple(blobs), size=sum(p.stat().st_size for p in files))
