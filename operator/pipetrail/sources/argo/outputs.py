"""What a step gave: parameters, result, the points among them, artifacts by reference, and its archived logs."""

import re
from collections.abc import Collection, Iterator
from datetime import datetime
from typing import Final

from pipetrail.record import Artifact, FromParameter, FromResult, Frozen, Outputs, Point, number
from pipetrail.sources import FileRef, Location, Unreadable
from pipetrail.sources.argo.body import Json, named, obj, objs, text, word
from pipetrail.sources.argo.locations import archive, locate
from pipetrail.sources.argo.templates import parameters

_MANIFEST_KIND: Final = re.compile(r"\bkind[\"']?\s*:\s*[\"']?([A-Z][A-Za-z0-9]{1,60})")
_OWN_NAME: Final = ("{.metadata.name}", ".metadata.name")


class Found(Frozen, frozen=True):
    """One output artifact and, unless it is known to be gone, where to fetch it."""

    artifact: Artifact
    location: Location | None = None
    path: str | None = None


def values(outputs: Json, *, without: Collection[str] = ()) -> Outputs:
    """Output parameters and result, exactly as Argo holds them."""
    params = {name: value for name, value in parameters(outputs).items() if name not in without}
    return Outputs(parameters=params, result=text(outputs.get("result")))


def references(outputs: Json, template: Json, namespace: str) -> tuple[Artifact, ...]:
    """Objects that a resource template made, by the output parameters that hold their names.

    Such a name is generated anew in each run: it points at what the step made and is no value of it, so it is listed
    beside the artifacts.
    """
    manifest = word(obj(template, "resource").get("manifest"))
    kind = _MANIFEST_KIND.search(manifest)
    if kind is None or "generateName" not in manifest:
        return ()
    there = parameters(outputs)
    declared = named(obj(template, "outputs").get("parameters"))
    names = [n for n, p in declared.items() if word(obj(p, "valueFrom").get("jsonPath")) in _OWN_NAME and there.get(n)]
    return tuple(
        Artifact(name=n, uri=f"kubernetes://{namespace}/{kind[1].lower()}/{there[n]}", type=kind[1]) for n in names
    )


def points(outputs: Outputs, at: datetime | None) -> tuple[Point, ...]:
    """The outputs that are strictly numbers, at the step's end (design §4)."""
    return tuple(_points(outputs, at)) if at is not None else ()


def _points(outputs: Outputs, at: datetime) -> Iterator[Point]:
    for name, value in outputs.parameters.items():
        if (found := number(value)) is not None:
            yield Point(key=name, value=found, time=at, source=FromParameter(parameter=name))
    if outputs.result is not None and (found := number(outputs.result)) is not None:
        yield Point(key="result", value=found, time=at, source=FromResult())


def artifacts(outputs: Json, template: Json, repository: Json, *, complete: bool) -> tuple[Found, ...]:
    """Output artifacts without Argo's own logs. Once `complete`, what was declared and is not there is absent."""
    listed = [_found(a, repository) for a in objs(outputs.get("artifacts")) if word(a.get("name")) and not _is_log(a)]
    if complete:
        there = {f.artifact.name for f in listed}
        for name, declared in named(obj(template, "outputs").get("artifacts")).items():
            if name not in there:
                packed = archive(declared, None) or "tar"
                listed.append(Found(artifact=Artifact(name=name, archive=packed, present=False)))
    return tuple(listed)


def missing(outputs: Json, template: Json) -> list[str]:
    """Parameters that the template declares and a step that succeeded does not have (sources.md §1.8, trap 3)."""
    there = parameters(outputs)
    declared = named(obj(template, "outputs").get("parameters"))
    return [n for n, p in declared.items() if n not in there and isinstance(p.get("valueFrom"), dict)]


def archived_log(outputs: Json, container: str, repository: Json) -> Location | None:
    """Where Argo keeps a container's log, if it does."""
    for artifact in objs(outputs.get("artifacts")):
        if artifact.get("name") == f"{container}-logs" and _is_log(artifact):
            location, _ = locate(artifact, repository)
            return None if isinstance(location, Unreadable) else location
    return None


def file_ref(found: Found, step: int, at: datetime | None, key: str) -> FileRef | None:
    """What has to be fetched of an artifact; None if it is known to be gone."""
    if found.location is None:
        return None
    return FileRef(
        step=step,
        artifact=found.artifact.name,
        path=found.path,
        location=found.location,
        archive=found.artifact.archive,
        at=at,
        key=key,
    )


def _found(artifact: Json, repository: Json) -> Found:
    location, uri = locate(artifact, repository)
    gone = artifact.get("deleted") is True
    return Found(
        artifact=Artifact(
            name=word(artifact.get("name")),
            uri=uri,
            archive=archive(artifact, uri),
            present=False if gone else None,
        ),
        location=None if gone else location,
        path=word(artifact.get("path")) or None,
    )


def _is_log(artifact: Json) -> bool:
    """True for what ``archiveLogs`` adds: ``<container>-logs`` without a path, at ``.../<container>.log``."""
    container, dash, rest = word(artifact.get("name")).rpartition("-")
    if rest != "logs" or not dash or artifact.get("path"):
        return False
    stores = [v for v in artifact.values() if isinstance(v, dict)]
    keys = (word(store.get("key")) or word(store.get("blob")) for store in stores)
    return not stores or any(key.endswith(f"{container}.log") for key in keys)
