"""A user's tasks to steps: Argo's nodes for what happened and when, MLMD and the drivers for what went in and came out.

What a task gave counts once Argo's node is fulfilled, or early, as for any other step (design §5): its launcher has
told MLMD before its pod ends (sources.md §4.6).
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from msgspec.structs import replace

from pipetrail.record import Artifact, FromParameter, Frozen, Outcome, Outputs, Partial, Point, Step
from pipetrail.sources import FileRef, LogRef
from pipetrail.sources.argo.body import Json, whole, word
from pipetrail.sources.kfp_v2 import addresses, spec
from pipetrail.sources.kfp_v2.loops import Loops
from pipetrail.sources.kfp_v2.metadata import Execution
from pipetrail.sources.kfp_v2.outcome import outcome, ran
from pipetrail.sources.kfp_v2.outputs import Dags
from pipetrail.sources.kfp_v2.places import At, Place, Places
from pipetrail.sources.kfp_v2.store import Found, Store, parameters, text
from pipetrail.sources.kfp_v2.values import typed

_CHANNEL: Final = "pipelinechannel--"
_PAGES: Final = {"Markdown": "markdown", "HTML": "html"}
_NO_IMAGE: Final = "should-be-overridden-during-runtime"


class _Read(Frozen, frozen=True):
    """One task as it was read: the step, and what is fetched for it."""

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
        self.partial: list[Partial] = []
        self.files: list[FileRef] = []
        self.logs: list[LogRef] = []
        self.lags = False
        self.gave = False  #: whether any task gave something that the store should know

    def steps(self) -> tuple[Step, ...]:
        """All steps, by their start; fills `files`, `logs`, `partial`, `lags` and `gave`."""
        tasks = [*self._places.tasks(), *self._places.not_run()]
        launches = {place.at: _launch(place) for place in tasks}
        asked = {place.at: _task(place) for place in tasks}
        for place in tasks:
            if (launch := launches[place.at]) is not None:
                self._loops.show(place.at, asked[place.at], launch)
        around = {place.at: self._pipeline(place) for place in self._places.pipelines()}
        read = [self._task(place, asked[place.at], launches[place.at], around) for place in tasks]
        dags = Dags(self._places, {r.at: r.step.outputs.parameters for r in read if r.step.kind != "composite"})
        read += [self._with_outputs(at, step, dags) for at, step in around.items()]
        read.sort(key=_order)
        for index, one in enumerate(read):
            self._refer(index, one)
        return tuple(one.step for one in read)

    # --- pipelines in pipelines -----------------------------------------------------------------------------------

    def _pipeline(self, place: Place) -> Step:
        dag, driver = place.dag, place.driver
        assert dag is not None
        given = driver.params if driver is not None else {}
        task, component = spec.task(given.get("task")), spec.component(given.get("component"))
        execution = None
        if driver is not None:
            execution = self._store.execution(whole(driver.outputs.parameters.get("execution-id")))
        inputs = parameters(execution, "inputs") if execution is not None else self._wired(place, task, {})
        return replace(
            dag, path=place.path, name=_name(execution, task, place), iteration=self._loops.iteration(place.at),
            template=task.component or place.name, params=component.given(_own(inputs)), outputs=Outputs(), points=(),
        )  # fmt: skip

    def _with_outputs(self, at: At, step: Step, dags: Dags) -> _Read:
        done = step.outcome.status == "succeeded"
        return _Read(at=at, step=replace(step, outputs=Outputs(parameters=dags.outputs(at) if done else {})))

    # --- tasks ----------------------------------------------------------------------------------------------------

    def _task(self, place: Place, task: spec.Task, launch: spec.Launch | None, around: Mapping[At, Step]) -> _Read:
        if place.kind == "composite":
            assert place.outcome is not None
            step = Step(path=place.path, name=place.name, outcome=place.outcome, kind="composite", role=place.role)
            return _Read(at=place.at, step=replace(step, iteration=self._loops.iteration(place.at)))
        component = _component(place, launch)
        execution = self._execution(place, launch)
        how = outcome(place, execution, self._run)
        pod, driver = place.pod if ran(place) else None, place.driver
        log = self._logs.get((f"{place.at[0]}/executor", place.at[1])) if place.kind == "pod" and pod else None
        told = how.status in ("succeeded", "cached") or (log is not None and not how.settled)
        timed = pod or (driver if how.settled and how.status not in ("skipped", "omitted") else None) or place.dag
        finished = timed.finished if timed is not None and how.settled else None
        started = finished if how.status == "cached" else timed.started if timed is not None else None
        at = (log.at if log is not None else None) or finished
        found: tuple[Found, ...] = ()
        given: Mapping[str, Any] = {}
        stored = execution is not None and execution.state not in ("UNKNOWN", "NEW", "RUNNING")
        if told:
            self._expect(place, stored=stored)
            if execution is not None and stored:
                given = parameters(execution, "outputs")
                found = self._store.outputs(execution, at)
            else:
                found = tuple(_announced(place, launch))
        outputs = {n: typed(v, component.outputs.get(n, "")) for n, v in sorted(_own(given).items())}
        points = tuple(
            Point(key=name, value=value, time=at, source=FromParameter(parameter=name))
            for name, value in outputs.items()
            if at is not None and type(value) in (int, float)
        )
        inputs = launch.inputs if launch is not None else None
        if inputs is None:
            inputs = parameters(execution, "inputs") if execution is not None else self._wired(place, task, around)
        step = Step(
            path=place.path,
            name=_name(execution, task, place),
            outcome=how,
            iteration=self._loops.iteration(place.at),
            role=place.role,
            kind=place.kind,
            template=task.component or None,
            started=started,
            finished=finished,
            params=component.given(_own(inputs)) if place.kind == "pod" and place.outcome is None else {},
            attempts=pod.attempts if pod is not None and place.kind == "pod" else (),
            outputs=Outputs(parameters=outputs),
            points=(*points, *(p for f in found for p in f.points)),
            figures=tuple(f for one in found for f in one.figures),
            artifacts=tuple(one.artifact for one in found),
            image=_image(launch, pod) if place.kind == "pod" else None,
            digest=pod.digest if pod is not None and place.kind == "pod" else None,
            resources=pod.resources if pod is not None else None,
            cached_from=self._cached_from(execution) if how.status == "cached" else None,
        )
        key = log.key if log is not None else f"execution/{execution.id if execution is not None else place.at}"
        return _Read(at=place.at, step=step, found=found, log=self._log(log, step, execution, stored=stored), key=key)

    def _execution(self, place: Place, launch: spec.Launch | None) -> Execution | None:
        asked = place.driver or (place.dag if place.kind == "importer" else None)
        if asked is None:
            return None
        pods = [a.pod_uid for a in (place.pod.attempts if place.pod is not None else ())]
        turn = whole(asked.params.get("iteration-index"))
        return self._store.of_task(
            id_=launch.execution_id if launch is not None else None, pods=reversed(pods),
            parent=whole(asked.params.get("parent-dag-id")), turn=None if turn is None or turn < 0 else turn,
            task=word(asked.params.get("task-name")) or place.name,
        )  # fmt: skip

    def _expect(self, place: Place, *, stored: bool) -> None:
        """Note that the store should know what the task gave, and whether it does."""
        self.gave = True
        if not stored and self._store.missing is None:
            self.lags = True
            said = "KFP's metadata store has not told yet what the task gave"
            self.partial.append(Partial(reason="MlmdLags", message=said, step=place.path))

    def _wired(self, place: Place, task: spec.Task, around: Mapping[At, Step]) -> dict[str, Any]:
        """Inputs as far as the Workflow alone tells: constants, items of loops, params of the pipeline around."""
        scope = next((around[p].params for p in self._places.around(place.at) if p in around), self._params)
        found = dict(task.constants)
        for name, source in task.wired.items():
            item = self._loops.item(place.at, source)
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

    def _log(self, log: LogRef | None, step: Step, execution: Execution | None, *, stored: bool) -> LogRef | None:
        """The executor's log; of a cached task what the first run printed, where KFP kept that."""
        if log is not None:
            return replace(log, launcher="checked" if stored else "alone")
        kept = self._store.logs(execution) if execution is not None and step.outcome.status == "cached" else None
        if kept is None or execution is None or step.finished is None:
            return None
        place = addresses.location(*kept, self._repository)
        return LogRef(
            step=0, pod=None, pod_uid=None, archived=place, at=step.finished, key=f"execution/{execution.id}",
            launcher="silent",
        )  # fmt: skip

    def _refer(self, index: int, one: _Read) -> None:
        if one.log is not None:
            self.logs.append(replace(one.log, step=index))
        for found in one.found:
            kind = (found.artifact.type or "").rpartition(".")[2]
            if kind in _PAGES and found.artifact.uri:
                place = addresses.location(found.artifact.uri, found.session, self._repository)
                self.files.append(
                    FileRef(
                        step=index,
                        artifact=found.artifact.name,
                        path=None,
                        location=place,
                        archive="none",
                        at=one.step.finished,
                        key=one.key,
                        figure="markdown" if kind == "Markdown" else "html",
                    )
                )


