"""A Workflow of KFP v2, the facts around it and its metadata, to a record.

Argo's own reading of the Workflow says what each node did; which nodes are the user's tasks, and what these are called,
got and gave, is KFP's (sources.md §4).
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from msgspec.structs import replace

from pipetrail.record import Group, Lineage, Link, Outputs, Partial, Step
from pipetrail.sources import Reading, argo
from pipetrail.sources.argo.body import Json, named, obj, objs, whole
from pipetrail.sources.argo.locations import repository
from pipetrail.sources.kfp_v2 import spec
from pipetrail.sources.kfp_v2.metadata import Metadata
from pipetrail.sources.kfp_v2.places import Places, at, user_path
from pipetrail.sources.kfp_v2.steps import Builder
from pipetrail.sources.kfp_v2.store import Store

KFP: Final = "pipelines.kubeflow.org/"
RUN_NAME: Final = f"{KFP}run_name"
SCHEDULE: Final = "scheduledworkflows.kubeflow.org/"

_OWN_TAGS: Final = ("pipeline/persistedFinalState", SCHEDULE, KFP)


def read(workflow: Any, facts: argo.RunFacts, metadata: Metadata, *, cluster: str) -> Reading:
    """The record of a run, and what is to be fetched for it. Never raises, whatever JSON `workflow` is.

    `metadata` counts only if it is of this run and names its namespace. What is missing is a partial; the reading asks
    to be made again only where a task gave something that the store has yet to tell.
    """
    body, nodes = obj(workflow), argo.read(workflow, facts, cluster=cluster)
    head, told = argo.header(body), nodes.record
    store = Store(metadata, run_id=head.labels.get(argo.KFP_RUN, ""), namespace=head.namespace)
    places = Places(told.steps, body)
    logs = {at(told.steps[ref.step]): ref for ref in nodes.logs}
    params = _params(places.root_driver, body)
    builder = Builder(
        places, store, logs, repository=repository(obj(body, "status")), run=told.outcome,
        run_id=head.labels.get(argo.KFP_RUN, ""), params=params,
    )  # fmt: skip
    steps = builder.steps()
    missing = store.missing if builder.gave else None
    partial = [*_argos(told.partial, steps), *builder.partial]
    if missing is not None:
        partial.append(Partial(reason=missing.reason, message=f"{missing.message}; outputs are those of logs alone"))
    record = replace(
        told,
        source="kfp-v2",
        display_name=head.annotations.get(RUN_NAME),
        group=_group(metadata, head.labels) or told.group,
        trigger="cron" if head.labels.get(f"{SCHEDULE}isOwnedByScheduledWorkflow") == "true" else told.trigger,
        scheduled=_epoch(head.labels.get(f"{SCHEDULE}workflowEpoch")) or told.scheduled,
        params=params,
        outputs=Outputs(),
        tags={k: v for k, v in told.tags.items() if not k.startswith(_OWN_TAGS)},
        annotations={k: v for k, v in told.annotations.items() if k == RUN_NAME or not k.startswith(KFP)},
        steps=steps,
        lineage=(*told.lineage, *_lineage(steps)),
        links=(*told.links, *([Link(rel="kfp-mlflow-run", href=store.mlflow_run)] if store.mlflow_run else ())),
        partial=tuple(dict.fromkeys(partial)),
    )
    again = builder.lags or (missing is not None and missing.again)
    return Reading(record=record, files=tuple(builder.files), logs=tuple(builder.logs), again=again)


def _params(root: Step | None, body: Json) -> dict[str, Any]:
    """The run's params; before its root driver has a node they stand in the entrypoint's template."""
    if root is not None and "runtime-config" in root.params:
        return spec.run_config(root.params)
    declared, given = obj(body, "spec"), {}
    arguments = named(obj(declared, "arguments").get("parameters"))
    entrypoint = named(declared.get("templates")).get("entrypoint", {})
    for task in objs(obj(entrypoint, "dag").get("tasks")):
        if task.get("name") == "root-driver":
            given = named(obj(task, "arguments").get("parameters"))
    config = obj(given.get("runtime-config")).get("value")
    return spec.run_config({"runtime-config": config, "component": obj(arguments.get("components-root")).get("value")})


def _argos(partial: tuple[Partial, ...], steps: tuple[Step, ...]) -> Iterator[Partial]:
    """What Argo's own reading could not tell, of the run or of a user's step; its other nodes are KFP's affair."""
    mine = {step.path for step in steps}
    for one in partial:
        path = None if one.step is None else user_path(one.step.removesuffix("/executor"))
        if path is None or path in mine:
            yield replace(one, step=path)


def _lineage(steps: tuple[Step, ...]) -> Iterator[Lineage]:
    """The runs that cached values are from, as far as their artifacts name them."""
    runs = dict.fromkeys(step.cached_from for step in steps if step.cached_from and " " not in step.cached_from)
    return (Lineage(rel="cached-from", name=run) for run in runs)


def _group(metadata: Metadata, labels: Mapping[str, str]) -> Group | None:
    if metadata.experiment:
        return Group(kind="experiment", name=metadata.experiment)
    schedule = labels.get(f"{SCHEDULE}scheduledWorkflowName")
    return Group(kind="cron", name=schedule) if schedule else None


def _epoch(text: str | None) -> datetime | None:
    seconds = whole(text)
    return None if seconds is None or not 0 < seconds < 1 << 36 else datetime.fromtimestamp(seconds, UTC)
