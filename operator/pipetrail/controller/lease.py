"""The Lease: of several operators that look at the same runs, one sends.

A coordination.k8s.io/Lease in the operator's own namespace names the holder. The rules are client-go's, which every
controller of Kubernetes elects its leader by: a holder renews; whoever waits takes over when the object has not changed
for its duration *on the waiter's own clock*, so that clocks need not agree; every write carries the resourceVersion,
so that one of several takers wins.

A holder that gets no answer does not end: an API server that is away has no other holder to give. It sends nothing
from `GIVE_UP_S` on, before anybody could take over, and goes on when the Lease still names it. Runs that it alone
remembers are worth more than a clean start. Once someone else holds the Lease, the operator ends.

What a holder leaves for the next one stands in the Lease's annotations, written with each renewal.
"""

import asyncio
import contextlib
import datetime as dt
from collections.abc import Callable, Mapping
from typing import Any, Final

from pipetrail import observe
from pipetrail.kube import ApiError, Kube, KubeError, Unreachable
from pipetrail.record import Frozen

DURATION_S: Final = 15
RENEW_S: Final = 5.0
GIVE_UP_S: Final = 10.0
CALL_S: Final = 4.0
WAIT_S: Final = 2.0
HOPELESS: Final = (401, 403, 404)
LEASES: Final = "/apis/coordination.k8s.io/v1/namespaces"


class TakenOver(KubeError):
    """Another operator holds the Lease that was ours."""


class Ours(Frozen, frozen=True):
    """It is ours until `GIVE_UP_S` after the call began."""


class Theirs(Frozen, frozen=True):
    """`holder` has it."""

    holder: str


class Unknown(Frozen, frozen=True):
    """Whose it is could not be learned: no answer, one of a server in trouble, or someone wrote it meanwhile."""

    error: KubeError


Look = Ours | Theirs | Unknown


class Beside(Frozen, frozen=True):
    """How another Lease stands: who has it (empty: nobody, or there is none), and may that one still send?"""

    holder: str = ""
    live: bool = False
    annotations: Mapping[str, str] = {}
    renewed: str = ""


