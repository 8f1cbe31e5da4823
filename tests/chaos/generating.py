"""Runs that nobody recorded: shapes made from a seed, with numbers that the judge is told apart from our record.

Each is the list of what a controller would have written of one Workflow, ready for `pipetrail.replay`. No pod and no
task result stands beside it, as of a run whose pods were collected at once.
"""

import math
import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from pipetrail.recording import Event

SHAPES: Final = ("made-steps", "made-sweep", "made-retried", "made-wide", "made-unwelcome")
UNWELCOME: Final = "unwelcome"
"""A metric of this name is refused by each tracker that can refuse one item."""
BEGAN: Final = 1_795_000_000
Json = dict[str, Any]


class Made(NamedTuple):
    """Events of one run; `values` must be in each tracker, `withheld` (of attempts that failed) in none."""

    events: tuple[Event, ...]
    values: tuple[float, ...]
    withheld: tuple[float, ...]


class _Pod(NamedTuple):
    name: str  # below the run's own
    outputs: dict[str, float]
    phase: str = "Succeeded"
    inputs: dict[str, str] = {}  # noqa: RUF012  a NamedTuple's default is not shared state here: nobody writes to it
    flag: Json = {}  # noqa: RUF012


def made(shape: str, rng: random.Random) -> Made:
    """A run of a shape; which numbers it has says `rng`."""
    makers: dict[str, Callable[[random.Random], tuple[list[_Pod], Json]]] = {
        "made-steps": _steps, "made-sweep": _sweep, "made-retried": _retried, "made-wide": _wide,
        "made-unwelcome": _unwelcome,
    }  # fmt: skip
    pods, extra = makers[shape](rng)
    good = [v for pod in pods if pod.phase == "Succeeded" for v in pod.outputs.values()]
    bad = [v for pod in pods if pod.phase != "Succeeded" for v in pod.outputs.values()]
    return Made(tuple(_events(shape, pods, extra, rng)), tuple(good), tuple(bad))


def number(rng: random.Random) -> float:
    """Any float64 of everyday size, to its last bit; now and then a whole one, or one that few digits tell."""
    match rng.randrange(6):
        case 0:
            return float(rng.randrange(1, 10_000))
        case 1:
            return round(rng.uniform(0.5, 1.0), 2) + 0.001
        case _:
            return math.ldexp(rng.uniform(0.5, 1.0), rng.randrange(-8, 9))


def _steps(rng: random.Random) -> tuple[list[_Pod], Json]:
    return [_Pod(name, {"loss": number(rng), "accuracy": number(rng)}) for name in ("prep", "train", "eval")], {}


def _wide(rng: random.Random) -> tuple[list[_Pod], Json]:
    return [_Pod("score", {f"m{n:02}": number(rng) for n in range(24)})], {}


def _unwelcome(rng: random.Random) -> tuple[list[_Pod], Json]:
    return [_Pod("score", {"auc": number(rng), UNWELCOME: number(rng), "f1": number(rng)})], {}


def _sweep(rng: random.Random) -> tuple[list[_Pod], Json]:
    turns = [
        _Pod(f"train({n}:{rate})", {"loss": number(rng), "accuracy": number(rng)}, inputs={"rate": rate})
        for n, rate in enumerate(("0.1", "0.01", "0.001"))
    ]
    group = {"name": "train", "type": "TaskGroup", "of": [t.name for t in turns]}
    return [_Pod("prep", {"rows": float(rng.randrange(1000))}), *turns], group


def _retried(rng: random.Random) -> tuple[list[_Pod], Json]:
    tries = [
        _Pod("eval(0)", {"loss": number(rng)}, phase="Failed", flag={"retried": True}),
        _Pod("eval(1)", {"loss": number(rng)}, flag={"retried": True}),
    ]
    return tries, {"name": "eval", "type": "Retry", "of": [t.name for t in tries]}


def _events(shape: str, pods: Sequence[_Pod], group: Json, rng: random.Random) -> list[Event]:
    name = f"{shape}-abcde"
    seconds = [BEGAN + 2 + 3 * n + rng.randrange(3) for n in range(len(pods) + 1)]
    end = seconds[-1] + 2
    events = [Event(kind="Workflow", type="ADDED", body=_body(name, shape, pods, group), at=BEGAN)]
    for n in range(len(pods) + 1):
        nodes = _nodes(name, pods, group, seconds, n)
        events.append(
            Event(
                kind="Workflow", type="MODIFIED", at=seconds[n],
                body=_body(name, shape, pods, group, {"phase": "Running", "startedAt": _stamp(BEGAN), "nodes": nodes}),
            )
        )  # fmt: skip
    nodes = _nodes(name, pods, group, seconds, len(pods))
    nodes[name] |= {"phase": "Succeeded", "finishedAt": _stamp(end)}
    status = {"phase": "Succeeded", "startedAt": _stamp(BEGAN), "finishedAt": _stamp(end), "nodes": nodes}
    return [*events, Event(kind="Workflow", type="MODIFIED", at=end, body=_body(name, shape, pods, group, status))]


