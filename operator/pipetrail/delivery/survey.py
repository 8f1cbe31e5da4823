"""The survey: what events missed. It compares what stands in the cluster with what we know, from metadata alone.

kopf reports no deletion that happened while a list was being read again, and nothing at all while the process was
away. So at the start, every 10 minutes, after each restart of the watches and when a target appears, all Workflows'
metadata is listed: a run that changed is offered, one that is missing is asked for by name, and closed if it is gone.
"""

import asyncio
import datetime as dt
from collections.abc import Callable, Sequence

from pipetrail import observe
from pipetrail.api import TargetRef
from pipetrail.delivery import ledger as ledgers
from pipetrail.delivery.book import Book, RunId
from pipetrail.delivery.courier import Progress
from pipetrail.delivery.ledger import MAX_TEXT, Entry, Ledger, Lost
from pipetrail.delivery.roster import Roster, Seat
from pipetrail.delivery.runs import Runs, RunState
from pipetrail.kube import ARGO, ApiError, Kube, KubeError, collections
from pipetrail.readers import argo as objects
from pipetrail.sources import argo
from pipetrail.targets.target import Refused, TargetError, TrackerRun

MAX_DEAD_LETTERS = 50  # looked at in one pass
SETTLE_S = 2.0  # one survey for a burst of reasons
AGAIN_S = 10.0
GONE_S = 15.0
"""A run that is missing is given this long for its DELETED event, whose last body is worth more than knowing soon."""


