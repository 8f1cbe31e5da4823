"""Dispatch: who gets what. Events mark runs; lanes ask for a run when its turn comes; here the two meet.

Level-triggered: an event only says that a run has news. What is delivered is always made from the run as it stands when
a worker takes it up, so events may come twice, late, out of order or not at all (the survey finds what they missed).
"""

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any, Final

from pipetrail import api, observe, policy
from pipetrail.api import TargetRef
from pipetrail.delivery import ledger as ledgers
from pipetrail.delivery.backfill import Backfills
from pipetrail.delivery.book import Book
from pipetrail.delivery.copies import Copies
from pipetrail.delivery.delivery import Deliveries, run_name
from pipetrail.delivery.doubts import Doubts
from pipetrail.delivery.keeping import Keeper
from pipetrail.delivery.lane import Done, Halt, Later, Permit, Verdict, always
from pipetrail.delivery.ledger import Entry, Ledger, Lost
from pipetrail.delivery.namespaces import Namespaces
from pipetrail.delivery.notices import of_run
from pipetrail.delivery.queue import Priority
from pipetrail.delivery.recall import Recall
from pipetrail.delivery.resend import Resend
from pipetrail.delivery.roster import STATUS_EVERY_S, Roster, Seat
from pipetrail.delivery.runs import Runs, RunState
from pipetrail.delivery.survey import Survey
from pipetrail.delivery.templates import Templates
from pipetrail.kube import Kube, KubeError
from pipetrail.readers import Reader
from pipetrail.readers.archive import ArgoArchive
from pipetrail.readers.overflow import OverflowFailed, OverflowStore
from pipetrail.settings import Settings
from pipetrail.shards import WHOLE, Share
from pipetrail.sources import argo
from pipetrail.targets.addresses import REFUSING, Addresses
from pipetrail.targets.target import Refused, Retry, TargetError, Unauthorised, Unusable

KEEP_SETTLED_S: Final = 90.0
"""A settled run stays in memory this long: nodes of a killed run get outputs late, doubts are looked at after 60 s."""
REST_AFTER_S: Final = 10.0
RESTED_AT_ONCE: Final = 100
POISON_PAUSE_S: Final = 60.0
API_PAUSE_MOST_S: Final = 60.0
OF_ONE_RUN: Final = frozenset({"PermissionDenied", "NotMlflow"})
"""What a tracker, or a proxy before it, may hold against one run alone (its experiment, one odd body). Only when runs
fail one after another is it the target's trouble: else one run that names another's experiment would stop all."""


