"""Dispatch: who gets what. Events mark runs; lanes ask for a run when its turn comes; here the two meet.

Level-triggered: an event only says that a run has news. What is delivered is always made from the run as it stands when
a worker takes it up, so events may come twice, late, out of order or not at all (the survey finds what they missed).
"""

import asyncio
import datetime as dt
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final

from pipetrail import api, capture, observe, policy, redact, shape
from pipetrail.api import SyncCounts, TargetRef
from pipetrail.delivery import ledger as ledgers
from pipetrail.delivery.courier import LOOK_AGAIN_S, Differs, Progress
from pipetrail.delivery.lane import Done, Halt, Later, Verdict
from pipetrail.delivery.ledger import Entry, Ledger, Lost
from pipetrail.delivery.roster import STATUS_EVERY_S, Roster, Seat, post_event
from pipetrail.delivery.runs import Runs, RunState
from pipetrail.kube import ARGO, ApiError, Kube, KubeError
from pipetrail.readers import Reader
from pipetrail.record import Record
from pipetrail.settings import Settings
from pipetrail.sources import Reading, argo
from pipetrail.targets.target import Refused, Retry, TargetError, TrackerRun, Unauthorised, Unusable

KEEP_SETTLED_S: Final = 90.0
"""A settled run stays in memory this long: nodes of a killed run get outputs late, doubts are looked at after 60 s."""
OLD_RUN_S: Final = 60.0
MEMO_RECORDS: Final = 64
POISON_PAUSE_S: Final = 60.0


