"""A recording made ready for an API server: bodies with holes for what differs from play to play.

What is changed in a body, and nothing else:

- The workflow's name, as a word of its own, everywhere (node ids, pod names, labels, S3 keys hold it): node ids need
  only agree with each other, so their hashes stay as recorded.
- Uids that the API server assigns anew, wherever the recorded one stands.
- RFC 3339 stamps that are a JSON string of their own and lie within a day of the recording, moved by one span.
- What only the server or another controller may set: managedFields, finalizers, owners other than the Workflow.
- Pods are for nobody to run: a scheduler that does not exist, no node, no volumes but emptyDir, no account's token.
- The label of an instance id that no controller has, so that a live Argo leaves the run alone.
- The artifact repository: endpoint, bucket and Secrets of the store that the objects are uploaded to. Where KFP says in
  its parameters how an artifact's store is reached, the endpoint alone: other buckets keep their names.
"""

import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

import msgspec

from pipetrail.record import Frozen
from pipetrail.recording import Event
from pipetrail.sources import argo

LABEL: Final = "workflows.argoproj.io/controller-instanceid"
INSTANCE: Final = "pipetrail-replay"
FULFILLED: Final = frozenset({"Succeeded", "Failed", "Error", "Skipped", "Omitted"})
SUFFIX_LETTERS: Final = "bcdfghjklmnpqrstvwxz2456789"  # what Kubernetes itself makes generated names of
MAX_NAME: Final = 63  # it is a label's value

_SERVER_SET: Final = (
    "uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "selfLink", "finalizers",
    "deletionTimestamp", "deletionGracePeriodSeconds",
)  # fmt: skip
_NOT_OURS: Final = (
    "nodeName", "priority", "priorityClassName", "preemptionPolicy", "ephemeralContainers", "resourceClaims",
    "schedulingGates",
)  # fmt: skip
_STAMP: Final = r'(?<=")\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?Z(?=")'
_DAY_S: Final = 86400.0
_SESSION: Final = "store_session_info"  # in KFP's parameters: how an artifact's store is reached, as JSON in JSON

Json = dict[str, Any]
Hole = tuple[Literal["name", "uid", "stamp"], str]


class Store(Frozen, frozen=True):
    """The live cluster's S3 store; `secret` is a Secret in the run's namespace, with the names of its two keys."""

    endpoint: str
    bucket: str
    region: str = ""
    secret: str = "s3-credentials"  # noqa: S105 - a Secret's name
    access_key: str = "accesskey"
    secret_key: str = "secretkey"  # noqa: S105

    @property
    def host(self) -> str:
        """The endpoint as Argo writes it: without a scheme."""
        return self.endpoint.partition("://")[2] or self.endpoint

    @property
    def insecure(self) -> bool:
        """Plain http."""
        return self.endpoint.startswith("http://")


class Text(Frozen, frozen=True):
    """JSON with holes."""

    parts: tuple[str | Hole, ...]

    def fill(self, value: Callable[[Hole], str]) -> Json:
        """The JSON value with every hole filled."""
        text = "".join(part if isinstance(part, str) else value(part) for part in self.parts)
        body: Json = msgspec.json.decode(text)
        return body


class Move(Frozen, frozen=True):
    """One thing that the cluster did: `at_s` seconds after the run's first event, `says` what a person would see."""

    at_s: float
    kind: str
    type: Literal["ADDED", "MODIFIED", "DELETED"]
    name: str
    uid: str
    body: Text
    says: tuple[str, ...] = ()


class Script(Frozen, frozen=True):
    """A recording, ready to be played any number of times into `namespace`.

    `repository` is the bucket of the recorded run's own artifact repository where the recording's ``store/`` has a
    folder for each bucket (KFP's artifacts lie in another one than Argo's); empty where it has not.
    """

    name: str
    uid: str
    generate_name: str
    namespace: str
    started: float
    duration_s: float
    moves: tuple[Move, ...]
    store: Store | None
    outcome: str
    repository: str = ""

    def renamed(self, text: str, name: str) -> str:
        """`text` (an S3 key, a pod's name) as it is called in a run with another name."""
        return _word(self.name).sub(lambda _: name, text)


