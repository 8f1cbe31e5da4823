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
import datetime as dt
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from pipetrail import observe
from pipetrail.api import GROUP
from pipetrail.controller import bookmarks
from pipetrail.controller.bookmarks import Versions
from pipetrail.controller.lease import RENEW_S, Beside, Lease
from pipetrail.kube import ARGO, ApiError, Kube, KubeError, collections
from pipetrail.record import Frozen
from pipetrail.settings import Settings
from pipetrail.shards import WHOLE, Cut, Share, kept

ANNOTATION: Final = f"{GROUP}/shard"
POLL_S: Final = 1.0
RECUT_EVERY_S: Final = 600.0
BLIND_S: Final = 60.0
"""Without the right to see the other shards' Leases an operator that is alone again waits this long: one that can read
its Lease lets go within 40 s, and one that can't has no Lease after 10."""
STALE_S: Final = 300.0
"""Where a Lease's watches stood is of no use any more: the API server has forgotten it."""


class Plan(Frozen, frozen=True):
    """What the ConfigMap holds: the cut's edges in hexadecimal, for JSON's readers know no whole numbers of 64 bits.

    Before this epoch there were `before` shards, and never more than `span`.
    """

    epoch: int
    edges: tuple[str, ...] = ()
    before: int = 1
    span: int = 1

    @property
    def cut(self) -> Cut:
        """Where the stretches meet; unsound if someone wrote what is no number."""
        try:
            return Cut(edges=tuple(int(edge, 16) for edge in self.edges))
        except ValueError:
            return Cut(edges=(-1,))


class Stand(Frozen, frozen=True):
    """What a shard says in its Lease.

    It sends nothing under epochs before `epoch`; the one it began last is `term`. `left` is where its watches stood
    when it let go. `shards` is 1 if it looks after everything; it has met up to `span` others. `free`: it has nothing.
    """

    epoch: int = 0
    term: int = 0
    shards: int = 0
    span: int = 1
    free: bool = False
    left: Mapping[str, str] = {}


class Beginning(Frozen, frozen=True):
    """What a shard may begin with: its share, and from where to watch."""

    share: Share
    start_at: Mapping[str, str] = {}


class Moved(Exception):
    """The namespaces are cut otherwise: let go."""


class Alone:
    """No shards: one operator with one Lease, or none. It waits for shards of before, if there were any."""

    def __init__(self, lease: Lease | None) -> None:
        self._lease = lease
        self._stand: str | None = None
        self.waits_for = ""
        self.idle = False

    async def permit(self) -> None:
        """The last thing before each call to a tracker."""
        if self._lease is not None:
            await self._lease.permit()

    async def begin(self) -> Beginning:
        """Wait until nobody else sends."""
        await self.permit()
        lease = self._lease
        if lease is None:
            return Beginning(share=WHOLE)
        start: list[Versions] = [bookmarks.read(lease.found)]
        before = _stand(lease.found)
        if before is None:
            return Beginning(share=WHOLE, start_at=start[0])
        self._stand = _text(Stand(shards=1, span=before.span))
        lease.leave = lambda: self.annotations({})
        await lease.say()
        try:
            for number in range(1, before.span):
                name = name_of(lease.name, number)
                start.append(_fresh(await self._let_go(lease, name)))
        except ApiError as error:
            if error.status not in (401, 403):
                raise
            observe.log().warning("waiting for shards", seconds=BLIND_S, cause=f"no right to see their Leases: {error}")
            await asyncio.sleep(BLIND_S)
        self.waits_for, self._stand = "", ""
        return Beginning(share=WHOLE, start_at=earliest(start))

    async def _let_go(self, lease: Lease, name: str) -> Beside:
        while True:
            try:
                beside = await lease.beside(name)
                if not beside.live or (_stand(beside.annotations) or Stand()).free:
                    return beside
                if self.waits_for != name:
                    self.waits_for = name
                    observe.log().warning("waiting for shards", lease=name, cause=f"{beside.holder} has it still")
            except KubeError as error:
                if isinstance(error, ApiError) and error.status in (401, 403):
                    raise
                observe.log().warning("waiting for shards", lease=name, cause=str(error))
            await asyncio.sleep(POLL_S)

    async def moved(self) -> None:
        """Never."""
        await asyncio.Event().wait()

    def began(self) -> None:
        """Watches and deliveries run."""

    def let_go(self, left: Versions) -> None:
        """Nothing to say."""

    def annotations(self, marks: Mapping[str, str]) -> dict[str, str]:
        """What the Lease carries: where the watches stand."""
        return {**marks, **({} if self._stand is None else {ANNOTATION: self._stand})}


