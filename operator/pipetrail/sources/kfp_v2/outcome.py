"""How a task stands, from what KFP made of it: a driver that decides, an executor that runs, or neither.

States in MLMD are hints (trap 75): what happened is what Argo says of the nodes. Two decisions of a driver tell apart
why a task has no pod: ``cached-decision`` and ``condition`` (sources.md §4.2).
"""

from typing import Final

from msgspec.structs import replace

from pipetrail.record import Outcome, Step
from pipetrail.sources.kfp_v2.metadata import Execution
from pipetrail.sources.kfp_v2.places import Place

_NOT_RUN: Final = ("skipped", "omitted")
_BROKEN: Final = ("failed", "error")
_ENDED_FROM_OUTSIDE: Final = ("Terminated", "Stopped", "DeadlineExceeded", "PodDeleted")


def ran(place: Place) -> bool:
    """Whether the task's own pod was made."""
    return place.pod is not None and place.pod.outcome.status not in _NOT_RUN


def outcome(place: Place, execution: Execution | None, run: Outcome) -> Outcome:
    """How the task stands; `run` is how the run does."""
    if place.skipped is not None:
        return place.skipped.outcome
    if ran(place) and place.pod is not None:
        return place.pod.outcome
    driver, dag = place.driver, place.dag
    if driver is not None and driver.outcome.status in _BROKEN:
        stopped = driver.outcome.reason in _ENDED_FROM_OUTSIDE
        return driver.outcome if stopped else replace(driver.outcome, reason="DriverFailed", exit_code=None)
    if driver is not None and driver.outcome.status == "succeeded":
        decided = _decided(driver, execution)
        if decided is not None:
            return decided
        if driver is dag:  # it did the task's work itself
            return replace(driver.outcome, exit_code=None)
    if dag is not None and dag.outcome.settled and dag.outcome.status != "succeeded":
        return dag.outcome
    if driver is not None and driver.outcome.settled and driver.outcome.status != "succeeded":
        return driver.outcome
    return Outcome(status="not_run" if run.settled else "pending")


def _decided(driver: Step, execution: Execution | None) -> Outcome | None:
    """What the driver decided instead of a pod."""
    given = driver.outputs.parameters
    if given.get("condition") == "false":
        return Outcome(status="skipped", reason="WhenFalse")
    if given.get("cached-decision") != "true":
        return None
    # A driver does the work of some tasks itself (volumes): nothing is taken from an earlier run then.
    done = execution is not None and execution.state == "COMPLETE" and not execution.custom.get("cached_execution_id")
    return Outcome(status="succeeded" if done else "cached")
