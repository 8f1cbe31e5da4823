"""A Workflow of KFP v2, the facts around it and its metadata, to a record."""

from typing import Any

from msgspec.structs import replace

from pipetrail.sources import Reading, argo
from pipetrail.sources.kfp_v2.metadata import Metadata, NoMetadata


def read(workflow: Any, facts: argo.RunFacts, metadata: Metadata, *, cluster: str) -> Reading:
    """The record of a run, and what is to be fetched for it. Never raises, whatever JSON `workflow` is."""
    reading = argo.read(workflow, facts, cluster=cluster)
    record = replace(reading.record, source="kfp-v2", steps=(), params={}, outputs=type(reading.record.outputs)())
    again = isinstance(metadata, NoMetadata) and metadata.again
    return Reading(record=record, again=again)