class Survey:
    """Lists, compares and asks; `offer` puts a run that has news before its targets."""

    def __init__(
        self, kube: Kube, ledger: Ledger, book: Book, runs: Runs, roster: Roster,
        takers: Callable[[argo.Header], list[Seat]], offer: Callable[[RunState], None], namespaces: Sequence[str] = (),
        *, cluster: str,
    ) -> None:  # fmt: skip
        self._kube = kube
        self._namespaces = namespaces
        self._ledger = ledger
        self._book = book
        self._runs = runs
        self._roster = roster
        self._takers = takers
        self._offer = offer
        self.gone_s = GONE_S
        self._cluster = cluster
        self._missing: dict[RunId, float] = {}  # since when
        self._unanswered: set[TargetRef] = set()  # targets that failed a call in this pass: one is enough
        self._dead_letter = 0  # where the next look at dead letters begins
        self.due = asyncio.Event()
        self.passes = 0
        """How many came to their end."""

    async def run(self) -> None:
        """Survey whenever it is due, until cancelled."""
        while True:
            await self.due.wait()
            await asyncio.sleep(SETTLE_S)
            self.due.clear()
            try:
                await self.once()
            except KubeError as error:
                observe.log().warning("survey failed", cause=str(error))
                asyncio.get_running_loop().call_later(AGAIN_S, self.due.set)
            except Exception as error:  # noqa: BLE001  deliveries go on without a survey; it is said, and tried again
                observe.count("handler_errors")
                observe.log().error("survey failed", error=observe.where(error))
                asyncio.get_running_loop().call_later(AGAIN_S, self.due.set)

    async def once(self) -> None:
        """One pass. A list that fails ends it: nothing is taken for missing that could not be listed."""
        began = asyncio.get_running_loop().time()
        listed: set[str] = set()
        self._unanswered.clear()
        try:
            for path in collections(ARGO, "workflows", self._namespaces):
                async for page in self._kube.pages(path, metadata_only=True):
                    for item in page.get("items", ()):
                        listed.add(self._compare(argo.header(item)))
        except ApiError as error:
            if error.status != 404:  # Argo's CRDs are not installed: there are no runs
                raise
        for missing in [m for m in self._missing if m[1] in listed or not self._known(m)]:
            del self._missing[missing]
        for state in self._runs.all():
            if state.uid not in listed and state.last_body is None and state.met_at < began:
                await self._confirm_gone(state.header.namespace, state.header.name, state.uid)
        for entry in self._book.all():
            uid = entry.spec.run.uid
            if uid not in listed:
                self._book.gone((entry.namespace, uid), began)
                if not entry.settled and self._runs.get(uid) is None:
                    await self._confirm_gone(entry.namespace, entry.spec.run.name, uid)
        self.passes += 1
        if any(since >= began for since in self._missing.values()):
            asyncio.get_running_loop().call_later(self.gone_s, self.due.set)

    async def stuck(self) -> None:
        """Pods that run although their main container has ended: only they tell of an OOM that killed Argo's executor.

        The watch leaves running pods out (most events of a run are theirs), so they are listed now and then, in the
        namespaces of live runs alone.
        """
        for namespace in {state.header.namespace for state in self._runs.all() if state.last_body is None}:
            async for page in self._kube.pages(
                f"/api/v1/namespaces/{namespace}/pods",
                labelSelector="workflows.argoproj.io/workflow",
                fieldSelector="status.phase=Running",
            ):
                for item in page.get("items", ()):
                    pod = argo.pod_facts(item)
                    state = None if pod is None or pod.main is None else self._runs.get(pod.owner_uid)
                    if pod is None or state is None or pod.main is None or pod.main.finished is None:
                        continue
                    before = state.facts
                    self._runs.add(state.uid, pod, pod.uid)
                    if state.facts != before:
                        self._offer(state)

    async def dead_letters(self) -> None:
        """Failed TrackedRuns that someone annotated (to send them again) or deleted (to start over)."""
        failed = [entry for entry in self._book.all() if entry.status.phase == "Failed"]
        begin = self._dead_letter if self._dead_letter < len(failed) else 0
        self._dead_letter = begin + MAX_DEAD_LETTERS
        for entry in failed[begin : begin + MAX_DEAD_LETTERS]:
            there = await self._ledger.again(entry)
            if there is not None and there.resend in ("", entry.resend):
                continue
            run = entry.spec.run
            if there is None:
                self._book.drop(entry)
            else:
                observe.log().info("resend", run=f"{entry.namespace}/{run.name}", target=str(entry.spec.target))
                self._book.add(
                    await self._ledger.write(there, phase="Pending", reason="", message="asked to send again")
                )
            state = self._runs.get(run.uid)
            if state is None:
                header = argo.header(await objects.workflow(self._kube, entry.namespace, run.name))
                if header.uid != run.uid:
                    continue  # its object is gone: what was not delivered can't be read again
                state = self._runs.upsert(header)
                state.facts_known = False
            state.progress.pop(entry.spec.target, None)
            self._offer(state)

    def _compare(self, header: argo.Header) -> str:
        self._book.stands((header.namespace, header.uid))
        known = self._runs.get(header.uid)
        if known is not None and known.header.version == header.version:
            return header.uid
        if known is None and not self._wanted(header):
            return header.uid
        state = known or self._runs.upsert(header)
        if known is None:
            state.facts_known = False
        self._offer(state)
        return header.uid

    def _wanted(self, header: argo.Header) -> bool:
        """Might a target want it? Metadata tells no end: what is older than the target and over, the watch judges."""
        return any(
            not (header.completed and header.created is not None and header.created < seat.found.created)
            or self._book.get((header.namespace, header.uid), seat.ref) is not None
            for seat in self._takers(header)
        )

    def _known(self, run: RunId) -> bool:
        return self._runs.get(run[1]) is not None or bool(self._book.unsettled(run))

    async def _confirm_gone(self, namespace: str, name: str, uid: str) -> None:
        """Missing means a GET that says 404 or another uid; then what is open is closed as killed."""
        missing = (namespace, uid)
        try:
            body = await self._kube.get(f"{ARGO}/namespaces/{namespace}/workflows/{name}")
            if argo.header(body).uid == uid:
                self._missing.pop(missing, None)
                return
        except ApiError as error:
            if error.status != 404:
                return
        except KubeError:
            return
        state = self._runs.get(uid)
        if state is not None and state.last_body is not None:
            return  # its DELETED event, with the last body, came after all
        now = asyncio.get_running_loop().time()
        if now - self._missing.setdefault(missing, now) < self.gone_s:
            return
        if any(seat.lane.working(uid) for seat in self._roster.seats()):
            return  # it was read before it went, and is on its way
        for entry in self._book.unsettled(missing):
            await self._close(entry)
        if state is not None and not self._book.unsettled(missing):
            self._runs.forget(uid)

    async def _close(self, entry: Entry) -> None:
        run = entry.spec.run
        if run.key != f"{self._cluster}/{run.uid}":
            # Written by someone else, or under another name of this cluster: no tracker is asked about that key.
            said = "its key is none that this operator gives: nothing was sent, and nothing in the tracker was touched"
            await self._end(entry, phase="Stopped", reason="NotOurs", message=said, settled_at=ledgers.now())
            return
        seat = self._roster.get(entry.spec.target)
        if seat is None or seat.courier is None or seat.ref in self._unanswered:
            return
        key = run.key if entry.spec.attempt == 1 else f"{run.key}#{entry.spec.attempt}"
        stub = TrackerRun(
            key=key, root=key, experiment=entry.spec.experiment, name=run.name, status="Killed",
            started=dt.datetime.now(dt.UTC),
        )  # fmt: skip
        said = "the run's object was deleted while nobody watched: closed as killed, how it ended is not known"
        try:
            outcome = await seat.courier.close_lost(Progress(entry, unsure=True), stub)
        except Refused as refusal:  # someone deleted it in the tracker: there is nothing to close
            outcome, said = "", f"the run's object was deleted while nobody watched; {refusal.message}"[:MAX_TEXT]
        except TargetError as error:
            self._unanswered.add(seat.ref)
            observe.log().warning("not closed yet", run=run.name, target=str(seat.ref), cause=str(error))
            return
        status: dict[str, str] = (
            {"phase": "Synced", "outcome": outcome, "reason": "", "message": "", "generation": run.generation}
            if outcome
            else {"phase": "Stopped", "outcome": "deleted", "reason": "SourceDeleted", "message": said}
        )
        if not await self._end(entry, **status, settled_at=ledgers.now()) or outcome:
            return
        observe.count("lost")
        observe.log().warning("lost", run=f"{entry.namespace}/{run.name}", target=str(seat.ref), cause=said)

    async def _end(self, entry: Entry, **status: str) -> bool:
        """Write down how a run that vanished was left."""
        try:
            self._book.add(await self._ledger.write(entry, **status))
        except (KubeError, Lost) as error:
            target = str(entry.spec.target)
            observe.log().warning("not closed yet", run=entry.spec.run.name, target=target, cause=str(error))
            return False
        return True
