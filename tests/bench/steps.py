"""The recordings that latency is measured with, and when their values can be known. Pure.

Each has one step with points, so that the first points of a run are those of this step.
"""

from typing import Final, NamedTuple

from pipetrail.replay import Move


class Step(NamedTuple):
    """The step with points: its display name, and its pod's and its result's names behind the run's."""

    shown: str
    pod: str = ""
    result: str = ""


STEPS: Final = {
    "odd-values": Step("emit", "-emit-2848187442", "-2848187442"),  # 22 points from a file and a parameter, NaN too
    "wftmpl-ref": Step("wftmpl-ref-bhwtb"),  # one point from a parameter; the node says so 10 s after the pod
}


class Watched:
    """Follows one played run: when the value could be known (pod Succeeded and result complete), when Argo says so."""

    def __init__(self, run: str, step: Step) -> None:
        self._step = step
        self._pod, self._result = run + step.pod, run + step.result
        self._pod_at: float | None = None
        self._result_at: float | None = None
        self.node: float | None = None

    @property
    def ready(self) -> float | None:
        """The later of the two."""
        both = self._pod_at, self._result_at
        return None if both[0] is None or both[1] is None else max(both[0], both[1])

    def saw(self, move: Move, at: float) -> None:
        """A write of the recording was made at `at`."""
        if move.type == "DELETED":
            return
        match move.kind:
            case "Pod" if move.name == self._pod and self._pod_at is None:
                if any(said.endswith(" Succeeded") for said in move.says):
                    self._pod_at = at
            case "WorkflowTaskResult" if move.name == self._result and self._result_at is None:
                text = "".join(part for part in move.body.parts if isinstance(part, str))
                if '"workflows.argoproj.io/report-outputs-completed":"true"' in text:
                    self._result_at = at
            case "Workflow" if self.node is None:
                if f"step {self._step.shown} Succeeded" in move.says:
                    self.node = at
