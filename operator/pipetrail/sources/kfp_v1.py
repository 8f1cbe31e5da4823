"""Kubeflow Pipelines v1: an Argo Workflow whose steps are the user's, with KFP's names on it. Pure.

Steps, params and outputs are those that Argo tells. Of the two magic artifacts (sources.md §3.2, §3.3)
``mlpipeline-metrics`` is a file of metrics like any other, and ``mlpipeline-ui-metadata`` lists figures: it holds no
metrics, whatever numbers stand in it.
"""

from typing import Any, Final

from msgspec.structs import replace

from pipetrail.record import Step
from pipetrail.sources import FileRef, Reading, argo
from pipetrail.sources.argo.body import Json, named, obj, word

KFP: Final = "pipelines.kubeflow.org/"
RUN_NAME: Final = f"{KFP}run_name"
TASK_NAME: Final = f"{KFP}task_display_name"
VIEWS: Final = "mlpipeline-ui-metadata"


def read(workflow: Any, facts: argo.RunFacts, *, cluster: str) -> Reading:
    """The record of a run of KFP v1, and what is to be fetched for it. Never raises, whatever JSON `workflow` is."""
    reading = argo.read(workflow, facts, cluster=cluster)
    record = reading.record
    templates = named(obj(workflow, "spec").get("templates"))
    record = replace(
        record,
        source="kfp-v1",
        display_name=record.annotations.get(RUN_NAME),
        tags={k: v for k, v in record.tags.items() if not k.startswith(KFP)},
        annotations={k: v for k, v in record.annotations.items() if k == RUN_NAME or not k.startswith(KFP)},
        steps=tuple(_named(step, templates) for step in record.steps),
    )
    return replace(reading, record=record, files=tuple(_views(ref) for ref in reading.files))


def _named(step: Step, templates: dict[str, Json]) -> Step:
    """With the name that the task has on KFP's page, where its author gave it one."""
    annotations = obj(templates.get(step.template or ""), "metadata", "annotations")
    shown = word(annotations.get(TASK_NAME))
    return replace(step, name=shown) if shown and "{{" not in shown else step


def _views(ref: FileRef) -> FileRef:
    return replace(ref, figure="views") if ref.artifact == VIEWS else ref
