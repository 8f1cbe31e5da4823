"""Where KFP's artifacts lie. KFP names a store by itself; we go to none but the run's own artifact repository.

A URI is ``s3://bucket/key``, ``minio://bucket/key`` or ``gs://bucket/key``, maybe with a query (trap 64), and the
address of its store stands in the artifact's session, which is what a namespace's user configured. So what lies in
another store than the Workflow's repository is recorded by address and never asked for.
"""

import re
from collections.abc import Iterable
from typing import Final, Literal
from urllib.parse import urlsplit

from pipetrail.sources import Location, Unreadable
from pipetrail.sources.argo.body import Json, obj, word
from pipetrail.sources.argo.locations import locate
from pipetrail.sources.kfp_v2.values import parsed

_DEFAULT_PORTS: Final = {":80", ":443"}
_RUN: Final = re.compile(r"/([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})/")


def location(uri: str, session: str, repository: Json) -> Location:
    """Where the object or prefix `uri` is fetched from, or why it is not."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return Unreadable(reason="NoLocation", message="its address is none")
    bucket, key = parts.netloc.rpartition("@")[2], parts.path.lstrip("/")
    if not bucket or not key:
        return Unreadable(reason="NoLocation", message="bucket or key is missing")
    match parts.scheme:
        case "s3" | "minio":
            return _s3(bucket, key, session, repository)
        case "gs":
            return locate({"gcs": {"bucket": bucket, "key": key}}, repository)[0]
        case scheme:
            said = f"artifacts at {scheme[:40]}:// are recorded by address and not read"
            return Unreadable(reason="ForeignStore", message=said)


def _s3(bucket: str, key: str, session: str, repository: Json) -> Location:
    own = obj(repository, "s3")
    there = word(obj(parsed(session), "Params").get("endpoint"))
    if there and own and _host(there) != _host(word(own.get("endpoint"))):
        said = "it lies in another store than the run's artifact repository names"
        return Unreadable(reason="ForeignStore", message=said)
    return locate({"s3": {"bucket": bucket, "key": key}}, repository)[0]


def _host(endpoint: str) -> str:
    """An endpoint as it is compared: without scheme and default port, and a Service by its short name."""
    host = endpoint.partition("://")[2] or endpoint
    host = host.rstrip("/").lower()
    name, colon, port = host.partition(":")
    name = name.removesuffix(".").removesuffix(".cluster.local").removesuffix(".svc")
    return name if colon + port in _DEFAULT_PORTS else name + colon + port


def page(kind: str | None) -> Literal["markdown", "html"] | None:
    """What the file of an artifact of this type is for people."""
    match (kind or "").partition("@")[0].rpartition(".")[2]:
        case "Markdown":
            return "markdown"
        case "HTML":
            return "html"
        case _:
            return None


def run_of(uris: Iterable[str], own: str) -> str | None:
    """The run whose folder these addresses lie in (``<root>/<pipeline>/<run id>/<task>/…``), if it is not `own`."""
    found = (match[1] for uri in uris if (match := _RUN.search(uri)))
    return next((run for run in found if run != own), None)