def fresh_name(script: Script) -> str:
    """A name as generateName would give it, for one more run of the same pipeline."""
    base = script.generate_name or f"{script.name}-"
    suffix = "".join(secrets.choice(SUFFIX_LETTERS) for _ in range(5))
    return base[: MAX_NAME - len(suffix)] + suffix


def script(events: Iterable[Event], *, namespace: str, store: Store | None = None, thin: bool = False) -> Script:
    """Make the events of one run ready; raises :class:`ValueError` if there is no Workflow among them.

    `thin` leaves out what pods do before they end (half of all events): an observer that lets the server drop those,
    as ours does, sees no difference, and an API server on a small machine plays twice as many runs.
    """
    happened = list(events)
    first = next((e for e in happened if e.kind == "Workflow"), None)
    if first is None:
        raise ValueError("the recording has no event of a Workflow: is it one of an Argo run?")
    meta = first.body["metadata"]
    uids = {str(e.body["metadata"].get("uid")) for e in happened if e.kind in ("Workflow", "Pod")}
    started, ended = happened[0].at, max(e.at for e in happened)
    cut = _Cut(str(meta["name"]), uids - {"None", ""}, started - _DAY_S, ended + _DAY_S)
    recorded = _repository(happened)
    tell = Telling()
    moves = tuple(
        Move(
            at_s=max(0.0, e.at - started),
            kind=e.kind,
            type="DELETED" if e.type == "DELETED" else "ADDED" if e.type == "ADDED" else "MODIFIED",
            name=str(e.body["metadata"]["name"]),
            uid=str(e.body["metadata"].get("uid") or ""),
            body=cut.text(_cleaned(e, namespace, recorded, store)),
            says=tuple(tell.about(e)),
        )
        for e in happened
        if e.type in ("ADDED", "MODIFIED", "DELETED") and not (thin and _is_underway(e))
    )
    return Script(
        name=str(meta["name"]), uid=str(meta.get("uid") or ""), generate_name=str(meta.get("generateName") or ""),
        namespace=namespace, started=started, duration_s=ended - started, moves=moves, store=store,
        outcome=tell.phase or "Pending",
        repository="" if argo.header(first.body).source == "argo" else str(recorded.get("bucket") or ""),
    )  # fmt: skip


def shifted(stamp: str, by_s: int) -> str:
    """An RFC 3339 stamp in UTC moved by whole seconds; its fraction stays as it is."""
    seconds, dot, fraction = stamp.removesuffix("Z").partition(".")
    moved = datetime.strptime(seconds, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC) + timedelta(seconds=by_s)
    return f"{moved:%Y-%m-%dT%H:%M:%S}{dot}{fraction}Z"


def _word(name: str) -> re.Pattern[str]:
    # Behind a JSON escape (\n, \t) a word begins too.
    return re.compile(rf"(?:(?<![A-Za-z0-9-])|(?<=\\[nrt])){re.escape(name)}(?![A-Za-z0-9])")


class _Cut:
    """Cuts JSON at what differs from play to play."""

    def __init__(self, name: str, uids: set[str], earliest: float, latest: float) -> None:
        word = _word(name).pattern
        known = "|".join(map(re.escape, sorted(uids))) or "(?!)"
        self._holes = re.compile(f"(?P<name>{word})|(?P<uid>{known})|(?P<stamp>{_STAMP})")
        self._window = (earliest, latest)

    def text(self, body: Json) -> Text:
        text = msgspec.json.encode(body).decode()
        parts: list[str | Hole] = []
        end = 0
        for match in self._holes.finditer(text):
            if match["stamp"] and not self._of_this_run(match[0]):
                continue
            kind: Literal["name", "uid", "stamp"] = "name" if match["name"] else "uid" if match["uid"] else "stamp"
            parts += [text[end : match.start()], (kind, match[0])]
            end = match.end()
        return Text((*parts, text[end:]))

    def _of_this_run(self, stamp: str) -> bool:
        try:
            at = datetime.fromisoformat(stamp[:19] + "+00:00").timestamp()
        except ValueError:
            return False
        return self._window[0] <= at <= self._window[1]


def _repository(events: Iterable[Event]) -> Json:
    """The S3 repository that the recording's controller resolved."""
    for event in events:
        if event.kind == "Workflow":
            status = event.body.get("status") or {}
            found = (status.get("artifactRepositoryRef") or {}).get("artifactRepository") or {}
            if found.get("s3"):
                return dict(found["s3"])
    return {}


