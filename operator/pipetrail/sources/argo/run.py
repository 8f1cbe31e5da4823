"""A Workflow and the facts around it, to a record."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from pipetrail.record import Key, Lineage, Link, Outcome, Outputs, Partial, Record, Status, Step
from pipetrail.sources import Reading
from pipetrail.sources.argo.body import Json, moment, named, obj, objs, text, whole, word
from pipetrail.sources.argo.header import PREFIX, Header, header, owner
from pipetrail.sources.argo.kfp import KFP_RUN
from pipetrail.sources.argo.locations import git, repository
from pipetrail.sources.argo.nodes import COMPOSITE, TERMINAL, Node, Nodes, hydrate
from pipetrail.sources.argo.outcome import Fate
from pipetrail.sources.argo.pods import RunFacts
from pipetrail.sources.argo.steps import Builder
from pipetrail.sources.argo.templates import Templates, parameters

MAX_ANNOTATION_CHARS: Final = 16 << 10
_SHOWN_ANNOTATIONS: Final = (f"{PREFIX}title", f"{PREFIX}description")
_HIDDEN_ANNOTATIONS: Final = "kubectl.kubernetes.io/"
_OF_WORKFLOW: Final = re.compile(r"\{\{\s*workflow\.parameters\.([^{}\s]+)\s*\}\}")


def read(workflow: Any, facts: RunFacts, *, cluster: str) -> Reading:
    """The record of a run, and what is to be fetched for it. Never raises, whatever JSON `workflow` is.

    What is not understood or can't be known is a :class:`~pipetrail.record.Partial`.
    """
    body = obj(workflow)
    head = header(body)
    status = obj(body, "status")
    nodes = hydrate(body, facts.pods.values(), dict(facts.results))
    phase = word(status.get("phase"))
    cancelled = _cancelled(body, head)
    shutdown = "Terminate" if cancelled else _shutdown(body)
    fate = Fate(
        shutdown=shutdown, cancelled=cancelled, ended=phase in TERMINAL, deleted=facts.deleted and phase not in TERMINAL
    )
    known = Templates(body, nodes.by_id, {})
    params, unknown = _params(body, nodes, known)
    templates = Templates(body, nodes.by_id, params)
    builder = Builder(
        nodes, facts, templates, uid=head.uid, namespace=head.namespace, repository=repository(status), fate=fate,
        generation=moment(status.get("startedAt")),
    )  # fmt: skip
    steps = builder.steps()
    root = _root(nodes, head.name)
    partial = [*nodes.partial, *unknown, *builder.partial]
    if facts.forgotten:
        said = f"facts of {facts.forgotten} pods were dropped to bound memory: their steps lack image and times"
        partial.append(Partial(reason="PodsForgotten", message=said))
    record = Record(
        key=Key(cluster=cluster, uid=head.uid, generation=head.generation),
        source="argo",
        name=head.name,
        namespace=head.namespace,
        pipeline=head.pipeline,
        outcome=_outcome(body, nodes, facts, fate, steps, root),
        display_name=head.annotations.get(f"{PREFIX}title"),
        group=head.group,
        trigger=_trigger(head),
        user=_user(head),
        created=head.created,
        scheduled=moment(head.annotations.get(f"{PREFIX}scheduled-time")),
        started=moment(status.get("startedAt")),
        finished=moment(status.get("finishedAt")) or (head.deletion if fate.deleted else None),
        params=params,
        outputs=_outputs(status, root),
        tags={k: v for k, v in head.labels.items() if not k.startswith(PREFIX)},
        annotations=_annotations(head),
        steps=steps,
        links=tuple(_links(body, nodes)),
        lineage=tuple(_lineage(body, head, nodes, templates)),
        partial=tuple(dict.fromkeys(partial)),
    )
    return Reading(record=record, files=tuple(builder.files), logs=tuple(builder.logs))


def _params(body: Json, nodes: Nodes, templates: Templates) -> tuple[dict[str, str], list[Partial]]:
    """Arguments of the run: the template's, overridden by the run's own (sources.md §2.6)."""
    spec, stored = obj(body, "spec"), obj(body, "status", "storedWorkflowTemplateSpec")
    own = named(obj(spec, "arguments").get("parameters"))
    merged = named(obj(stored, "arguments").get("parameters")) | own
    params: dict[str, str] = {}
    unknown: list[Partial] = []
    seen: dict[str, str] | None = None
    for name, parameter in merged.items():
        value = text(parameter.get("value"))
        source = obj(parameter, "valueFrom")
        if value is None and not source:
            value = text(parameter.get("default"))
        if value is None and source:
            seen = _seen(nodes, templates) if seen is None else seen
            value = seen.get(name)
        if value is not None:
            params[name] = value
        elif source:
            unknown.append(Partial(reason="ParameterElsewhere", message=_elsewhere(name, source)))
    return params, unknown


def _elsewhere(name: str, source: Json) -> str:
    ref = obj(source, "configMapKeyRef")
    at = f"ConfigMap {word(ref.get('name'))}, key {word(ref.get('key'))}" if ref else ", ".join(map(str, source))[:100]
    return f"the value of parameter {name} comes from {at} and stands nowhere in the Workflow"


def _seen(nodes: Nodes, templates: Templates) -> dict[str, str]:
    """Run parameters whose value their users show: a step was given just ``{{workflow.parameters.<name>}}``."""
    values: dict[str, str] = {}
    for node in nodes.by_id.values():
        given = named(obj(templates.task(node), "arguments").get("parameters"))
        for input_name, argument in given.items():
            found = _OF_WORKFLOW.fullmatch((text(argument.get("value")) or "").strip())
            if found and (value := parameters(node.inputs).get(input_name)) is not None:
                values.setdefault(found[1], value)
    return values


def _shutdown(body: Json) -> str:
    """Stop or Terminate, if someone asked for it: in the spec, or in what the controller said of it."""
    asked = word(obj(body, "spec").get("shutdown"))
    if asked in ("Stop", "Terminate"):
        return asked
    said = word(obj(body, "status").get("message"))
    return next((s for s in ("Stop", "Terminate") if f"strategy '{s}'" in said), "")


def _cancelled(body: Json, head: Header) -> bool:
    """Whether someone ended the run in KFP, which sets its deadline to 0 (KFP: common/util/execution_spec.go)."""
    return KFP_RUN in head.labels and whole(obj(body, "spec").get("activeDeadlineSeconds")) == 0


def _outcome(
    body: Json, nodes: Nodes, facts: RunFacts, fate: Fate, steps: tuple[Step, ...], root: Node | None
) -> Outcome:
    status = obj(body, "status")
    phase, message = word(status.get("phase")), text(status.get("message")) or None
    if fate.deleted:
        return Outcome(status="deleted", reason="Deleted", message=message)
    match phase:
        case "Succeeded":
            return Outcome(status="succeeded", message=message)
        case "Failed" | "Error":
            if fate.shutdown:
                killed: Status = "terminated" if fate.shutdown == "Terminate" else "stopped"
                return Outcome(status=killed, reason=killed.capitalize(), message=message)
            ended: Status = "failed" if phase == "Failed" else "error"
            return Outcome(status=ended, reason=_why(body, message or "", steps, root), message=message)
        case "Running":
            suspended = obj(body, "spec").get("suspend") is True
            return Outcome(status="running", reason="Suspended" if suspended else None, message=message)
        case "" if nodes.partial:
            # Its pods ran and ended, yet the controller never wrote a status (surprise 32).
            return Outcome(status="unknown", reason="NoStatus", message=message)
        case "" | "Pending":
            return Outcome(status="pending", message=message)
        case _:
            return Outcome(status="unknown", reason="UnknownPhase", message=message)


def _why(body: Json, message: str, steps: tuple[Step, ...], root: Node | None) -> str | None:
    if message.startswith("invalid spec"):
        return "InvalidSpec"
    if "configmap" in message.lower() and "global parameter" in message:
        return "ConfigMapMissing"
    if "Max duration limit exceeded" in message:
        return "DeadlineExceeded"
    bad = [s for s in steps if s.outcome.status in ("failed", "error") and s.kind != "composite"]
    limited = obj(body, "spec").get("activeDeadlineSeconds") is not None
    if limited and any(s.outcome.reason == "DeadlineExceeded" for s in bad):
        return "DeadlineExceeded"
    if root is not None and root.phase == "Succeeded" and any(s.role == "exit-handler" for s in bad):
        return "ExitHandlerFailed"
    return "StepFailed" if bad else None


def _root(nodes: Nodes, name: str) -> Node | None:
    """The entrypoint's node: its last attempt, where it is retried."""
    mine = [n for n in nodes.by_id.values() if not n.place.elements and not n.wraps]
    return max(mine, key=lambda n: n.place.attempts, default=None)


