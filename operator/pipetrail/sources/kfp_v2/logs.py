"""The digits that MLMD cuts, from what a launcher logged: taken where the two agree, refused where they do not.

A program can print whatever its launcher prints. So a log's value replaces the store's only if the store's may be it,
cut to six decimals: a forged one can't say more than that. Without the store there is nothing to compare with; the
log's last word is taken then, and the record says so.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from msgspec.structs import replace

from pipetrail.formats.executor_output import ExecutorOutput, LauncherLog, OutputArtifact
from pipetrail.record import Artifact, Figure, FromLog, FromMlmd, FromParameter, Outputs, Partial, Point, Step
from pipetrail.sources import Launcher
from pipetrail.sources.argo.body import word
from pipetrail.sources.kfp_v2.figures import KEYS, figures
from pipetrail.sources.kfp_v2.spec import EXECUTOR_LOGS
from pipetrail.sources.kfp_v2.store import plots, scalars
from pipetrail.sources.kfp_v2.values import agree, number, ordered, typed

_NO_OUTPUT: Final = Partial(
    reason="NoExecutorOutput",
    message="launchers' logs show no outputs (they do at PIPELINE_LOG_LEVEL=1): metrics have the six decimals of KFP's "
    "metadata store",
)
_UNCHECKED: Final = Partial(
    reason="Unchecked",
    message="what launchers logged could not be compared with KFP's metadata store: it is taken as it is",
)
_NOT_OWN: Final = frozenset({"display_name", "store_session_info"})


def merged(step: Step, log: LauncherLog, launcher: Launcher, at: datetime | None) -> tuple[Step, tuple[Partial, ...]]:
    """`step` with what its launcher logged, and what can't be known of it. Points that only the log has get `at`."""
    if step.outcome.status in ("failed", "error") and log.exit_status is not None:
        step = replace(step, outcome=replace(step.outcome, exit_code=log.exit_status))
    if step.outcome.settled and step.outcome.status != "succeeded":
        return step, ()
    match launcher:
        case "silent":
            return step, ()
        case "checked":
            return _checked(step, log.outputs)
        case "alone":
            return _alone(step, log.outputs, at)


# --- beside the store ---------------------------------------------------------------------------------------------


def _checked(step: Step, outputs: Sequence[ExecutorOutput]) -> tuple[Step, tuple[Partial, ...]]:
    cut = any(not p.exact for p in step.points)
    if not outputs:
        return step, (_NO_OUTPUT,) if cut else ()
    logged = _Logged(outputs)
    parameters = {n: logged.best(v, logged.parameters(n), n) for n, v in step.outputs.parameters.items()}
    points = tuple(_point(p, parameters, logged) for p in step.points)
    artifacts = tuple(_artifact(a, logged) for a in step.artifacts)
    step = replace(
        step, outputs=Outputs(parameters=parameters), points=points, artifacts=artifacts,
        figures=tuple(_figures(step, logged)),
    )  # fmt: skip
    logged.unknown(step)
    if not logged.refused:
        return step, ()
    named = ", ".join(list(dict.fromkeys(logged.refused))[:5])
    said = f"the log says otherwise than KFP's metadata store of {named[:500]}: the store's values are kept"
    return step, (Partial(reason="LogDiffers", message=said, step=step.path),)


class _Logged:
    """What a log's blocks say, the last one first; `refused` names what the store contradicts."""

    def __init__(self, outputs: Sequence[ExecutorOutput]) -> None:
        self._outputs = tuple(reversed(outputs))
        self.refused: list[str] = []

    def parameters(self, name: str) -> list[Any]:
        """What the blocks say of an output parameter."""
        return [o.parameters[name] for o in self._outputs if name in o.parameters]

    def metadata(self, artifact: Artifact) -> list[Mapping[str, Any]]:
        """What the blocks say of an artifact: found by its address, else by its name."""
        name = artifact.name.partition(".")[0]
        found = []
        for output in self._outputs:
            listed = output.artifacts.get(artifact.name) or output.artifacts.get(name) or ()
            same = [a for a in listed if a.uri == artifact.uri] or (listed if len(listed) == 1 else [])
            found += [a.metadata for a in same[:1]]
        return found

    def best(self, stored: Any, candidates: Iterable[Any], name: str) -> Any:
        """The first candidate that the store may have cut to `stored`; else that, and `name` is refused."""
        refused = False
        for candidate in candidates:
            if agree(stored, candidate):
                return _like(stored, candidate)
            refused = True
        if refused:
            self.refused.append(name)
        return stored

    def unknown(self, step: Step) -> None:
        """Refuse what the last block says of metrics that the store does not have."""
        known = {p.key for p in step.points}
        for artifact in (a for a in step.artifacts if scalars(a.type)):
            for metadata in self.metadata(artifact)[:1]:
                named = (word(k) for k, v in metadata.items() if number(v) is not None)
                self.refused += [f"{artifact.name}/{key}" for key in named if key not in known]


