"""What a Workflow's own body says of the Kubeflow pipeline that it runs, without its nodes: for its header."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pipetrail.sources.argo.body import Json, obj, objs, seq, word

KFP: Final = "pipelines.kubeflow.org/"
KFP_RUN: Final = "pipeline/runid"
"""What Kubeflow Pipelines puts on the Workflows that it makes (pipelines: backend/src/common/util/consts.go)."""
MLFLOW_CONFIG: Final = "KFP_MLFLOW_CONFIG"
"""What KFP's MLflow plugin gives to drivers and launchers of the runs that it records (sources.md §6.2)."""

MAX_SPEC_CHARS: Final = 1 << 20
_NAME: Final = "--pipeline_name"


def pipeline(spec: Json, annotations: Mapping[str, str]) -> str:
    """The pipeline's name: what drivers are told (v2), or what the SDK stamped (v1); empty where neither says it."""
    for template in objs(spec.get("templates")):
        args = seq(obj(template, "container").get("args"))
        if _NAME in args:
            at = args.index(_NAME) + 1
            # KFP may give it in full: namespace/<ns>/pipeline/<name>.
            return word(args[at]).rpartition("/")[2] if at < len(args) else ""
    stamped = annotations.get(f"{KFP}pipeline_spec", "")
    if not stamped or len(stamped) > MAX_SPEC_CHARS:
        return ""
    try:
        return word(obj(json.loads(stamped)).get("name"))
    except (ValueError, RecursionError):
        return ""


def mlflow_plugin(spec: Json) -> bool:
    """Whether KFP's MLflow plugin records the run."""
    templates = [*objs(spec.get("templates"))]
    containers = (c for t in templates for c in _containers(t))
    return any(e.get("name") == MLFLOW_CONFIG for c in containers for e in objs(c.get("env"))) or any(
        MLFLOW_CONFIG in word(t.get("podSpecPatch")) for t in templates
    )


def _containers(template: Json) -> Iterator[Mapping[str, Any]]:
    yield obj(template, "container")
    yield obj(template, "script")
    yield from objs(template.get("initContainers"))
    yield from objs(obj(template, "containerSet").get("containers"))
