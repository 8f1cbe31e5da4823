"""Which targets get a run, by which rule, and what is fixed for it from then on. Pure.

Every decision carries the name of the rule that made it and a sentence, for ``pipetrail explain`` and for logs. What
authors of runs write (a label, an annotation) narrows what a target takes and never widens it; what stands on the run
comes before its template's, and that before its namespace's.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from pipetrail.api import (
    TARGETS_ANNOTATION,
    TRACK_LABEL,
    Backend,
    BackfillWish,
    ClusterTargetSpec,
    FoundTarget,
    LabelSelector,
    MlflowBackend,
    NeptuneBackend,
    Policy,
    Requirement,
    TargetSpec,
    TensorboardBackend,
)
from pipetrail.record import Frozen, Record
from pipetrail.sources.argo import Header

KINDS: Final[Mapping[str, str]] = {"argo": "Argo", "kfp-v1": "KubeflowPipelines", "kfp-v2": "KubeflowPipelines"}
"""What ``spec.select.sources`` calls the runs of a source."""

TRACKED_BY_KFP: Final = "Kubeflow Pipelines' own MLflow plugin records it already"

LeftRule = Literal[
    "OtherNamespace", "NamespaceNotSelected", "Sources", "TrackedByKfp", "RunSelector", "Pipelines", "OptOut",
    "NotAmongTargets", "SameTracker", "EndedBeforeTarget",
]  # fmt: skip
TakenRule = Literal["Selected", "OptOutForbidden"]


class RunFacts(Frozen, frozen=True):
    """What is known of a run when it is decided about. `source` is the record's (``argo``, ``kfp-v2``).

    `template` is the WorkflowTemplate or CronWorkflow that it was made from; its facts are empty if there is none.
    `mlflow_plugin` is true if KFP's own plugin records the run in MLflow.
    """

    source: str
    namespace: str
    name: str
    pipeline: str
    labels: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}
    template_labels: Mapping[str, str] = {}
    template_annotations: Mapping[str, str] = {}
    namespace_labels: Mapping[str, str] = {}
    namespace_annotations: Mapping[str, str] = {}
    ended: datetime | None = None
    mlflow_plugin: bool = False


def facts(header: Header, namespace: Mapping[str, Any], template: Mapping[str, Any] | None = None) -> RunFacts:
    """What is known of the run of `header`; `namespace` is the metadata of its namespace, `template` its template's."""
    template = template or {}
    return RunFacts(
        source=header.source, namespace=header.namespace, name=header.name, pipeline=header.pipeline,
        labels=header.labels, annotations=header.annotations, template_labels=template.get("labels") or {},
        template_annotations=template.get("annotations") or {}, namespace_labels=namespace.get("labels") or {},
        namespace_annotations=namespace.get("annotations") or {},
        ended=ended(header),
        mlflow_plugin=header.mlflow_plugin,
    )  # fmt: skip


def ended(header: Header) -> datetime | None:
    """When a run was over: an object that was made after that (restored, replayed) is news all the same."""
    return None if header.finished is None else max(header.finished, header.created or header.finished)


class Taken(Frozen, frozen=True):
    """The target records the run, under this policy."""

    policy: Policy
    rule: TakenRule = "Selected"
    why: str = "it selects the run"


class Left(Frozen, frozen=True):
    """The target leaves the run alone."""

    rule: LeftRule
    why: str


Decision = Taken | Left


def decide(
    run: RunFacts, target: FoundTarget, *, others: Iterable[FoundTarget] = (), earlier: bool = False
) -> Decision:
    """Does `target` record `run`? `others` are the other targets that exist: two never record it in one place.

    With `earlier` also a run that had ended before the target was made: a backfill asks for those.
    """
    decision = _alone(run, target, earlier=earlier)
    if isinstance(decision, Left):
        return decision
    place, rank = address(target), _rank(target)
    for other in others:
        same = other.ref != target.ref and _rank(other) < rank and address(other) == place
        if same and isinstance(_alone(run, other), Taken):
            return Left(rule="SameTracker", why=f"{other.ref} records it in the same tracker, {place}")
    return decision


def decide_all(run: RunFacts, targets: Sequence[FoundTarget]) -> tuple[tuple[FoundTarget, Decision], ...]:
    """The decision of each target, in the order in which they were given: what ``explain`` shows."""
    return tuple((target, decide(run, target, others=targets)) for target in targets)


def wanted(header: Header, wish: BackfillWish) -> bool:
    """Is it a run that a backfill asks for? Its labels the server has judged. One that has not ended is live."""
    since, finished = wish.since, header.finished
    return (
        finished is not None
        and (since is None or finished >= since)
        and wish.namespace in ("", header.namespace)
        and (not wish.pipeline or fnmatchcase(header.pipeline, wish.pipeline))
    )


def tracked_already(record: Record, spec: TargetSpec) -> Left | None:
    """The decision that only a run's record tells: KFP's metadata names a run in MLflow that its plugin made."""
    known = any(link.rel == "kfp-mlflow-run" for link in record.links)
    mlflow = isinstance(spec.backend.mlflow, MlflowBackend)
    return Left(rule="TrackedByKfp", why=TRACKED_BY_KFP) if known and mlflow else None


def pin(spec: TargetSpec) -> Policy:
    """What is fixed for a run at its intent: an edit of the target applies to new runs only."""
    return Policy(naming=spec.naming, capture=spec.capture, redact=spec.redact)