class Namespaces:
    """Labels and annotations of the cluster's namespaces, as far as we have seen them."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Mapping[str, str], Mapping[str, str]]] = {}

    def saw(self, body: Mapping[str, Any], *, deleted: bool) -> bool:
        """A namespace appeared, changed or went; true if its labels or annotations are new to us."""
        meta = body.get("metadata") or {}
        name = str(meta.get("name"))
        if deleted:
            return self._known.pop(name, None) is not None
        now = (meta.get("labels") or {}, meta.get("annotations") or {})
        changed = self._known.get(name) != now
        self._known[name] = now
        return changed

    def of(self, name: str) -> tuple[Mapping[str, str], Mapping[str, str]]:
        """(labels, annotations) of one namespace."""
        return self._known.get(name, ({}, {}))


class Dispatch:
    """Everything between the watches and the couriers. Its methods run in one event loop and never block it."""

    def __init__(self, kube: Kube, ledger: Ledger, reader: Reader, settings: Settings, cluster: str) -> None:
        self._kube = kube
        self._ledger = ledger
        self._reader = reader
        self._settings = settings
        self._cluster = cluster
        self.runs = Runs()
        self.namespaces = Namespaces()
        self.roster = Roster(kube, ledger, settings, self._work)
        self._entries: dict[tuple[str, TargetRef], Entry] = {}
        self._gone_at: dict[str, float] = {}
        self._memo: OrderedDict[tuple[Any, ...], Record] = OrderedDict()
        self.resurvey = asyncio.Event()

    # --- what the watches say -------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Read the ledger: what is settled needs nothing, the rest is looked at again."""
        async for entry in self._ledger.entries():
            key = (entry.spec.run.uid, entry.spec.target)
            known = self._entries.get(key)
            if known is None or known.spec.attempt < entry.spec.attempt:
                self._entries[key] = entry
        observe.log().info("ledger read", tracked_runs=len(self._entries))

    def saw_run(self, header: argo.Header, body: Mapping[str, Any] | None, *, deleted: bool, listed: bool) -> None:
        """A Workflow appeared, changed or, with its last body, was deleted."""
        observe.count("events_workflow")
        if deleted:
            self._gone_at[header.uid] = self._now()
        if not self._wanted(header):
            return
        known = self.runs.get(header.uid)
        if known is None and deleted and not self._open_entries(header.uid) and not header.started:
            return
        state = self.runs.upsert(header)
        if known is None:
            state.facts_known = not listed
        if deleted and body is not None:
            state.bury(body)
        self._offer(state)

    def saw_pod(self, facts: argo.PodFacts, *, listed: bool) -> None:
        """A pod of a run ended or changed after its end."""
        observe.count("events_pod")
        self._saw_fact(facts.owner_uid, facts, facts.uid, listed=listed)

    def saw_result(self, facts: argo.ResultFacts, *, listed: bool) -> None:
        """A step's executor has reported all its outputs."""
        observe.count("events_result")
        self._saw_fact(facts.owner_uid, facts, facts.node_id, listed=listed)

    def _saw_fact(self, uid: str, fact: argo.PodFacts | argo.ResultFacts, identity: str, *, listed: bool) -> None:
        if self.runs.get(uid) is None and (listed or any(k[0] == uid and e.settled for k, e in self._entries_of(uid))):
            return  # a run that we meet in a list is read with all its pods when its turn comes
        state = self.runs.add(uid, fact, identity)
        if state is not None:
            self._offer(state)

    def saw_target(self, found: api.FoundTarget | api.InvalidTarget, *, deleted: bool) -> None:
        """A target appeared, changed or went."""
        match found:
            case api.InvalidTarget():
                self._spawn(self.roster.invalid(found))
            case api.FoundTarget() if deleted:
                self._spawn(self._target_gone(found.ref))
            case api.FoundTarget():
                if self.roster.upsert(found):
                    self.resurvey.set()

    def saw_namespace(self, body: Mapping[str, Any], *, deleted: bool) -> None:
        """A namespace's labels decide what cluster targets see."""
        if self.namespaces.saw(body, deleted=deleted):
            name = str((body.get("metadata") or {}).get("name"))
            for state in self.runs.all():
                if state.header.namespace == name:
                    state.left.clear()
                    self._offer(state)

    def _wanted(self, header: argo.Header) -> bool:
        """Cheap: might any target want something of this run, that is not settled?"""
        if self.runs.get(header.uid) is not None:
            return True
        for seat in self.roster.seats():
            if seat.ref.namespace not in ("", header.namespace):
                continue
            entry = self._entries.get((header.uid, seat.ref))
            if entry is None or not entry.settled or entry.status.doubtful_at or self._reopened(entry, header):
                return True
        return bool(self._open_entries(header.uid))

    def _reopened(self, entry: Entry, header: argo.Header) -> bool:
        return (
            entry.status.phase == "Synced" and bool(header.generation) and header.generation != entry.status.generation
        )

    def _open_entries(self, uid: str) -> list[Entry]:
        return [e for _, e in self._entries_of(uid) if not e.settled]

    def _entries_of(self, uid: str) -> list[tuple[tuple[str, TargetRef], Entry]]:
        keys = ((uid, seat.ref) for seat in self.roster.seats())
        return [(k, self._entries[k]) for k in keys if k in self._entries]

    def _offer(self, state: RunState) -> None:
        state.settled_at = None
        for seat in self.roster.seats():
            if seat.ref.namespace in ("", state.header.namespace):
                seat.lane.offer(state.uid)

    # --- one run for one target -----------------------------------------------------------------------------------

    async def _work(self, seat: Seat, uid: str) -> Verdict:
        """One turn of a lane. Whatever happens to this run, the lane goes on."""
        state = self.runs.get(uid)
        if state is None or seat.courier is None:
            return Done() if state is None else Halt()
        try:
            verdict = await self._deliver(seat, state)
        except Retry as error:
            verdict = await self._failing(seat, state, error)
        except (Unauthorised, Unusable) as error:
            self.roster.troubled(seat, error)
            verdict = Halt()
        except Refused as error:
            await self._dead(seat, state, error.reason, error.message)
            verdict = Done()
        except Lost as error:
            observe.log().warning("claim lost", run=_name(state), target=str(seat.ref), cause=str(error))
            state.progress.pop(seat.ref, None)
            self._entries.pop((uid, seat.ref), None)
            verdict = Later(after_s=5.0, trouble=False)
        except KubeError as error:
            observe.log().warning("api server", run=_name(state), target=str(seat.ref), cause=str(error))
            verdict = Later(after_s=2.0, trouble=False)
        except Exception as error:  # noqa: BLE001  one poison run must not stop the lane; it is said, and tried again
            observe.count("handler_errors")
            observe.log().error("delivery failed", run=_name(state), target=str(seat.ref), error=_where(error))
            verdict = Later(after_s=POISON_PAUSE_S, trouble=False)
        else:
            progress = state.progress.get(seat.ref)
            if progress is not None:
                progress.failing_since = None
        return verdict

    async def _deliver(self, seat: Seat, state: RunState) -> Verdict:
        courier = seat.courier
        entry = self._entries.get((state.uid, seat.ref))
        reopened = entry is not None and self._reopened(entry, state.header)
        if entry is not None and entry.settled and not reopened and not self._unfinished(seat, state, entry):
            return self._rest(state)
        if seat.ref in state.left and state.left[seat.ref] == (seat.found.generation, state.header.version):
            return Done()
        reading = await self._read(state)
        if reading is None:
            return Later(after_s=1.0, trouble=False) if state.last_body is None else Done()
        if reading.record.started is None and not reading.record.outcome.settled:
            return Done()  # trackers fix a run's start when it is made, so we wait until it has one
        if reopened and not reading.record.outcome.settled:
            return Done()  # whether a retried run changes what is delivered is known when it has ended
        progress = await self._progress(seat, state, reading.record)
        if progress is None or courier is None:
            return Done()
        record = await self._record(state, reading, progress.entry.spec.policy)
        spec = progress.entry.spec
        tree = shape.shape(
            record, spec.policy, places=self._settings.places, cluster_target=seat.ref.kind == "ClusterTrackingTarget",
            attempt=spec.attempt, supersedes=spec.supersedes,
        )  # fmt: skip
        try:
            settled = await courier.deliver(progress, tree, record, reopened=reopened)
        except Differs:
            await self._next_attempt(seat, state, progress, record)
            return Later(after_s=0.05, trouble=False)
        finally:
            self._entries[state.uid, seat.ref] = progress.entry
        if not settled:
            return Done()
        observe.count("settled")
        if progress.doubtful_at is not None:
            return Later(after_s=LOOK_AGAIN_S + 1.0, trouble=False)
        return self._rest(state)

    def _unfinished(self, seat: Seat, state: RunState, entry: Entry) -> bool:
        """A settled run that we still hold: late outputs of killed nodes, or a doubt that is to be looked at."""
        return entry.status.phase == "Synced" and (seat.ref in state.progress or bool(entry.status.doubtful_at))

    def _rest(self, state: RunState) -> Verdict:
        if state.settled_at is None:
            state.settled_at = self._now()
        return Done()

    async def _read(self, state: RunState) -> Reading | None:
        """The run as it stands now, or as it last stood; None if it vanished and its last body has not come (yet)."""
        if not state.facts_known:
            await self._read_facts(state)
        body = state.exhume()
        if body is None:
            header = state.header
            try:
                body = await self._kube.get(f"{ARGO}/namespaces/{header.namespace}/workflows/{header.name}")
            except ApiError as error:
                if error.status != 404:
                    raise
                return self._vanished(state)
            if argo.header(body).uid != header.uid:
                return self._vanished(state)
            state.header = argo.header(body)
        return argo.read(body, state.facts, cluster=self._cluster)

    def _vanished(self, state: RunState) -> None:
        """The API server has no such run. Its DELETED event may be on its way; the survey closes it if none comes."""
        state.left.clear()
        self.resurvey.set()

    async def _read_facts(self, state: RunState) -> None:
        """Pods and results of a run that we met in a list: what the watch would have told us."""
        header = state.header
        selector = f"workflows.argoproj.io/workflow={header.name}"
        pods = f"/api/v1/namespaces/{header.namespace}/pods"
        results = f"{ARGO}/namespaces/{header.namespace}/workflowtaskresults"
        async for page in self._kube.pages(pods, labelSelector=selector):
            for item in page.get("items", ()):
                pod = argo.pod_facts(item)
                if pod is not None and pod.owner_uid == header.uid:
                    state.facts = state.facts.with_pod(pod)
        async for page in self._kube.pages(results, labelSelector=selector):
            for item in page.get("items", ()):
                result = argo.result_facts({"apiVersion": "argoproj.io/v1alpha1", "kind": "WorkflowTaskResult", **item})
                if result is not None and result.owner_uid == header.uid:
                    state.facts = state.facts.with_result(result)
        state.facts_known = True

    async def _record(self, state: RunState, reading: Reading, pinned: api.Policy) -> Record:
        wants = capture.wants(pinned)
        key = (state.uid, state.header.version, id(state.facts), state.last_body is None, pinned.digest)
        record = self._memo.get(key)
        if record is None:
            record = await capture.capture(reading, self._reader, wants, state.files)
            record = redact.redact(record, additional_keys=pinned.redact.additional_keys)
            if not any(p.reason.endswith("Again") for p in record.partial):
                self._memo[key] = record
            if len(self._memo) > MEMO_RECORDS:
                self._memo.popitem(last=False)
        return record

    async def _progress(self, seat: Seat, state: RunState, record: Record) -> Progress | None:
        """Where this delivery stands; its intent is written if there is none. None: this target does not want it."""
        known = state.progress.get(seat.ref)
        if known is not None:
            return known
        entry = self._entries.get((state.uid, seat.ref))
        fresh = False
        if entry is None:
            match self._decide(seat, state, record):
                case policy.Left(rule=rule, why=why):
                    state.left[seat.ref] = (seat.found.generation, state.header.version)
                    observe.log().debug("left", run=_name(state), target=str(seat.ref), rule=rule, why=why)
                    return None
                case policy.Taken(policy=pinned):
                    run = api.RunRef(
                        source=record.source, name=record.name, uid=state.uid, key=record.key.run,
                        pipeline=record.pipeline, generation=record.key.generation,
                    )  # fmt: skip
                    entry, fresh = await self._ledger.intent(record.namespace, run, seat.ref, pinned)
            self._entries[state.uid, seat.ref] = entry
        progress = Progress(entry, unsure=not fresh or _age_s(record) > OLD_RUN_S)
        if not fresh:
            progress.doubtful_at = self._now()  # a create of the process before us may still commit
        state.progress[seat.ref] = progress
        return progress

    def _decide(self, seat: Seat, state: RunState, record: Record) -> policy.Decision:
        header = state.header
        if record.outcome.settled and record.finished is not None and record.finished < seat.found.created:
            return policy.Left(rule="EndedBeforeTarget", why="it ended before the target was made")
        labels, annotations = self.namespaces.of(header.namespace)
        run = policy.RunFacts(
            source=header.kind, namespace=header.namespace, name=header.name, labels=header.labels,
            annotations=header.annotations, pipeline=record.pipeline, namespace_labels=labels,
            namespace_annotations=annotations,
        )  # fmt: skip
        return policy.decide(run, seat.found, others=[s.found for s in self.roster.seats() if s is not seat])

    async def _next_attempt(self, seat: Seat, state: RunState, old: Progress, record: Record) -> None:
        """An ``argo retry`` changed what the tracker can't change: the new generation gets a tracker run of its own."""
        spec = old.entry.spec
        run = api.RunRef(
            source=record.source, name=record.name, uid=state.uid, key=record.key.run, pipeline=record.pipeline,
            generation=record.key.generation,
        )  # fmt: skip
        entry, fresh = await self._ledger.intent(
            record.namespace, run, seat.ref, spec.policy, attempt=spec.attempt + 1,
            supersedes=old.entry.status.external_id,
        )  # fmt: skip
        self._entries[state.uid, seat.ref] = entry
        state.progress[seat.ref] = old_progress = Progress(entry, unsure=not fresh)
        old.entry = old_progress.entry

    async def _failing(self, seat: Seat, state: RunState, error: Retry) -> Verdict:
        progress = state.progress.get(seat.ref)
        observe.count("retries")
        if progress is None:
            return Later(after_s=error.after_s)
        now = self._now()
        if progress.failing_since is None:
            progress.failing_since = now
            observe.log().warning(
                "retrying", run=_name(state), target=str(seat.ref), reason=error.reason, cause=error.message
            )
        elif now - progress.failing_since > api.seconds(seat.spec.delivery.max_elapsed):
            await self._dead(seat, state, "MaxElapsed", f"tried for {seat.spec.delivery.max_elapsed}: {error.message}")
            return Done()
        return Later(after_s=error.after_s)

    async def _dead(self, seat: Seat, state: RunState, reason: str, message: str) -> None:
        """A dead letter: the TrackedRun says why, and stays until it is sent again or deleted."""
        progress = state.progress.get(seat.ref)
        observe.count("failed")
        observe.log().error("refused", run=_name(state), target=str(seat.ref), reason=reason, cause=message)
        if progress is None:
            return
        try:
            progress.entry = await self._ledger.write(
                progress.entry, phase="Failed", reason=reason, message=message[: ledgers.MAX_TEXT],
                changes=ledgers.changes(progress.changes),
            )  # fmt: skip
        except (KubeError, Lost) as error:
            observe.log().warning("dead letter not written", run=_name(state), cause=str(error))
        self._entries[state.uid, seat.ref] = progress.entry
        entry = progress.entry
        involved = {
            "apiVersion": api.API_VERSION,
            "kind": "TrackedRun",
            "name": entry.name,
            "namespace": entry.namespace,
        }
        await post_event(self._kube, entry.namespace, involved, "Warning", reason, message)
        self._rest(state)

    # --- what events missed ---------------------------------------------------------------------------------------

    async def survey(self) -> None:
        """Compare what stands in the cluster with what we know (metadata only), and look at each difference."""
        listed: set[str] = set()
        async for page in self._kube.pages(f"{ARGO}/workflows", metadata_only=True):
            for item in page.get("items", ()):
                header = argo.header(item)
                listed.add(header.uid)
                self._gone_at.pop(header.uid, None)
                known = self.runs.get(header.uid)
                if known is not None and known.header.version == header.version:
                    continue
                if known is not None or self._wanted_by_metadata(header):
                    state = known or self.runs.upsert(header)
                    if known is None:
                        state.facts_known = False
                    self._offer(state)
        now = self._now()
        for state in self.runs.all():
            if state.uid not in listed and state.last_body is None:
                await self._confirm_gone(state.header.namespace, state.header.name, state.uid)
        for (uid, _), entry in list(self._entries.items()):
            if uid not in listed:
                self._gone_at.setdefault(uid, now)
                if not entry.settled and self.runs.get(uid) is None:
                    await self._confirm_gone(entry.namespace, entry.spec.run.name, uid)

    def _wanted_by_metadata(self, header: argo.Header) -> bool:
        for seat in self.roster.seats():
            if seat.ref.namespace in ("", header.namespace):
                entry = self._entries.get((header.uid, seat.ref))
                if entry is None or not entry.settled or entry.status.doubtful_at:
                    return True
        return False

    async def _confirm_gone(self, namespace: str, name: str, uid: str) -> None:
        """Missing means a GET that says 404 or another uid. Then the run is closed as killed, and counted as lost."""
        try:
            body = await self._kube.get(f"{ARGO}/namespaces/{namespace}/workflows/{name}")
            if argo.header(body).uid == uid:
                return
        except ApiError as error:
            if error.status != 404:
                return
        except KubeError:
            return
        state = self.runs.get(uid)
        if state is not None and state.last_body is not None:
            return
        for seat in self.roster.seats():
            entry = self._entries.get((uid, seat.ref))
            if entry is not None and not entry.settled and seat.courier is not None:
                await self._close_lost(seat, entry)
        if state is not None and not self._open_entries(uid):
            self.runs.forget(uid)

    async def _close_lost(self, seat: Seat, entry: Entry) -> None:
        if seat.courier is None:
            return
        run = TrackerRun(
            key=_attempt_key(entry), root=_attempt_key(entry), experiment="", name=entry.spec.run.name, status="Killed",
            started=dt.datetime.now(dt.UTC),
        )  # fmt: skip
        try:
            await seat.courier.close_lost(Progress(entry, unsure=True), run)
            said = "the run's object was deleted while we were not watching: closed as killed, its end is not known"
            self._entries[entry.spec.run.uid, seat.ref] = await self._ledger.write(
                entry,
                phase="Stopped",
                reason="SourceDeleted",
                message=said,
                outcome="deleted",
                settled_at=ledgers.now(),
            )
            observe.count("lost")
            observe.log().warning(
                "lost", run=f"{entry.namespace}/{entry.spec.run.name}", target=str(seat.ref), cause=said
            )
        except (TargetError, KubeError, Lost) as error:
            observe.log().warning("not closed yet", run=entry.spec.run.name, target=str(seat.ref), cause=str(error))

    async def _target_gone(self, ref: TargetRef) -> None:
        """No finalizer: the lane stops, what is unsettled is Stopped, nothing in the tracker is touched."""
        await self.roster.remove(ref)
        for state in self.runs.all():
            state.progress.pop(ref, None)
        for key, entry in [(k, e) for k, e in self._entries.items() if k[1] == ref and not e.settled]:
            try:
                self._entries[key] = await self._ledger.write(
                    entry,
                    phase="Stopped",
                    reason="TargetDeleted",
                    message=f"{ref} was deleted; make it again to resume",
                )
            except (KubeError, Lost) as error:
                observe.log().warning("not stopped", run=entry.spec.run.name, target=str(ref), cause=str(error))

    async def tidy(self) -> None:
        """Forget what is settled, retire TrackedRuns whose time is over, show counts. Called every 30 s."""
        now = self._now()
        for state in self.runs.all():
            if state.settled_at is not None and now - state.settled_at > KEEP_SETTLED_S:
                self.runs.forget(state.uid)
            elif state.left and len(state.left) == len(
                [s for s in self.roster.seats() if s.ref.namespace in ("", state.header.namespace)]
            ):
                self.runs.forget(state.uid)
        for (uid, ref), entry in list(self._entries.items()):
            gone_at = self._gone_at.get(uid)
            if gone_at is None or entry.status.phase in ("Pending", "Tracking", "Failed"):
                continue
            if now - gone_at > self._settings.history_ttl_s:
                try:
                    await self._ledger.forget(entry)
                except KubeError as error:
                    observe.log().warning("not retired", tracked_run=entry.name, cause=str(error))
                    continue
                del self._entries[uid, ref]
        for seat in self.roster.seats():
            await self.roster.count(seat, self._counts(seat.ref))

    def _counts(self, ref: TargetRef) -> SyncCounts:
        mine = [e.status for (_, target), e in self._entries.items() if target == ref]
        return SyncCounts(
            synced=sum(s.phase == "Synced" for s in mine),
            pending=sum(s.phase in ("Pending", "Tracking") for s in mine),
            failed=sum(s.phase == "Failed" for s in mine),
            last_sync=max((s.settled_at for s in mine), default=""),
        )

    async def run(self) -> None:
        """The survey and the tidying, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._survey_forever(), name="survey")
            tasks.create_task(self._tidy_forever(), name="tidy")

    async def _survey_forever(self) -> None:
        while True:
            await self.resurvey.wait()
            self.resurvey.clear()
            await asyncio.sleep(2.0)  # one survey for a burst of reasons
            try:
                await self.survey()
            except KubeError as error:
                observe.log().warning("survey failed", cause=str(error))
                asyncio.get_running_loop().call_later(10.0, self.resurvey.set)

    async def _tidy_forever(self) -> None:
        while True:
            await asyncio.sleep(STATUS_EVERY_S)
            await self.tidy()

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._spawned.add(task)
        task.add_done_callback(self._spawned.discard)

    _spawned: set[asyncio.Future[Any]] = set()

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def _name(state: RunState) -> str:
    return f"{state.header.namespace}/{state.header.name}"


def _age_s(record: Record) -> float:
    since = record.created or record.started
    return 0.0 if since is None else (dt.datetime.now(dt.UTC) - since).total_seconds()


def _attempt_key(entry: Entry) -> str:
    return entry.spec.run.key if entry.spec.attempt == 1 else f"{entry.spec.run.key}#{entry.spec.attempt}"


def _where(error: BaseException) -> str:
    """Type and place of an error, without its text: that may hold a user's values."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = "?" if trace is None else f"{trace.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{trace.tb_lineno}"
    return f"{type(error).__name__} at {place}"
