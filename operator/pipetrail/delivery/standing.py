"""A cluster's target that several operators serve: what each says of it, and what is said of it as a whole. Pure."""

from collections.abc import Sequence
from math import ceil
from typing import Final

from pipetrail.api import HELD, Condition, ShardStatus, SyncCounts
from pipetrail.api import Delivery as Limits

MAX_TEXT: Final = 300


def part(limits: Limits, shards: int) -> tuple[int, float]:
    """Calls at a time and requests per second for one of `shards`: of the rate an equal part, of the calls at least
    one.
    """
    return ceil(limits.concurrency / shards), limits.requests_per_second / shards


def entry(shard: int, ready: Condition | None, hold: Condition | None, sync: SyncCounts) -> ShardStatus:
    """What shard `shard` says."""
    said = hold or ready
    return ShardStatus(
        shard=shard, ready="Unknown" if ready is None else ready.status, reason="" if ready is None else ready.reason,
        message="" if said is None else said.message[:MAX_TEXT],
        held_since="" if hold is None else hold.last_transition_time, sync=sync,
    )  # fmt: skip


def joined(there: Sequence[ShardStatus], mine: ShardStatus, shards: int) -> tuple[ShardStatus, ...]:
    """What stands there with `mine` in its place, without shards that are no more."""
    kept = {each.shard: each for each in there if each.shard < shards} | {mine.shard: mine}
    return tuple(kept[number] for number in sorted(kept))


def total(shards: Sequence[ShardStatus]) -> SyncCounts:
    """Runs of all shards."""
    return SyncCounts(
        synced=sum(each.sync.synced for each in shards), pending=sum(each.sync.pending for each in shards),
        failed=sum(each.sync.failed for each in shards), last_sync=max((s.sync.last_sync for s in shards), default=""),
    )  # fmt: skip


def held(shards: Sequence[ShardStatus], generation: int) -> Condition | None:
    """The condition MassOrphanGuard of the whole, if any shard holds runs: since the last of them began to.

    So who confirms it confirms what each holds at that time, and nothing later.
    """
    holding = [each for each in shards if each.held_since]
    if not holding:
        return None
    return Condition(
        type=HELD, status="True", reason=HELD, message="; ".join(each.message for each in holding)[:1000],
        observed_generation=generation, last_transition_time=max(each.held_since for each in holding),
    )  # fmt: skip
