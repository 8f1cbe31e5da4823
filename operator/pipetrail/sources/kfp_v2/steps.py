"""A user's tasks to steps: Argo's nodes for what happened and when, MLMD and the drivers for what went in and came out.

What a task gave counts once Argo's node is fulfilled, or early, as for any other step (design §5): its launcher has
told MLMD before its pod ends (sources.md §4.6).
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from msgspec.structs import replace

from pipetrail.record import Artifact, FromParameter, Frozen, Outcome, Outputs, Partial, Point, Step
from pipetrail.sources import FileRef, LogRef
from pipetrail.sources.argo.body import Json, whole, word
from pipetrail.sources.kfp_v2 import addresses, spec
from pipetrail.sources.kfp_v2.asked import Asked, asked
from pipetrail.sources.kfp_v2.loops import Loops
from pipetrail.sources.kfp_v2.metadata import Execution
from pipetrail.sources.kfp_v2.outcome import outcome, ran
from pipetrail.sources.kfp_v2.outputs import Dags
from pipetrail.sources.kfp_v2.places import At, Place, Places
from pipetrail.sources.kfp_v2.store import Found, Store, parameters, text
from pipetrail.sources.kfp_v2.values import typed

_CHANNEL: Final = "pipelinechannel--"


class _Given(Frozen, frozen=True):
    """What one task gave, so far as it counts. `stored` is true if the store tells it; `at` is the points' time."""

    stored: bool = False
    at: datetime | None = None
    parameters: Mapping[str, Any] = {}
    found: tuple[Found, ...] = ()


class _Read(Frozen, frozen=True):
    """One step as it was read, and what is fetched for it."""

    at: At
    step: Step
    found: tuple[Found, ...] = ()
    log: LogRef | None = None
    key: str = ""


class Builder:
    """Makes the steps of one run. `logs` are those that Argo's own reading found, by the place of their step."""

    def __init__(
        self, places: Places, store: Store, logs: Mapping[At, LogRef], *, repository: Json, run: Outcome,
        run_id: str, params: Mapping[str, Any],
    ) -> None:  # fmt: skip
        self._places = places
        self._store = store
        self._logs = logs
        self._repository = repository
        self._run = run
        self._run_id = run_id
        self._params = params
        self._loops = Loops(places, store)
        self._pipelines: dict[At, Step] = {}
        self.partial: list[Partial] = []
        self.files: list[FileRef] = []
        self.logs: list[LogRef] = []
        self.lags = False  #: whether the store has yet to tell something
        self.gave = False  #: whether any task gave something that the store should know

    def steps(self) -> tuple[Step, ...]:
        """All steps, by their start; fills `files`, `logs`, `partial`, `lags` and `gave`."""
        tasks = [asked(place) for place in self._places.tasks()]
        for one in tasks:
            self._loops.show(one)
        for place in sorted(self._places.pipelines(), key=lambda p: p.at[0].count("/")):  # from the outside in
            self._pipelines[place.at] = self._pipeline(place)
        read = [self._task(one) for one in tasks]
        dags = Dags(self._places, {r.at: r.step.outputs.parameters for r in read})
        for at, step in self._pipelines.items():
            given = dags.outputs(at) if step.outcome.status == "succeeded" else {}
            read.append(_Read(at=at, step=replace(step, outputs=Outputs(parameters=given))))
        read += [_Read(at=place.at, step=self._not_run(place)) for place in self._places.not_run()]
        read.sort(key=_order)
        for index, each in enumerate(read):
            self._refer(index, each)
        return tuple(each.step for each in read)

    def _pipeline(self, place: Place) -> Step:
        """A pipeline that is a task of another. Its outputs are found once the tasks in it are read."""
        dag, driver, one = place.dag, place.driver, asked(place)
        assert dag is not None
        told = driver.outputs.parameters.get("execution-id") if driver is not None else None
        execution = self._store.execution(whole(told))
        inputs = parameters(execution, "inputs") if execution is not None else self._wired(one)
        return replace(
            dag, path=place.path, name=_name(execution, one), iteration=self._loops.iteration(place.at),
            template=one.task.component or place.name, params=one.component.given(_own(inputs)), outputs=Outputs(),
            points=(),
        )  # fmt: skip

    def _not_run(self, place: Place) -> Step:
        """A task in a DAG that was not run."""
        around = place.skipped
        assert around is not None
        return Step(
            path=place.path, name=place.name, outcome=around.outcome, iteration=self._loops.iteration(place.at),
            role=place.role, kind=place.kind, started=around.started, finished=around.finished,
        )  # fmt: skip

    def _task(self, one: Asked) -> _Read:
        place, execution = one.place, one.execution(self._store)
        how = outcome(place, execution, self._run)
        pod = place.pod if ran(place) else None
        worked = pod if place.kind == "pod" else None  # an importer's pod is KFP's
        log = self._logs.get((f"{place.at[0]}/executor", place.at[1])) if worked is not None else None
        started, finished = _times(place, pod, how)
        given = self._given(one, execution, how, log, finished)
        outputs = {n: typed(v, one.component.outputs.get(n, "")) for n, v in sorted(_own(given.parameters).items())}
        step = Step(
            path=place.path,
            name=_name(execution, one),
            outcome=how,
            iteration=self._loops.iteration(place.at),
            role=place.role,
            kind=place.kind,
            template=one.task.component or None,
            started=started,
            finished=finished,
            params=one.component.given(_own(self._inputs(one, execution))) if place.kind == "pod" else {},
            attempts=worked.attempts if worked is not None else (),
            outputs=Outputs(parameters=outputs),
            points=(*_points(outputs, given.at), *(p for f in given.found for p in f.points)),
            figures=tuple(f for each in given.found for f in each.figures),
            artifacts=tuple(each.artifact for each in given.found),
            image=one.image(worked) if place.kind == "pod" else None,
            digest=worked.digest if worked is not None else None,
            resources=pod.resources if pod is not None else None,
            cached_from=self._cached_from(execution) if how.status == "cached" else None,
        )
        key = log.key if log is not None else f"execution/{execution.id if execution is not None else place.at}"
        read = _Read(at=place.at, step=step, found=given.found, key=key)
        if log is not None:
            return replace(read, log=replace(log, launcher="checked" if given.stored else "alone"))
        return replace(read, log=self._first_log(step, execution, key))

    def _given(
        self, one: Asked, execution: Execution | None, how: Outcome, log: LogRef | None, finished: datetime | None
    ) -> _Given:
        """What the task gave. Argo's own reading has a log of a step that has yet to end only if its result counts."""
        early = log is not None and not how.settled
        if how.status not in ("succeeded", "cached") and not early:
            return _Given(stored=execution is not None)
        self.gave = True
        at = (log.at if log is not None else None) or finished
        if execution is not None and execution.state not in ("UNKNOWN", "NEW", "RUNNING"):
            found = self._store.outputs(execution, at)
            return _Given(stored=True, at=at, parameters=parameters(execution, "outputs"), found=found)
        if self._store.missing is None:
            self.lags = True
            said = "KFP's metadata store has not told yet what the task gave"
            self.partial.append(Partial(reason="MlmdLags", message=said, step=one.place.path))
        return _Given(at=at, found=tuple(_announced(one)))

    def _inputs(self, one: Asked, execution: Execution | None) -> Mapping[str, Any]:
        """As KFP resolved them; of a cached task the store alone tells."""
        if one.launch is not None and one.launch.inputs is not None:
            return one.launch.inputs
        return parameters(execution, "inputs") if execution is not None else self._wired(one)

    def _wired(self, one: Asked) -> dict[str, Any]:
        """Inputs as far as the Workflow alone tells: constants, items of loops, params of the pipeline around."""
        around = (self._pipelines[p].params for p in self._places.around(one.place.at) if p in self._pipelines)
        scope = next(around, self._params)
        found = dict(one.task.constants)
        for name, source in one.task.wired.items():
            item = self._loops.item(one.place.at, source)
            if item is not None:
                found[name] = item.item
            elif (known := source.removeprefix(_CHANNEL)) in scope:
                found[name] = scope[known]
        return found

    def _cached_from(self, execution: Execution | None) -> str | None:
        """The run that the values are from; where its artifacts do not name it, the execution."""
        if execution is None:
            return None
        run = addresses.run_of(self._store.addresses(execution), self._run_id)
        first = text(execution, "cached_execution_id")
        return run or (f"execution {first}" if first else None)

    def _first_log(self, step: Step, execution: Execution | None, key: str) -> LogRef | None:
        """What the first run of a cached task printed, where KFP kept that."""
        if execution is None or step.outcome.status != "cached" or step.finished is None:
            return None
        if (kept := self._store.logs(execution)) is None:
            return None
        place = addresses.location(*kept, self._repository)
        return LogRef(step=0, pod=None, pod_uid=None, archived=place, at=step.finished, key=key, launcher="silent")

    def _refer(self, index: int, read: _Read) -> None:
        if read.log is not None:
            self.logs.append(replace(read.log, step=index))
        for found in read.found:
            artifact = found.artifact
            figure = addresses.page(artifact.type)
            if figure is not None and artifact.uri:
                ref = FileRef(
                    step=index, artifact=artifact.name, path=None, archive="none", at=read.step.finished, key=read.key,
                    location=addresses.location(artifact.uri, found.session, self._repository), figure=figure,
                )  # fmt: skip
                self.files.append(ref)