def _body(name: str, shape: str, pods: Sequence[_Pod], group: Json, status: Json | None = None) -> Json:
    phase = (status or {}).get("phase", "")
    labels = {"workflows.argoproj.io/completed": str(phase == "Succeeded").lower()}
    if phase:
        labels["workflows.argoproj.io/phase"] = phase
    tasks = list(dict.fromkeys(_task(pod, group) for pod in pods))
    templates: list[Json] = [{"name": "main", "dag": {"tasks": [{"name": t, "template": t} for t in tasks]}}]
    for task in tasks:
        outputs = {key: None for pod in pods if _task(pod, group) == task for key in pod.outputs}
        template: Json = {
            "name": task, "container": {"image": "registry.example/train:1", "command": ["train"]},
            "outputs": {"parameters": [{"name": key, "valueFrom": {"path": f"/tmp/{key}"}} for key in outputs]},
        }  # fmt: skip
        if group.get("type") == "Retry" and task == group["name"]:
            template["retryStrategy"] = {"limit": 2}
        templates.append(template)
    body: Json = {
        "apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow",
        "metadata": {
            "name": name, "generateName": f"{shape}-", "namespace": "team-a", "uid": f"uid-of-{name}", "labels": labels,
            "creationTimestamp": _stamp(BEGAN),
        },
        "spec": {
            "entrypoint": "main", "templates": templates,
            "arguments": {"parameters": [
                {"name": "data", "value": "s3://data/größe"}, {"name": "lr", "value": "1e-3"},
            ]},
        },
    }  # fmt: skip
    return body if status is None else {**body, "status": status}


def _nodes(name: str, pods: Sequence[_Pod], group: Json, seconds: Sequence[int], done: int) -> Json:
    """The nodes when `done` of the pods have ended and one more runs."""
    nodes: Json = {name: _node(name, name, name, "DAG", "Running", BEGAN)}
    shown = pods[: done + 1]
    members = [pod for pod in shown if pod.name in group.get("of", ())]
    if members:
        over = done >= max(n for n, pod in enumerate(pods) if pod.name in group["of"]) + 1
        above = _node(name, group["name"], group["name"], group["type"], "Succeeded" if over else "Running", BEGAN + 1)
        above |= {"children": [_id(name, pod.name) for pod in members], "boundaryID": name}
        if over:
            above["finishedAt"] = _stamp(seconds[done])
            if group["type"] == "Retry":
                above["outputs"] = _outputs(members[-1])
        nodes[_id(name, group["name"])] = above
    for n, pod in enumerate(shown):
        ended = n < done
        node = _node(name, pod.name, _task(pod, group), "Pod", pod.phase if ended else "Running", seconds[n] - 1)
        node |= {"boundaryID": name, "nodeFlag": dict(pod.flag)}
        if pod.inputs:
            node["inputs"] = {"parameters": [{"name": k, "value": v} for k, v in pod.inputs.items()]}
        if ended:
            node |= {"finishedAt": _stamp(seconds[n + 1]), "outputs": _outputs(pod)}
        if pod.phase == "Failed" and ended:
            node["message"] = "Error (exit code 1)"
        nodes[node["id"]] = node
    below = nodes.get(_id(name, group.get("name", "")), {}).get("children", ())
    top = [node for node in nodes if node != name and node not in below]
    nodes[name]["children"] = top
    return nodes


def _node(run: str, name: str, template: str, kind: str, phase: str, since: int) -> Json:
    is_root = name == run
    return {
        "id": run if is_root else _id(run, name), "name": run if is_root else f"{run}.{name}", "displayName": name,
        "type": kind, "templateName": "main" if is_root else template, "templateScope": f"local/{run}", "phase": phase,
        "startedAt": _stamp(since),
    }  # fmt: skip


def _outputs(pod: _Pod) -> Json:
    code = "0" if pod.phase == "Succeeded" else "1"
    return {"exitCode": code, "parameters": [{"name": k, "value": repr(v)} for k, v in pod.outputs.items()]}


def _task(pod: _Pod, group: Json) -> str:
    return str(group["name"]) if pod.name in group.get("of", ()) else pod.name


def _id(run: str, name: str) -> str:
    """Ids need only agree with each other; as Argo's they begin with the run's name."""
    return f"{run}-{sum(ord(c) * 131**n for n, c in enumerate(name)) % 4_294_967_296}"


def _stamp(second: float) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
