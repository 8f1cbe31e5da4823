"""TrackingTarget and ClusterTrackingTarget: where runs go, which runs, and how.

Conventions: a union has exactly one key (:mod:`pipetrail.api.backend`); enums are CamelCase; durations are Go's
("168h"). Every field here does something.
"""

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from pipetrail.api import rules
from pipetrail.api.backend import Backend
from pipetrail.api.model import ATOMIC, GROUP, Model, doc, listed

TRACK_LABEL: Final = f"{GROUP}/track"
TARGETS_ANNOTATION: Final = f"{GROUP}/targets"
EXPERIMENT_ANNOTATION: Final = f"{GROUP}/experiment"
RUN_NAME_ANNOTATION: Final = f"{GROUP}/run-name"
TAGS_ANNOTATION: Final = f"{GROUP}/tags"

TargetKind = Literal["TrackingTarget", "ClusterTrackingTarget"]
_GLOB: Final[Mapping[str, Any]] = {"min_length": 1, "max_length": 200}
NameGlob = Annotated[str, Meta(**_GLOB, extra={"rules": (rules.NAME_GLOB,)})]
FileGlob = Annotated[str, Meta(**_GLOB, extra={"rules": (rules.FILE_GLOB,)})]
KeyGlob = Annotated[str, Meta(**_GLOB, extra={"rules": (rules.KEY_GLOB,)})]


class Requirement(Model, frozen=True, kw_only=True):
    """One expression of a label selector."""

    RULES: ClassVar = (rules.VALUES_FIT_OPERATOR,)

    key: Annotated[str, doc("A label's key.", rules.LABEL_KEY, min_length=1, max_length=317)]
    operator: Annotated[
        Literal["In", "NotIn", "Exists", "DoesNotExist"], doc("How the label's value relates to values.")
    ]
    values: Annotated[
        tuple[Annotated[str, Meta(max_length=63, extra={"rules": (rules.LABEL_VALUE,)})], ...],
        listed("The values, for In and NotIn.", most=64, kind="atomic"),
    ] = ()


class LabelSelector(Model, frozen=True, kw_only=True):
    """Kubernetes' label selector: all of it must hold; empty selects everything."""

    SCHEMA: ClassVar = ATOMIC

    match_labels: Annotated[
        Mapping[str, Annotated[str, Meta(max_length=63)]],
        Meta(description="Labels that must have exactly these values.", max_length=32),
    ] = {}
    match_expressions: Annotated[
        tuple[Requirement, ...], listed("Expressions that must all hold.", most=32, kind="atomic")
    ] = ()


class Select(Model, frozen=True, kw_only=True):
    """Which runs: all of these must hold; what is left out holds for every run."""

    sources: Annotated[
        tuple[Literal["Argo", "KubeflowPipelines"], ...],
        listed(
            "Kinds of runs; empty means all. Argo is Argo Workflows other than those of Kubeflow Pipelines.", most=8
        ),
    ] = ()
    run_selector: Annotated[LabelSelector, doc("Labels of the run.")] = LabelSelector()
    pipelines: Annotated[
        tuple[NameGlob, ...],
        listed("Globs (*, ?, [abc]) on the pipeline's name, one of which must match, as in churn-*.", most=64),
    ] = ()


class Naming(Model, frozen=True, kw_only=True):
    """What things are called in the tracker (placeholders in braces) and how runs are laid out."""

    experiment: (
        Annotated[
            str,
            doc(
                "The experiment; knows {pipeline} and {namespace}. Absent means {pipeline}, of a ClusterTrackingTarget "
                "{namespace}/{pipeline}.",
                rules.placeholders("experiment", rules.EXPERIMENT_PLACEHOLDERS, "{namespace}/{pipeline}"),
                min_length=1, max_length=250,
            ),
        ]
        | UnsetType
    ) = UNSET  # fmt: skip
    run: Annotated[
        str,
        doc(
            "The tracker's run; knows {run}, {pipeline} and {namespace}.",
            rules.placeholders("run", rules.RUN_PLACEHOLDERS, "{pipeline} {run}"), min_length=1, max_length=250,
        ),
    ] = "{run}"  # fmt: skip
    metric: Annotated[
        str,
        doc(
            "A metric; knows {step} and {metric}. Without a step the separator goes too.",
            rules.placeholders("metric", rules.METRIC_PLACEHOLDERS, "{step}/{metric}"), rules.METRIC_IS_NAMED,
            min_length=1, max_length=250,
        ),
    ] = "{step}/{metric}"  # fmt: skip
    layout: Annotated[
        Literal["Auto", "Flat", "Nested", "Siblings"],
        doc(
            "Auto makes a child run of each loop iteration that yields a metric; Flat puts all on one run; Nested "
            "makes a child run of each step or iteration; Siblings is Nested without the parent link, for charts."
        ),
    ] = "Auto"


