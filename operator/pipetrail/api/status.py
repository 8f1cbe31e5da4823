"""What the operator says of a target: conditions, and counts at most every 30 s. Live numbers belong to metrics."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from pipetrail.api.backfill import Backfill
from pipetrail.api.conditions import ConditionType
from pipetrail.api.model import Model, doc, listed


class Condition(Model, frozen=True, kw_only=True, omit_defaults=False):
    """Kubernetes' condition; docs/conditions.md lists every reason and what to do about it."""

    type: Annotated[ConditionType, doc("What is said of the target.")]
    status: Annotated[Literal["True", "False", "Unknown"], doc("Whether it holds.")]
    reason: Annotated[str, doc("Why, in one word: docs/conditions.md says what to do.", min_length=1, max_length=1024)]
    message: Annotated[str, doc("Why, and the next step, for people.", max_length=32768)] = ""
    observed_generation: Annotated[int, doc("The target's generation that this is about.", ge=0)] = 0
    last_transition_time: Annotated[
        str,
        Meta(
            description="Since when the status is what it is.", max_length=40, extra_json_schema={"format": "date-time"}
        ),
    ]


class SyncCounts(Model, frozen=True, kw_only=True, omit_defaults=False):
    """Runs of this target, counted at most every 30 s. Zeros are written: a merge patch keeps what it does not name."""

    synced: Annotated[int, doc("Runs that are complete in the tracker.", ge=0)] = 0
    pending: Annotated[int, doc("Runs that still have something to send.", ge=0)] = 0
    failed: Annotated[int, doc("Runs that were given up; kubectl get trun shows why.", ge=0)] = 0
    last_sync: Annotated[str, doc("When a run was last completed.", max_length=40)] = ""


class ShardStatus(Model, frozen=True, kw_only=True, omit_defaults=False):
    """How a cluster's target stands with one of several operators, which each have a part of the namespaces."""

    shard: Annotated[int, doc("Which one, from 0 on.", ge=0, le=63)]
    ready: Annotated[Literal["True", "False", "Unknown"], doc("Whether it records runs there.")] = "Unknown"
    reason: Annotated[str, doc("Why, in one word: docs/conditions.md says what to do.", max_length=1024)] = ""
    message: Annotated[str, doc("Why, and the next step, for people.", max_length=1024)] = ""
    held_since: Annotated[str, doc("Since when runs that are gone are not closed; empty if none.", max_length=40)] = ""
    sync: Annotated[SyncCounts, doc("Runs of its namespaces.")] = SyncCounts()


class TargetStatus(Model, frozen=True, kw_only=True, omit_defaults=False):
    """What the operator knows of a target."""

    observed_generation: Annotated[int, doc("The generation that was last looked at.", ge=0)] = 0
    conditions: Annotated[
        tuple[Condition, ...],
        listed(
            "Accepted, ResolvedRefs, Reachable and, as their sum, Ready; MassOrphanGuard while it holds.",
            most=8,
            kind="map",
            key="type",
        ),
    ] = ()
    backend: Annotated[str, doc("The kind of tracker.", max_length=63)] = ""
    version: Annotated[str, doc("The tracker's version, as it says itself.", max_length=200)] = ""
    sync: Annotated[SyncCounts, doc("Runs of this target.")] = SyncCounts()
    backfill: Annotated[Backfill, doc("The last backfill of this target.")] | UnsetType = UNSET
    shards: Annotated[
        tuple[ShardStatus, ...],
        listed("Of a cluster's target: each shard, if there are several.", most=64, kind="map", key="shard"),
    ] = ()
