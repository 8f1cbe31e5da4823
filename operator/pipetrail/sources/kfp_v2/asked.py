"""What one task was asked to do, from its driver: by the compiler, and by KFP once it had resolved the inputs."""

from collections.abc import Mapping
from typing import Any, Final

from pipetrail.record import Frozen, Step
from pipetrail.sources.argo.body import whole, word
from pipetrail.sources.kfp_v2 import spec
from pipetrail.sources.kfp_v2.metadata import Execution
from pipetrail.sources.kfp_v2.places import Place
from pipetrail.sources.kfp_v2.store import Store

_NO_IMAGE: Final = "should-be-overridden-during-runtime"


class Asked(Frozen, frozen=True):
    """One task's orders: `launch` is null until its driver is done, and where no launcher runs (cached)."""

    place: Place
    params: Mapping[str, Any] = {}  #: of the node that was asked: never to be recorded as they are
    task: spec.Task = spec.Task()
    component: spec.Component = spec.Component()
    launch: spec.Launch | None = None

    def execution(self, store: Store) -> Execution | None:
        """The task's execution in the store."""
        attempts = self.place.pod.attempts if self.place.pod is not None else ()
        turn = whole(self.params.get("iteration-index"))
        return store.of_task(
            id_=self.launch.execution_id if self.launch is not None else None,
            pods=[attempt.pod_uid for attempt in reversed(attempts)],
            parent=whole(self.params.get("parent-dag-id")),
            task=word(self.params.get("task-name")) or self.place.name,
            turn=None if turn is None or turn < 0 else turn,
        )

    def image(self, pod: Step | None) -> str | None:
        """The image that the task runs; the template has none (README 5)."""
        told = self.launch.image if self.launch is not None else ""
        seen = (pod.image or "") if pod is not None else ""
        return told or (None if _NO_IMAGE in seen else seen) or None


def asked(place: Place) -> Asked:
    """What the task at `place` was asked; empty where none of its nodes is there."""
    driver, dag = place.driver, place.dag
    node = driver or (dag if place.kind == "importer" else None)
    params = node.params if node is not None else {}
    # A task's DAG has its driver's patch as an input too.
    patch = driver.outputs.parameters.get("pod-spec-patch") if driver is not None else None
    launch = spec.launch(patch or (dag.params.get("pod-spec-patch") if dag is not None else None))
    component = spec.component(params.get("component"))
    if component == spec.Component() and launch is not None:
        component = launch.component
    return Asked(place=place, params=params, task=spec.task(params.get("task")), component=component, launch=launch)