def selects(selector: LabelSelector, labels: Mapping[str, str]) -> bool:
    """Kubernetes' own semantics: all must hold, and a label that is not there is NotIn anything."""
    exact = all(labels.get(key) == value for key, value in selector.match_labels.items())
    return exact and all(_meets(requirement, labels) for requirement in selector.match_expressions)


def address(target: FoundTarget) -> str:
    """Where a tracker is, so that two spellings of one address are equal: case, default port, trailing slash, .svc."""
    match target.spec.backend:
        case Backend(mlflow=MlflowBackend(tracking_uri=uri)):
            return f"mlflow {_server(uri)}"
        case Backend(neptune=NeptuneBackend(server_uri=uri, project=project)):
            return f"neptune {_server(uri)} {project}"
        case Backend(tensorboard=TensorboardBackend(directory=directory)):
            return f"tensorboard {target.ref.namespace or '_cluster'}/{directory}"
        case _:
            return ""


def _server(uri: str) -> str:
    parts = urlsplit(uri)
    scheme, host = parts.scheme.lower(), (parts.hostname or "").rstrip(".")
    host = host.removesuffix(".cluster.local") if host.endswith(".svc.cluster.local") else host
    port = parts.port or {"http": 80, "https": 443}.get(scheme, 0)
    return f"{scheme}://{host}:{port}{re.sub('/+', '/', parts.path).rstrip('/')}"


def _alone(run: RunFacts, target: FoundTarget, *, earlier: bool = False) -> Decision:
    """The decision as if there were no other target: the first rule that leaves the run decides."""
    spec, select = target.spec, target.spec.select
    outside = _outside(run, target)
    if outside is not None:
        return outside
    if not earlier and before(run.ended, target):
        why = "it had ended before the target was made; a target records from then on, and pipetrail backfill the rest"
        return Left(rule="EndedBeforeTarget", why=why)
    kind = KINDS.get(run.source, run.source)
    if select.sources and kind not in select.sources:
        return Left(rule="Sources", why=f"spec.select.sources takes {', '.join(select.sources)}, and it is {kind}")
    if run.mlflow_plugin and isinstance(spec.backend.mlflow, MlflowBackend):
        return Left(rule="TrackedByKfp", why=TRACKED_BY_KFP)
    if not selects(select.run_selector, run.labels):
        return Left(rule="RunSelector", why="spec.select.runSelector does not match its labels")
    if select.pipelines and not any(fnmatchcase(run.pipeline, glob) for glob in select.pipelines):
        return Left(
            rule="Pipelines",
            why=f"none of spec.select.pipelines ({', '.join(select.pipelines)}) matches {run.pipeline}",
        )
    wish = _wish(run, target.ref.name)
    policy = pin(spec)
    if wish is None:
        return Taken(policy=policy)
    if spec.policy.opt_out == "Forbidden":
        return Taken(policy=policy, rule="OptOutForbidden", why=f"{wish.why}, but spec.policy.optOut is Forbidden")
    return wish


def before(ended: datetime | None, target: FoundTarget) -> bool:
    """Had a run `ended` before the target was made?"""
    return ended is not None and ended < target.created


def _outside(run: RunFacts, target: FoundTarget) -> Left | None:
    if target.ref.kind == "TrackingTarget":
        if run.namespace == target.ref.namespace:
            return None
        why = (
            f"a TrackingTarget sees the runs of its own namespace, {target.ref.namespace}, and it is in {run.namespace}"
        )
        return Left(rule="OtherNamespace", why=why)
    selector = target.spec.namespace_selector if isinstance(target.spec, ClusterTargetSpec) else None
    if not selector:
        why = "it has no spec.namespaceSelector and so takes no namespace; {} takes all"
        return Left(rule="NamespaceNotSelected", why=why)
    if selects(selector, run.namespace_labels):
        return None
    why = f"spec.namespaceSelector does not match the labels of namespace {run.namespace}"
    return Left(rule="NamespaceNotSelected", why=why)


def _wish(run: RunFacts, name: str) -> Left | None:
    """What the run's author wants other than the target: the first place that says something decides."""
    labels = (("the run", run.labels), ("its template", run.template_labels), ("its namespace", run.namespace_labels))
    where, track = _first(labels, TRACK_LABEL)
    if track.strip().casefold() == "false":
        return Left(rule="OptOut", why=f'{where} says {TRACK_LABEL}: "{track}"')
    annotations = (
        ("the run", run.annotations),
        ("its template", run.template_annotations),
        ("its namespace", run.namespace_annotations),
    )
    where, names = _first(annotations, TARGETS_ANNOTATION)
    if where and name not in {each.strip() for each in names.split(",")}:
        return Left(rule="NotAmongTargets", why=f'{where} says {TARGETS_ANNOTATION}: "{names}"')
    return None


def _first(places: Iterable[tuple[str, Mapping[str, str]]], key: str) -> tuple[str, str]:
    return next(((where, said[key]) for where, said in places if key in said), ("", ""))


def _meets(requirement: Requirement, labels: Mapping[str, str]) -> bool:
    value = labels.get(requirement.key)
    match requirement.operator:
        case "In":
            return value is not None and value in requirement.values
        case "NotIn":
            return value is None or value not in requirement.values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None


def _rank(target: FoundTarget) -> tuple[bool, float, str]:
    """Who comes first where two lead to one tracker: the namespaced one, then the older, then by name."""
    return target.ref.kind != "TrackingTarget", target.created.timestamp(), target.ref.name
