"""Every reason that a target's conditions give, what it means and what to do next. docs/conditions.md is this table.

And what the outbox says of a run, on its TrackedRun and by an Event: :data:`OUTBOX`.

Names follow Gateway API's habit (https://gateway-api.sigs.k8s.io/geps/gep-713/): a condition that holds gives its own
name as the reason.
"""

from collections.abc import Mapping
from typing import Final, Literal

from pipetrail.api.model import GROUP, Model

ConditionType = Literal["Accepted", "ResolvedRefs", "Reachable", "Ready", "MassOrphanGuard"]
HELD: Final = "MassOrphanGuard"
"""The condition that is there while runs of the target are gone and not closed."""
CONFIRM_ANNOTATION: Final = f"{GROUP}/confirm-close"
"""On a target: the lastTransitionTime of the condition `HELD`, to have what it holds closed."""


class Reason(Model, frozen=True, kw_only=True):
    """One reason: the conditions that give it, what it says, and the next step of a person who reads it."""

    on: tuple[ConditionType, ...]
    means: str
    next_step: str


ABOUT: Final[Mapping[ConditionType, str]] = {
    "Accepted": "The spec is one that this version of the operator can follow.",
    "ResolvedRefs": "Every Secret and ConfigMap that the spec names is there and may be read.",
    "Reachable": "The tracker answers at its address, and it is the tracker that it should be.",
    "Ready": "All of these hold, the tracker lets us in, and runs are recorded as they complete.",
    "MassOrphanGuard": "Only there while it holds. Runs that are not settled are gone, so many at once that it may be "
    "a mishap; they are neither closed in the tracker nor counted as lost.",
}

