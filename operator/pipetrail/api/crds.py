"""The three CustomResourceDefinitions, from the types. crds/*.yaml is what this prints; a test holds them together."""

from collections.abc import Mapping
from typing import Any, Final

import yaml

from pipetrail.api.model import GROUP, VERSION
from pipetrail.api.schema import schema_of
from pipetrail.api.status import TargetStatus
from pipetrail.api.target import ClusterTargetSpec, TargetSpec
from pipetrail.api.trackedrun import TrackedRunSpec, TrackedRunStatus

_HEADER: Final = "# Generated from operator/pipetrail/api by `pipetrail crds`; edit that.\n"
_NEVER: Final = "1970-01-01T00:00:00Z"


def _column(name: str, path: str, kind: str = "string", *, wide: bool = False) -> dict[str, Any]:
    return {"name": name, "type": kind, "jsonPath": path, **({"priority": 1} if wide else {})}


def _ready(field: str) -> str:
    return f'.status.conditions[?(@.type=="Ready")].{field}'


_AGE: Final = _column("Age", ".metadata.creationTimestamp", "date")
_TARGET_COLUMNS: Final = [
    _column("Backend", ".status.backend"),
    _column("Ready", _ready("status")),
    _column("Reason", _ready("reason")),
    _column("Synced", ".status.sync.synced", "integer"),
    _column("Pending", ".status.sync.pending", "integer"),
    _column("Failed", ".status.sync.failed", "integer"),
    _column("Last-Sync", ".status.sync.lastSync", "date"),
    _AGE,
    _column("Message", _ready("message"), wide=True),
]
_RUN_COLUMNS: Final = [
    _column("Run", ".spec.run.name"),
    _column("Source", ".spec.run.source"),
    _column("Outcome", ".status.outcome"),
    _column("Sync", ".status.phase"),
    _column("Target", ".spec.target.name"),
    _AGE,
    _column("Steps", ".status.steps", "integer", wide=True),
    _column("Metrics", ".status.metrics", "integer", wide=True),
    _column("Changed", ".status.changes.total", "integer", wide=True),
    _column("URL", ".status.url", wide=True),
]


def crds() -> Mapping[str, dict[str, Any]]:
    """The CRDs by file name."""
    return {
        "trackingtargets.yaml": _crd(
            "TrackingTarget", "trackingtargets", "tt", "Namespaced", _TARGET_COLUMNS,
            "Records the pipeline runs of its namespace in an experiment tracker.",
            schema_of(TargetSpec), _target_status(),
        ),
        "clustertrackingtargets.yaml": _crd(
            "ClusterTrackingTarget", "clustertrackingtargets", "ctt", "Cluster", _TARGET_COLUMNS,
            "Records the pipeline runs of the namespaces that it selects in an experiment tracker.",
            schema_of(ClusterTargetSpec), _target_status(),
        ),
        "trackedruns.yaml": _crd(
            "TrackedRun", "trackedruns", "trun", "Namespaced", _RUN_COLUMNS,
            "One run in one target: what was meant, how far it is, where it is seen. The operator writes it.",
            schema_of(TrackedRunSpec, rules=False, defaults=False), _run_status(),
        ),
    }  # fmt: skip


def to_yaml(crd: Mapping[str, Any]) -> str:
    """A CRD as its file holds it."""
    return _HEADER + yaml.dump(crd, Dumper=_Plain, sort_keys=False, width=120, allow_unicode=True)


class _Plain(yaml.SafeDumper):
    """Without anchors: people read these files."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _target_status() -> dict[str, Any]:
    """Until the operator has looked, ``kubectl get tt`` says so (as Gateway API's kinds do)."""
    status = schema_of(TargetStatus, defaults=False)
    said = {"reason": "Pending", "message": "the operator has not looked at it yet", "observedGeneration": 0}
    waiting = [
        {"type": kind, "status": "Unknown", **said, "lastTransitionTime": _NEVER}
        for kind in ("Accepted", "ResolvedRefs", "Reachable", "Ready")
    ]
    return status | {"default": {"conditions": waiting}}


def _run_status() -> dict[str, Any]:
    """A run whose status is still empty is Pending; the operator leaves defaults out."""
    status = schema_of(TrackedRunStatus, defaults=False)
    status["properties"]["phase"]["default"] = "Pending"
    return status | {"default": {"phase": "Pending"}}


def _crd(
    kind: str, plural: str, short: str, scope: str, columns: list[dict[str, Any]], about: str, spec: dict[str, Any],
    status: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}", "labels": {"app.kubernetes.io/part-of": "pipetrail"}},
        "spec": {
            "group": GROUP,
            "scope": scope,
            "names": {
                "kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": kind.lower(),
                "shortNames": [short], "categories": ["tracking"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": columns,
                    "schema": {
                        "openAPIV3Schema": {
                            "description": about,
                            "type": "object",
                            "required": ["spec"],
                            "properties": {
                                "apiVersion": {"type": "string"},
                                "kind": {"type": "string"},
                                "metadata": {"type": "object"},
                                "spec": spec,
                                "status": status,
                            },
                        }
                    },
                }
            ],
        },
    }  # fmt: skip
