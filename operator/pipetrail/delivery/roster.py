"""The roster: every target that exists, its lane, and what its conditions say.

A target is looked after by one task: it resolves the references, makes the connection, asks the tracker who it is, and
then lets the lane run. While something is wrong it looks again every 30 s, else every 5 minutes, so a rotated Secret
or a mended tracker needs no restart and no watch on Secrets.
"""

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

import msgspec
from msgspec import UNSET

from pipetrail import api, observe, targets
from pipetrail.api import (
    Backend,
    Backfill,
    Condition,
    ConfigMapKeyRef,
    SecretKeyRef,
    SyncCounts,
    TargetRef,
    TargetSpec,
    TargetStatus,
)
from pipetrail.delivery import ledger as ledgers
from pipetrail.delivery import standing
from pipetrail.delivery.courier import Courier
from pipetrail.delivery.lane import Lane, Permit, Verdict, always
from pipetrail.delivery.ledger import Ledger
from pipetrail.delivery.notices import condition, post_event
from pipetrail.kube import TRACKED_RUNS, ApiError, Kube, KubeError
from pipetrail.settings import Settings
from pipetrail.shards import WHOLE, Share
from pipetrail.targets.addresses import Addresses
from pipetrail.targets.target import Retry, Target, TargetError

LOOK_TROUBLED_S: Final = 30.0
LOOK_HEALTHY_S: Final = 300.0
STATUS_EVERY_S: Final = 30.0
SHOW_TRIES: Final = 5
Work = Callable[["Seat", str], Awaitable[Verdict]]


