"""Records in a few words, for the tests of redaction and shape. One minute past START a step of two has ended."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from pipetrail.api import Policy
from pipetrail.record import (
    Attempt,
    FromFile,
    FromParameter,
    FromResult,
    FromStdout,
    Key,
    LoopItem,
    Number,
    Outcome,
    Outputs,
    Point,
    PointSource,
    Record,
    Status,
    Step,
)
from pipetrail.settings import Places
from pipetrail.shape import shape
from pipetrail.targets.target import TrackerRun, Tree

START = datetime(2026, 11, 23, 20, 0, tzinfo=UTC)
PLACES = Places(argo_ui="https://argo.example/", logs_url="https://logs.example/{namespace}/{pod}")


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def point(key: str, value: Number, source: PointSource, *, step: int | None = None, seconds: float = 60) -> Point:
    return Point(key=key, value=value, time=at(seconds), source=source, step=step)


def in_file(key: str, value: Number, name: str = "metrics/metrics.json", **more: Any) -> Point:
    artifact, _, file = name.partition("/")
    source = FromFile(
        artifact=artifact, file=file, recognised=more.pop("recognised", None), setting=more.pop("setting", False)
    )
    return point(key, value, source, **more)


def printed(key: str, value: Number, step: int | None = None) -> Point:
    return point(key, value, FromStdout(), step=step)


def curve(key: str, *values: Number) -> tuple[Point, ...]:
    return tuple(printed(key, value, n) for n, value in enumerate(values))


def items(*turns: Any) -> tuple[LoopItem, ...]:
    """One pair (index, item) per loop around the step."""
    return tuple(LoopItem(index=index, item=item) for index, item in turns)


def step(
    path: str,
    *points: Point,
    status: Status = "succeeded",
    outputs: Mapping[str, str] | None = None,
    result: str | None = None,
    seconds: float = 60,
    **more: Any,
) -> Step:
    """A step that ended `seconds` after START and took ten; numeric outputs are points too, as capture makes them."""
    outcome = Outcome(
        status=status, reason=more.pop("reason", None), exit_code=more.pop("exit_code", None),
        message=more.pop("message", None),
    )  # fmt: skip
    numbers = [
        point(name, float(text) if "." in text else int(text), FromParameter(parameter=name), seconds=seconds)
        for name, text in (outputs or {}).items()
        if text.replace(".", "", 1).isdigit()
    ]
    if result is not None and result.replace(".", "", 1).isdigit():
        numbers.append(point("result", float(result), FromResult(), seconds=seconds))
    running = status in ("running", "pending")
    made: dict[str, Any] = {
        "name": path.rpartition("/")[2],
        "started": at(seconds - 10),
        "finished": None if running else at(seconds),
        "outputs": Outputs(parameters=outputs or {}, result=result),
        "points": (*points, *numbers),
    }
    return Step(path=path, outcome=outcome, **{**made, **more})


def tried(pod: str, status: Status = "failed", *, start: float, end: float) -> Attempt:
    return Attempt(outcome=Outcome(status=status), pod=pod, started=at(start), finished=at(end))


def record(*steps: Step, status: Status = "succeeded", **more: Any) -> Record:
    outcome = Outcome(status=status, reason=more.pop("reason", None), message=more.pop("message", None))
    made: dict[str, Any] = {
        "key": Key(cluster="lab", uid="1234"),
        "source": "argo",
        "name": "churn-7w6gn",
        "namespace": "team-a",
        "pipeline": "churn",
        "started": START,
        "finished": None if status == "running" else at(600),
        "steps": steps,
    }
    return Record(outcome=outcome, **{**made, **more})


def policy(layout: str = "Auto", **capture: Any) -> Policy:
    naming = {"layout": layout, **capture.pop("naming", {})}
    return msgspec.convert({"naming": naming, "capture": {"stdout": "On", **capture}}, Policy)


def tree(made: Record, pinned: Policy | None = None, **more: Any) -> Tree:
    return shape(made, pinned or policy(), places=PLACES, cluster_target=more.pop("cluster_target", False), **more)


def values(run: TrackerRun) -> dict[str, Number | list[Number]]:
    """Key to its value, or to its values in order where there are several."""
    found: dict[str, list[Number]] = {}
    for metric in run.metrics:
        found.setdefault(metric.key, []).append(metric.value)
    return {key: many[0] if len(many) == 1 else many for key, many in found.items()}
