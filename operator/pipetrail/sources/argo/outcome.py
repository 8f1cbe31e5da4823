"""How an attempt ended, and why: what Argo's phase and message say, with what only the pod knows.

Reasons are those of the recordings' README. Argo's message is about the last thing that it saw: an image that was
never there ends as a deadline, an OOM kill of the executor as nothing at all, a stop as "pod deleted".
"""

import re
from typing import Final

from msgspec.structs import replace

from pipetrail.record import Frozen, Outcome, Status
from pipetrail.sources.argo.body import whole
from pipetrail.sources.argo.nodes import Node
from pipetrail.sources.argo.pods import IMAGE_TROUBLE, PodFacts

KILLED: Final = frozenset({137, 143})
_CAMEL: Final = re.compile(r"[A-Z][A-Za-z]{2,40}")
_DEADLINE: Final = ("exceeded its deadline", "longer than the specified deadline", "Max duration limit exceeded")
_DELETED: Final = ("pod deleted", "pod termination")


class Fate(Frozen, frozen=True):
    """What happened to the run as a whole, as far as it explains a step."""

    shutdown: str = ""  #: Stop or Terminate
    cancelled: bool = False  #: by KFP, whose way is a deadline that is over at once
    ended: bool = False
    deleted: bool = False


def of_pod(node: Node, pod: PodFacts) -> Outcome:
    """How an ended pod ended, where the Workflow has no node of it."""
    seen = replace(node, phase=pod.verdict, fulfilled=True)
    return attempt(seen, pod, Fate())


def exit_code(node: Node, pod: PodFacts | None) -> int | None:
    """main's: Argo copies it to the node late, or not at all where it has ended the node itself."""
    code = whole(node.outputs.get("exitCode"))
    if code is None and pod is not None and pod.main is not None:
        code = pod.main.exit_code
    return code


def attempt(node: Node, pod: PodFacts | None, fate: Fate, *, daemon: bool = False) -> Outcome:
    """The outcome of one node that a user wrote."""
    code = exit_code(node, pod)
    if node.type == "Skipped" or node.phase in ("Skipped", "Omitted"):
        return _not_run(node)
    if node.fulfilled and node.phase == "Succeeded":
        status: Status = "cached" if node.cached else "succeeded"
        reason = "Daemon" if daemon else None
        return Outcome(status=status, reason=reason, message=node.message, exit_code=None if daemon else code)
    if node.fulfilled and node.phase in ("Failed", "Error"):
        return _failed(node, pod, fate, code)
    return _open(node, pod, fate, code)


def _not_run(node: Node) -> Outcome:
    message = node.message or ""
    if message.startswith("original pod:"):
        # argo resubmit --memoized: what succeeded in the earlier run is not run again (sources.md §2.4).
        return Outcome(status="cached", reason="Resubmitted", message=node.message)
    if node.phase == "Omitted":
        return Outcome(status="omitted", reason="Depends", message=node.message)
    if "empty params" in message:
        return Outcome(status="skipped", reason="EmptyList", message=node.message)
    reason = "WhenFalse" if "evaluated false" in message else None
    return Outcome(status="skipped", reason=reason, message=node.message)


def _open(node: Node, pod: PodFacts | None, fate: Fate, code: int | None) -> Outcome:
    """Argo has not settled the node. Only what can't become otherwise is said."""
    if pod is not None and _oom(node, pod):
        # The emissary may be killed too; then Argo waits for ever (surprise 18) and the pod alone tells.
        return Outcome(status="failed", reason="OOMKilled", message=node.message or _words(pod), exit_code=code)
    if not node.phase and pod is not None:
        return Outcome(status="unknown", exit_code=code)
    if fate.deleted:
        if pod is not None and pod.verdict == "Succeeded" and not _killed(pod):
            return Outcome(status="succeeded", exit_code=code)
        return Outcome(status="unknown", reason="WorkflowDeleted", message=node.message)
    if fate.ended:
        return Outcome(status="unknown", reason="Unfinished", message=node.message)
    if node.daemoned:
        return Outcome(status="running", reason="Daemon", message=node.message)
    if node.phase == "Pending" or not node.phase:
        started = pod is not None and (pod.ended or any(c.user and c.started for c in pod.containers))
        reason = pod.trouble if pod is not None and pod.trouble else "Lock" if node.waiting else None
        message = node.message or (pod.trouble_message if pod is not None else None) or None
        return Outcome(status="running" if started else "pending", reason=reason, message=message)
    reason = "Suspended" if node.type == "Suspend" else None
    return Outcome(status="running", reason=reason, message=node.message)


