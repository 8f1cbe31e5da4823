"""Who of several operators looks after which namespaces, and how a namespace goes from one to another (ADR 0009).

One ConfigMap says how the namespaces are cut. Shard 0 alone writes it; each writing has a higher epoch. Shard i holds a
Lease of its own, and says in it which epoch it has let go for: an acknowledgement that it sends nothing any more under
an earlier one. A shard begins an epoch when every other shard's Lease has said so, has run out or is free. So for no
namespace two of them send at once, whatever dies or wakes; the claim on each TrackedRun is the second line.

What a shard left (where its watches stood) is taken up by all that begin: deletions of the moment in which nobody
watched are told to whoever has the namespace then.

Polled, not watched: each shard writes its Lease every few seconds anyway, and a question without an answer is noticed.
"""

import asyncio
from collections.abc import Mapping
from typing import Final

import msgspec

from pipetrail import observe
from pipetrail.controller import bookmarks
from pipetrail.controller.alone import Alone
from pipetrail.controller.bookmarks import Versions
from pipetrail.controller.lease import RENEW_S, Beside, Lease
from pipetrail.controller.plans import Plan, Plans
from pipetrail.controller.stands import (
    ANNOTATION,
    POLL_S,
    Beginning,
    Stand,
    earliest,
    fresh,
    name_of,
    stand_of,
    text_of,
)
from pipetrail.kube import ApiError, Kube, KubeError
from pipetrail.settings import Settings
from pipetrail.shards import kept

RECUT_EVERY_S: Final = 600.0