def _times(place: Place, pod: Step | None, how: Outcome) -> tuple[datetime | None, datetime | None]:
    """The pod's; of a task that has none the moment at which its driver decided so."""
    if pod is not None:
        return pod.started, pod.finished if how.settled else None
    decided = place.driver if how.status in ("cached", "succeeded", "error", "failed") else place.dag
    decided = decided or place.driver
    if decided is None or not how.settled:
        return None, None
    return (decided.finished if how.status == "cached" else decided.started), decided.finished


def _points(outputs: Mapping[str, Any], at: datetime | None) -> Iterator[Point]:
    """Outputs that are numbers: of KFP's types text and bool are none."""
    for name, value in outputs.items():
        if at is not None and type(value) in (int, float):
            yield Point(key=name, value=value, time=at, source=FromParameter(parameter=name))


def _announced(one: Asked) -> Iterator[Found]:
    """Artifacts that a task was to make, or that an importer imports: all that there is without MLMD."""
    if one.place.kind == "importer":
        uri, kind, metadata = spec.importer(one.params.get("importer"))
        name = next(iter(one.component.output_artifacts), "artifact")
        metadata = {k: typed(v, "") for k, v in sorted(metadata.items())}
        yield Found(artifact=Artifact(name=name, uri=uri or None, type=kind or None, archive="none", metadata=metadata))
    for name, kind, uri in one.launch.outputs if one.launch is not None else ():
        yield Found(artifact=Artifact(name=name, uri=uri or None, type=kind or None, archive="none"))


def _name(execution: Execution | None, one: Asked) -> str:
    told = text(execution, "display_name") if execution is not None else ""
    return told or one.task.display_name or one.place.name


def _own(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without what the compiler passes through."""
    return {word(name): v for name, v in values.items() if not word(name).startswith(_CHANNEL)}


def _order(read: _Read) -> tuple[bool, float, str, tuple[int, ...]]:
    step = read.step
    started = step.started.timestamp() if step.started else 0.0
    return step.started is None, started, step.path, read.at[1]
