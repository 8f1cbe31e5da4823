"""The API, group ``pipetrail.dev/v1alpha1``: the only place where its kinds are defined. crds/*.yaml is generated.

`target`, `backend` and `trackedrun` hold the types, `rules` what is more than a type, `crds` and `schema` make the
CRDs of them, `decode` reads targets that may have come past the API server's rules, `conditions` says what each reason
means.
"""

from pipetrail.api.backend import (
    Backend,
    BasicAuth,
    CaBundleRef,
    ConfigMapKeyRef,
    MlflowAuth,
    MlflowBackend,
    NeptuneBackend,
    SecretKeyRef,
    TensorboardBackend,
)
from pipetrail.api.backfill import (
    BACKFILL_ANNOTATION,
    MAX_RATE,
    Backfill,
    BackfillSource,
    BackfillWish,
    LeftOut,
    backfill_of,
    backfill_wish,
)
from pipetrail.api.conditions import CONFIRM_ANNOTATION, HELD, REASONS, Reason
from pipetrail.api.crds import crds, to_yaml
from pipetrail.api.decode import FoundTarget, InvalidTarget, decode_target, shards_of
from pipetrail.api.model import API_VERSION, GROUP, VERSION, Model
from pipetrail.api.rules import seconds
from pipetrail.api.status import Condition, ShardStatus, SyncCounts, TargetStatus
from pipetrail.api.target import (
    EXPERIMENT_ANNOTATION,
    RUN_NAME_ANNOTATION,
    TAGS_ANNOTATION,
    TARGETS_ANNOTATION,
    TRACK_LABEL,
    Capture,
    ClusterTargetSpec,
    Delivery,
    Files,
    LabelSelector,
    Naming,
    Policy,
    Redact,
    Requirement,
    RunPolicy,
    Select,
    TargetKind,
    TargetRef,
    TargetSpec,
)
from pipetrail.api.trackedrun import (
    MAX_CHANGES,
    MAX_RESEND,
    REPOLICY,
    RESEND_ANNOTATION,
    Changes,
    Claim,
    RunRef,
    StatusChange,
    StatusPartial,
    SyncPhase,
    TrackedRunSpec,
    TrackedRunStatus,
    to_json,
    tracked_run_name,
)

__all__ = [
    "API_VERSION", "BACKFILL_ANNOTATION", "CONFIRM_ANNOTATION", "EXPERIMENT_ANNOTATION", "GROUP", "HELD", "MAX_CHANGES",
    "MAX_RATE", "MAX_RESEND", "REASONS", "REPOLICY", "RESEND_ANNOTATION", "RUN_NAME_ANNOTATION", "TAGS_ANNOTATION",
    "TARGETS_ANNOTATION", "TRACK_LABEL", "VERSION", "Backend", "Backfill", "BackfillSource", "BackfillWish",
    "BasicAuth", "CaBundleRef", "Capture", "Changes", "Claim", "ClusterTargetSpec", "Condition", "ConfigMapKeyRef",
    "Delivery", "Files", "FoundTarget", "InvalidTarget", "LabelSelector", "LeftOut", "MlflowAuth", "MlflowBackend",
    "Model", "Naming", "NeptuneBackend", "Policy", "Reason", "Redact", "Requirement", "RunPolicy", "RunRef",
    "SecretKeyRef", "Select", "ShardStatus", "StatusChange", "StatusPartial", "SyncCounts", "SyncPhase", "TargetKind",
    "TargetRef", "TargetSpec", "TargetStatus", "TensorboardBackend", "TrackedRunSpec", "TrackedRunStatus",
    "backfill_of", "backfill_wish", "crds", "decode_target", "seconds", "shards_of", "to_json", "to_yaml",
    "tracked_run_name",
]  # fmt: skip
