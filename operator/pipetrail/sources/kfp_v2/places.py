"""Where KFP's Workflow keeps a user's tasks: which of Argo's steps are whose, and what their paths are for a user.

One task is up to four nodes (README 4): ``X-driver`` (a pod), ``X`` (a DAG), in it ``executor`` (a pod), and around
each a Retry. Which is which is told by the template that it runs, never by a name that a user may have chosen. Of the
DAGs above it those of a user's pipelines are composite steps; exit handlers, conditions and loops are structure
(sources.md §4.2). What a skipped DAG would have run stands in its template alone.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pipetrail.record import Frozen, Kind, Role, Step
from pipetrail.sources.argo.body import Json, named, obj, word

MAX_SKIPPED: Final = 10_000  #: tasks of templates that are looked at: templates may name each other in circles
MAX_DEPTH: Final = 50

_EXECUTOR: Final = "system-container-executor"
_LAUNCHER: Final = "system-container-impl"
_DRIVER: Final = "-driver"
_IMPORTER: Final = "system-importer"
_GROUP: Final = re.compile(r"(?:exit-handler|condition|condition-branches|for-loop)-\d+")
_HANDLED: Final = re.compile(r"exit-handler-\d+")
_AT_EXIT: Final = ".onExit"
_ITERATIONS: Final = "iteration-iterations"
_ITERATION: Final = "iteration-item"

At = tuple[str, tuple[int, ...]]
"""A place in Argo's tree: the path of node names, and the indexes of the loops around it."""


def at(step: Step) -> At:
    """The place of one of Argo's steps."""
    return step.path, tuple(turn.index for turn in step.iteration or ())


def user_path(path: str) -> str:
    """`path` in Argo's tree as the user's pipeline has it: task names from the root down."""
    parts = path.split("/")
    inner = parts[1:] if parts[0].partition(".")[0] == "root" else parts
    return "/".join(p for p in inner if not _structural(p))


def _structural(part: str) -> bool:
    """True for what the compiler made of a block: a group, a turn of a loop, or what runs when a task has ended."""
    return part in (_ITERATIONS, _ITERATION) or part.endswith(_AT_EXIT) or _GROUP.fullmatch(part) is not None


class Place(Frozen, frozen=True):
    """One task of the user, or one of a user's pipelines: Argo's steps that make it up, as far as they are there.

    `dag` is the node that has the task's name, `pod` the executor's (or importer's), `driver` that of its driver.
    """

    at: At
    name: str
    kind: Kind
    role: Role = "step"
    dag: Step | None = None
    pod: Step | None = None
    driver: Step | None = None
    skipped: Step | None = None  #: the DAG around it that was not run, so that it has no node of its own

    @property
    def path(self) -> str:
        """As the user's pipeline has it. A loop over a single component has the loop's own name for its task.

        A task is one whatever its name: a component may be called ``condition``, and its second task ``condition-2``.
        """
        if self.kind == "composite":
            return user_path(self.at[0])
        around = user_path(self.at[0].rpartition("/")[0])
        return f"{around}/{self.name}" if around else self.name


