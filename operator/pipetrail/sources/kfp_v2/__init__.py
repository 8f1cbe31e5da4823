"""Kubeflow Pipelines v2: a Workflow that KFP compiled, its pods and what MLMD says, to a record. Pure."""

from pipetrail.sources.kfp_v2.metadata import Metadata, NoMetadata, RunMetadata
from pipetrail.sources.kfp_v2.run import read

__all__ = ["Metadata", "NoMetadata", "RunMetadata", "read"]