class Several:
    """Shard `number`. Shard 0 writes the plan, for `shards` of them; what the others were told of that is no matter."""

    def __init__(self, kube: Kube, settings: Settings, lease: Lease, number: int) -> None:
        self._kube = kube
        self._lease = lease
        self._number = number
        self._shards = settings.shards
        self._namespaces = settings.watch_namespaces
        self._base = settings.lease
        self._configmaps = f"/api/v1/namespaces/{settings.namespace}/configmaps"
        self._name = f"{settings.lease}-shards"
        self._version = ""  # of the ConfigMap as it was read last
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
        return {**marks, ANNOTATION: _text(self._stand)}

    async def begin(self) -> Beginning:
        """Wait until there is a share for us and nobody else sends for it."""
        await self._lease.permit()
        if not self._inherited:
            self._inherited = True
            self._stand = _stand(self._lease.found) or Stand()
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
                plan = await self._read()
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
        plan = await self._read()
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
        again = await self._read()  # who did not see us acknowledge had the next epoch before we did
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
            await self._write(plan, await self._runs(), before=plan.cut.shards)
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
            stand = _stand(beside.annotations) or Stand()
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
                found.append(stand.left if stand.epoch >= plan.epoch else _fresh(beside))
        return earliest(found)

    async def _alone(self) -> bool:
        """True if an operator without shards has the first Lease: it looks after everything."""
        if self._number == 0:
            return False
        first = await self._lease.beside(self._base)
        stand = _stand(first.annotations)
        return first.live and (stand is None or stand.shards <= 1)

    # --- the plan -------------------------------------------------------------------------------------------------

    async def _first(self, found: Plan | None) -> Plan:
        """The first epoch after an operator without shards, or after the ConfigMap was lost: higher than any."""
        if found is None:
            others = range(1, max(self._stand.span, self._shards))
            stands = [_stand((await self._lease.beside(name_of(self._base, j))).annotations) for j in others]
            known = [self._stand, *(stand for stand in stands if stand is not None)]
            found = Plan(epoch=max(stand.epoch for stand in known), span=max(stand.span for stand in known))
        return await self._write(found, await self._runs(), before=max(1, self._stand.shards))

    async def _recut(self, plan: Plan) -> None:
        """Cut anew if that is worth it, once all have begun what was cut before."""
        runs = await self._runs()
        if kept(plan.cut, runs, self._shards) == plan.cut:
            return
        stands = await self._stands(plan)
        if isinstance(stands, str) or any(
            b.live and s.term != plan.epoch for j, (b, s) in stands.items() if plan.cut.share(j) is not None
        ):
            return
        await self._write(plan, runs, before=plan.cut.shards)

    async def _write(self, before_it: Plan, runs: Mapping[str, int], *, before: int) -> Plan:
        """The next epoch. Raises :class:`KubeError` if someone else wrote meanwhile."""
        made = kept(before_it.cut, runs, self._shards)
        plan = Plan(
            epoch=before_it.epoch + 1, edges=tuple(f"{edge:#018x}" for edge in made.edges), before=before,
            span=max(before_it.span, self._shards),
        )  # fmt: skip
        body = {
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": self._name, **({"resourceVersion": self._version} if self._version else {})},
            "data": {"plan": msgspec.json.encode(plan).decode(), "shards": str(self._shards)},
        }  # fmt: skip
        path = f"{self._configmaps}/{self._name}"
        await (self._kube.put(path, body) if self._version else self._kube.post(self._configmaps, body))
        observe.log().info("namespaces cut", epoch=plan.epoch, shards=self._shards, runs=made.loads(runs))
        return plan

    async def _read(self) -> Plan | None:
        """The plan as it stands; null if there is none that can be read."""
        try:
            body = await self._kube.get(f"{self._configmaps}/{self._name}")
        except ApiError as error:
            if error.status != 404:
                raise
            self._version = ""
            return None
        self._version = str(body["metadata"]["resourceVersion"])
        try:
            plan = msgspec.json.decode(str((body.get("data") or {}).get("plan")), type=Plan)
        except msgspec.DecodeError as error:
            raise KubeError(f"ConfigMap {self._name}: {error}; delete it and restart all shards") from None
        return plan if plan.cut.sound else None

    async def _runs(self) -> dict[str, int]:
        """How many runs each namespace has, from metadata alone."""
        found: Counter[str] = Counter()
        try:
            for path in collections(ARGO, "workflows", self._namespaces):
                async for page in self._kube.pages(path, metadata_only=True):
                    found.update(str(item["metadata"].get("namespace") or "") for item in page.get("items", ()))
        except ApiError as error:
            if error.status != 404:
                raise
        return dict(found)


Shares = Alone | Several


def shares(kube: Kube, settings: Settings, lease: Lease | None) -> Shares:
    """Who looks after what, as the settings say."""
    if lease is None or (settings.shard == 0 and settings.shards == 1):
        return Alone(lease)
    return Several(kube, settings, lease, settings.shard)


def name_of(lease: str, number: int) -> str:
    """A shard's Lease. The first one's is that of an operator without shards: so these two never work at once."""
    return f"{lease}-{number}" if number else lease


def earliest(found: Sequence[Versions]) -> dict[str, str]:
    """Of each collection the earliest version that any of them names."""
    least: dict[str, str] = {}
    for versions in found:
        for path, version in versions.items():
            if path not in least or int(version) < int(least[path]):
                least[path] = version
    return least


def _fresh(beside: Beside) -> Versions:
    """Where the watches of a Lease stood, unless that is too long ago."""
    try:
        age = dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(beside.renewed)
    except ValueError:
        return {}
    return bookmarks.read(beside.annotations) if age.total_seconds() < STALE_S else {}


def _stand(annotations: Mapping[str, Any]) -> Stand | None:
    """What a Lease says of its shard; null if nothing, or nothing that we can read."""
    try:
        return msgspec.json.decode(annotations.get(ANNOTATION) or "", type=Stand)
    except msgspec.DecodeError:
        return None


def _text(stand: Stand) -> str:
    return msgspec.json.encode(stand).decode()


def _now() -> float:
    return asyncio.get_running_loop().time()