class Places:
    """All of Argo's steps of one run, by place, and what of them are a user's."""

    def __init__(self, steps: tuple[Step, ...], body: Json) -> None:
        self.by_place: dict[At, Step] = {at(step): step for step in steps}
        spec, stored = obj(body, "spec"), obj(body, "status", "storedWorkflowTemplateSpec")
        self._templates = named(stored.get("templates")) | named(spec.get("templates"))
        self._left = MAX_SKIPPED

    @property
    def root_driver(self) -> Step | None:
        """The driver that was given the run's params."""
        return self.by_place.get(("root-driver", ()))

    def driver(self, place: At) -> Step | None:
        """The driver of the task or DAG at `place`; a loop's stands inside it."""
        path, turns = place
        return self.by_place.get((path + _DRIVER, turns)) or self.by_place.get((f"{path}/iteration{_DRIVER}", turns))

    def around(self, place: At) -> Iterator[At]:
        """The places around `place`, from the inside out, ending with the root."""
        path, turns = place
        while path:
            path, _, last = path.rpartition("/")
            if last == _ITERATIONS:
                turns = turns[:-1]
            if path:
                yield path, turns

    def turns(self, place: At) -> tuple[At, ...]:
        """Around `place` the turns of loops, outermost first."""
        return tuple(reversed([p for p in (place, *self.around(place)) if p[0].endswith(f"/{_ITERATION}")]))

    def loop(self, turn: At) -> At:
        """The loop that `turn` is one of."""
        return turn[0].rpartition("/")[0].rpartition("/")[0], turn[1][:-1]

    def tasks(self) -> Iterator[Place]:
        """Every task that has a node of its own."""
        seen: dict[At, None] = {}
        for (path, turns), step in self.by_place.items():
            template = step.template or ""
            if _EXECUTOR in template or _IMPORTER in template:
                seen[path, turns] = None
            elif _LAUNCHER in template and path.rpartition("/")[2] == "executor":
                seen[path.rpartition("/")[0], turns] = None
            elif f"system-container{_DRIVER}" in template:
                # Of a task that its driver does itself (volumes) the driver has the task's name.
                seen[path.removesuffix(_DRIVER), turns] = None
        for place in seen:
            yield self._task(place)

    def _task(self, place: At) -> Place:
        path, turns = place
        dag, driver = self.by_place.get(place), self.driver(place)
        if driver is None and dag is not None and _DRIVER in (dag.template or ""):
            driver = dag
        imports = dag is not None and _IMPORTER in (dag.template or "")
        pod = dag if imports else self.by_place.get((f"{path}/executor", turns))
        role: Role = next((_role(s, path) for s in (pod, dag, driver) if s is not None), "step")
        told = word(driver.params.get("task-name")) if driver is not None else ""
        name = told if path.endswith(f"/{_ITERATION}") and told else path.rpartition("/")[2]
        return Place(
            at=place, name=name, kind="importer" if imports else "pod", role=role, dag=dag, pod=pod, driver=driver
        )

    def pipelines(self) -> Iterator[Place]:
        """Every pipeline that a user called as a task."""
        for place, step in self.by_place.items():
            if _is_pipeline(step, place[0]):
                name = place[0].rpartition("/")[2]
                role = _role(step, place[0])
                yield Place(at=place, name=name, kind="composite", role=role, dag=step, driver=self.driver(place))

    def not_run(self) -> Iterator[Place]:
        """What DAGs that were skipped or omitted would have run, as far as their templates tell."""
        self._left = MAX_SKIPPED
        for place, step in self.by_place.items():
            template = step.template or ""
            if step.outcome.status in ("skipped", "omitted") and not template.startswith("system-"):
                if _EXECUTOR in template or _LAUNCHER in template:
                    continue
                yield from self._inside(template, place, step, depth=0)

    def _inside(self, template: str, place: At, step: Step, depth: int) -> Iterator[Place]:
        if depth > MAX_DEPTH:
            return
        tasks: Mapping[str, Any] = named(obj(self._templates.get(template), "dag").get("tasks"))
        for name, task in tasks.items():
            self._left -= 1
            if self._left < 0:
                return
            inner, runs = (f"{place[0]}/{name}", place[1]), word(task.get("template"))
            driver = runs.startswith("system-") and _DRIVER in runs
            if driver and name.endswith(_DRIVER):
                continue
            kind: Kind = "importer" if _IMPORTER in runs else "pod" if driver or _EXECUTOR in runs else "composite"
            if kind != "composite" or not _structural(name):
                yield Place(at=inner, name=name, kind=kind, role=_role(step, inner[0]), skipped=step)
            if kind == "composite":
                yield from self._inside(runs, inner, step, depth + 1)
            at_exit = word(obj(task, "hooks", "exit").get("template"))
            if at_exit:
                yield from self._inside(at_exit, (inner[0] + _AT_EXIT, inner[1]), step, depth + 1)


def _is_pipeline(step: Step, path: str) -> bool:
    name = path.rpartition("/")[2]
    if step.kind != "composite" or "/" not in path or (step.template or "").startswith("system-"):
        return False
    inside = _EXECUTOR not in (step.template or "") and _LAUNCHER not in (step.template or "")
    return inside and not _structural(name)


def _role(step: Step, path: str) -> Role:
    """What runs at the end of an ExitHandler is one; of any other task it is a step that ignores how that went."""
    hooked = [part.removesuffix(_AT_EXIT) for part in path.split("/") if part.endswith(_AT_EXIT)]
    if not hooked:
        return step.role
    return "exit-handler" if any(_HANDLED.fullmatch(part) for part in hooked) else "step"
