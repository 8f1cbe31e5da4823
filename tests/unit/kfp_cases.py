"""Recorded runs of KFP in the parts that the source is given, and changes of them that other versions of KFP make."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from pipetrail import recording, recording_mlmd
from pipetrail.record import Record, Step
from pipetrail.sources import Reading, argo, kfp_v2
from pipetrail.sources.kfp_v2 import Metadata, NoMetadata, RunMetadata
from pipetrail.sources.kfp_v2.metadata import Execution

RUNS = Path(__file__).parent.parent / "data" / "kfp"
V2 = ("fails", "iris", "iris-cached", "loops")
AWAY = NoMetadata(reason="MlmdUnreachable", message="KFP's metadata store can't be reached", again=True)

_ELEMENT = re.compile(r"\.([^.()]+)((?:\(\d+(?::[^()]*)?\))*)")


@cache
def _folded(name: str) -> tuple[str, argo.RunFacts]:
    body, facts = recording.load(RUNS / name).fold()
    return json.dumps(body), facts


def folded(name: str) -> tuple[Any, argo.RunFacts]:
    """The last body of a recorded run, to be changed at will, and the facts around it."""
    body, facts = _folded(name)
    return json.loads(body), facts


@cache
def metadata(name: str) -> RunMetadata:
    """What MLMD has of a recorded run."""
    found = recording_mlmd.read(RUNS / "mlmd.sqlite", folded(name)[0]["metadata"]["labels"]["pipeline/runid"])
    assert isinstance(found, RunMetadata)
    return found


def read(name: str, told: Metadata | None = None, body: Any = None) -> Reading:
    """The reading of a recorded run, of another body or with other metadata if they are given."""
    recorded, facts = folded(name)
    return kfp_v2.read(body or recorded, facts, metadata(name) if told is None else told, cluster="lab")


def step(record: Record, path: str, *turns: int) -> Step:
    """The step at `path`, in these turns of its loops."""
    found = [s for s in record.steps if s.path == path and tuple(i.index for i in s.iteration or ()) == turns]
    (only,) = found
    return only


def nodes(body: Any) -> dict[str, Any]:
    """A body's nodes by their names after the Workflow's."""
    prefix = len(body["metadata"]["name"])
    return {node["name"][prefix:]: node for node in body["status"]["nodes"].values()}


def without(body: Any, pattern: str) -> Any:
    """`body` without the nodes whose names match."""
    kept = {k: n for k, n in body["status"]["nodes"].items() if not re.search(pattern, n["name"])}
    body["status"]["nodes"] = kept
    return body


def driver(body: Any, name: str, **outputs: str) -> None:
    """Change what a driver said."""
    for parameter in nodes(body)[name]["outputs"]["parameters"]:
        if (new := outputs.get(parameter["name"].replace("-", "_"))) is not None:
            parameter["value"] = new


def retried(body: Any) -> Any:
    """`body` as KFP 2.17's templateDefaults make it: every node is the first try of a Retry (trap 32)."""
    workflow = body["metadata"]["name"]
    made: dict[str, Any] = {}
    for key, node in body["status"]["nodes"].items():
        name = workflow + _tried("", node["name"][len(workflow) :])
        if node["type"] in ("TaskGroup", "Skipped", "Retry") or re.search(r"executor\(\d\)$", node["name"]):
            made[key] = {**node, "name": name if node["type"] != "Pod" else name.removesuffix("(0)")}
            continue
        wrap = {**node, "type": "Retry", "id": f"{key}-retry", "name": name.removesuffix("(0)"), "children": [key]}
        made[f"{key}-retry"] = wrap
        made[key] = {**node, "name": name, "displayName": f"{node['displayName']}(0)"}
    body["status"]["nodes"] = made
    return body


def _tried(root: str, rest: str) -> str:
    parts = [(m[1], m[2]) for m in _ELEMENT.finditer(rest)]
    return f"{root}(0)" + "".join(f".{name}{turns}(0)" for name, turns in parts)


def executions(run: RunMetadata, **changes: dict[str, Any]) -> RunMetadata:
    """`run` with fields of the executions of some tasks changed; `custom` is merged into what is there."""

    def changed(execution: Execution) -> Execution:
        fields = dict(changes.get(str(execution.custom.get("task_name")).replace("-", "_"), {}))
        custom = {**execution.custom, **fields.pop("custom", {})}
        return replace(execution, custom=custom, **fields)

    return replace(run, executions=tuple(changed(e) for e in run.executions))
