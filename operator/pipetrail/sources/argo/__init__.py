"""Argo Workflows: a Workflow, its pods and its task results, to a record. Pure.

The rules stand in ``sources.md`` §1 and §2; what an observer gets wrong, with recorded proof, in the README of the Argo
recordings. Everything is keyed by uid, and a value counts once it can't become otherwise by itself.
"""

from pipetrail.sources.argo.header import Header, Mark, header, mark
from pipetrail.sources.argo.kfp import KFP_RUN
from pipetrail.sources.argo.lifetime import Lifetime, lifetime
from pipetrail.sources.argo.pods import PodFacts, ResultFacts, RunFacts, pod_facts, result_facts
from pipetrail.sources.argo.run import read

__all__ = [
    "KFP_RUN", "Header", "Lifetime", "Mark", "PodFacts", "ResultFacts", "RunFacts", "header", "lifetime", "mark",
    "pod_facts", "read", "result_facts",
]  # fmt: skip