class Files(Model, frozen=True, kw_only=True):
    """Globs on artifact/file that override what counts as a metric file."""

    include: Annotated[
        tuple[FileGlob, ...],
        listed("Files that count as metrics whatever they are called, as in *.metrics.json.", most=64),
    ] = ()
    exclude: Annotated[tuple[FileGlob, ...], listed("Files that never count as metrics.", most=64)] = ()


class Capture(Model, frozen=True, kw_only=True):
    """What is taken from a run."""

    params: Annotated[Literal["All", "None"], doc("Parameters of the run and its steps.")] = "All"
    metrics: Annotated[Literal["All", "None"], doc("Numbers among the outputs and in metric files.")] = "All"
    figures: Annotated[Literal["All", "None"], doc("Confusion matrices, ROC curves, tables, markdown and HTML.")] = (
        "All"
    )
    artifacts: Annotated[
        Literal["Reference", "None"], doc("Reference lists the artifacts with their addresses; none is copied.")
    ] = "Reference"
    logs: Annotated[
        Literal["OnFailure", "Always", "Never"], doc("When the last lines of a step's log are taken along.")
    ] = "OnFailure"
    stdout: Annotated[
        Literal["Off", "On"], doc("On reads metrics from name=value and JSON lines that a step prints.")
    ] = "Off"
    files: Annotated[Files, doc("Globs on artifact/file that override what counts as a metric file.")] = Files()


class Redact(Model, frozen=True, kw_only=True):
    """Which values never leave the cluster."""

    additional_keys: Annotated[
        tuple[KeyGlob, ...],
        listed(
            "Globs on parameter names whose values are withheld, beside the built-in *password*, *token*, *secret*, "
            "*credential* and *api?key*.",
            most=64,
        ),
    ] = ()


class Delivery(Model, frozen=True, kw_only=True):
    """How hard the tracker is used, and for how long a run is tried."""

    concurrency: Annotated[int, doc("Runs that are sent at a time.", ge=1, le=8)] = 4
    requests_per_second: Annotated[int, doc("Requests that the tracker gets at most.", ge=1, le=1000)] = 50
    max_elapsed: Annotated[
        str,
        doc(
            "For how long a run is tried before it is Failed, as in 30m or 168h.",
            rules.POSITIVE_DURATION, min_length=1, max_length=32,
        ),
    ] = "168h"  # fmt: skip


class RunPolicy(Model, frozen=True, kw_only=True):
    """What the authors of runs may decide."""

    opt_out: Annotated[
        Literal["Allowed", "Forbidden"],
        doc(
            'Allowed heeds the label pipetrail.dev/track: "false" and the annotation pipetrail.dev/targets on a run, '
            "its template or its namespace; Forbidden ignores both."
        ),
    ] = "Allowed"


class TargetSpec(Model, frozen=True, kw_only=True):
    """Where runs go, which runs, and how. Only backend is required."""

    backend: Annotated[Backend, doc("The tracker: exactly one key.")]
    select: Annotated[Select, doc("Which runs; absent means every run that the target sees.")] = Select()
    naming: Annotated[Naming, doc("What things are called in the tracker. Fixed for a run when it is first seen.")] = (
        Naming()
    )
    capture: Annotated[Capture, doc("What is taken from a run. Fixed for a run when it is first seen.")] = Capture()
    redact: Annotated[Redact, doc("Which values never leave. Fixed for a run when it is first seen.")] = Redact()
    delivery: Annotated[Delivery, doc("How hard the tracker is used, and for how long a run is tried.")] = Delivery()
    policy: Annotated[RunPolicy, doc("What the authors of runs may decide.")] = RunPolicy()
    suspend: Annotated[bool, doc("True sends nothing; runs wait.")] = False


class ClusterTargetSpec(TargetSpec, frozen=True, kw_only=True):
    """The same for runs of many namespaces."""

    namespace_selector: (
        Annotated[
            LabelSelector,
            doc("Labels of the namespaces whose runs are taken. Empty ({}) takes all, absent takes none."),
        ]
        | UnsetType
    ) = UNSET


class TargetRef(Model, frozen=True, kw_only=True):
    """A target's identity: that is what a TrackedRun's name hashes. `namespace` is empty for the cluster's kind."""

    kind: Annotated[TargetKind, doc("Its kind.")] = "TrackingTarget"
    name: Annotated[str, doc("Its name.", max_length=253)]
    namespace: Annotated[str, doc("Its namespace; absent for a ClusterTrackingTarget.", max_length=63)] = ""

    def __str__(self) -> str:
        """As people write it: kind/name or kind/namespace/name."""
        return "/".join(x for x in (self.kind, self.namespace, self.name) if x)


class Policy(Model, frozen=True, kw_only=True):
    """What is fixed for a run at its intent: an edit of the target applies to new runs only."""

    naming: Annotated[Naming, doc("What things are called in the tracker.")] = Naming()
    capture: Annotated[Capture, doc("What is taken from the run.")] = Capture()
    redact: Annotated[Redact, doc("Which values never leave.")] = Redact()

    @property
    def digest(self) -> str:
        """12 hex digits that name this policy."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()[:12]
