"""TrackedRun: the ledger, one object per run × target. The operator writes it; people read it and may ask for more."""

import hashlib
from typing import Annotated, Any, ClassVar, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from pipetrail.api import rules
from pipetrail.api.model import GROUP, UNBOUNDED, Model, doc, listed
from pipetrail.api.target import Policy, TargetRef

RESEND_ANNOTATION: Final = f"{GROUP}/resend"
"""On a TrackedRun: each new value, of any text, sends the run once more."""
REPOLICY: Final = "repolicy"
"""A value of the annotation that begins so sends it under the target's policy of today, as a tracker run of its own."""
MAX_RESEND: Final = 253
MAX_CHANGES: Final = 50


class RunRef(Model, frozen=True, kw_only=True):
    """The run that is tracked."""

    source: Annotated[str, doc("The kind of run, as in argo.", min_length=1, max_length=63)]
    name: Annotated[str, doc("The run's name.", min_length=1, max_length=253)]
    uid: Annotated[str, doc("The run's uid; names come back, uids never do.", min_length=1, max_length=128)]
    key: Annotated[
        str, doc("The key under which the tracker knows the run: cluster/uid.", min_length=1, max_length=512)
    ]
    pipeline: Annotated[str, doc("What the run is a run of.", max_length=1000)] = ""
    generation: Annotated[str, doc("Tells an argo retry of the same run from its first go.", max_length=256)] = ""


class TrackedRunSpec(Model, frozen=True, kw_only=True):
    """The intent: what goes where under which policy. Written once, before the tracker hears of the run.

    `attempt` counts the tracker runs of one run (an ``argo retry`` that changed a param makes a second one).
    """

    RULES: ClassVar = (rules.UNIQUE_INTENT,)

    run: Annotated[RunRef, doc("The run that is tracked.")]
    target: Annotated[TargetRef, doc("The target that it is recorded in.")]
    policy: Annotated[Policy, doc("What was fixed for the run when it was first seen.")]
    attempt: Annotated[int, doc("Counts the tracker runs of one run.", ge=1)] = 1
    supersedes: Annotated[str, doc("The tracker's run that this one replaces.", max_length=1000)] = ""
    experiment: Annotated[str, doc("The experiment, as named when the run was first seen.", max_length=1000)] = ""


class StatusChange(Model, frozen=True, kw_only=True):
    """One value that arrived otherwise than the source has it."""

    item: Annotated[str, doc("What it is: param, metric, tag, name, note, file or run.", max_length=63)]
    key: Annotated[str, doc("Its name in the run.", max_length=1000)]
    reason: Annotated[str, doc("The rule, in one word: docs/targets.md says what it does.", max_length=253)]
    detail: Annotated[str, doc("What became of it.", max_length=UNBOUNDED)] = ""
    run: Annotated[str, doc("The child run that it belongs to; absent means the parent.", max_length=1000)] = ""


class Changes(Model, frozen=True, kw_only=True):
    """The first 50 changes and how many there are."""

    total: Annotated[int, doc("How many values arrived otherwise.", ge=0)] = 0
    items: Annotated[tuple[StatusChange, ...], listed("The first of them.", most=MAX_CHANGES, kind="atomic")] = ()


class StatusPartial(Model, frozen=True, kw_only=True):
    """One thing that could not be known, and why."""

    reason: Annotated[str, doc("Why, in one word.", max_length=253)]
    message: Annotated[str, doc("Why, and what would help.", max_length=UNBOUNDED)] = ""
    step: Annotated[str, doc("The step that it is about.", max_length=1000)] = ""


class Claim(Model, frozen=True, kw_only=True):
    """Who works on it; taken over by resourceVersion."""

    holder: Annotated[str, doc("The operator's process.", max_length=253)]
    epoch: Annotated[int, doc("Grows by one with each new holder.", ge=0)] = 1


SyncPhase = Literal["Pending", "Tracking", "Synced", "Failed", "Stopped", "Skipped"]
_Time = Annotated[str, Meta(max_length=40)]


class TrackedRunStatus(Model, frozen=True, kw_only=True):
    """How far delivery is."""

    phase: Annotated[
        SyncPhase,
        doc(
            "Pending: nothing is in the tracker yet. Tracking: it is, more will come. Synced: all of it is. Failed: "
            "given up, pipetrail resend tries again. Stopped: the target went. Skipped: it is not ours to record."
        ),
    ] = "Pending"
    reason: Annotated[str, doc("Why it is in this phase, in one word.", max_length=253)] = ""
    message: Annotated[str, doc("Why, and the next step, for people.", max_length=UNBOUNDED)] = ""
    outcome: Annotated[str, doc("How the run stands or ended, as in running or succeeded.", max_length=63)] = ""
    external_id: Annotated[str, doc("The tracker's id of the run.", max_length=1000)] = ""
    experiment_id: Annotated[str, doc("The tracker's id of the experiment.", max_length=1000)] = ""
    url: Annotated[str, doc("The run's page in the tracker.", max_length=4096)] = ""
    digest: Annotated[str, doc("Digest of what was delivered when it settled.", max_length=128)] = ""
    generation: Annotated[str, doc("The run's generation that was delivered.", max_length=256)] = ""
    steps: Annotated[int, doc("Steps that were delivered.", ge=0)] = 0
    metrics: Annotated[int, doc("Metric values that were delivered.", ge=0)] = 0
    attempts: Annotated[int, doc("Failed tries since the last that succeeded.", ge=0)] = 0
    changes: Annotated[Changes, doc("Values that arrived otherwise than the source has them.")] = Changes()
    partial: Annotated[
        tuple[StatusPartial, ...], listed("What could not be known.", most=MAX_CHANGES, kind="atomic")
    ] = ()
    claim: Annotated[Claim, doc("Who works on it.")] | UnsetType = UNSET
    opened_at: Annotated[_Time, doc("When the tracker's run was made.")] = ""
    doubtful_at: Annotated[_Time, doc("When it was last unknown whether a create had happened.")] = ""
    settled_at: Annotated[_Time, doc("When the phase became one that lasts.")] = ""
    last_error: Annotated[str, doc("What went wrong last.", max_length=UNBOUNDED)] = ""
    resent: Annotated[
        str, doc("The value of the annotation pipetrail.dev/resend that was heeded last.", max_length=MAX_RESEND)
    ] = ""


def tracked_run_name(run_name: str, uid: str, target: TargetRef, attempt: int = 1) -> str:
    """``<run, cut to 200>-<10 hex of sha256(uid, target)>``: one name per run × target × attempt (design §7)."""
    identity = [uid, target.kind, target.namespace, target.name, *([str(attempt)] if attempt > 1 else [])]
    digest = hashlib.sha256("\0".join(identity).encode()).hexdigest()[:10]
    return f"{run_name[:200].rstrip('-.')}-{digest}"


def to_json(value: Any) -> Any:
    """A model as JSON values for the API server, defaults left out."""
    return msgspec.to_builtins(value)
