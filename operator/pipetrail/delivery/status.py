"""What is said of a target: conditions, counts and backfill in its status, one Event and one log line a transition."""

from typing import Any, Final

from msgspec import UNSET

from pipetrail import api, observe
from pipetrail.api import Backfill, SyncCounts, TargetRef, TargetStatus
from pipetrail.delivery import standing
from pipetrail.delivery.notices import condition, post_event
from pipetrail.delivery.seat import Seat
from pipetrail.kube import TRACKED_RUNS, ApiError, Kube, KubeError
from pipetrail.shards import WHOLE, Share

STATUS_EVERY_S: Final = 30.0
SHOW_TRIES: Final = 5


class StatusWriter:
    """Writes the status of targets, as the one shard of `share` that looks after them or, with others, its part."""

    def __init__(self, kube: Kube, share: Share = WHOLE) -> None:
        self._kube = kube
        self._share = share

    async def say(self, seat: Seat, reason: str, message: str, *, resolved: bool = True) -> None:
        """Conditions and, on a transition, one Event and one log line."""
        generation = seat.found.generation
        good = reason in ("Ready", "Suspended")
        refs = ("True", "ResolvedRefs", "") if resolved else ("False", reason, message)
        reach = (
            ("True", "Reachable", f"version {seat.version}") if reason == "Ready"
            else ("Unknown", "Pending", "") if reason == "Suspended" or not resolved
            else ("False", reason, message)
        )  # fmt: skip
        ready = ("True" if reason == "Ready" else "False", reason, message)
        before = seat.conditions.get("Ready")
        for kind, (status, why, text) in (
            ("Accepted", ("True", "Accepted", "")), ("ResolvedRefs", refs), ("Reachable", reach), ("Ready", ready),
        ):  # fmt: skip
            seat.conditions[kind] = condition(kind, status, why, text, generation, seat.conditions.get(kind))
        if before is None or (before.status, before.reason) != (ready[0], reason):
            observe.log().info("target", target=str(seat.ref), ready=ready[0], reason=reason, cause=message)
            if self._speaks(seat.ref):
                await self._event(seat, "Normal" if good else "Warning", reason, message)
        await self._show(seat)

    async def count(self, seat: Seat, counts: SyncCounts) -> None:
        """Show how many runs are where (the caller asks for this at most every 30 s)."""
        seat.counts = counts
        await self._show(seat)

    async def backfilled(self, seat: Seat, said: Backfill) -> None:
        """Show how far a backfill is (the caller asks for this every few seconds at most)."""
        seat.backfill = said
        await self._show(seat)

    async def hold(self, seat: Seat, message: str) -> None:
        """Say on a target that runs of its that are gone are not closed; with an empty `message`: that this is over."""
        before = seat.hold
        if message:
            seat.conditions[api.HELD] = condition(api.HELD, "True", api.HELD, message, seat.found.generation, before)
        elif before is not None:
            del seat.conditions[api.HELD]
        if bool(message) != (before is not None):
            observe.log().warning("orphans", target=str(seat.ref), held=bool(message), cause=message)
            if message:
                await self._event(seat, "Warning", api.HELD, message)
            else:
                await self._event(seat, "Normal", "MassOrphanGuardLifted", "no runs of this target are held any more")
        if seat.hold != before:
            await self._show(seat)

    async def refuse(self, invalid: api.InvalidTarget) -> bool:
        """Say of a target that no version of ours can read what is wrong. False if that could not be written."""
        if not self._speaks(invalid.ref):
            return True
        accepted = condition("Accepted", "False", invalid.reason, invalid.message, invalid.generation, None)
        ready = condition("Ready", "False", invalid.reason, invalid.message, invalid.generation, None)
        status = TargetStatus(observed_generation=invalid.generation, conditions=(accepted, ready))
        return await self._patch(invalid.ref, status)

    def _speaks(self, ref: TargetRef) -> bool:
        """Of several shards one says how a cluster's target stands; a namespace's target has one shard alone."""
        return bool(ref.namespace) or self._share.speaks_for(ref.name)

    async def _show(self, seat: Seat) -> None:
        if seat.shared:
            await self._show_part(seat)
            return
        status = TargetStatus(
            observed_generation=seat.found.generation, conditions=tuple(seat.conditions.values()),
            backend=seat.spec.backend.kind, version=seat.version, sync=seat.counts,
            backfill=UNSET if seat.backfill is None else seat.backfill,
        )  # fmt: skip
        if status != seat.written and await self._patch(seat.ref, status):
            seat.written = status

    async def _show_part(self, seat: Seat) -> None:
        """What this shard has to say of a cluster's target and, if it speaks for all, what that comes to."""
        share = self._share
        mine = standing.entry(share.number, seat.conditions.get("Ready"), seat.hold, seat.counts)
        try:
            for _ in range(SHOW_TRIES):
                body = await self._kube.get(_path(seat.ref))
                shards = standing.joined(api.shards_of(body), mine, share.of)
                shown: dict[str, Any] = {"shards": [api.to_json(each) for each in shards]}
                if self._speaks(seat.ref):
                    hold = standing.held(shards, seat.found.generation)
                    own = tuple(c for c in seat.conditions.values() if c.type != api.HELD)
                    status = TargetStatus(
                        observed_generation=seat.found.generation, conditions=own if hold is None else (*own, hold),
                        backend=seat.spec.backend.kind, version=seat.version, sync=standing.total(shards),
                    )  # fmt: skip
                    shown = {**api.to_json(status), **shown}
                there = body.get("status") or {}
                if all(there.get(name) == value for name, value in shown.items()):
                    return
                patch = {"metadata": {"resourceVersion": body["metadata"]["resourceVersion"]}, "status": shown}
                try:
                    await self._kube.patch(f"{_path(seat.ref)}/status", patch)
                except ApiError as error:
                    if error.status != 409:
                        raise
                    continue  # another shard wrote meanwhile
                return
        except KubeError as error:
            observe.log().warning("status not written", target=str(seat.ref), cause=str(error))

    async def _patch(self, ref: TargetRef, status: TargetStatus) -> bool:
        try:
            shown = api.to_json(status)
            if ref.namespace or self._share.of > 1:
                del shown["shards"]
            else:
                shown["shards"] = None  # of several operators that were
            await self._kube.patch(f"{_path(ref)}/status", {"status": shown})
        except KubeError as error:
            observe.log().warning("status not written", target=str(ref), cause=str(error))
            return False
        return True

    async def _event(self, seat: Seat, kind: str, reason: str, message: str) -> None:
        involved = {
            "apiVersion": api.API_VERSION, "kind": seat.ref.kind, "name": seat.ref.name, "uid": seat.found.uid,
            **({"namespace": seat.ref.namespace} if seat.ref.namespace else {}),
        }  # fmt: skip
        await post_event(self._kube, seat.ref.namespace or "default", involved, kind, reason, message)


def _path(ref: TargetRef) -> str:
    """Where a target stands in the API."""
    if ref.kind == "ClusterTrackingTarget":
        return f"{TRACKED_RUNS}/clustertrackingtargets/{ref.name}"
    return f"{TRACKED_RUNS}/namespaces/{ref.namespace}/trackingtargets/{ref.name}"