def _outputs(status: Json, root: Node | None) -> Outputs:
    """What the entrypoint's template gives, and outputs with a globalName."""
    own = parameters(root.outputs) if root is not None and root.type in COMPOSITE else {}
    return Outputs(parameters=own | parameters(obj(status, "outputs")))


def _trigger(head: Header) -> str | None:
    labels = head.labels
    if head.cron:
        return "backfill" if f"{PREFIX}backfill" in labels else "cron"
    if f"{PREFIX}resubmitted-from-workflow" in labels:
        return "resubmit"
    return "event" if f"{PREFIX}workflow-event-binding" in labels else None


def _user(head: Header) -> str | None:
    """Whom Argo Server let submit it; absent for kubectl. Its labels can't hold ``@``."""
    mail = head.labels.get(f"{PREFIX}creator-email", "").replace(".at.", "@")
    names = (f"{PREFIX}creator-preferred-username", f"{PREFIX}creator")
    return mail or next((head.labels[n] for n in names if head.labels.get(n)), None)


def _annotations(head: Header) -> dict[str, str]:
    """The user's. ``last-applied-configuration`` would repeat the whole object, secrets included."""
    return {
        k: v[:MAX_ANNOTATION_CHARS]
        for k, v in head.annotations.items()
        if k in _SHOWN_ANNOTATIONS or not k.startswith((PREFIX, _HIDDEN_ANNOTATIONS))
    }


