"""Facts of pods and task results: what only they know, compact enough to be kept for each live run.

Everything is keyed by uid: node ids and pod names come back with an ``argo retry`` and with another run of the same
name (README of the recordings, 11 and 25).
"""

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from msgspec.structs import replace

from pipetrail.record import Frozen
from pipetrail.sources.argo.body import EMPTY, Json, moment, named, obj, objs, text, texts, whole, word

WORKFLOW: Final = "workflows.argoproj.io/workflow"
NODE_ID: Final = "workflows.argoproj.io/node-id"
NODE_NAME: Final = "workflows.argoproj.io/node-name"
COMPONENT: Final = "workflows.argoproj.io/component"
COMPLETE: Final = "workflows.argoproj.io/report-outputs-completed"

EXECUTORS: Final = frozenset({"wait", "supervisor"})
"""Argo's own containers beside the user's (``supervisor`` replaces init and wait in init-less pods of 4.1)."""

MAX_PODS: Final = 4000
"""Pods of one run whose facts are kept; beyond it the oldest are forgotten and counted."""
MAX_RESULT_CHARS: Final = 8 << 20
"""Outputs of task results that are held for one run; beyond it the oldest go (their nodes will tell)."""
MAX_TEXT: Final = 1024

IMAGE_TROUBLE: Final = re.compile(
    r"(ErrImagePull|ErrImageNeverPull|ImagePullBackOff|InvalidImageName|ImageInspectError|RegistryUnavailable|"
    r"CreateContainerConfigError|CreateContainerError|RunContainerError)\b"
)

_TEMPLATE_NAME: Final = re.compile(r'\{"name":"([^"\\]+)"')


class ContainerFacts(Frozen, frozen=True):
    """One container: how it ended, or for what it waits."""

    name: str
    exit_code: int | None = None
    reason: str = ""
    message: str = ""
    started: datetime | None = None
    finished: datetime | None = None
    waiting: str = ""
    init: bool = False

    @property
    def user(self) -> bool:
        """True if it is none of Argo's own."""
        return not self.init and self.name not in EXECUTORS and not self.name.startswith("artifact-plugin-")


class PodFacts(Frozen, frozen=True):
    """One pod of a run. `deletion_asked` is when someone asked for its deletion; `trouble` outlives its cause."""

    uid: str
    name: str
    namespace: str
    owner_uid: str
    node_id: str
    node_name: str = ""
    workflow: str = ""
    phase: str = ""
    reason: str = ""
    message: str | None = None
    version: str = ""
    created: datetime | None = None
    deletion_asked: datetime | None = None
    deleted: bool = False
    template: str = ""
    containers: tuple[ContainerFacts, ...] = ()
    image: str = ""
    digest: str = ""
    trouble: str = ""
    trouble_message: str = ""

    @property
    def ended(self) -> bool:
        """True if it will not run again."""
        return self.phase in ("Succeeded", "Failed")

    @property
    def finished(self) -> datetime | None:
        """When its last container ended; Argo copies this as the node's ``finishedAt``."""
        return max((c.finished for c in self.containers if c.finished), default=None)

    @property
    def main(self) -> ContainerFacts | None:
        """The container whose end is the step's: ``main``, else the only one of the user's."""
        return self.container("main")

    def container(self, name: str) -> ContainerFacts | None:
        """A container by name."""
        return next((c for c in self.containers if c.name == name and not c.init), None)

    @property
    def verdict(self) -> str:
        """The phase that Argo gives the node of an ended pod: main and wait decide, sidecars do not (§1.8)."""
        if not self.ended:
            return "Pending" if self.phase == "Pending" else "Running"
        main = self.main
        if main is None or main.exit_code is None:
            broken = any(c.init and c.exit_code for c in self.containers)
            return "Error" if broken else self.phase
        if main.exit_code:
            return "Failed"
        return "Error" if any(c.name in EXECUTORS and c.exit_code for c in self.containers) else "Succeeded"

    def after(self, earlier: "PodFacts") -> "PodFacts":
        """These facts, with what `earlier` ones of the same pod knew and a later body no longer tells."""
        asked = [t for t in (self.deletion_asked, earlier.deletion_asked) if t is not None]
        back = earlier.ended and not self.ended  # a stale list can't undo an end
        return replace(
            earlier if back else self,
            containers=(earlier if back else self).containers or earlier.containers,
            deletion_asked=min(asked, default=None),
            deleted=self.deleted or earlier.deleted,
            digest=self.digest or earlier.digest,
            trouble=self.trouble or earlier.trouble,
            trouble_message=self.trouble_message or earlier.trouble_message,
        )


