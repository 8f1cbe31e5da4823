"""JSON of the API server, with what nobody looks at skipped while it is parsed.

A Workflow's event is 20 KB, most of it templates and ``managedFields``. Decoded whole it takes 0.12 ms; the fields that
:func:`header`, :func:`mark`, :func:`pod_facts` and :func:`result_facts` look at take 0.02 ms. What comes out are plain
objects, as :mod:`json` would give them, so those functions stand alone for their rules. A test holds that they say the
same of a glimpse and of the whole, for any JSON.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple, TypedDict

import msgspec

from pipetrail.sources.argo.body import Json, obj, objs, word

WHOLE: Final = ("DELETED", "ERROR")
"""Types of events whose object is kept whole: the last body of a run is all that there will ever be of it."""


class _Metadata(TypedDict, total=False):
    """What :func:`header` and the facts look at; ``managedFields`` is the largest part that they don't."""

    name: Any
    namespace: Any
    uid: Any
    resourceVersion: Any
    generateName: Any
    labels: Any
    annotations: Any
    ownerReferences: Any
    creationTimestamp: Any
    deletionTimestamp: Any
    deletionGracePeriodSeconds: Any


class _Container(TypedDict, total=False):
    args: Any
    env: Any


class _ContainerSet(TypedDict, total=False):
    containers: list[_Container]


class _Template(TypedDict, total=False):
    """What Kubeflow's compiler and its plugins leave in a template (:mod:`pipetrail.sources.argo.kfp`)."""

    container: _Container
    script: _Container
    initContainers: list[_Container]
    containerSet: _ContainerSet
    podSpecPatch: Any


class _WorkflowSpec(TypedDict, total=False):
    templates: list[_Template]
    workflowTemplateRef: Any
    podMetadata: Any
    shutdown: Any
    suspend: Any


class _Node(TypedDict, total=False):
    phase: Any
    message: Any
    finishedAt: Any
    taskResultSynced: Any
    daemoned: Any
    outputs: Any


class _WorkflowStatus(TypedDict, total=False):
    phase: Any
    startedAt: Any
    finishedAt: Any
    message: Any
    compressedNodes: Any
    offloadNodeStatusVersion: Any
    outputs: Any
    nodes: dict[str, _Node]


class Workflow(TypedDict, total=False):
    """A Workflow for :func:`header` and :func:`mark`."""

    metadata: _Metadata
    spec: _WorkflowSpec
    status: _WorkflowStatus


class _PodSpec(TypedDict, total=False):
    containers: Any
    initContainers: Any


class Pod(TypedDict, total=False):
    """A pod for :func:`pod_facts`."""

    metadata: _Metadata
    spec: _PodSpec
    status: Any


class Result(TypedDict, total=False):
    """A WorkflowTaskResult for :func:`result_facts`."""

    metadata: _Metadata
    outputs: Any


class Event(NamedTuple):
    """An event of a watch: `type` is ADDED, MODIFIED, DELETED, BOOKMARK or ERROR."""

    type: str
    body: Json


class Page(NamedTuple):
    """A page of a list. `following` is the token of the next one, empty at the end; `version` is the list's."""

    items: Sequence[Json]
    following: str
    version: str


class _ListMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    following: str = msgspec.field(default="", name="continue")


class Glimpse:
    """Decodes events and pages of one kind: :class:`Workflow`, :class:`Pod` or :class:`Result`.

    Both methods raise :class:`msgspec.DecodeError` where there is no JSON, and ``RecursionError`` where it is too deep.
    """

    def __init__(self, kind: Any) -> None:
        self._event = msgspec.json.Decoder(_event(kind))
        self._page = msgspec.json.Decoder(_page(kind))

    def event(self, line: bytes) -> Event:
        """The event on a line of a watch; of a type in :data:`WHOLE` with all that there is."""
        try:
            found = self._event.decode(line)
        except msgspec.ValidationError:  # not a shape that an API server lets in: read as it is
            found = _WHOLE_EVENT.decode(line)
        else:
            if found.type in WHOLE:
                found = _WHOLE_EVENT.decode(line)
        return Event(word(found.type), obj(found.object))

    def page(self, data: bytes) -> Page:
        """The page of a list in the body of an answer."""
        try:
            found = self._page.decode(data)
        except msgspec.ValidationError:
            found = _WHOLE_PAGE.decode(data)
        meta = found.metadata
        return Page(tuple(objs(found.items)), meta.following, meta.resource_version)


def _event(kind: Any) -> Any:
    return msgspec.defstruct("_Event", [("type", Any, ""), ("object", kind, None)])


def _page(kind: Any) -> Any:
    fields = [("metadata", _ListMeta, msgspec.field(default_factory=_ListMeta)), ("items", list[kind] | None, None)]
    return msgspec.defstruct("_Page", fields)


_WHOLE_EVENT: Final[Any] = msgspec.json.Decoder(_event(Any))
_WHOLE_PAGE: Final[Any] = msgspec.json.Decoder(_page(Any))

WORKFLOW: Final = Glimpse(Workflow)
POD: Final = Glimpse(Pod)
RESULT: Final = Glimpse(Result)
