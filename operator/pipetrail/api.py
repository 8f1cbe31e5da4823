"""The API, group ``pipetrail.dev/v1alpha1``: the only place where its kinds are defined. crds/*.yaml is generated.

Conventions: a union has exactly one key; enums are CamelCase; a reference names no namespace (a TrackingTarget sees its
own only, a ClusterTrackingTarget's Secrets lie in the operator's); durations are Go's ("168h"). Every field here does
something.
"""

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

GROUP: Final = "pipetrail.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
TRACK_LABEL: Final = f"{GROUP}/track"
TARGETS_ANNOTATION: Final = f"{GROUP}/targets"
EXPERIMENT_ANNOTATION: Final = f"{GROUP}/experiment"
RUN_NAME_ANNOTATION: Final = f"{GROUP}/run-name"
TAGS_ANNOTATION: Final = f"{GROUP}/tags"
RESEND_ANNOTATION: Final = f"{GROUP}/resend"
MAX_CHANGES: Final = 50

TargetKind = Literal["TrackingTarget", "ClusterTrackingTarget"]
Name = Annotated[str, Meta(min_length=1, max_length=253)]
Glob = Annotated[str, Meta(min_length=1, max_length=200)]
Duration = Annotated[str, Meta(pattern=r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$")]


class Model(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Base of the API's types: immutable, camelCase in JSON, absent where it is the default."""


class SecretKeyRef(Model, frozen=True, kw_only=True):
    """A key of a Secret."""

    name: Name
    key: Annotated[str, Meta(min_length=1, max_length=253)]


class ConfigMapKeyRef(Model, frozen=True, kw_only=True):
    """A key of a ConfigMap."""

    name: Name
    key: Annotated[str, Meta(min_length=1, max_length=253)]


class BasicAuth(Model, frozen=True, kw_only=True):
    """User name and password, each in a Secret."""

    username_secret_ref: SecretKeyRef
    password_secret_ref: SecretKeyRef


class MlflowAuth(Model, frozen=True, kw_only=True):
    """How to log in: exactly one of the two."""

    bearer_token_secret_ref: SecretKeyRef | UnsetType = UNSET
    basic: BasicAuth | UnsetType = UNSET


class CaBundleRef(Model, frozen=True, kw_only=True):
    """Where the certificates lie that sign the tracker's."""

    config_map_key_ref: ConfigMapKeyRef


class MlflowBackend(Model, frozen=True, kw_only=True):
    """An MLflow tracking server. `uiUri` is its address for people, where that is another one."""

    tracking_uri: Annotated[str, Meta(max_length=2000)]
    ui_uri: Annotated[str, Meta(max_length=2000)] | UnsetType = UNSET
    auth: MlflowAuth | UnsetType = UNSET
    ca_bundle_ref: CaBundleRef | UnsetType = UNSET


class Backend(Model, frozen=True, kw_only=True):
    """The tracker: exactly one key."""

    mlflow: MlflowBackend | UnsetType = UNSET


class Requirement(Model, frozen=True, kw_only=True):
    """One expression of a label selector."""

    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: tuple[str, ...] = ()


class LabelSelector(Model, frozen=True, kw_only=True):
    """Kubernetes' label selector; empty selects everything."""

    match_labels: Mapping[str, str] = {}
    match_expressions: tuple[Requirement, ...] = ()


class Select(Model, frozen=True, kw_only=True):
    """Which runs: all of these must hold. `pipelines` are globs on the pipeline's name."""

    sources: tuple[Literal["Argo"], ...] = ()
    run_selector: LabelSelector = LabelSelector()
    pipelines: tuple[Glob, ...] = ()


class Naming(Model, frozen=True, kw_only=True):
    """What things are called in the tracker (placeholders in braces) and how runs are laid out."""

    experiment: Annotated[str, Meta(max_length=250)] | UnsetType = UNSET
    run: Annotated[str, Meta(max_length=250)] = "{run}"
    metric: Annotated[str, Meta(max_length=250)] = "{step}/{metric}"
    layout: Literal["Auto", "Flat", "Nested", "Siblings"] = "Auto"


class Files(Model, frozen=True, kw_only=True):
    """Globs on ``artifact/file`` that override what counts as a metric file (docs: what is sent)."""

    include: tuple[Glob, ...] = ()
    exclude: tuple[Glob, ...] = ()


class Capture(Model, frozen=True, kw_only=True):
    """What is taken from a run."""

    params: Literal["All", "None"] = "All"
    metrics: Literal["All", "None"] = "All"
    artifacts: Literal["Reference", "None"] = "Reference"
    logs: Literal["OnFailure", "Always", "Never"] = "OnFailure"
    stdout: Literal["Off", "On"] = "Off"
    files: Files = Files()


class Redact(Model, frozen=True, kw_only=True):
    """Globs on parameter names whose values never leave, beside the built-in ones."""

    additional_keys: tuple[Glob, ...] = ()


class Delivery(Model, frozen=True, kw_only=True):
    """How hard the tracker is used, and for how long a run is tried."""

    concurrency: Annotated[int, Meta(ge=1, le=8)] = 4
    requests_per_second: Annotated[int, Meta(ge=1, le=1000)] = 50
    max_elapsed: Duration = "168h"


class RunPolicy(Model, frozen=True, kw_only=True):
    """What the authors of runs may decide. *Forbidden* ignores their label ``pipetrail.dev/track: "false"``."""

    opt_out: Literal["Allowed", "Forbidden"] = "Allowed"


class TargetSpec(Model, frozen=True, kw_only=True):
    """Where runs go, which runs, and how. Only `backend` is required."""

    backend: Backend
    select: Select = Select()
    naming: Naming = Naming()
    capture: Capture = Capture()
    redact: Redact = Redact()
    delivery: Delivery = Delivery()
    policy: RunPolicy = RunPolicy()
    suspend: bool = False
    namespace_selector: LabelSelector | UnsetType = UNSET


class TargetRef(Model, frozen=True, kw_only=True):
    """A target's identity: that is what a TrackedRun's name hashes. `namespace` is empty for the cluster's kind."""

    kind: TargetKind = "TrackingTarget"
    name: str
    namespace: str = ""

    def __str__(self) -> str:
        """As people write it: kind/name or kind/namespace/name."""
        return "/".join(x for x in (self.kind, self.namespace, self.name) if x)


class Policy(Model, frozen=True, kw_only=True):
    """What is fixed for a run at its intent: an edit of the target applies to new runs only."""

    naming: Naming = Naming()
    capture: Capture = Capture()
    redact: Redact = Redact()

    @property
    def digest(self) -> str:
        """12 hex digits that name this policy."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()[:12]


class RunRef(Model, frozen=True, kw_only=True):
    """The run that is tracked."""

    source: str
    name: str
    uid: str
    key: str
    pipeline: str = ""
    generation: str = ""


class TrackedRunSpec(Model, frozen=True, kw_only=True):
    """The intent: what goes where under which policy. Written once, before the tracker hears of the run.

    `attempt` counts the tracker runs of one run (an ``argo retry`` that changed a param makes a second one).
    """

    run: RunRef
    target: TargetRef
    policy: Policy
    attempt: int = 1
    supersedes: str = ""


class StatusChange(Model, frozen=True, kw_only=True):
    """One value that arrived otherwise than the source has it."""

    item: str
    key: str
    reason: str
    detail: str = ""
    run: str = ""


class Changes(Model, frozen=True, kw_only=True):
    """The first 50 changes and how many there are."""

    total: int = 0
    items: tuple[StatusChange, ...] = ()


class StatusPartial(Model, frozen=True, kw_only=True):
    """One thing that could not be known, and why."""

    reason: str
    message: str = ""
    step: str = ""


class Claim(Model, frozen=True, kw_only=True):
    """Who works on it; taken over by resourceVersion."""

    holder: str
    epoch: int = 1


SyncPhase = Literal["Pending", "Tracking", "Synced", "Failed", "Stopped", "Skipped"]


class TrackedRunStatus(Model, frozen=True, kw_only=True):
    """How far delivery is. `digest` is that of what was delivered when it settled."""

    phase: SyncPhase = "Pending"
    reason: str = ""
    message: str = ""
    outcome: str = ""
    external_id: str = ""
    experiment_id: str = ""
    url: str = ""
    digest: str = ""
    generation: str = ""
    steps: int = 0
    metrics: int = 0
    attempts: int = 0
    changes: Changes = Changes()
    partial: tuple[StatusPartial, ...] = ()
    claim: Claim | UnsetType = UNSET
    opened_at: str = ""
    doubtful_at: str = ""
    settled_at: str = ""
    last_error: str = ""


class Condition(Model, frozen=True, kw_only=True):
    """Kubernetes' condition."""

    type: Literal["Accepted", "ResolvedRefs", "Reachable", "Ready"]
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str = ""
    observed_generation: int = 0
    last_transition_time: str


class SyncCounts(Model, frozen=True, kw_only=True):
    """Runs of this target, counted at most every 30 s."""

    synced: int = 0
    pending: int = 0
    failed: int = 0
    last_sync: str = ""


class TargetStatus(Model, frozen=True, kw_only=True):
    """What the operator knows of a target."""

    observed_generation: int = 0
    conditions: tuple[Condition, ...] = ()
    backend: str = ""
    version: str = ""
    sync: SyncCounts = SyncCounts()


def tracked_run_name(run_name: str, uid: str, target: TargetRef, attempt: int = 1) -> str:
    """``<run, cut to 200>-<10 hex of sha256(uid, target)>``: one name per run × target × attempt (design §7)."""
    identity = [uid, target.kind, target.namespace, target.name, *([str(attempt)] if attempt > 1 else [])]
    digest = hashlib.sha256("\0".join(identity).encode()).hexdigest()[:10]
    return f"{run_name[:200].rstrip('-.')}-{digest}"


def to_json(value: Any) -> Any:
    """A model as JSON values for the API server, defaults left out."""
    return msgspec.to_builtins(value)