class ResultFacts(Frozen, frozen=True):
    """One WorkflowTaskResult: a step's outputs, final if `complete`."""

    node_id: str
    owner_uid: str
    namespace: str = ""
    uid: str = ""
    version: str = ""
    complete: bool = False
    created: datetime | None = None
    outputs: Json = EMPTY
    chars: int = 0


class RunFacts(Frozen, frozen=True):
    """All facts of one run; each method gives new facts. Bounded by :data:`MAX_PODS` and :data:`MAX_RESULT_CHARS`."""

    pods: Mapping[str, PodFacts] = {}
    results: Mapping[str, ResultFacts] = {}
    deleted: bool = False
    forgotten: int = 0

    def with_pod(self, pod: PodFacts) -> "RunFacts":
        """With a pod's news; a later event of the same pod replaces the earlier one."""
        pods, forgotten = dict(self.pods), self.forgotten
        known = pods.pop(pod.uid, None)
        pods[pod.uid] = pod if known is None else pod.after(known)
        while len(pods) > MAX_PODS:
            del pods[next(iter(pods))]
            forgotten += 1
        return replace(self, pods=pods, forgotten=forgotten)

    def has(self, result: ResultFacts) -> bool:
        """True if `result` says nothing that is not known, whatever its object's version."""
        known = self.results.get(result.node_id)
        return known is not None and replace(known, version="") == replace(result, version="")

    def confirms(self, result: ResultFacts) -> bool:
        """True if the pod of `result` has ended: until then nothing that it says counts."""
        return any(pod.ended and pod.node_id == result.node_id for pod in self.pods.values())

    def with_result(self, result: ResultFacts) -> "RunFacts":
        """With a step's outputs. An empty result that comes back after the complete one (surprise 7) tells nothing."""
        known = self.results.get(result.node_id)
        if known is not None and known.complete and not result.complete:
            return self
        results = dict(self.results)
        results.pop(result.node_id, None)
        results[result.node_id] = result
        held = sum(r.chars for r in results.values())
        while held > MAX_RESULT_CHARS and len(results) > 1:
            held -= results.pop(next(iter(results))).chars
        return replace(self, results=results)

    def gone(self) -> "RunFacts":
        """The run's object was deleted."""
        return replace(self, deleted=True)


def pod_facts(body: Any) -> PodFacts | None:
    """The facts of a pod that is a step of a Workflow; None for any other (agents and artifact GC have no node)."""
    meta = obj(body, "metadata")
    labels, annotations = texts(meta.get("labels")), texts(meta.get("annotations"))
    uid, node = word(meta.get("uid")), annotations.get(NODE_ID, "")
    owner = _owner(meta)
    if not uid or not node or not owner or labels.get(COMPONENT):
        return None
    status = obj(body, "status")
    containers = tuple(
        [_container(c, init=True) for c in objs(status.get("initContainerStatuses"))]
        + [_container(c, init=False) for c in objs(status.get("containerStatuses"))]
    )[:100]
    trouble, why = _trouble(status)
    main = named(status.get("containerStatuses")).get("main", EMPTY)
    asked = named(obj(body, "spec").get("containers")).get("main", EMPTY)
    return PodFacts(
        uid=uid,
        name=word(meta.get("name")),
        namespace=word(meta.get("namespace")),
        owner_uid=owner,
        node_id=node,
        node_name=annotations.get(NODE_NAME, ""),
        workflow=labels.get(WORKFLOW, ""),
        phase=word(status.get("phase")),
        reason=word(status.get("reason"))[:MAX_TEXT],
        message=word(status.get("message"))[:MAX_TEXT] or None,
        version=word(meta.get("resourceVersion")),
        created=moment(meta.get("creationTimestamp")),
        deletion_asked=_deletion(meta),
        template=_template(obj(body, "spec")),
        containers=containers,
        image=word(asked.get("image")) or word(main.get("image")),
        digest=_digest(word(main.get("imageID"))),
        trouble=trouble,
        trouble_message=why[:MAX_TEXT],
    )


