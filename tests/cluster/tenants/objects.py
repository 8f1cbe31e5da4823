"""Objects as a team writes them: Workflows of one step, artifacts, backends; and where each kind stands in the API."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from pipetrail.kube import ARGO, TRACKED_RUNS

WITHOUT_CONTROLLER: Final = {"workflows.argoproj.io/controller-instanceid": "nobody"}
Json = Mapping[str, Any]
EMPTY: Final[Json] = {}
_ROOTS: Final = {
    "workflows": ARGO, "workflowtaskresults": ARGO, "trackedruns": TRACKED_RUNS, "trackingtargets": TRACKED_RUNS,
}  # fmt: skip


def path(kind: str, namespace: str) -> str:
    """The list of a kind in a namespace; a ClusterTrackingTarget is in none."""
    if kind == "clustertrackingtargets":
        return f"{TRACKED_RUNS}/{kind}"
    return f"{_ROOTS.get(kind, '/api/v1')}/namespaces/{namespace}/{kind}"


def workflow(
    name: str, *, phase: str = "Succeeded", outputs: Json = EMPTY, node: Json = EMPTY, meta: Json = EMPTY,
    spec: Json = EMPTY, status: Json = EMPTY, labels: Mapping[str, str] = EMPTY,
) -> dict[str, Any]:  # fmt: skip
    """A Workflow of one step, as its controller would leave it; no controller looks at it."""
    now = datetime.now(UTC)
    began, ended = ((now - timedelta(seconds=s)).strftime("%Y-%m-%dT%H:%M:%SZ") for s in (2, 0))
    over = {"finishedAt": ended} if phase == "Succeeded" else {}
    step = {
        "id": name, "name": name, "displayName": name, "type": "Pod", "templateName": "main", "phase": phase,
        "startedAt": began, "outputs": dict(outputs), **over, **node,
    }  # fmt: skip
    return {
        "apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow",
        "metadata": {"name": name, **meta, "labels": {**WITHOUT_CONTROLLER, **labels}},
        "spec": {
            "entrypoint": "main", "templates": [{"name": "main", "container": {"image": "train"}}], **spec
        },
        "status": {"phase": phase, "startedAt": began, **over, "nodes": {name: step}, **status},
    }  # fmt: skip


def artifact(path: str = "/tmp/metrics.json", **where: Any) -> dict[str, Any]:
    """Outputs of a step that left one metric file."""
    return {"artifacts": [{"name": "metrics", "path": path, "archive": {"none": {}}, **where}]}


def mlflow(url: str, **more: Any) -> dict[str, Any]:
    return {"mlflow": {"trackingUri": url, **more}}