def _like(stored: Any, logged: Any) -> Any:
    """`logged` in the type of `stored`, which the pipeline declared: 1 of a double is 1.0, a number is no bool."""
    if type(stored) is float and type(logged) is int and abs(logged) <= 1 << 53:
        return float(logged)
    return logged if isinstance(stored, int | float) else ordered(logged)


def _point(point: Point, parameters: Mapping[str, Any], logged: _Logged) -> Point:
    match point.source:
        case FromParameter(parameter=name):
            value = number(parameters.get(name))
            return point if value is None else replace(point, value=value)
        case FromMlmd(artifact=name):
            candidates = [v for m in logged.metadata(Artifact(name=name)) if (v := _entry(m, point.key)) is not None]
            for candidate in candidates:
                value = number(candidate)
                if value is not None and agree(point.value, value):
                    return replace(point, value=value, source=FromLog(artifact=name), exact=True)
            if candidates:
                logged.refused.append(f"{name}/{point.key}")
            return point
        case _:
            return point


def _entry(metadata: Mapping[str, Any], key: str) -> Any:
    return metadata.get(key) if key in metadata else next((v for k, v in metadata.items() if word(k) == key), None)


def _artifact(artifact: Artifact, logged: _Logged) -> Artifact:
    found = logged.metadata(artifact)
    metadata = {
        key: logged.best(value, [m[key] for m in found if key in m], f"{artifact.name}/{key}")
        for key, value in artifact.metadata.items()
    }
    return replace(artifact, metadata=metadata) if metadata != artifact.metadata else artifact


def _figures(step: Step, logged: _Logged) -> Iterator[Figure]:
    """The store's figures are exact, but every number in them is a double: the log has them as they were written."""
    named: dict[str, list[Figure]] = {}
    for artifact in step.artifacts:
        if plots(artifact.type):
            for metadata in logged.metadata(artifact):
                for figure in figures(artifact.name, metadata, stored=False):
                    named.setdefault(f"{type(figure).__name__} {figure.name}", []).append(figure)
    for figure in step.figures:
        candidates = named.get(f"{type(figure).__name__} {figure.name}", [])
        same = next((c for c in candidates if c == figure), None)
        if candidates and same is None:
            logged.refused.append(figure.name or "a figure")
        yield same or figure


# --- without the store --------------------------------------------------------------------------------------------


def _alone(step: Step, outputs: Sequence[ExecutorOutput], at: datetime | None) -> tuple[Step, tuple[Partial, ...]]:
    if not outputs:
        said = "KFP's metadata store could not be read and the launcher's log shows no outputs: none are known"
        return step, (Partial(reason="OutputsUnknown", message=said, step=step.path),)
    last = outputs[-1]
    partial = [_UNCHECKED]
    if any(other != last for other in outputs):
        said = "the launcher's log shows several outputs, and nothing tells which is the launcher's: the last is taken"
        partial.append(Partial(reason="SeveralOutputs", message=said, step=step.path))
    parameters = {word(name): typed(value, "") for name, value in sorted(last.parameters.items()) if value is not None}
    points = [
        Point(key=name, value=value, time=at, source=FromParameter(parameter=name))
        for name, value in parameters.items()
        if at is not None and type(value) in (int, float)
    ]
    types = {a.name: a.type for a in step.artifacts}
    drawn: list[Figure] = []
    artifacts = {a.name: a for a in step.artifacts}
    for name, artifact in _listed(last):
        kind, metadata = types.get(name), _readable(artifact.metadata)
        if scalars(kind):
            points += _points(name, metadata, at)
            metadata = {k: v for k, v in metadata.items() if number(v) is None}
        elif plots(kind):
            drawn += figures(name, metadata, stored=False)
            metadata = {k: v for k, v in metadata.items() if k not in KEYS}
        made = artifacts.get(name, Artifact(name=name, uri=artifact.uri or None, archive="none"))
        artifacts[name] = replace(made, uri=artifact.uri or made.uri, metadata=metadata)
    return replace(
        step, outputs=Outputs(parameters=parameters), points=(*step.points, *points),
        figures=(*step.figures, *drawn), artifacts=tuple(artifacts.values()),
    ), tuple(partial)  # fmt: skip


def _listed(output: ExecutorOutput) -> Iterator[tuple[str, OutputArtifact]]:
    for name, listed in output.artifacts.items():
        if name != EXECUTOR_LOGS:
            for n, artifact in enumerate(listed):
                yield word(f"{name}.{n}" if n else name), artifact


def _readable(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {word(k): ordered(v) for k, v in sorted(metadata.items()) if k not in _NOT_OWN}


def _points(name: str, metadata: Mapping[str, Any], at: datetime | None) -> Iterator[Point]:
    for key, given in metadata.items():
        if at is not None and (value := number(given)) is not None:
            yield Point(key=key, value=value, time=at, source=FromLog(artifact=name))