class Several:
    """Shard `number`. Shard 0 writes the plan, for `shards` of them; what the others were told of that is no matter."""

    def __init__(self, kube: Kube, settings: Settings, lease: Lease, number: int) -> None:
        self._lease = lease
        self._number = number
        self._shards = settings.shards
        self._base = settings.lease
        self._plans = Plans(kube, settings)
        self._stand = Stand()
        self._inherited = False
        self._plan: Plan | None = None
        self._marks: dict[str, str] = {}
        self._sure_at = -1  # of which taking of the Lease we know that the plan is still the same
        self._sure = asyncio.Event()
        self._told = ""
        self._recut_at = 0.0
        self.waits_for = ""
        """Why it has not begun; empty if it has, or has nothing to do."""
        self.idle = False
        """There are fewer shards than its number: it has nothing to do, and that is well."""

    # --- what the parts ask ---------------------------------------------------------------------------------------

    async def permit(self) -> None:
        """The last thing before each call to a tracker: the Lease is ours and, since it is, the plan is the same."""
        while True:
            await self._lease.permit()
            if self._sure_at == self._lease.takings:
                return
            self._sure.clear()
            await self._sure.wait()

    def annotations(self, marks: Mapping[str, str]) -> dict[str, str]:
        """What the Lease carries."""
        return {**marks, ANNOTATION: text_of(self._stand)}

    async def begin(self) -> Beginning:
        """Wait until there is a share for us and nobody else sends for it."""
        await self._lease.permit()
        if not self._inherited:
            self._inherited = True
            self._stand = stand_of(self._lease.found) or Stand()
            ran = self._stand.term == self._stand.epoch
            self._marks = dict(bookmarks.read(self._lease.found) if ran else self._stand.left)
            self._lease.leave = lambda: self.annotations({})
        while True:
            try:
                found = await self._once()
            except KubeError as error:
                if isinstance(error, ApiError) and error.status in (401, 403):
                    raise KubeError(f"{error}: apply deploy/kustomize/overlays/sharded") from None
                found = str(error)
            if isinstance(found, Beginning):
                self.waits_for, self.idle = "", False
                return found
            self.waits_for = found
            if found != self._told:
                self._told = found
                observe.log().info("waiting", shard=self._number, cause=found or "there are fewer shards")
            await asyncio.sleep(POLL_S)

    def began(self) -> None:
        """Watches and deliveries run: this epoch is begun."""
        assert self._plan is not None
        self._stand = msgspec.structs.replace(self._stand, term=self._plan.epoch)
        self._recut_at = _now() + RECUT_EVERY_S

    def let_go(self, left: Versions) -> None:
        """Nothing is sent any more; so far the watches had come."""
        text = bookmarks.text(left)
        self._marks = dict(left) if text else {}
        self._plan = None
        self._sure_at = -1
        self._lease.leave = lambda: {**self.annotations({}), bookmarks.ANNOTATION: text}

    async def moved(self) -> None:
        """Wait until the plan is another one than that which we began."""
        while True:
            await asyncio.sleep(RENEW_S if self._sure_at == self._lease.takings else POLL_S)
            taking = self._lease.takings
            try:
                plan = await self._plans.read(self._stand.epoch)
                alone = await self._alone()
                if plan is None or self._plan is None or plan.epoch != self._plan.epoch or alone:
                    return
                if self._lease.held:
                    self._sure_at = taking
                    self._sure.set()
                if self._number == 0 and _now() >= self._recut_at:
                    self._recut_at = _now() + RECUT_EVERY_S
                    await self._recut(plan)
            except KubeError as error:
                observe.log().warning("shards not looked at", cause=str(error))

    # --- beginning ------------------------------------------------------------------------------------------------

    async def _once(self) -> Beginning | str:
        """The beginning, or what is waited for (empty if there is nothing for us to do)."""
        if await self._alone():
            return await self._rest("an operator without shards holds the Lease")
        taking = self._lease.takings
        plan = await self._plans.read(self._stand.epoch)
        if self._number == 0 and (plan is None or not plan.cut.sound or self._stand.epoch == 0):
            plan = await self._first(plan)
        if plan is None:
            return await self._rest("shard 0 has not cut the namespaces yet")
        share = plan.cut.share(self._number)
        await self._acknowledge(plan, free=share is None)
        if await self._alone():
            return await self._rest("an operator without shards holds the Lease")
        stands = await self._stands(plan)
        if isinstance(stands, str):
            return stands
        # Who did not see us acknowledge had the next epoch before we did.
        again = await self._plans.read(self._stand.epoch)
        if again is None or again.epoch != plan.epoch:
            return "a new cut is acknowledged"
        start = self._start(plan, stands)
        if self._number == 0 and plan.cut.shards != self._shards:
            slow = [j for j, (_, s) in stands.items() if plan.cut.share(j) is not None and s.term != plan.epoch]
            live = [j for j in slow if stands[j][0].live]
            if live:
                return f"shard {live[0]} has not begun epoch {plan.epoch}"
            self._marks = dict(start)
            self._stand = msgspec.structs.replace(self._stand, term=plan.epoch)
            await self._plans.write(plan, await self._plans.runs(), before=plan.cut.shards)
            return "a new cut is written"
        if share is None:
            self.idle = True
            return ""
        self.idle = False
        if self._lease.takings != taking or not self._lease.held:
            return "the Lease was not ours all the time"
        self._plan, self._sure_at = plan, taking
        observe.log().info(
            "shard begins", shard=self._number, shards=share.of, epoch=plan.epoch,
            low=f"{share.low:#018x}", high=f"{share.high:#018x}",
        )  # fmt: skip
        return Beginning(share=share, start_at=start)

    async def _rest(self, why: str) -> str:
        """We have nothing, and say so."""
        self.idle = self._number > 0
        if not self._stand.free:
            self._stand = msgspec.structs.replace(self._stand, free=True)
            await self._lease.say()
        return why

    async def _acknowledge(self, plan: Plan, *, free: bool) -> None:
        """Say that we send nothing of before, and from where on what we had is to be watched."""
        if self._stand.epoch == plan.epoch and self._stand.free == free and self._stand.span == plan.span:
            return
        ran = self._stand.epoch != plan.epoch
        left = {**self._marks} if ran else self._stand.left
        self._stand = Stand(
            epoch=plan.epoch, term=self._stand.term, shards=plan.cut.shards, span=plan.span, free=free, left=left
        )  # fmt: skip
        await self._lease.say()

    async def _stands(self, plan: Plan) -> dict[int, tuple[Beside, Stand]] | str:
        """All other shards' Leases; or, if one of them may still send under another epoch, which."""
        found: dict[int, tuple[Beside, Stand]] = {}
        for number in range(max(plan.span, plan.cut.shards)):
            if number == self._number:
                continue
            name = name_of(self._base, number)
            beside = await self._lease.beside(name)
            stand = stand_of(beside.annotations) or Stand()
            if beside.live and stand.epoch < plan.epoch and not stand.free:
                return f"the Lease {name}, which {beside.holder} holds, has not acknowledged epoch {plan.epoch}"
            found[number] = beside, stand
        return found

    def _start(self, plan: Plan, stands: Mapping[int, tuple[Beside, Stand]]) -> Versions:
        """From where to watch: where we were in this same epoch, or where all that had a share before it let go."""
        if self._stand.term == plan.epoch:
            return self._marks
        found: list[Versions] = [self._stand.left] if self._number < plan.before else []
        for number, (beside, stand) in stands.items():
            if number < plan.before:
                found.append(stand.left if stand.epoch >= plan.epoch else fresh(beside))
        return earliest(found)

    async def _alone(self) -> bool:
        """True if an operator without shards has the first Lease: it looks after everything."""
        if self._number == 0:
            return False
        first = await self._lease.beside(self._base)
        stand = stand_of(first.annotations)
        return first.live and (stand is None or stand.shards <= 1)

    # --- the plan -------------------------------------------------------------------------------------------------

    async def _first(self, found: Plan | None) -> Plan:
        """The first epoch after an operator without shards, or after the ConfigMap was lost: higher than any."""
        found = found or Plan(epoch=0)
        others = range(1, max(self._stand.span, found.span, self._shards))
        stands = [stand_of((await self._lease.beside(name_of(self._base, j))).annotations) for j in others]
        known: list[Plan | Stand] = [found, self._stand, *(stand for stand in stands if stand is not None)]
        found = Plan(
            epoch=max(each.epoch for each in known), span=max(each.span for each in known), edges=found.edges
        )  # fmt: skip
        return await self._plans.write(found, await self._plans.runs(), before=max(1, self._stand.shards))

    async def _recut(self, plan: Plan) -> None:
        """Cut anew if that is worth it, once all have begun what was cut before."""
        runs = await self._plans.runs()
        if kept(plan.cut, runs, self._shards) == plan.cut:
            return
        stands = await self._stands(plan)
        if isinstance(stands, str) or any(
            b.live and s.term != plan.epoch for j, (b, s) in stands.items() if plan.cut.share(j) is not None
        ):
            return
        await self._plans.write(plan, runs, before=plan.cut.shards)


Shares = Alone | Several


def shares(kube: Kube, settings: Settings, lease: Lease | None) -> Shares:
    """Who looks after what, as the settings say."""
    if lease is None or (settings.shard == 0 and settings.shards == 1):
        return Alone(lease)
    return Several(kube, settings, lease, settings.shard)


def _now() -> float:
    return asyncio.get_running_loop().time()