class RefError(Exception):
    """A reference of the target leads nowhere: `reason` as the condition ResolvedRefs says it."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


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


class Roster:
    """Keeps a seat, a lane and an attendant task per target. `work` delivers one run for one seat."""

    def __init__(
        self, kube: Kube, ledger: Ledger, settings: Settings, work: Work, addresses: Addresses, permit: Permit = always,
        share: Share = WHOLE,
    ) -> None:  # fmt: skip
        self._kube = kube
        self._ledger = ledger
        self._settings = settings
        self._work = work
        self._addresses = addresses
        self._permit = permit
        self._share = share
        self._seats: dict[TargetRef, Seat] = {}
        self._tasks: dict[TargetRef, asyncio.Task[None]] = {}
        self._invalid: dict[TargetRef, tuple[str, int]] = {}  # of which edit we said so

    def seats(self) -> tuple[Seat, ...]:
        """All targets, namespaced ones first: they take a run before a cluster's target of the same address."""
        return tuple(sorted(self._seats.values(), key=lambda s: s.ref.kind, reverse=True))

    def over(self, namespace: str) -> tuple[Seat, ...]:
        """Targets that might take runs of `namespace`."""
        return tuple(s for s in self.seats() if s.ref.namespace in ("", namespace))

    def get(self, ref: TargetRef) -> Seat | None:
        """One target, if it exists."""
        return self._seats.get(ref)

    def upsert(self, found: api.FoundTarget) -> bool:
        """A target was added or changed. True if runs have to be looked at again."""
        seat = self._seats.get(found.ref)
        if seat is None:
            seat = self._seats[found.ref] = self._seated(found)
            self._tasks[found.ref] = asyncio.create_task(self._serve(seat), name=f"target {found.ref}")
            return True
        if not _newer(found, seat.found):
            return False
        seat.found = found
        concurrency, rate = standing.part(found.spec.delivery, self._share.of if seat.shared else 1)
        seat.lane.limit(concurrency=concurrency, requests_per_second=rate)
        seat.lane.halt()
        seat.courier = seat.trouble = None
        seat.stir.set()
        return True

    def confirms(self, found: api.FoundTarget) -> bool:
        """True if someone confirmed, on the edit of a target that we know, that what is held is to be closed.

        Annotations are no edit of their own; so the wish for a backfill is taken in here as well.
        """
        seat = self._seats.get(found.ref)
        if seat is None or (found.uid, found.generation) != (seat.found.uid, seat.found.generation):
            return False
        before = seat.close_confirmed
        seat.found = msgspec.structs.replace(seat.found, confirmed=found.confirmed, backfill=found.backfill)
        return seat.close_confirmed and not before

    def _seated(self, found: api.FoundTarget) -> Seat:
        seat: Seat
        concurrency, rate = standing.part(found.spec.delivery, 1 if found.ref.namespace else self._share.of)
        lane = Lane(
            lambda key: self._work(seat, key), concurrency=concurrency, requests_per_second=rate, permit=self._permit
        )
        lane.halt()
        seat = Seat(found, lane, self._share)
        return seat

    async def invalid(self, invalid: api.InvalidTarget, ending: Coroutine[Any, Any, None]) -> None:
        """A target that no version of ours can read: say so on the object, once. `ending` is :meth:`remove`'s."""
        told = (invalid.uid, invalid.generation)
        if self._invalid.get(invalid.ref) == told:
            ending.close()
            return  # what we wrote on it came back as an event
        self._invalid[invalid.ref] = told
        await ending
        if self._seats.get(invalid.ref) is not None:
            return  # mended meanwhile
        if not self._speaks(invalid.ref):
            return
        accepted = condition("Accepted", "False", invalid.reason, invalid.message, invalid.generation, None)
        ready = condition("Ready", "False", invalid.reason, invalid.message, invalid.generation, None)
        status = TargetStatus(observed_generation=invalid.generation, conditions=(accepted, ready))
        if not await self._patch(invalid.ref, status):
            self._invalid.pop(invalid.ref, None)

    def remove(self, ref: TargetRef) -> Coroutine[Any, Any, None]:
        """A target is gone: from now on nothing is started for it. What is returned waits for what is under way.

        It is gone at once, not when someone has waited: one that is made anew meanwhile has a seat of its own.
        """
        seat, task = self._seats.pop(ref, None), self._tasks.pop(ref, None)
        if task is not None:
            task.cancel()
            self._invalid.pop(ref, None)
        return self._end(seat, task)

    async def _end(self, seat: Seat | None, task: asyncio.Task[None] | None) -> None:
        if task is not None:
            await asyncio.wait([task], timeout=5)
        if seat is not None and seat.target is not None:
            await seat.target.close()

    async def close(self) -> None:
        """Stop every lane and give the connections back."""
        for ref in list(self._seats):
            await self.remove(ref)

    def troubled(self, seat: Seat, trouble: TargetError) -> None:
        """A delivery met something that concerns the whole target: look after it now."""
        seat.trouble = trouble
        seat.courier = None
        seat.lane.halt()
        seat.stir.set()

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

    async def _serve(self, seat: Seat) -> None:
        lane = asyncio.create_task(seat.lane.run(), name=f"lane {seat.ref}")
        try:
            while True:
                seat.stir.clear()  # before the look: an edit or a trouble that comes during it asks for another
                try:
                    healthy = await self._attend(seat)
                except Exception as error:  # noqa: BLE001  an attendant that dies would leave its target alone for ever
                    observe.count("handler_errors")
                    observe.log().error("target not looked after", target=str(seat.ref), error=observe.where(error))
                    healthy = False
                try:
                    async with asyncio.timeout(LOOK_HEALTHY_S if healthy else LOOK_TROUBLED_S):
                        await seat.stir.wait()
                except TimeoutError:
                    pass
        finally:
            lane.cancel()
            await asyncio.wait([lane], timeout=5)

    async def _attend(self, seat: Seat) -> bool:
        """One look at a target: true if it works. Never raises: what is wrong becomes a condition."""
        if seat.trouble is not None:
            trouble, seat.trouble = seat.trouble, None
            await self._say(seat, trouble.reason, trouble.message)
            # What the tracker refused a moment ago it will refuse again: give it its 30 s.
            return False
        if seat.spec.suspend:
            seat.lane.halt()
            await self._say(seat, "Suspended", "spec.suspend is true: runs wait, nothing is sent")
            return True
        found = seat.found
        resolved: list[str] = []

        async def resolve(ref: SecretKeyRef | ConfigMapKeyRef) -> str:
            resolved.append(await self._resolve(seat, ref))
            return resolved[-1]

        try:
            connected = await targets.connect(found.spec.backend, resolve, self._site(seat))
        except RefError as error:
            # Without its Secret a target must not go on with what the Secret held.
            seat.courier = None
            seat.lane.halt()
            await self._say(seat, error.reason, str(error), resolved=False)
            return False
        except KubeError as error:
            observe.log().warning("references not read", target=str(seat.ref), cause=str(error))
            if seat.courier is None:
                await self._say(
                    seat, "Pending", f"the API server did not give what it refers to: {error}", resolved=False
                )
            return False
        except TargetError as error:
            await self._say(seat, error.reason, error.message)
            return False
        made_of = (found.spec.backend, tuple(resolved))
        if seat.target is not None and seat.courier is not None and seat.made_of == made_of:
            await connected.close()
            connected = seat.target  # nothing changed: calls under way keep their connection
        version = seat.version
        try:
            version = (await connected.check()).version
        except Retry as error:
            # It may be back any moment, and lane's breaker probes more often than we look: let it.
            healthy, reason, message = False, "Unreachable", error.message
        except TargetError as error:
            seat.courier = None
            seat.lane.halt()
            if connected is not seat.target:
                await connected.close()
            await self._say(seat, error.reason, error.message)
            return False
        except BaseException:
            if connected is not seat.target:
                await connected.close()
            raise
        else:
            healthy, reason, message = True, "Ready", "runs are recorded as they complete"
        if (seat.found.uid, seat.found.generation) != (found.uid, found.generation):
            if connected is not seat.target:
                await connected.close()  # it leads to where the target led before an edit: look again, at once
            return False
        seat.version, seat.trouble = version, None  # a trouble that came meanwhile was the old connection's
        if connected is not seat.target:
            old, seat.target, seat.made_of = seat.target, connected, made_of
            seat.courier = Courier(connected, self._ledger, seat.lane.limiter, observe.count)
            if old is not None:
                await old.close()
        if seat.lane.halted or healthy:
            seat.lane.resume()
        await self._say(seat, reason, message)
        return healthy

    def _site(self, seat: Seat) -> targets.Site:
        return targets.Site(
            namespace=seat.ref.namespace, tensorboard_root=self._settings.tensorboard_root, addresses=self._addresses
        )

    async def _resolve(self, seat: Seat, ref: SecretKeyRef | ConfigMapKeyRef) -> str:
        """The text behind a reference, in the target's namespace or, for the cluster's kind, the operator's."""
        namespace = seat.ref.namespace or self._settings.namespace
        kind, plural = ("Secret", "secrets") if isinstance(ref, SecretKeyRef) else ("ConfigMap", "configmaps")
        where = f"{kind} {ref.name} in namespace {namespace}"
        try:
            body = await self._kube.get(f"/api/v1/namespaces/{namespace}/{plural}/{ref.name}")
        except ApiError as error:
            if error.status == 404:
                raise RefError(f"{kind}NotFound", f"there is no {where}: create it, or mend the reference") from None
            if error.status != 403:
                raise
            raise RefError(
                "RefForbidden", f"the operator may not read {where}: bind ClusterRole pipetrail-references there"
            ) from None
        value = (body.get("data") or {}).get(ref.key)
        if value is None:
            there = ", ".join(sorted(body.get("data") or {})) or "none"
            raise RefError(f"{kind}KeyNotFound", f"{where} has no key {ref.key!r} (it has: {there})")
        if kind == "ConfigMap":
            return str(value)
        try:
            return base64.b64decode(value).decode().strip()
        except (binascii.Error, UnicodeDecodeError):
            raise RefError("SecretKeyNotFound", f"{where}: key {ref.key!r} is not text") from None

    async def _say(self, seat: Seat, reason: str, message: str, *, resolved: bool = True) -> None:
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
                body = await self._kube.get(path(seat.ref))
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
                    await self._kube.patch(f"{path(seat.ref)}/status", patch)
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
            await self._kube.patch(f"{path(ref)}/status", {"status": shown})
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


def _held_by(found: api.FoundTarget, shard: int) -> Condition | None:
    """What this shard held before, of a target that it shares."""
    for each in found.shards:
        if each.shard == shard and each.held_since:
            return Condition(
                type=api.HELD, status="True", reason=api.HELD, message=each.message,
                last_transition_time=each.held_since,
            )  # fmt: skip
    return None


def _newer(found: api.FoundTarget, known: api.FoundTarget) -> bool:
    """Events of one object come in order, those of two that had one name after another may not."""
    if found.uid == known.uid:
        return found.generation > known.generation
    return found.created >= known.created


def path(ref: TargetRef) -> str:
    """Where a target stands in the API."""
    if ref.kind == "ClusterTrackingTarget":
        return f"{TRACKED_RUNS}/clustertrackingtargets/{ref.name}"
    return f"{TRACKED_RUNS}/namespaces/{ref.namespace}/trackingtargets/{ref.name}"
