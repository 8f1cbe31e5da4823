"""A run's identity, read without its nodes: what routing needs for each event."""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Literal

from pipetrail.record import Frozen, Group
from pipetrail.sources.argo import kfp
from pipetrail.sources.argo.body import EMPTY, Json, moment, obj, objs, texts, word
from pipetrail.sources.argo.kfp import KFP, KFP_RUN
from pipetrail.sources.argo.nodes import TERMINAL

PREFIX: Final = "workflows.argoproj.io/"

# What the API server appends for generateName (no vowels, no 0 1 3), and what people and cron append: a time.
_GENERATED: Final = re.compile(r"-(?:[bcdfghjklmnpqrstvwxz2456789]{5}|\d{8,})$")

Mark = int
"""Tells two bodies apart in what is read of them; good for this process only."""


class Header(Frozen, frozen=True):
    """Which run this is and how it stands. `started` is true once the controller has taken it up.

    `mlflow_plugin` is true if KFP's own plugin records the run in MLflow.
    """

    uid: str
    name: str
    namespace: str
    version: str = ""
    source: Literal["argo", "kfp-v1", "kfp-v2"] = "argo"
    pipeline: str = ""
    group: Group | None = None
    labels: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}
    phase: str = ""
    completed: bool = False
    generation: str = ""
    started: bool = False
    created: datetime | None = None
    finished: datetime | None = None
    deletion: datetime | None = None
    workflow_template: str = ""
    cluster_workflow_template: str = ""
    cron: str = ""
    mlflow_plugin: bool = False


def header(body: Any) -> Header:
    """The header of a Workflow; never raises, and what is not there is empty. Works on metadata alone too."""
    meta, spec, status = obj(body, "metadata"), obj(body, "spec"), obj(body, "status")
    labels = texts(meta.get("labels"))
    annotations = texts(meta.get("annotations"))
    phase = word(status.get("phase")) or labels.get(f"{PREFIX}phase", "")
    template, cluster_template, cron = _made_from(meta, spec, labels)
    source = _source(spec, labels, annotations)
    of_kfp = "" if source == "argo" else kfp.pipeline(spec, annotations)
    return Header(
        uid=word(meta.get("uid")),
        name=word(meta.get("name")),
        namespace=word(meta.get("namespace")),
        version=word(meta.get("resourceVersion")),
        source=source,
        pipeline=of_kfp or _pipeline(meta, cron or template or cluster_template),
        group=_group(template, cluster_template, cron),
        labels=labels,
        annotations=annotations,
        phase=phase,
        completed=phase in TERMINAL,
        generation=word(status.get("startedAt")),
        started=bool(word(status.get("startedAt"))),
        created=moment(meta.get("creationTimestamp")),
        finished=moment(status.get("finishedAt")) if phase in TERMINAL else None,
        deletion=moment(meta.get("deletionTimestamp")),
        workflow_template=template,
        cluster_workflow_template=cluster_template,
        cron=cron,
        mlflow_plugin=source != "argo" and kfp.mlflow_plugin(spec),
    )


def _source(
    spec: Json, labels: Mapping[str, str], annotations: Mapping[str, str]
) -> Literal["argo", "kfp-v1", "kfp-v2"]:
    """Who made the Workflow. KFP's label decides (trap 40), then what its compilers stamp (sources.md §3.1, §4.1)."""
    if KFP_RUN not in labels:
        return "argo"
    pods = obj(spec, "podMetadata")
    if any(f"{KFP}v2_component" in obj(pods, part) for part in ("annotations", "labels")):
        return "kfp-v2"
    stamps = (*labels, *annotations)
    return "kfp-v1" if f"{KFP}kfp_sdk_version" in stamps or f"{KFP}pipeline_spec" in stamps else "kfp-v2"


def mark(body: Any) -> Mark:
    """Equal for two bodies of one run if nothing differs that :func:`~pipetrail.sources.argo.read` looks at often.

    The controller rewrites estimates, progress and resource sums between changes that matter; those are left out.
    """
    meta, spec, status = obj(body, "metadata"), obj(body, "spec"), obj(body, "status")
    parts: list[Any] = [
        status.get("phase"), status.get("startedAt"), status.get("finishedAt"), status.get("message"),
        status.get("compressedNodes"), status.get("offloadNodeStatusVersion"), spec.get("shutdown"),
        spec.get("suspend"), meta.get("deletionTimestamp"), *texts(meta.get("labels")).items(),
        *texts(meta.get("annotations")).items(), len(obj(status, "outputs")),
    ]  # fmt: skip
    for key, node in obj(status, "nodes").items():
        if isinstance(node, dict):
            outputs = node.get("outputs")
            parts += (
                key, node.get("phase"), node.get("message"), node.get("finishedAt"), node.get("taskResultSynced"),
                node.get("daemoned"), _outline(outputs) if isinstance(outputs, dict) else None,
            )  # fmt: skip
    return hash(tuple(part if isinstance(part, str | tuple) else repr(part) for part in parts))


def _outline(outputs: Json) -> tuple[Any, ...]:
    """What may still change in a settled node's outputs: they come whole, if late (surprise 9)."""
    size = tuple(len(v) for v in (outputs.get("parameters"), outputs.get("artifacts")) if isinstance(v, list))
    return (*size, repr(outputs.get("exitCode")), len(outputs))


def _made_from(meta: Json, spec: Json, labels: Mapping[str, str]) -> tuple[str, str, str]:
    """(WorkflowTemplate, ClusterWorkflowTemplate, CronWorkflow) by name; empty where none."""
    ref = obj(spec, "workflowTemplateRef")
    name, of_cluster = word(ref.get("name")), ref.get("clusterScope") is True
    owners = objs(meta.get("ownerReferences"))
    cron = next((word(o.get("name")) for o in owners if o.get("kind") == "CronWorkflow"), "")
    return (
        ("" if of_cluster else name) or labels.get(f"{PREFIX}workflow-template", ""),
        (name if of_cluster else "") or labels.get(f"{PREFIX}cluster-workflow-template", ""),
        labels.get(f"{PREFIX}cron-workflow", "") or cron,
    )


def _pipeline(meta: Json, made_from: str) -> str:
    """mapping.md §1: template or cron, else generateName, else the name without what was appended to it."""
    name, generate = word(meta.get("name")), word(meta.get("generateName")).rstrip("-")
    return made_from or generate or _GENERATED.sub("", name) or name


def _group(template: str, cluster_template: str, cron: str) -> Group | None:
    if cron:
        return Group(kind="cron", name=cron)
    if template:
        return Group(kind="template", name=template)
    return Group(kind="cluster-template", name=cluster_template) if cluster_template else None


def owner(body: Any, kind: str) -> tuple[str, str]:
    """(name, uid) of the owner of `kind`; empty if there is none."""
    owners = objs(obj(body, "metadata").get("ownerReferences"))
    found: Json = next((o for o in owners if o.get("kind") == kind), EMPTY)
    return word(found.get("name")), word(found.get("uid"))