class Lease:
    """One Lease, as `holder`. The same holder takes it at once; anybody else waits for its end."""

    def __init__(self, kube: Kube, namespace: str, name: str, holder: str) -> None:
        self._kube = kube
        self._collection = f"{LEASES}/{namespace}/leases"
        self._path = f"{self._collection}/{name}"
        self._where = f"{namespace}/{name}"
        self._name = name
        self._holder = holder
        self._until = -1.0  # loop time; what is sent later is not covered
        self._changed = asyncio.Event()
        self._others: dict[str, tuple[str, float]] = {}  # by name: the version that another wrote, and since when known
        self._stir = asyncio.Event()
        self._begun = self._written = 0  # looks, and the last of them that wrote
        self.takings = 0
        """How often it became ours: what we knew of others before may have changed since."""
        self.holder = ""
        """Who held it when we last looked; empty if nobody, or if we don't know."""
        self.found: Mapping[str, str] = {}
        """The annotations that were there when we took it."""
        self.leave: Callable[[], Mapping[str, str]] = dict
        """Annotations for the next holder; others stay as they are."""

    @property
    def name(self) -> str:
        """The Lease's own."""
        return self._name

    @property
    def held(self) -> bool:
        """True while nobody else can have it. A process that was frozen finds by the clock that it ran out."""
        return asyncio.get_running_loop().time() < self._until

    async def permit(self) -> None:
        """Wait until the Lease is ours (again): the last thing before each call to a tracker."""
        while not self.held:
            self._changed.clear()
            await self._changed.wait()

    async def hold(self) -> None:
        """:meth:`acquire`, then :meth:`keep`."""
        await self.acquire()
        await self.keep()

    async def acquire(self) -> None:
        """Wait until the Lease is ours. Raises :class:`KubeError` if there is no right or no namespace for it."""
        told = ""
        while True:
            match await self._look():
                case Ours():
                    observe.log().info("lease held", lease=self._where, holder=self._holder)
                    return
                case Theirs(holder=holder):
                    cause = f"{holder} holds it: one operator sends"
                case Unknown(error=error):
                    if isinstance(error, ApiError) and error.status in HOPELESS:
                        raise KubeError(self._advice(error)) from None
                    cause = str(error)
            if cause != told:
                observe.log().warning("waiting for the lease", lease=self._where, cause=cause)
                told = cause
            await asyncio.sleep(WAIT_S)

    async def keep(self) -> None:
        """Renew until cancelled. Raises :class:`TakenOver` once someone else holds it."""
        while True:
            self._stir.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RENEW_S if self.held else WAIT_S):
                    await self._stir.wait()
            had = self.held
            match await self._look():
                case Ours() if not had:
                    observe.log().info("lease held", lease=self._where, holder=self._holder)
                case Theirs(holder=holder):
                    self._until = -1.0
                    raise TakenOver(f"{holder} holds the Lease {self._where} now: one operator sends")
                case Unknown(error=error):
                    observe.log().warning("lease not renewed", lease=self._where, cause=str(error))

    async def say(self) -> None:
        """Wait until what :attr:`leave` says now stands in the Lease, and that is ours."""
        wanted = self._begun + 1
        self._stir.set()
        while self._written < wanted:
            self._changed.clear()
            await self._changed.wait()

    async def beside(self, name: str) -> "Beside":
        """Another Lease of the same namespace. Raises :class:`KubeError`."""
        try:
            there = await self._kube.get(f"{self._collection}/{name}", timeout_s=CALL_S)
        except ApiError as error:
            if error.status != 404:
                raise
            return Beside()
        spec, annotations = there.get("spec") or {}, there["metadata"].get("annotations") or {}
        holder = str(spec.get("holderIdentity") or "")
        live = bool(holder) and not self._ran_out(name, there)
        return Beside(holder=holder, live=live, annotations=annotations, renewed=str(spec.get("renewTime") or ""))

    async def release(self) -> None:
        """Give it back, so that the next operator need not wait. What fails here costs that one its wait."""
        if not self.held:
            return
        self._until = -1.0
        with contextlib.suppress(KubeError, TimeoutError):
            async with asyncio.timeout(CALL_S):
                there = await self._kube.get(self._path)
                if there["spec"].get("holderIdentity") == self._holder:
                    await self._kube.put(self._path, _written(there, "", self.leave()))

    async def _look(self) -> Look:
        """Take or renew it if nobody else has it."""
        began = asyncio.get_running_loop().time()
        self._begun += 1
        number = self._begun
        try:
            async with asyncio.timeout(CALL_S):
                look = await self._take()
        except TimeoutError:
            return Unknown(error=Unreachable(f"{self._path}: no answer within {CALL_S:.0f} s"))
        except KubeError as error:
            return Unknown(error=error)
        self.holder = self._holder if isinstance(look, Ours) else look.holder
        if isinstance(look, Ours):
            if not self.held:
                self.takings += 1
            self._until = began + GIVE_UP_S
            self._written = number
            self._changed.set()
        return look

    async def _take(self) -> Ours | Theirs:
        try:
            there = await self._kube.get(self._path)
        except ApiError as error:
            if error.status != 404:
                raise
            await self._kube.post(
                self._collection, _written({"metadata": {"name": self._name}}, self._holder, self.leave())
            )
            return Ours()
        holder = str((there.get("spec") or {}).get("holderIdentity") or "")
        if holder not in ("", self._holder) and not self._ran_out(self._name, there):
            return Theirs(holder=holder)
        await self._kube.put(self._path, _written(there, self._holder, self.leave()))
        if self._until < 0:
            self.found = there["metadata"].get("annotations") or {}
        return Ours()

    def _ran_out(self, name: str, there: Mapping[str, Any]) -> bool:
        version, now = str(there["metadata"]["resourceVersion"]), asyncio.get_running_loop().time()
        if self._others.get(name, ("", now))[0] != version:
            self._others[name] = (version, now)
        return now - self._others[name][1] > float(there["spec"].get("leaseDurationSeconds") or DURATION_S)

    def _advice(self, error: ApiError) -> str:
        namespace = self._where.partition("/")[0]
        if error.status == 404:
            return (
                f"there is no namespace {namespace} for the operator's Lease: create it, name another with "
                "--namespace, or run with --no-lease if no other operator looks at these runs"
            )
        return (
            f"no right to get, create and update leases.coordination.k8s.io in namespace {namespace} "
            f"({error.status}): bind the Role pipetrail of deploy/kustomize/base, name another namespace with "
            "--namespace, or run with --no-lease if no other operator looks at these runs"
        )


def _written(there: Mapping[str, Any], holder: str, left: Mapping[str, str]) -> dict[str, Any]:
    """The object as `holder` writes it (empty: nobody's, to be had at once), with the annotations `left`."""
    now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    before = there.get("spec") or {}
    spec = {**before, "holderIdentity": holder, "leaseDurationSeconds": DURATION_S if holder else 1, "renewTime": now}
    if before.get("holderIdentity") != holder:
        spec |= {"acquireTime": now, "leaseTransitions": int(before.get("leaseTransitions") or 0) + bool(before)}
    meta = {**there["metadata"], "annotations": {**(there["metadata"].get("annotations") or {}), **left}}
    return {**there, "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta, "spec": spec}
