"""Kubeflow Pipelines v1: an Argo Workflow whose steps are the user's, with KFP's names on it. Pure.

What its two magic artifacts hold beyond metrics (``mlpipeline-ui-metadata``: sources.md §3.3) is not read yet, and
params that v1 keeps in pod annotations are not either; the record says so.
"""

from typing import Any, Final

from msgspec.structs import replace

from pipetrail.record import Partial
from pipetrail.sources import Reading, argo

RUN_NAME: Final = "pipelines.kubeflow.org/run_name"


def read(workflow: Any, facts: argo.RunFacts, *, cluster: str) -> Reading:
    """The record of a run of KFP v1: as Argo tells it, `partial`. Never raises, whatever JSON `workflow` is."""
    reading = argo.read(workflow, facts, cluster=cluster)
    record = reading.record
    said = "runs of KFP v1 are recorded as Argo tells them: figures of mlpipeline-ui-metadata are not read"
    named = record.annotations.get(RUN_NAME)
    partial = (*record.partial, Partial(reason="KfpV1", message=said))
    return replace(reading, record=replace(record, source="kfp-v1", display_name=named, partial=partial))