REASONS: Final[Mapping[str, Reason]] = {
    "Accepted": Reason(on=("Accepted",), means="The spec is in order.", next_step="Nothing."),
    "ResolvedRefs": Reason(on=("ResolvedRefs",), means="All references lead somewhere.", next_step="Nothing."),
    "Reachable": Reason(on=("Reachable",), means="The tracker answers.", next_step="Nothing."),
    "Ready": Reason(on=("Ready",), means="Runs are recorded as they complete.", next_step="Nothing."),
    "MassOrphanGuard": Reason(
        on=("MassOrphanGuard",),
        means="More than 20 runs and more than a fifth of those that are not settled are gone, or the API server knows "
        "no Workflows.",
        next_step="If they come back (CRDs applied again, a restore): nothing. If they are gone for good: "
        "pipetrail confirm-close TARGET -n NAMESPACE.",
    ),
    "Pending": Reason(
        on=("Accepted", "ResolvedRefs", "Reachable", "Ready"),
        means="The operator has not looked yet, or something before it has to be mended first.",
        next_step="Wait a moment; if it stays, see whether the operator runs and watches this namespace.",
    ),
    "Suspended": Reason(
        on=("Ready",),
        means="spec.suspend is true: runs wait and nothing is sent.",
        next_step="Set spec.suspend to false to send what has waited.",
    ),
    "InvalidSpec": Reason(
        on=("Accepted", "Ready"),
        means="The spec came past the API server's rules and asks for what there is not; the message names the field.",
        next_step="Mend the field that the message names. Apply crds/ again if the API server should have refused it.",
    ),
    "SecretNotFound": Reason(
        on=("ResolvedRefs", "Ready"),
        means="The Secret that a reference names does not exist.",
        next_step="Create it in the target's namespace (of a ClusterTrackingTarget: the operator's), or mend the name.",
    ),
    "SecretKeyNotFound": Reason(
        on=("ResolvedRefs", "Ready"),
        means="The Secret has no such key, or what lies there is not text.",
        next_step="Add the key to the Secret, or mend the reference; the message lists the keys that there are.",
    ),
    "ConfigMapNotFound": Reason(
        on=("ResolvedRefs", "Ready"),
        means="The ConfigMap that a reference names does not exist.",
        next_step="Create it in the target's namespace (of a ClusterTrackingTarget: the operator's), or mend the name.",
    ),
    "ConfigMapKeyNotFound": Reason(
        on=("ResolvedRefs", "Ready"),
        means="The ConfigMap has no such key.",
        next_step="Add the key to the ConfigMap, or mend the reference; the message lists the keys that there are.",
    ),
    "RefForbidden": Reason(
        on=("ResolvedRefs", "Ready"),
        means="The operator may not read the Secret or ConfigMap.",
        next_step="Bind ClusterRole pipetrail-references in that namespace: "
        "kubectl apply -n NAMESPACE -k deploy/kustomize/overlays/per-tenant/tenant.",
    ),
    "Unreachable": Reason(
        on=("Reachable", "Ready"),
        means="Nothing answers at the address, or only errors and time-outs.",
        next_step="See whether the tracker runs, and whether a NetworkPolicy lets the operator in. Runs wait.",
    ),
    "AddressRefused": Reason(
        on=("Reachable", "Ready"),
        means="The address leads to loopback, link-local (a metadata service), multicast or the API server itself.",
        next_step="Name the tracker's own address; if it is meant, start the operator with --allow-address CIDR.",
    ),
    "TlsFailed": Reason(
        on=("Reachable", "Ready"),
        means="The certificate is expired, for another host, or signed by someone unknown.",
        next_step="Renew the certificate, mend the host in the address, or name its signer in caBundleRef.",
    ),
    "InvalidHostHeader": Reason(
        on=("Reachable", "Ready"),
        means="MLflow refuses requests for this host name (its own protection against DNS rebinding).",
        next_step="Start MLflow with --allowed-hosts naming the host of trackingUri, or call it by one that it allows.",
    ),
    "NotMlflow": Reason(
        on=("Reachable", "Ready"),
        means="Something answers, but it is not an MLflow tracking server: a login page, a proxy, another path.",
        next_step="Open trackingUri followed by /version: it must show a version number. Mend the address or its path.",
    ),
    "AuthenticationFailed": Reason(
        on=("Reachable", "Ready"),
        means="The tracker does not know the credentials (401).",
        next_step="Put the right ones in the Secret that auth names. It is read again within 30 s.",
    ),
    "PermissionDenied": Reason(
        on=("Reachable", "Ready"),
        means="The tracker knows the credentials but does not let them do this (403).",
        next_step="Grant the user of auth the right to create experiments and runs, or name another user.",
    ),
    "ExperimentDeleted": Reason(
        on=("Ready",),
        means="Someone deleted the experiment in the tracker; it is neither restored nor made anew.",
        next_step="Restore it (mlflow experiments restore), or give the target another naming.experiment.",
    ),
    "RateLimited": Reason(
        on=("Reachable", "Ready"),
        means="The tracker asks for fewer requests (429).",
        next_step="Lower spec.delivery.requestsPerSecond; what waits is sent later.",
    ),
    "ServiceDiscontinued": Reason(
        on=("Reachable", "Ready"),
        means="serverUri is Neptune's hosted service, which was closed on 2026-03-05; its data is deleted.",
        next_step="Name a Neptune server of your own in serverUri, or another backend: see docs/targets.md.",
    ),
    "NotNeptune": Reason(
        on=("Reachable", "Ready"),
        means="Something answers, but not as a Neptune 1.x server does, or it sends us to another address.",
        next_step="Open serverUri in a browser: it must show Neptune. Name the address that it has there.",
    ),
    "TokenMismatch": Reason(
        on=("Reachable", "Ready"),
        means="The API token was made by another server than the one that serverUri names.",
        next_step="Put a token of that server into the Secret of apiTokenSecretRef, or mend serverUri.",
    ),
    "ProjectNotFound": Reason(
        on=("Reachable", "Ready"),
        means="The Neptune server has no such project, or the token's user does not see it.",
        next_step="Create the project, let the token's user contribute to it, or mend project (workspace/name).",
    ),
    "ProjectArchived": Reason(
        on=("Reachable", "Ready"),
        means="The Neptune project is archived: nothing can be written to it.",
        next_step="Restore the project, or name another one. Runs wait.",
    ),
    "LimitExceeded": Reason(
        on=("Reachable", "Ready"),
        means="Neptune refuses since a limit of the workspace or the project is reached (402, 422).",
        next_step="Raise the limit, or make room. Runs wait and arrive then.",
    ),
    "ClientMissing": Reason(
        on=("Reachable", "Ready"),
        means="The operator lacks the package that speaks to this tracker.",
        next_step="Use an image that has it, or install pipetrail[neptune].",
    ),
    "WorkerFailed": Reason(
        on=("Reachable", "Ready"),
        means="The process that calls Neptune died, hung or held too much memory, and was ended. No other is touched.",
        next_step="Nothing: it is started again, after a pause. If it stays so, see what the server answers with.",
    ),
    "WorkerBusy": Reason(
        on=("Reachable", "Ready"),
        means="More calls wait for the process that calls Neptune than it can do.",
        next_step="Lower spec.delivery.concurrency; what waits is sent later.",
    ),
    "AlreadyThere": Reason(
        on=("Reachable", "Ready"),
        means="A run that was to be made is in Neptune already, made by a call whose answer was lost.",
        next_step="Nothing: it is read, and what it lacks is sent.",
    ),
    "LostWrites": Reason(
        on=("Reachable", "Ready"),
        means="Neptune took what was sent and does not show it.",
        next_step="Nothing: it is read again, and what it lacks is sent. If it stays so, see Neptune's own log.",
    ),
    "NoTensorboardRoot": Reason(
        on=("Reachable", "Ready"),
        means="The operator was given no folder for TensorBoard's event files.",
        next_step="Start the operator with --tensorboard-root and a volume mounted there (deploy/kustomize).",
    ),
    "StorageMissing": Reason(
        on=("Reachable", "Ready"),
        means="The folder for event files is not there.",
        next_step="Mount the volume where --tensorboard-root says. Runs wait.",
    ),
    "StorageFull": Reason(
        on=("Reachable", "Ready"),
        means="The volume for event files is full, or its quota is spent.",
        next_step="Make room or let the volume grow. Runs wait and arrive then.",
    ),
    "StorageReadOnly": Reason(
        on=("Reachable", "Ready"),
        means="The volume for event files is mounted for reading only.",
        next_step="Mount it for writing; see whether the node mounted it so after an error of the disk. Runs wait.",
    ),
    "StorageDenied": Reason(
        on=("Reachable", "Ready"),
        means="The operator may not write to the folder for event files.",
        next_step="Give the volume to the operator's group (fsGroup), or mend the rights of the folder.",
    ),
    "StorageBusy": Reason(
        on=("Ready",),
        means="Another process has an event file locked for long.",
        next_step="See that one operator alone writes to the volume. It is tried again.",
    ),
    "StorageFailed": Reason(
        on=("Ready",),
        means="A call to the volume for event files failed; the message says how.",
        next_step="See to the volume and its network. It is tried again, after a look at what arrived.",
    ),
    "StorageSlow": Reason(
        on=("Ready",),
        means="The volume for event files did not answer in time.",
        next_step="See to the volume and its network. It is tried again, after a look at what arrived.",
    ),
    "DrawingBusy": Reason(
        on=("Ready",),
        means="More figures wait to be drawn than are kept waiting.",
        next_step="Nothing: they are drawn when it is their turn.",
    ),
    "StorageOccupied": Reason(
        on=("Reachable", "Ready"),
        means="A link or a file stands where the target's folder should be; links are never followed.",
        next_step="Move what the message names out of the way.",
    ),
}


