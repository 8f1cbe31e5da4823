"""Kubeflow Pipelines v2: a Workflow that KFP compiled, its pods and what MLMD says, to a record. Pure.

The facts stand in ``sources.md`` §4; what an observer gets wrong, with recorded proof, in the README of the KFP
recordings. Driver inputs hold whole components, Python source included: :mod:`~pipetrail.sources.kfp_v2.spec` alone
looks into them, and takes what it names.
"""

from pipetrail.sources.kfp_v2.logs import merged
from pipetrail.sources.kfp_v2.metadata import Metadata, NoMetadata, RunMetadata
from pipetrail.sources.kfp_v2.run import read

__all__ = ["Metadata", "NoMetadata", "RunMetadata", "merged", "read"]
