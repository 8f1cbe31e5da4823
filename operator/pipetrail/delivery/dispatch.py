"""Dispatch: who gets what. Events mark runs; lanes ask for a run when its turn comes; here the two meet.

Level-triggered: an event only says that a run has news. What is delivered is always made from the run as it stands when
a worker takes it up, so events may come twice, late, out of order or not at all (the survey finds what they missed).
"""

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any

from pipetrail import api, observe, policy
from pipetrail.api import TargetRef
from pipetrail.delivery.attendant import Attendant
from pipetrail.delivery.backfill import Backfills
from pipetrail.delivery.book import Book
from pipetrail.delivery.closing import Closing
from pipetrail.delivery.copies import Copies
from pipetrail.delivery.delivery import Deliveries
from pipetrail.delivery.doubts import Doubts
from pipetrail.delivery.housekeeping import Housekeeping
from pipetrail.delivery.keeping import Keeper
from pipetrail.delivery.lane import Permit, always
from pipetrail.delivery.ledger import Entry, Ledger, Lost
from pipetrail.delivery.namespaces import Namespaces
from pipetrail.delivery.orphans import Orphans
from pipetrail.delivery.queue import Priority
from pipetrail.delivery.readings import Readings
from pipetrail.delivery.recall import Recall
from pipetrail.delivery.resend import Resend
from pipetrail.delivery.roster import Roster
from pipetrail.delivery.runs import Runs, RunState
from pipetrail.delivery.status import StatusWriter
from pipetrail.delivery.survey import Survey
from pipetrail.delivery.takers import Takers
from pipetrail.delivery.templates import Templates
from pipetrail.delivery.turns import Turns
from pipetrail.kube import Kube, KubeError
from pipetrail.readers import Reader
from pipetrail.readers.archive import ArgoArchive
from pipetrail.readers.overflow import OverflowStore
from pipetrail.settings import Settings
from pipetrail.shards import WHOLE, Share
from pipetrail.sources import argo
from pipetrail.targets.addresses import REFUSING, Addresses