class Dispatch:
    """Everything between the watches and the couriers. Its methods run in one event loop and never block it."""

    def __init__(
        self, kube: Kube, ledger: Ledger, reader: Reader, settings: Settings, cluster: str, *,
        addresses: Addresses = REFUSING, permit: Permit = always, share: Share = WHOLE,
        archive: ArgoArchive | None = None,
    ) -> None:  # fmt: skip
        self._kube = kube
        self._ledger = ledger
        self._settings = settings
        self.archive = archive
        self.share = share
        self.cluster = cluster
        self.runs = Runs()
        self.book = Book()
        self.namespaces = Namespaces()
        self.templates = Templates(kube)
        self.roster = Roster(kube, ledger, settings, self._work, addresses, permit, share)
        self.survey = Survey(
            kube,
            ledger,
            self.book,
            self.runs,
            self.roster,
            self.takers,
            self._offer,
            settings.watch_namespaces,
            cluster=cluster,
            has_copy=lambda run: self.copies.may_have(run),
            archive=archive,
            share=share,
        )
        self.copies = Copies(
            kube, settings.namespace, most_bytes=settings.outbox_max_bytes, ledger_bytes=lambda: self.book.bytes,
            store=OverflowStore(settings.outbox) if settings.outbox else None, share=share,
        )  # fmt: skip
        recall = Recall(kube, ledger, self.book, self.copies, self.survey.due.set)
        self._deliveries = Deliveries(
            kube, ledger, reader, settings, cluster, book=self.book, copies=self.copies, namespaces=self.namespaces,
            decide=self.decide, learn=self.templates.learn, vanished=self.survey.due.set, recall=recall,
        )  # fmt: skip
        self.keeper = Keeper(
            kube, ledger, book=self.book, runs=self.runs, roster=self.roster, namespaces=self.namespaces,
            copies=self.copies, recall=recall, deliveries=self._deliveries, takers=self._untaken,
        )  # fmt: skip
        self.resend = Resend(kube, ledger, self.book, self.runs, self.roster, self._offer, kept=self.keeper.kept)
        self.backfills = Backfills(
            kube, book=self.book, runs=self.runs, roster=self.roster, decide=self.decide, learn=self.templates.learn,
            namespaces=settings.watch_namespaces, archive=archive, share=share,
        )  # fmt: skip
        self.doubts = Doubts(
            ledger, self.book, self.runs, self.roster, cluster=cluster, has_copy=self.copies.may_have,
            began=lambda: self.survey.passes > 0,
        )  # fmt: skip
        self._settled = asyncio.Event()
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
        """The survey, the tidying and what is asked for again, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.survey.run(), name="survey")
            tasks.create_task(self.keeper.run(), name="keeper")
            tasks.create_task(self._tidy_forever(), name="tidy")
            tasks.create_task(self.resend.run(), name="resend")
            tasks.create_task(self.backfills.run(), name="backfill")
            tasks.create_task(self._rest_forever(), name="rest")
            tasks.create_task(self.doubts.run(), name="doubts")

    # --- what the watches say -------------------------------------------------------------------------------------

    def saw_run(self, header: argo.Header, body: Mapping[str, Any] | None, *, listed: bool) -> None:
        """A Workflow appeared or changed or, where there is a `body`, was deleted and this is its last one."""
        observe.count("events_workflow")
        if body is not None:
            self.book.gone((header.namespace, header.uid), _now())
        else:
            self.book.stands((header.namespace, header.uid))
        known = self.runs.get(header.uid)
        if known is None and not self.takers(header):
            return
        state = self.runs.upsert(header)
        if known is None:
            state.facts_known = not listed
        if body is not None:
            state.bury(body)
        elif state.only_kept:  # it stands, and says more than its copy's cover
            state.only_kept, state.facts_known = False, False
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
        if state is not None:
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

    def decide(self, seat: Seat, header: argo.Header, *, earlier: bool = False) -> policy.Decision:
        """Does a target take a run, and by which rule? With `earlier`, or if a backfill took it up, also an old one."""
        state = self.runs.get(header.uid)
        earlier |= state is not None and seat.ref in state.earlier_for and state.header.namespace == header.namespace
        run = policy.facts(header, self.namespaces.of(header.namespace), self.templates.of(header))
        others = [s.found for s in self.roster.seats() if s is not seat]
        return policy.decide(run, seat.found, others=others, earlier=earlier)

    def takers(self, header: argo.Header) -> list[Seat]:
        """Targets for which something of this run is not settled: cheap, from the header alone."""
        remembered = self.runs.get(header.uid) is not None
        return [seat for seat in self.roster.over(header.namespace) if self._takes(seat, header, remembered=remembered)]

    def _untaken(self, state: RunState) -> list[Seat]:
        """Targets that do not have the run yet, or that gave it up and may be asked again."""
        seats = self.roster.over(state.header.namespace)
        entries = ((seat, self.book.get(state.id, seat.ref)) for seat in seats)
        return [
            seat
            for seat, entry in entries
            if self._takes(seat, state.header, remembered=False)
            or (entry is not None and entry.status.phase == "Failed" and self.copies.of(state.id, seat.ref) is None)
        ]

    def _takes(self, seat: Seat, header: argo.Header, *, remembered: bool) -> bool:
        entry = self.book.get((header.namespace, header.uid), seat.ref)
        state = self.runs.get(header.uid)
        if state is not None and state.only_kept:
            remembered = False
            if self.copies.of(state.id, seat.ref) is None:
                return False
            if entry is None:
                return True
        if entry is None:
            return isinstance(self.decide(seat, header), policy.Taken)
        # The survey looks at doubts of what was given up: no run has to be remembered for them.
        doubted = bool(entry.status.doubtful_at) and entry.status.phase == "Synced"
        open_still = not entry.settled or doubted or entry.reopened(header.generation)
        return remembered or open_still

    def waiting_since_deleted(self) -> list[float]:
        """When (in the loop's time) each run was deleted that something is still to be sent of: only we have it."""
        buried = [state for state in self.runs.all() if state.only_here]
        return [state.buried_at for state in buried if self._waits(state, remembered=False)]

    def _waits(self, state: RunState, *, remembered: bool) -> bool:
        """Might a target still want something of the run? A settled one is `remembered` for a while."""
        seats = self.roster.over(state.header.namespace)
        return any(self._takes(seat, state.header, remembered=remembered) for seat in seats)

    def _offer(self, state: RunState) -> None:
        state.settled_at = None
        for seat in self.takers(state.header):
            # A backfilled run that is met again, by its pod or after a restart, does not come before what is live.
            priority: Priority = "Backfill" if policy.before(policy.ended(state.header), seat.found) else "Live"
            seat.lane.offer(state.uid, group=state.header.namespace, priority=priority)
        self.keeper.offer(state)

    # --- a lane's turn --------------------------------------------------------------------------------------------

    async def _work(self, seat: Seat, uid: str) -> Verdict:
        """One run for one target. Whatever happens to this run, the lane goes on."""
        try:
            verdict = await self._turn(seat, uid)
        except Exception as error:  # noqa: BLE001  one poison run must not stop the lane; it is said, and tried again
            observe.count("handler_errors")
            observe.log().error("delivery failed", uid=uid, target=str(seat.ref), error=observe.where(error))
            return Later(after_s=POISON_PAUSE_S, trouble=False)
        self.backfills.worked(seat, uid, verdict)
        return verdict

    async def _turn(self, seat: Seat, uid: str) -> Verdict:
        state = self.runs.get(uid)
        if state is None:
            return Done()
        courier = seat.courier
        if courier is None:
            return Halt()
        run, target = run_name(state), str(seat.ref)
        try:
            verdict = await self._deliveries.deliver(seat, courier, state)
        except Retry as error:
            return await self._failing(seat, state, error, error.after_s)
        except (Unauthorised, Unusable) as error:
            if error.reason in OF_ONE_RUN and seat.lane.breaker == "Closed":
                return await self._failing(seat, state, error)
            if seat.courier is courier:
                self.roster.troubled(seat, error)
            return Halt() if seat.courier is None else Later(after_s=1.0, trouble=False)
        except Refused as error:
            return await self._dead(seat, state, error.reason, error.message)
        except Lost as error:
            observe.log().warning("claim lost", run=run, target=target, cause=str(error))
            await self._let_go(seat, state)
            return Later(after_s=5.0, trouble=False)
        except (KubeError, OverflowFailed) as error:
            observe.log().warning("api server", run=run, target=target, cause=str(error))
            state.api_failures += 1
            return Later(after_s=min(API_PAUSE_MOST_S, 2.0 ** min(state.api_failures, 16)), trouble=False)
        state.api_failures = 0
        progress = state.progress.get(seat.ref)
        if progress is not None:
            progress.failing_since = None
        if state.settled_at is not None:
            self._settled.set()
        return verdict

    async def _let_go(self, seat: Seat, state: RunState) -> None:
        """Someone else wrote the TrackedRun: go on from what they left, and look first at what they may have made."""
        state.progress.pop(seat.ref, None)
        state.lost = (*state.lost, seat.ref)
        entry = self.book.get(state.id, seat.ref)
        if entry is None:
            return
        try:
            there = await self._ledger.again(entry)
        except KubeError:
            return  # what we hold is out of date: its next write is lost too, and leads here again
        if there is None:
            self.book.drop(entry)
        else:
            self.book.add(there)

    async def _failing(self, seat: Seat, state: RunState, error: TargetError, after_s: float | None = None) -> Verdict:
        progress = state.progress.get(seat.ref)
        observe.count("retries")
        if progress is None:
            return Later(after_s=after_s)
        now = _now()
        if progress.failing_since is None or progress.failing_since < seat.lane.resumed_at:
            # While the lane was halted nothing was tried: that time is not held against the run.
            progress.failing_since = now
            run = run_name(state)
            observe.log().warning("retrying", run=run, target=str(seat.ref), reason=error.reason, cause=error.message)
        elif now - progress.failing_since > api.seconds(seat.spec.delivery.max_elapsed):
            said = f"tried for {seat.spec.delivery.max_elapsed}: {error.message}"
            return await self._dead(seat, state, "MaxElapsed", said)
        return Later(after_s=after_s)

    async def _dead(self, seat: Seat, state: RunState, reason: str, message: str) -> Verdict:
        """A dead letter: the TrackedRun says why, and stays until it is sent again or deleted."""
        observe.count("failed")
        run = run_name(state)
        observe.log().error("refused", run=run, target=str(seat.ref), reason=reason, cause=message)
        progress = state.progress.get(seat.ref)
        if progress is None:
            return Done()
        doubt = "" if progress.doubtful_at is None else progress.entry.status.doubtful_at or ledgers.now()
        try:
            progress.entry = await self._ledger.write(
                progress.entry, phase="Failed", reason=reason, message=message[: ledgers.MAX_TEXT],
                changes=ledgers.changes(progress.changes), doubtful_at=doubt,
            )  # fmt: skip
        except (KubeError, Lost) as error:
            # Not said is not settled: nothing would look at it again.
            observe.log().warning("dead letter not written", run=run, cause=str(error))
            if isinstance(error, Lost):
                await self._let_go(seat, state)
            return Later(after_s=POISON_PAUSE_S, trouble=False)
        entry = progress.entry
        self.book.add(entry)
        await of_run(self._kube, entry, "Warning", reason, message)
        state.settled_at = _now()
        self.keeper.offer(state)
        return Later(after_s=1.0, trouble=False) if entry.repolicy else Done()

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

    # --- now and then ---------------------------------------------------------------------------------------------

    async def _rest_forever(self) -> None:
        while True:
            await asyncio.sleep(REST_AFTER_S)
            for number, state in enumerate(self.runs.all()):
                self.rest(state)
                if number % RESTED_AT_ONCE == 0:
                    await asyncio.sleep(0)  # deliveries have their turns meanwhile

    def rest(self, state: RunState) -> None:
        """A run that has ended, waits and had no news for a while holds little from now on. What settles goes soon."""
        now = _now()
        ended = state.header.completed or state.last_body is not None
        leaves = state.settled_at is not None and now - state.settled_at <= KEEP_SETTLED_S
        quiet = ended and not leaves and now - state.stirred_at > REST_AFTER_S
        seats = self.roster.over(state.header.namespace) if quiet and (state.awake or state.progress) else ()
        if not seats or self.keeper.working(state.uid) or any(seat.lane.working(state.uid) for seat in seats):
            return
        state.rest()
        for seat in seats:
            progress = state.progress.get(seat.ref)
            if progress is not None and (progress.failing_since is not None or seat.lane.breaker != "Closed"):
                progress.rest()

    async def _tidy_forever(self) -> None:
        while True:
            try:
                async with asyncio.timeout(STATUS_EVERY_S):
                    await self._settled.wait()  # the first run that settles after a pause shows at once
            except TimeoutError:
                pass
            self._settled.clear()
            await self.tidy()
            await asyncio.sleep(STATUS_EVERY_S)

    async def tidy(self) -> None:
        """Forget what is settled, retire TrackedRuns whose time is over, show counts."""
        now = _now()
        for state in self.runs.all():
            rested = state.settled_at is not None and now - state.settled_at > KEEP_SETTLED_S
            # One target has it all; another may still wait for its tracker, and for a last body that is only here.
            if not self._waits(state, remembered=not rested):
                self.runs.forget(state.uid)
        await self.keeper.sweep()
        for entry in self.book.retired(now, self._settings.history_ttl_s):
            if self.copies.of((entry.namespace, entry.spec.run.uid), entry.spec.target) is not None:
                continue  # its target may come back for it
            try:
                there = await self._ledger.forget(entry)
            except KubeError as error:
                observe.log().warning("not retired", tracked_run=entry.name, cause=str(error))
                continue
            if there is None:
                self.book.drop(entry)
            else:
                self.book.add(there)
        for seat in self.roster.seats():
            await self.roster.count(seat, self.book.counts(seat.ref))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._spawned.add(task)
        task.add_done_callback(self._spawned.discard)


def _now() -> float:
    return asyncio.get_running_loop().time()