def _is_underway(event: Event) -> bool:
    phase = (event.body.get("status") or {}).get("phase")
    return event.kind == "Pod" and event.type == "MODIFIED" and phase in ("Pending", "Running")


def _cleaned(event: Event, namespace: str, recorded: Json, store: Store | None) -> Json:
    """The body as we may write it."""
    kind, body = event.kind, event.body
    moved = _moved(body, recorded, store) if store and recorded else body
    meta = {key: value for key, value in moved["metadata"].items() if key not in _SERVER_SET}
    meta["namespace"] = namespace
    meta["labels"] = {**(meta.get("labels") or {}), LABEL: INSTANCE}
    owners = [owner for owner in meta.pop("ownerReferences", ()) if kind != "Workflow" and owner["kind"] == "Workflow"]
    if owners:
        meta["ownerReferences"] = owners
    clean = {**moved, "metadata": meta}
    if kind == "Pod":
        clean["spec"] = _idle(moved["spec"])
        clean["apiVersion"] = "v1"
    return clean


def _moved(value: Any, recorded: Json, store: Store) -> Any:
    """`value` with the recorded store's address and Secrets replaced by the live one's."""
    match value:
        case Mapping():
            new = {key: _moved(item, recorded, store) for key, item in value.items()}
            # A store that the user named beside the run's own stays what it was: foreign.
            if value.get("endpoint") == recorded.get("endpoint") and "endpoint" in value and "bucket" in value:
                new |= {
                    "endpoint": store.host, "bucket": store.bucket, "insecure": store.insecure,
                    "accessKeySecret": {"name": store.secret, "key": store.access_key},
                    "secretKeySecret": {"name": store.secret, "key": store.secret_key},
                }  # fmt: skip
                if store.region:
                    new["region"] = store.region
            return new
        case list():
            return [_moved(item, recorded, store) for item in value]
        case str() if _SESSION in value and recorded.get("endpoint"):
            return value.replace(str(recorded["endpoint"]), store.host)
        case _:
            return value


def _idle(spec: Mapping[str, Any]) -> Json:
    """A pod's spec that no scheduler, kubelet or admission plugin takes up."""
    kept = [volume for volume in spec.get("volumes", ()) if "emptyDir" in volume]
    names = {volume["name"] for volume in kept}
    idle: Json = {key: value for key, value in spec.items() if key not in _NOT_OURS}
    for field in ("containers", "initContainers"):
        if field in spec:
            idle[field] = [_bare(container, names) for container in spec[field]]
    return idle | {
        "volumes": kept, "schedulerName": INSTANCE, "automountServiceAccountToken": False,
        "serviceAccountName": "default", "serviceAccount": "default",
    }  # fmt: skip


def _bare(container: Mapping[str, Any], volumes: set[str]) -> Json:
    mounts = [mount for mount in container.get("volumeMounts", ()) if mount["name"] in volumes]
    return {**container, "volumeMounts": mounts}


class Telling:
    """What a person at the cluster would see happen, event by event."""

    def __init__(self) -> None:
        self.phase = ""
        self._nodes: dict[str, str] = {}
        self._pods: dict[str, str] = {}

    def about(self, event: Event) -> Iterator[str]:
        """A line for each thing that changed with this event."""
        status = event.body.get("status") or {}
        name = str(event.body["metadata"]["name"])
        if event.type == "DELETED":
            if event.kind != "WorkflowTaskResult":
                yield f"{event.kind.lower()} {name} deleted"
            return
        if event.kind == "Pod" and (phase := str(status.get("phase") or "")) != self._pods.get(name):
            self._pods[name] = phase
            if phase in FULFILLED:
                yield f"pod {name} {phase}"
        if event.kind == "Workflow":
            for node in (status.get("nodes") or {}).values():
                key, phase = str(node.get("id")), str(node.get("phase") or "")
                if phase in FULFILLED and phase != self._nodes.get(key) and node.get("type") not in ("DAG", "Steps"):
                    yield f"step {node.get('displayName')} {phase}"
                self._nodes[key] = phase
            if (phase := str(status.get("phase") or "")) != self.phase:
                self.phase = phase
                yield f"run {phase}"
