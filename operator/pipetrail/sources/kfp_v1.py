"""Kubeflow Pipelines v1: an Argo Workflow whose steps are the user's, with KFP's names on it. Pure.

Steps, params and outputs are those that Argo tells, but for what the compiler made of blocks (``for-loop-1``,
``condition-2``, ``exit-handler-1``): these are no steps and no part of a path, as in v2. Of the two magic artifacts
(sources.md §3.2, §3.3) ``mlpipeline-metrics`` is a file of metrics like any other, and ``mlpipeline-ui-metadata`` lists
figures: it holds no metrics, whatever numbers stand in it.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from msgspec.structs import replace

from pipetrail.record import Step
from pipetrail.sources import FileRef, Reading, argo
from pipetrail.sources.argo.body import Json, named, obj, word

KFP: Final = "pipelines.kubeflow.org/"
RUN_NAME: Final = f"{KFP}run_name"
TASK_NAME: Final = f"{KFP}task_display_name"
VIEWS: Final = "mlpipeline-ui-metadata"
MAX_SKIPPED: Final = 10_000  #: tasks of templates that are looked at: templates may name each other in circles
MAX_DEPTH: Final = 50

_GROUP: Final = re.compile(r"(?:exit-handler|condition|for-loop)(?:-.+)?-\d+")


def read(workflow: Any, facts: argo.RunFacts, *, cluster: str) -> Reading:
    """The record of a run of KFP v1, and what is to be fetched for it. Never raises, whatever JSON `workflow` is."""
    reading = argo.read(workflow, facts, cluster=cluster)
    record = reading.record
    blocks = _Blocks(record.steps, named(obj(workflow, "spec").get("templates")))
    steps = tuple(blocks.step(step) for step in record.steps)
    kept = [index for index, step in enumerate(record.steps) if step.path not in blocks.paths]
    now_at = {index: place for place, index in enumerate(kept)}
    record = replace(
        record,
        source="kfp-v1",
        display_name=record.annotations.get(RUN_NAME),
        tags={k: v for k, v in record.tags.items() if not k.startswith(KFP)},
        annotations={k: v for k, v in record.annotations.items() if k == RUN_NAME or not k.startswith(KFP)},
        steps=(*(steps[index] for index in kept), *blocks.skipped()),
        partial=tuple(p if p.step is None else replace(p, step=blocks.path(p.step)) for p in record.partial),
    )
    files = tuple(_views(replace(ref, step=now_at[ref.step])) for ref in reading.files if ref.step in now_at)
    logs = tuple(replace(ref, step=now_at[ref.step]) for ref in reading.logs if ref.step in now_at)
    return replace(reading, record=record, files=files, logs=logs)


class _Blocks:
    """What the compiler made of blocks: DAGs that no user named. `paths` are those of their steps."""

    def __init__(self, steps: tuple[Step, ...], templates: Mapping[str, Json]) -> None:
        self._templates = templates
        self._steps = [s for s in steps if s.kind == "composite" and _GROUP.fullmatch(s.path.rpartition("/")[2])]
        self.paths = frozenset(step.path for step in self._steps)
        self._left = MAX_SKIPPED

    def path(self, path: str) -> str:
        """`path` without blocks."""
        parts = path.split("/")
        return "/".join(part for n, part in enumerate(parts, 1) if "/".join(parts[:n]) not in self.paths)

    def step(self, step: Step) -> Step:
        """`step` where the user put it, under the name that it has on KFP's page if its author gave it one."""
        shown = self._shown(step.template or "")
        return replace(step, path=self.path(step.path), name=shown or step.name)

    def skipped(self) -> Iterator[Step]:
        """The steps in blocks that were not run, as far as their templates tell."""
        for block in self._steps:
            if block.outcome.status in ("skipped", "omitted"):
                yield from self._inside(block, block.template or "", self.path(block.path), 0)

    def _inside(self, block: Step, template: str, path: str, depth: int) -> Iterator[Step]:
        for name, task in named(obj(self._templates.get(template), "dag").get("tasks")).items():
            self._left -= 1
            if self._left < 0:
                return
            runs = word(task.get("template"))
            inner = f"{path}/{name}" if path else name
            if "dag" in self._templates.get(runs, {}):
                if depth < MAX_DEPTH:
                    inside = path if _GROUP.fullmatch(name) else inner
                    yield from self._inside(block, runs, inside, depth + 1)
            else:
                yield Step(
                    path=inner, name=self._shown(runs) or name, outcome=block.outcome, iteration=block.iteration,
                    role=block.role, template=runs or None, started=block.started, finished=block.finished,
                )  # fmt: skip

    def _shown(self, template: str) -> str:
        shown = word(obj(self._templates.get(template), "metadata", "annotations").get(TASK_NAME))
        return "" if "{{" in shown else shown


def _views(ref: FileRef) -> FileRef:
    return replace(ref, figure="views") if ref.artifact == VIEWS else ref
