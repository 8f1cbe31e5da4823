"""A seat: one target, its lane, and the connection while there is one."""

import asyncio

from pipetrail import api
from pipetrail.api import Backend, Condition, SyncCounts, TargetRef, TargetSpec, TargetStatus
from pipetrail.delivery import ledger as ledgers
from pipetrail.delivery.courier import Courier
from pipetrail.delivery.lane import Lane
from pipetrail.shards import WHOLE, Share
from pipetrail.targets.target import Target, TargetError


class Seat:
    """One target: its spec as we last saw it, its lane, and the connection while there is one."""

    def __init__(self, found: api.FoundTarget, lane: Lane, share: Share = WHOLE) -> None:
        self.found = found
        self.lane = lane
        self.shared = share.of > 1 and not found.ref.namespace
        self.target: Target | None = None
        self.made_of: tuple[Backend, tuple[str, ...]] | None = None  # what `target` was connected with
        self.courier: Courier | None = None
        self.version = ""
        hold = _held_by(found, share.number) if self.shared else found.hold
        self.conditions: dict[str, Condition] = {} if hold is None else {api.HELD: hold}
        self.counts = SyncCounts()
        self.backfill = found.backfilled
        """How far its last backfill is; null if there was none."""
        self.written: TargetStatus | None = None
        self.stir = asyncio.Event()
        self.trouble: TargetError | None = None

    @property
    def ref(self) -> TargetRef:
        """The target's identity."""
        return self.found.ref

    @property
    def spec(self) -> TargetSpec:
        """What it asks for."""
        return self.found.spec

    @property
    def hold(self) -> Condition | None:
        """Why runs of its that are gone are not closed; null if none are held."""
        return self.conditions.get(api.HELD)

    @property
    def said_ready(self) -> bool:
        """The condition Ready is True."""
        said = self.conditions.get("Ready")
        return said is not None and said.status == "True"

    @property
    def close_confirmed(self) -> bool:
        """Someone confirmed that what is held now is to be closed."""
        if self.hold is None:
            return False
        since = self.hold.last_transition_time
        # What several shards hold is confirmed by the time of the last of them.
        return self.found.confirmed == since or (self.shared and since <= self.found.confirmed <= ledgers.now())

    @property
    def ready(self) -> bool:
        """True if deliveries are running."""
        return self.courier is not None and not self.lane.halted


def _held_by(found: api.FoundTarget, shard: int) -> Condition | None:
    """What this shard held before, of a target that it shares."""
    for each in found.shards:
        if each.shard == shard and each.held_since:
            return Condition(
                type=api.HELD, status="True", reason=api.HELD, message=each.message,
                last_transition_time=each.held_since,
            )  # fmt: skip
    return None