def _links(body: Json, nodes: Nodes) -> Iterable[Link]:
    """Source code that went in: git artifacts of the run and of its steps."""
    sources = [obj(body, "spec", "arguments"), *(n.inputs for n in nodes.by_id.values())]
    addresses = (git(obj(a, "git")) for side in sources for a in objs(side.get("artifacts")) if obj(a, "git"))
    return (Link(rel="git", href=href) for href in dict.fromkeys(a for a in addresses if a))


def _lineage(body: Json, head: Header, nodes: Nodes, templates: Templates) -> Iterable[Lineage]:
    if before := head.labels.get(f"{PREFIX}resubmitted-from-workflow"):
        yield Lineage(rel="resubmitted-from", name=before)
    parent, uid = owner(body, "Workflow")
    if parent:
        yield Lineage(rel="parent", name=parent, uid=uid or None)
    for node in nodes.by_id.values():
        if node.type == "Pod" and node.fulfilled:
            yield from (Lineage(rel="child", name=child) for child in _children(node, templates))


def _children(node: Node, templates: Templates) -> Iterable[str]:
    """Workflows that a resource template made, by the output that holds their name; there is no other link."""
    template = templates.of(node)
    if "Workflow" not in word(obj(template, "resource").get("manifest")):
        return ()
    declared: Mapping[str, Json] = named(obj(template, "outputs").get("parameters"))
    names = [n for n, p in declared.items() if word(obj(p, "valueFrom").get("jsonPath")) == "{.metadata.name}"]
    values = parameters(node.outputs)
    return [values[n] for n in names if values.get(n)]