def result_facts(body: Any) -> ResultFacts | None:
    """The facts of a WorkflowTaskResult, whose name is the node's id; None for anything else."""
    meta = obj(body, "metadata")
    node, owner = word(meta.get("name")), _owner(meta)
    if not node or not owner:
        return None
    outputs = obj(body, "outputs")
    return ResultFacts(
        node_id=node,
        owner_uid=owner,
        namespace=word(meta.get("namespace")),
        uid=word(meta.get("uid")),
        version=word(meta.get("resourceVersion")),
        complete=texts(meta.get("labels")).get(COMPLETE) == "true",
        created=moment(meta.get("creationTimestamp")),
        outputs=outputs,
        chars=len(text(outputs) or ""),
    )


def _owner(meta: Json) -> str:
    """The uid of the Workflow that owns the object; its label holds just the name, which comes back."""
    return next((word(o.get("uid")) for o in objs(meta.get("ownerReferences")) if o.get("kind") == "Workflow"), "")


def _container(status: Json, *, init: bool) -> ContainerFacts:
    ended, waits = obj(status, "state", "terminated"), obj(status, "state", "waiting")
    return ContainerFacts(
        name=word(status.get("name")),
        exit_code=whole(ended.get("exitCode")),
        reason=word(ended.get("reason")),
        message=word(ended.get("message"))[:MAX_TEXT],
        started=moment(ended.get("startedAt")) or moment(obj(status, "state", "running").get("startedAt")),
        finished=moment(ended.get("finishedAt")),
        waiting=word(waits.get("reason")),
        init=init,
    )


def _trouble(status: Json) -> tuple[str, str]:
    """Why a pod does not start: an image or configuration that can't be had, or no node for it."""
    for key in ("initContainerStatuses", "containerStatuses"):
        for container in objs(status.get(key)):
            waits = obj(container, "state", "waiting")
            if IMAGE_TROUBLE.fullmatch(reason := word(waits.get("reason"))):
                return reason, word(waits.get("message"))
    for condition in objs(status.get("conditions")):
        if condition.get("type") == "PodScheduled" and condition.get("reason") == "Unschedulable":
            return "Unschedulable", word(condition.get("message"))
    return "", ""


def _deletion(meta: Json) -> datetime | None:
    """When deletion was asked for: ``deletionTimestamp`` is that time plus the grace period."""
    at = moment(meta.get("deletionTimestamp"))
    grace = whole(meta.get("deletionGracePeriodSeconds")) or 0
    return None if at is None else at - timedelta(seconds=min(max(grace, 0), 86_400))


def _template(spec: Json) -> str:
    """The template's name, at the head of ARGO_TEMPLATE: for where a Workflow has no nodes. It holds no inputs."""
    for container in (*objs(spec.get("initContainers")), *objs(spec.get("containers"))):
        raw = word(named(container.get("env")).get("ARGO_TEMPLATE", EMPTY).get("value"))
        if found := _TEMPLATE_NAME.match(raw):
            return found[1]
    return ""


def _digest(image_id: str) -> str:
    """``sha256:...`` of ``docker-pullable://repo@sha256:...``."""
    found = re.search(r"sha256:[0-9a-f]{64}", image_id)
    return found[0] if found else ""
