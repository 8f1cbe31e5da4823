"""Sending again: a TrackedRun that someone annotated, or a dead letter that someone deleted.

What was asked for stands on the object, what was heeded in its status: so a wish survives us, and is heeded once. A
wish is heeded from where delivery stands, by a look at the tracker first: what is there already is not sent again.

Under the target's policy of today the run becomes another tracker run, since a tracker can change neither a param nor a
history; that one is begun where the record is made (:mod:`pipetrail.delivery.delivery`), and here only asked for.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from pipetrail import observe
from pipetrail.delivery.book import Book
from pipetrail.delivery.ledger import Entry, Ledger, Lost
from pipetrail.delivery.roster import Roster
from pipetrail.delivery.runs import Runs, RunState
from pipetrail.kube import Kube, KubeError
from pipetrail.readers import argo as objects
from pipetrail.sources import argo

AT_ONCE: Final = 8
AGAIN_S: Final = 2.0
MAX_HEEDED: Final = 1000
GONE: Final = "asked to send it again, but the run's object is gone, and no copy of it was kept"
NO_TARGET: Final = "asked to send it again, but its target is gone: make one of the same name and ask once more"

Place = tuple[str, str]
"""Namespace and name of a TrackedRun."""


class Resend:
    """Wishes that wait, each once. `offer` puts a run before its targets; `kept` knows of runs in the outbox."""

    def __init__(
        self, kube: Kube, ledger: Ledger, book: Book, runs: Runs, roster: Roster, offer: Callable[[RunState], None], *,
        kept: Callable[[Entry], RunState | None] = lambda _: None,
    ) -> None:  # fmt: skip
        self._kube = kube
        self._ledger = ledger
        self._book = book
        self._runs = runs
        self._roster = roster
        self._offer = offer
        self._kept = kept
        self._wishes: dict[Place, Entry | None] = {}  # with what it was, where the TrackedRun is gone
        self._heeded: OrderedDict[Place, str] = OrderedDict()  # of late, should the status not keep it (older CRDs)
        self._due = asyncio.Event()

    def ask(self, namespace: str, name: str) -> None:
        """This TrackedRun carries a wish."""
        self._wishes[namespace, name] = None
        self._due.set()

    def deleted(self, entry: Entry) -> None:
        """A TrackedRun is gone. If it was a dead letter its run starts over."""
        known = self._book.get((entry.namespace, entry.spec.run.uid), entry.spec.target)
        if known is not None and known.name == entry.name and known.status.phase == "Failed":
            self._book.drop(known)
            self._wishes[entry.namespace, entry.name] = known
            self._due.set()

    async def run(self) -> None:
        """Heed wishes until cancelled; one that can't be heeded now is tried again."""
        while True:
            await self._due.wait()
            self._due.clear()
            while self._wishes:
                some = list(self._wishes.items())[:AT_ONCE]
                for place, _ in some:
                    del self._wishes[place]
                done = await asyncio.gather(*(self._heed(*place, gone) for place, gone in some))
                for (place, gone), heeded in zip(some, done, strict=True):
                    if not heeded:
                        self._wishes.setdefault(place, gone)
                if not all(done):
                    await asyncio.sleep(AGAIN_S)

    async def _heed(self, namespace: str, name: str, gone: Entry | None) -> bool:
        """False if it is to be tried again."""
        try:
            if gone is not None:
                return await self._start_over(gone)
            return await self.once(namespace, name)
        except (KubeError, Lost) as error:
            observe.log().warning("not sent again yet", tracked_run=f"{namespace}/{name}", cause=str(error))
            return False
        except Exception as error:  # noqa: BLE001  one odd TrackedRun must not keep the others; it is said
            observe.count("handler_errors")
            observe.log().error("not sent again", tracked_run=f"{namespace}/{name}", error=observe.where(error))
            return True

    async def once(self, namespace: str, name: str) -> bool:
        """Heed the wish on one TrackedRun, if there is one; false if the run is being sent at this moment."""
        entry = await self._ledger.read(namespace, name)
        if entry is None or not entry.asked or self._heeded.get((namespace, name)) == entry.resend:
            return True
        run, seat = entry.spec.run, self._roster.get(entry.spec.target)
        newest = self._book.get((namespace, run.uid), entry.spec.target)
        if newest is not None and newest.spec.attempt > entry.spec.attempt:
            await self._answer(entry, f"asked to send it again: that is attempt {newest.spec.attempt}, {newest.name}")
            return True
        if seat is None:
            self._book.add(await self._answer(entry, NO_TARGET))
            return True
        if seat.lane.working(run.uid):
            return False  # its courier writes the same object
        state = await self._stands(entry)
        if state is None:
            self._book.add(await self._answer(entry, GONE))
            return True
        observe.log().info("resend", run=f"{namespace}/{run.name}", target=str(entry.spec.target), wish=entry.resend)
        if entry.repolicy:
            self._book.add(
                entry
            )  # with its wish: whoever makes the record heeds it, once what is under way has settled
        else:
            phase = "Pending" if entry.settled else entry.status.phase
            self._book.add(
                await self._ledger.write(
                    entry, phase=phase, reason="", message="asked to send it again", resent=entry.resend
                )
            )
        self._remember(entry)
        state.progress.pop(entry.spec.target, None)
        self._offer(state)
        return True

    async def _start_over(self, gone: Entry) -> bool:
        """The run of a dead letter that was deleted, if there is something of it to send."""
        state = await self._stands(gone)
        if state is not None:
            self._offer(state)
        return True

    async def _stands(self, entry: Entry) -> RunState | None:
        """The run, if there is something of it to send: its object, its last body, or a copy."""
        run = entry.spec.run
        state = self._runs.get(run.uid)
        if state is not None and state.gone:
            return state
        header = argo.header(await objects.workflow(self._kube, entry.namespace, run.name))
        if header.uid == run.uid:
            return state or self._runs.upsert(header)
        return self._kept(entry)

    def _remember(self, entry: Entry) -> None:
        self._heeded[entry.namespace, entry.name] = entry.resend
        while len(self._heeded) > MAX_HEEDED:
            self._heeded.popitem(last=False)

    async def _answer(self, entry: Entry, message: str) -> Entry:
        """Say why nothing is sent. The phase stays."""
        observe.log().info("not sent again", run=entry.spec.run.name, target=str(entry.spec.target), cause=message)
        written = await self._ledger.write(entry, message=message, resent=entry.resend)
        self._remember(entry)
        return written