OUTBOX: Final[Mapping[str, Reason]] = {
    "OutboxFull": Reason(
        on=(),
        means="The outbox and TrackedRuns take all that --outbox-max allows, so no copy of this run is kept.",
        next_step="Raise --outbox-max, or name a store with --outbox. Nothing is lost while the run's object stands or "
        "the operator runs; it is tried again every minute.",
    ),
    "OutboxForbidden": Reason(
        on=(),
        means="The operator may not create Secrets in its own namespace, or the API server takes no such Secret.",
        next_step="Apply deploy/kustomize again: Role pipetrail-outbox gives the right.",
    ),
    "OutboxQuota": Reason(
        on=(),
        means="A ResourceQuota of the operator's namespace lets it make no more Secrets.",
        next_step="Raise the quota, or name a store with --outbox and a lower --outbox-max.",
    ),
    "OutboxMissing": Reason(
        on=(),
        means="The namespace that --namespace names does not exist.",
        next_step="Create it, or start the operator with --namespace and the name of its own.",
    ),
    "OutboxStoreFailed": Reason(
        on=(),
        means="The store that --outbox names does not take what is written to it.",
        next_step="See to the bucket or folder and the operator's rights to it. It is tried again every minute.",
    ),
    "OutboxTorn": Reason(
        on=(),
        means="The copy of this run is not what was written: a chunk is missing, or its digest is another. It was not "
        "sent. Where the run's object is gone too, the run is closed as killed and counted as lost.",
        next_step="See who may write Secrets in the operator's namespace.",
    ),
}
"""What may stand on a TrackedRun because of the outbox."""


def to_markdown() -> str:
    """docs/conditions.md."""
    lines = [
        "<!-- Generated from operator/pipetrail/api/conditions.py by `pipetrail crds --conditions`; edit that. -->",
        "# What a target's conditions say",
        "",
        "`kubectl get tt` shows the reason of `Ready`, `kubectl describe tt NAME` all conditions with a message for",
        "this very case. Each change of `Ready` is one Event on the target. While something is wrong the operator",
        "looks again every 30 s, else every 5 minutes: nothing has to be restarted.",
        "",
    ]
    for condition, about in ABOUT.items():
        lines += [f"## {condition}", "", about, "", "| reason | means | next step |", "|---|---|---|"]
        lines += [f"| `{n}` | {r.means} | {r.next_step} |" for n, r in REASONS.items() if condition in r.on]
        lines.append("")
    lines += [
        "## The outbox",
        "",
        "What the operator puts aside while a tracker is away, and what it says of a run on its TrackedRun: as the",
        "reason, and by an Event. `pipetrail_outbox_refused_total` counts the refusals by reason.",
        "",
        "| reason | means | next step |",
        "|---|---|---|",
        *(f"| `{n}` | {r.means} | {r.next_step} |" for n, r in OUTBOX.items()),
        "",
    ]
    return "\n".join(lines)
