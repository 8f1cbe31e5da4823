"""What is withheld from a recording: names whose values are secret; bodies, objects, metadata without these. Pure."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from msgspec.structs import replace

from pipetrail.formats import archives
from pipetrail.sources.kfp_v2.metadata import RunMetadata


def named(value: Any) -> Iterator[tuple[str, Any]]:
    """Names and their values: parameters and variables (`{name, value}`), labels, annotations, MLMD's properties."""
    match value:
        case Mapping():
            if isinstance(name := value.get("name"), str) and "value" in value:
                yield name, value["value"]
            for key in ("labels", "annotations", "properties", "custom"):
                if isinstance(value.get(key), Mapping):
                    yield from value[key].items()
            for inner in value.values():
                yield from named(inner)
        case list() | tuple():
            for inner in value:
                yield from named(inner)


def scrubbed(value: Any, scrub: Callable[[str], str]) -> Any:
    """A JSON value with each text of it scrubbed."""
    match value:
        case str():
            return scrub(value)
        case Mapping():
            return {key: scrubbed(inner, scrub) for key, inner in value.items()}
        case list() | tuple():
            return [scrubbed(inner, scrub) for inner in value]
        case _:
            return value


def scrubbed_metadata(run: RunMetadata, scrub: Callable[[str], str]) -> RunMetadata:
    """What the metadata store said, with each text of it scrubbed."""
    return replace(
        run,
        executions=tuple(replace(e, custom=scrubbed(e.custom, scrub)) for e in run.executions),
        artifacts=tuple(replace(a, uri=scrub(a.uri), custom=scrubbed(a.custom, scrub)) for a in run.artifacts),
    )


def clean(key: str, data: bytes, scrub: Callable[[str], str]) -> bytes | None:
    """The object without secrets: a text is scrubbed, anything else kept only if no secret is in it."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        inner = [member for _, member in archives.unpack(key, data).blobs]
        texts = [part.decode("utf-8", "replace") for part in (data, *inner)]
        return data if all(scrub(text) == text for text in texts) else None
    return scrub(text).encode()