def _failed(node: Node, pod: PodFacts | None, fate: Fate, code: int | None) -> Outcome:
    message = node.message or ""
    status: Status = "failed" if node.phase == "Failed" else "error"
    reason, said = _reason(node, pod, fate, code), node.message
    if reason in ("Stopped", "Terminated"):
        status = "failed"
    if reason in ("Stopped", "Terminated", "DeadlineExceeded") and code not in KILLED:
        code = None  # the pod was left behind and ended by itself: that is not how the step ended
    if pod is not None and reason == pod.trouble and pod.trouble_message and reason not in message:
        said = f"{reason}: {pod.trouble_message}"
    return Outcome(status=status, reason=reason, message=said, exit_code=code)


def _reason(node: Node, pod: PodFacts | None, fate: Fate, code: int | None) -> str | None:
    message = node.message or ""
    if "OOMKilled" in message or (pod is not None and _oom(node, pod)):
        return "OOMKilled"
    if trouble := _image_trouble(message, pod):
        return trouble
    deleted = any(m in message for m in _DELETED)
    if fate.shutdown and ("shutdown with strategy" in message or deleted or code in KILLED):
        return "Terminated" if fate.shutdown == "Terminate" else "Stopped"
    if fate.cancelled and any(m in message for m in _DEADLINE):
        return "Terminated"
    if any(m in message for m in _DEADLINE) or (pod is not None and pod.reason == "DeadlineExceeded"):
        return "DeadlineExceeded"
    if pod is not None and _CAMEL.fullmatch(pod.reason):
        return pod.reason  # Evicted, NodeLost, Preempting, ...
    if deleted or (pod is not None and code in KILLED and _killed(pod)):
        return "PodDeleted"
    if message.startswith(("init:", "artifact-plugin-")) or (pod is not None and _init_failed(pod)):
        return "InitContainerFailed"
    if node.phase == "Error" and (message.startswith(("wait:", "supervisor:")) or code == 0):
        return "OutputMissing" if "outputs/parameters" in message else "OutputSaveFailed"
    if code:
        return "ExitCode"
    return "ChildFailed" if message.startswith("child '") else None


def _oom(node: Node, pod: PodFacts) -> bool:
    if node.type == "Container":
        container = pod.container(node.place.elements[-1].name if node.place.elements else "")
        return container is not None and container.reason == "OOMKilled"
    main = pod.main
    if main is not None:
        return main.reason == "OOMKilled"
    return any(c.user and c.reason == "OOMKilled" for c in pod.containers)


def _image_trouble(message: str, pod: PodFacts | None) -> str | None:
    if pod is not None and IMAGE_TROUBLE.fullmatch(pod.trouble):
        main = pod.main
        # What never started may yet be given an exit code (137, ContainerStatusUnknown) when its pod is ended.
        if main is None or main.started is None:
            return pod.trouble
    found = IMAGE_TROUBLE.match(message)
    return found[1] if found else None


def _killed(pod: PodFacts) -> bool:
    """True if the pod's deletion was asked for before its work ended (pods are also deleted after it: podGC)."""
    end = pod.main.finished if pod.main is not None else pod.finished
    return pod.deletion_asked is not None and (end is None or pod.deletion_asked <= end)


def _init_failed(pod: PodFacts) -> bool:
    return any(c.init and c.exit_code for c in pod.containers)


def _words(pod: PodFacts) -> str | None:
    main = pod.main
    return None if main is None else f"main: {main.reason} (exit code {main.exit_code})"