def _launch(place: Place) -> spec.Launch | None:
    """What the task's launcher was told; a task's DAG has the driver's patch as an input too."""
    driver, dag = place.driver, place.dag
    patch = driver.outputs.parameters.get("pod-spec-patch") if driver is not None else None
    return spec.launch(patch or (dag.params.get("pod-spec-patch") if dag is not None else None))


def _task(place: Place) -> spec.Task:
    asked = place.driver or (place.dag if place.kind == "importer" else None)
    return spec.task(asked.params.get("task") if asked is not None else None)


def _component(place: Place, launch: spec.Launch | None) -> spec.Component:
    asked = place.driver or place.dag
    told = spec.component(asked.params.get("component") if asked is not None else None)
    return told if told != spec.Component() or launch is None else launch.component


def _announced(place: Place, launch: spec.Launch | None) -> Iterable[Found]:
    """Artifacts that a task was to make, or that an importer imports: all that there is without MLMD."""
    if place.kind == "importer" and place.dag is not None:
        uri, kind, metadata = spec.importer(place.dag.params.get("importer"))
        name = next(iter(_component(place, None).output_artifacts), "artifact")
        metadata = {k: typed(v, "") for k, v in metadata.items()}
        yield Found(artifact=Artifact(name=name, uri=uri or None, type=kind or None, archive="none", metadata=metadata))
    for name, kind, uri in launch.outputs if launch is not None else ():
        yield Found(artifact=Artifact(name=name, uri=uri or None, type=kind or None, archive="none"))


def _name(execution: Execution | None, task: spec.Task, place: Place) -> str:
    return (text(execution, "display_name") if execution is not None else "") or task.display_name or place.name


def _own(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without what the compiler passes through."""
    return {word(name): v for name, v in values.items() if not word(name).startswith(_CHANNEL)}


def _image(launch: spec.Launch | None, pod: Step | None) -> str | None:
    told = launch.image if launch is not None else ""
    seen = (pod.image or "") if pod is not None else ""
    return told or (None if _NO_IMAGE in seen else seen) or None


def _order(one: _Read) -> tuple[bool, float, str, tuple[int, ...]]:
    step = one.step
    started = step.started.timestamp() if step.started else 0.0
    return step.started is None, started, step.path, one.at[1]
