"""Workflows, pods and task results in a few words, for the tests of the Argo source. Times are seconds past START."""

from datetime import UTC, datetime, timedelta
from typing import Any

from pipetrail.record import Record, Step
from pipetrail.sources import Reading, argo

START = datetime(2026, 11, 23, 10, 0, 0, tzinfo=UTC)
UID = "11111111-2222-3333-4444-555555555555"
NAME = "run-x7k2p"
S3 = {
    "endpoint": "s3.example:9000", "bucket": "artifacts", "insecure": True,
    "accessKeySecret": {"name": "s3", "key": "accessKey"}, "secretKeySecret": {"name": "s3", "key": "secretKey"},
}  # fmt: skip
LIMIT = {"retryStrategy": {"limit": "2"}}


def at(seconds: int) -> datetime:
    return START + timedelta(seconds=seconds)


def stamp(seconds: int) -> str:
    return at(seconds).strftime("%Y-%m-%dT%H:%M:%SZ")


def params(**values: Any) -> dict[str, Any]:
    return {"parameters": [{"name": k, "value": v} for k, v in values.items()]}


def node(name: str, type_: str = "Pod", phase: str = "Succeeded", *, boundary: str | None = "", **more: Any) -> Any:
    """A node called NAME + `name`, with an id of its own; `boundary` is the parent's name after NAME."""
    full = NAME + name
    body = {
        "id": _id(name), "name": full, "displayName": full, "type": type_, "phase": phase, "templateName": "step",
        "templateScope": f"local/{NAME}", "startedAt": stamp(1),
    }  # fmt: skip
    if phase in ("Succeeded", "Failed", "Error", "Skipped", "Omitted"):
        body["finishedAt"] = stamp(30)
    if name and boundary is not None:
        body["boundaryID"] = _id(boundary)
    return body | more


def _id(name: str) -> str:
    return f"{NAME}-{sum(ord(c) * (i + 7) for i, c in enumerate(name))}" if name else NAME


def workflow(*nodes: Any, phase: str = "Running", spec: Any = None, status: Any = None, **meta: Any) -> Any:
    ended = {"finishedAt": stamp(60)} if phase in ("Succeeded", "Failed", "Error") else {}
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "metadata": {"name": NAME, "namespace": "team-a", "uid": UID, "resourceVersion": "9"} | meta,
        "spec": {"entrypoint": "main", "templates": [{"name": "step", "container": {"image": "img"}}]} | (spec or {}),
        "status": {
            "phase": phase, "startedAt": stamp(0), "nodes": {n["id"]: n for n in nodes},
            "artifactRepositoryRef": {"artifactRepository": {"s3": S3}},
        } | ended | (status or {}),
    }  # fmt: skip


def pod(name: str, phase: str = "Succeeded", **more: Any):
    """What :func:`pod_body` says."""
    return argo.pod_facts(pod_body(name, phase, **more))


def pod_body(
    name: str, phase: str = "Succeeded", *, created: int = 2, ended: int = 29, code: int | None = None, **more: Any
) -> Any:
    """The pod of the node NAME + `name`: main and wait, main's `code` by its phase unless given."""
    code = (0 if phase == "Succeeded" else 1) if code is None else code

    def container(of: str, exit_code: int, end: int, **state: Any) -> Any:
        done = {"exitCode": exit_code, "startedAt": stamp(created + 3), "finishedAt": stamp(end), **state}
        running = {"running": {"startedAt": stamp(created + 3)}}
        return {"name": of, "imageID": "r@sha256:" + "a" * 64, "state": {"terminated": done} if end else running}

    over = phase in ("Succeeded", "Failed")
    return {
        "metadata": {
            "name": f"pod{name}", "namespace": "team-a", "uid": more.pop("uid", f"pod-uid{name}-{created}"),
            "creationTimestamp": stamp(created), "labels": {"workflows.argoproj.io/workflow": NAME},
            "annotations": {
                "workflows.argoproj.io/node-id": _id(name), "workflows.argoproj.io/node-name": NAME + name,
            },
            "ownerReferences": [{"kind": "Workflow", "name": NAME, "uid": more.pop("owner", UID)}],
        } | more.pop("meta", {}),
        "spec": {"containers": [{"name": "wait", "image": "argoexec"}, {"name": "main", "image": "img:1"}]},
        "status": {
            "phase": phase,
            "containerStatuses": [
                container("main", code, ended - 1 if over else 0, reason=more.pop("reason", "Completed")),
                container("wait", more.pop("wait", 0), ended if over else 0),
            ],
        } | more,
    }  # fmt: skip


def result(name: str, *, created: int = 6, complete: bool = True, owner: str = UID, **outputs: Any):
    return argo.result_facts(
        {
            "kind": "WorkflowTaskResult",
            "metadata": {
                "name": _id(name),
                "namespace": "team-a",
                "uid": f"result{name}",
                "creationTimestamp": stamp(created),
                "labels": {"workflows.argoproj.io/report-outputs-completed": "true" if complete else "false"},
                "ownerReferences": [{"kind": "Workflow", "name": NAME, "uid": owner}],
            },
            "outputs": outputs,
        }
    )


def facts(*all_facts: Any, deleted: bool = False) -> argo.RunFacts:
    found = argo.RunFacts()
    for fact in all_facts:
        found = found.with_pod(fact) if isinstance(fact, argo.PodFacts) else found.with_result(fact)
    return found.gone() if deleted else found


def read(body: Any, *all_facts: Any, deleted: bool = False) -> Reading:
    return argo.read(body, facts(*all_facts, deleted=deleted), cluster="lab")


def record(body: Any, *all_facts: Any, deleted: bool = False) -> Record:
    return read(body, *all_facts, deleted=deleted).record


def only(body: Any, *all_facts: Any, deleted: bool = False) -> Step:
    """The one step of a run."""
    (step,) = record(body, *all_facts, deleted=deleted).steps
    return step


def paths(of: Record) -> dict[str, str]:
    """Path and turns of each step, with how it stands."""
    return {s.path + "".join(f"[{i.index}]" for i in s.iteration or ()): s.outcome.status for s in of.steps}