class Dispatch:
    """Everything between the watches and the couriers. Its methods run in one event loop and never block it."""

    def __init__(
        self, kube: Kube, ledger: Ledger, reader: Reader, settings: Settings, cluster: str, *,
        addresses: Addresses = REFUSING, permit: Permit = always, share: Share = WHOLE,
        archive: ArgoArchive | None = None,
    ) -> None:  # fmt: skip
        self._ledger = ledger
        self.archive = archive
        self.share = share
        self.cluster = cluster
        self.runs = Runs()
        self.book = Book()
        self.namespaces = Namespaces()
        self.templates = Templates(kube)
        status = StatusWriter(kube, share)
        attendant = Attendant(kube, ledger, settings, addresses, status)
        self.roster = Roster(attendant, status, lambda seat, uid: self._turns.work(seat, uid), permit, share)
        self.copies = Copies(
            kube, settings.namespace, most_bytes=settings.outbox_max_bytes, ledger_bytes=lambda: self.book.bytes,
            store=OverflowStore(settings.outbox) if settings.outbox else None, share=share,
        )  # fmt: skip
        self._takers = Takers(
            runs=self.runs, book=self.book, copies=self.copies, roster=self.roster, namespaces=self.namespaces,
            templates=self.templates,
        )  # fmt: skip
        self.orphans = Orphans(
            kube, book=self.book, runs=self.runs, roster=self.roster, status=status,
            closing=Closing(ledger, self.book, self.roster, cluster), offer=self._offer, archive=archive,
        )  # fmt: skip
        self.survey = Survey(
            kube, book=self.book, runs=self.runs, roster=self.roster, orphans=self.orphans, takers=self._takers.of,
            offer=self._offer, has_copy=self.copies.may_have, namespaces=settings.watch_namespaces, share=share,
        )  # fmt: skip
        recall = Recall(kube, ledger, self.book, self.copies, self.survey.due.set)
        readings = Readings(kube, reader, cluster, vanished=self.survey.due.set)
        deliveries = Deliveries(
            ledger, readings, settings, book=self.book, copies=self.copies, namespaces=self.namespaces,
            decide=self._takers.decide, learn=self.templates.learn, recall=recall,
        )  # fmt: skip
        self.keeper = Keeper(
            kube, ledger, book=self.book, runs=self.runs, roster=self.roster, namespaces=self.namespaces,
            copies=self.copies, recall=recall, deliveries=deliveries, takers=self._takers.untaken,
        )  # fmt: skip
        self.resend = Resend(kube, ledger, self.book, self.runs, self.roster, self._offer, kept=self.keeper.kept)
        self.backfills = Backfills(
            kube, book=self.book, runs=self.runs, roster=self.roster, status=status, decide=self._takers.decide,
            learn=self.templates.learn, namespaces=settings.watch_namespaces, archive=archive, share=share,
        )  # fmt: skip
        self.housekeeping = Housekeeping(
            ledger, book=self.book, runs=self.runs, roster=self.roster, status=status, copies=self.copies,
            keeper=self.keeper, takers=self._takers, history_ttl_s=settings.history_ttl_s,
        )  # fmt: skip
        self._turns = Turns(
            kube, ledger, book=self.book, runs=self.runs, roster=self.roster, keeper=self.keeper,
            deliveries=deliveries, worked=self.backfills.worked, settled=self.housekeeping.settled.set,
        )  # fmt: skip
        self.doubts = Doubts(
            ledger, self.book, self.runs, self.roster, cluster=cluster, has_copy=self.copies.may_have,
            began=lambda: self.survey.passes > 0,
        )  # fmt: skip
        self._spawned: set[asyncio.Task[None]] = set()

    async def load(self) -> None:
        """Read the ledger: what is settled needs nothing, the rest is looked at again."""
        async for entry in self._ledger.entries():
            self.book.add(entry)
            if entry.asked:
                self.resend.ask(entry.namespace, entry.name)
        observe.log().info("ledger read", tracked_runs=sum(1 for _ in self.book.all()))

    @property
    def ledger_read_at(self) -> Mapping[str, str]:
        """The version of each collection of TrackedRuns up to which :meth:`load` knows it."""
        return self._ledger.read_at

    async def run(self) -> None:
        """The survey, the housekeeping and what is asked for again, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.survey.run(), name="survey")
            tasks.create_task(self.keeper.run(), name="keeper")
            tasks.create_task(self.resend.run(), name="resend")
            tasks.create_task(self.backfills.run(), name="backfill")
            tasks.create_task(self.housekeeping.run(), name="housekeeping")
            tasks.create_task(self.doubts.run(), name="doubts")

    # --- what the watches say -------------------------------------------------------------------------------------

    def saw_run(self, header: argo.Header, body: Mapping[str, Any] | None, *, fresh: bool) -> None:
        """A Workflow appeared or changed or, where there is a `body`, was deleted and this is its last one.

        Of one that is `fresh` we see all from its making on, so that its pods are told as well.
        """
        observe.count("events_workflow")
        if body is not None:
            self.book.gone((header.namespace, header.uid), _now())
        else:
            self.book.stands((header.namespace, header.uid))
        known = self.runs.get(header.uid)
        if known is None and not self._takers.of(header):
            return
        state = self.runs.upsert(header)
        if known is None:
            state.facts_known = fresh
        if body is not None:
            state.bury(body)
        else:
            state.only_kept = False  # it stands, and says more than its copy's cover
        begun = header.started or header.phase or header.deletion
        if begun or known is not None or body is not None:  # else its controller has not taken it up: nothing to say
            self._offer(state)

    def saw_pod(self, facts: argo.PodFacts, *, listed: bool) -> None:
        """A pod of a run has ended, or changed after its end."""
        observe.count("events_pod")
        self._saw(facts.owner_uid, facts, facts.uid, listed=listed)

    def saw_result(self, facts: argo.ResultFacts, *, listed: bool) -> None:
        """A step's executor has reported all its outputs."""
        observe.count("events_result")
        self._saw(facts.owner_uid, facts, facts.node_id, listed=listed)

    def _saw(self, uid: str, fact: argo.PodFacts | argo.ResultFacts, identity: str, *, listed: bool) -> None:
        known = self.runs.get(uid)
        if known is None and (listed or any(e.settled for e in self.book.of((fact.namespace, uid)))):
            return  # a run that we meet in a list is read with all its pods when its turn comes
        state = self.runs.add(uid, fact, identity)
        if state is not None and (isinstance(fact, argo.PodFacts) or state.facts.confirms(fact)):
            self._offer(state)

    def saw_target(self, found: api.FoundTarget | api.InvalidTarget, *, deleted: bool) -> None:
        """A target appeared, changed or went. One of another shard's namespace is none of ours."""
        if found.ref.namespace and not self.share.owns(found.ref.namespace):
            return
        self.backfills.due.set()
        match found:
            case _ if deleted:
                seat = self.roster.get(found.ref)
                if seat is None or found.uid in ("", seat.found.uid):  # else one of the same name stands already
                    self._spawn(self._target_gone(found.ref, self.roster.remove(found.ref)))
            case api.InvalidTarget():
                self._spawn(self.roster.invalid(found, self.roster.remove(found.ref)))
            case api.FoundTarget():
                if self.roster.confirms(found):
                    self.survey.due.set()
                if self.roster.upsert(found):
                    self.survey.due.set()
                    for state in self.runs.all():
                        # Its address may be another: what is there is looked up by key, not by handles that we hold.
                        state.progress.pop(found.ref, None)
                        self._offer(state)

    def saw_wish(self, namespace: str, name: str) -> None:
        """A TrackedRun carries a wish to be sent again that was not heeded yet."""
        self.resend.ask(namespace, name)

    def saw_entry_deleted(self, entry: Entry) -> None:
        """A TrackedRun was deleted, by us or someone else."""
        self.resend.deleted(entry)

    def saw_namespace(self, body: Mapping[str, Any], *, deleted: bool) -> None:
        """A namespace's labels decide what cluster targets see."""
        changed = self.namespaces.saw(body, deleted=deleted)
        if changed is not None:
            for state in self.runs.all():
                if state.header.namespace == changed:
                    self._offer(state)

    async def _target_gone(self, ref: TargetRef, ending: Coroutine[Any, Any, None]) -> None:
        """No finalizer: the lane stops, what is unsettled is Stopped, nothing in the tracker is touched."""
        for state in self.runs.all():
            state.progress.pop(ref, None)
        await ending
        for entry in self.book.all():
            if self.roster.get(ref) is not None:
                return  # made anew meanwhile: it goes on with them
            if entry.spec.target != ref or entry.settled or entry.status.phase == "Stopped":
                continue
            said = f"{ref} was deleted; a target of the same name resumes it"
            try:
                self.book.add(await self._ledger.write(entry, phase="Stopped", reason="TargetDeleted", message=said))
            except (KubeError, Lost) as error:
                observe.log().warning("not stopped", run=entry.spec.run.name, target=str(ref), cause=str(error))

    def waiting_since_deleted(self) -> list[float]:
        """When (in the loop's time) each run was deleted that something is still to be sent of: only we have it."""
        buried = [state for state in self.runs.all() if state.only_here]
        return [state.buried_at for state in buried if self._takers.only_from_us(state)]

    def _offer(self, state: RunState) -> None:
        state.settled_at = None
        for seat in self._takers.of(state.header):
            # A backfilled run that is met again, by its pod or after a restart, does not come before what is live.
            priority: Priority = "Backfill" if policy.before(policy.ended(state.header), seat.found) else "Live"
            seat.lane.offer(state.uid, group=state.header.namespace, priority=priority)
        self.keeper.offer(state)

    # --- the end ------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Start nothing more but what can't be read again after us: runs that were deleted and are only here."""
        only = {state.uid for state in self.runs.all() if state.only_here}
        for seat in self.roster.seats():
            seat.lane.drain(only)
        self.keeper.drain()

    async def close(self) -> None:
        """Nothing is sent or written any more."""
        await self.roster.close()
        for task in self._spawned:
            task.cancel()
        if self._spawned:
            await asyncio.wait(self._spawned, timeout=5)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._spawned.add(task)
        task.add_done_callback(self._spawned.discard)


def _now() -> float:
    return asyncio.get_running_loop().time()
