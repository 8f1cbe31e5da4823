"""The survey: what events missed. It compares what stands in the cluster with what we know, from metadata alone.

kopf reports no deletion that happened while a list was being read again, and nothing at all while the process was
away. So at the start, every 10 minutes, after each restart of the watches and when a target appears, all Workflows'
metadata is listed: a run that changed is offered, one that is missing is asked for by name, and closed if it is gone.
Unless too many are gone at once (:mod:`pipetrail.delivery.orphans`), or Argo's archive has their end.
"""

import asyncio
import datetime as dt
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set

from pipetrail import observe
from pipetrail.api import TargetRef
from pipetrail.delivery import ledger as ledgers
from pipetrail.delivery import orphans as orphanage
from pipetrail.delivery.book import Book, RunId
from pipetrail.delivery.courier import Progress
from pipetrail.delivery.ledger import MAX_TEXT, Entry, Ledger, Lost
from pipetrail.delivery.roster import Roster
from pipetrail.delivery.runs import Runs, RunState
from pipetrail.delivery.seat import Seat
from pipetrail.delivery.status import StatusWriter
from pipetrail.kube import ARGO, ApiError, Kube, KubeError, collections
from pipetrail.readers.archive import ArchiveFailed, ArgoArchive
from pipetrail.shards import WHOLE, Share
from pipetrail.sources import argo
from pipetrail.targets.target import Refused, TargetError, TrackerRun

SETTLE_S = 2.0  # one survey for a burst of reasons
AGAIN_S = 10.0
HELD_EVERY_S = 60.0  # while runs are held (they may come back any moment) or their tracker did not let them be closed
GONE_S = 15.0
"""A run that is missing is given this long for its DELETED event, whose last body is worth more than knowing soon."""


RECALLED_MOST = 200
"""Runs that come back from Argo's archive in one pass: each holds its body until it is delivered."""


class Survey:
    """Lists, compares and asks; `offer` puts a run that has news before its targets."""

    def __init__(
        self, kube: Kube, ledger: Ledger, book: Book, runs: Runs, roster: Roster, status: StatusWriter,
        takers: Callable[[argo.Header], list[Seat]], offer: Callable[[RunState], None], namespaces: Sequence[str] = (),
        *, cluster: str, has_copy: Callable[[RunId], bool] = lambda _run: False, share: Share = WHOLE,
        archive: ArgoArchive | None = None,
    ) -> None:  # fmt: skip
        self._kube = kube
        self._namespaces = namespaces
        self._share = share
        self._ledger = ledger
        self._book = book
        self._runs = runs
        self._roster = roster
        self._status = status
        self._takers = takers
        self._offer = offer
        self.gone_s = GONE_S
        self.held_every_s = HELD_EVERY_S
        self._cluster = cluster
        self._has_copy = has_copy
        self._archive = archive
        self.told: Callable[[], bool] = lambda: True
        """Have the watches told all that they missed? Until then a last body may still come."""
        self.held = 0
        """Runs that are gone and not closed, because too many went at once."""
        self._timer: asyncio.TimerHandle | None = None
        self._missing: dict[RunId, float] = {}  # since when
        self._unanswered: set[TargetRef] = set()  # targets that failed a call in this pass: one is enough
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
                self._again(AGAIN_S)
            except Exception as error:  # noqa: BLE001  deliveries go on without a survey; it is said, and tried again
                observe.count("handler_errors")
                observe.log().error("survey failed", error=observe.where(error))
                self._again(AGAIN_S)

    def _again(self, after_s: float) -> None:
        """Survey once more after `after_s`, or sooner if that is to be already."""
        loop = asyncio.get_running_loop()
        if self._timer is not None and loop.time() < self._timer.when() <= loop.time() + after_s:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_later(after_s, self.due.set)

    async def once(self) -> None:
        """One pass. A list that fails ends it: nothing is taken for missing that could not be listed."""
        began = _now()
        self._unanswered.clear()
        listed, complete = await self._list()
        for missing in [m for m in self._missing if m[1] in listed or not self._known(m)]:
            del self._missing[missing]
        absent = self._absent(listed, began)
        for run in absent:
            self._missing.setdefault(run, began)
        if complete:
            for entry in self._book.all():
                if entry.spec.run.uid not in listed:
                    self._book.gone((entry.namespace, entry.spec.run.uid), began)
        left = self.told() and await self._part_with(absent, complete=complete)
        self.passes += 1
        if any(since >= began for since in self._missing.values()) or (absent and not self.told()):
            self._again(self.gone_s)
        elif left or any(seat.hold is not None for seat in self._roster.seats()):
            self._again(self.held_every_s)

    async def _list(self) -> tuple[set[str], bool]:
        """Uids of all runs that stand; false if there are no Workflows here at all, so that nothing can be missing."""
        listed: set[str] = set()
        try:
            for path in collections(ARGO, "workflows", self._namespaces, self._share):
                async for page in self._kube.pages(path, metadata_only=True, **self._share.query):
                    for item in page.get("items", ()):
                        header = argo.header(item)
                        if self._share.owns(header.namespace):
                            listed.add(self._compare(header))
        except ApiError as error:
            if error.status != 404:
                raise
            return listed, False  # Argo's CRDs are not installed, or not for the moment
        return listed, True

    def _absent(self, listed: Set[str], began: float) -> dict[RunId, str]:
        """Runs that we know and that were not listed, by name; not those that were met since, or are kept elsewhere."""
        found: dict[RunId, str] = {}
        for state in self._runs.all():
            if state.uid not in listed and not state.gone and state.met_at < began:
                found[state.id] = state.header.name
        for entry in self._book.all():
            run = (entry.namespace, entry.spec.run.uid)
            if run[1] not in listed and not entry.settled and self._state(run) is None:
                found[run] = entry.spec.run.name
        return {run: name for run, name in found.items() if not self._has_copy(run)}

    def _over(self, run: RunId) -> bool:
        """It has had its time, and nobody is sending it: what was read before it went is on its way."""
        busy = any(seat.lane.working(run[1]) for seat in self._roster.seats())
        return not busy and _now() - self._missing[run] >= self.gone_s

    async def stuck(self) -> None:
        """Pods that run although their main container has ended: only they tell of an OOM that killed Argo's executor.

        The watch leaves running pods out (most events of a run are theirs), so they are listed now and then, in the
        namespaces of live runs alone.
        """
        for namespace in {state.header.namespace for state in self._runs.all() if not state.gone}:
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
        return self._state(run) is not None or bool(self._book.unsettled(run))

    def _state(self, run: RunId) -> RunState | None:
        """What we know of a run. A TrackedRun that someone forged may name the uid of one in another namespace."""
        state = self._runs.get(run[1])
        return state if state is not None and state.id == run else None

    async def _part_with(self, absent: Mapping[RunId, str], *, complete: bool) -> bool:
        """Close what is gone for good, unless so much is gone at once that it looks like a mishap: then hold.

        True if some of it could not be closed now: its tracker or the API server did not answer, say.
        Missing means a GET that says 404 or another uid. Of many that are absent no more are asked for than it takes
        to know that they are too many.
        """
        over = {run: name for run, name in absent.items() if self._over(run)}
        lacking, unknown = await self._recall(over)
        absent = {run: name for run, name in absent.items() if run not in over or run in lacking or run in unknown}
        over = lacking
        unsettled = {(e.namespace, e.spec.run.uid) for e in self._book.all() if not e.settled}
        bearable, gone = orphanage.bearable(len(unsettled)), set[RunId]()
        for run in over.keys() & unsettled:
            if len(gone) > bearable:
                break
            if await self._gone(run, over[run]):
                gone.add(run)
        await self._hold(absent.keys() & unsettled, complete=complete, too_many=len(gone) > bearable or not complete)
        closed = left = False
        for run, name in over.items():
            free = [entry for entry in self._book.unsettled(run) if not self._keeps(entry)]
            if run in unsettled and not free:
                continue
            if not (run in gone or await self._gone(run, name)):
                left = True
                continue
            for entry in free:
                await self._close(entry)
                closed = True
            left |= any(self._roster.get(entry.spec.target) is not None for entry in self._book.unsettled(run))
            if self._state(run) is not None and not self._book.unsettled(run):
                self._runs.forget(run[1])
        if closed and any(seat.hold is not None for seat in self._roster.seats()):
            self._again(AGAIN_S)  # to see what is still held
        return left

    async def _recall(self, over: Mapping[RunId, str]) -> tuple[dict[RunId, str], set[RunId]]:
        """Have runs that Argo archived go on from there: (those that it does not have, those of which it did not say).

        An archive that does not answer is asked again in the next pass; until it says, none of its runs is closed.
        """
        if self._archive is None:
            return dict(over), set()
        lacking, unknown, back = dict[RunId, str](), set[RunId](), 0
        silent = False
        for run, name in over.items():
            if silent or back >= RECALLED_MOST:
                unknown.add(run)
                continue
            try:
                mine = self._state(run) is not None or self._runs.get(run[1]) is None
                body = await self._archive.body(*run) if mine and await self._gone(run, name) else None
            except ArchiveFailed as error:
                observe.log().warning("archive not read", run=f"{run[0]}/{name}", cause=str(error))
                silent = True
                unknown.add(run)
                continue
            if body is None:
                lacking[run] = name
                continue
            back += 1
            state = self._runs.upsert(argo.header(body))
            state.bury(body, archived=True)
            self._missing.pop(run, None)
            observe.count("recalled")
            observe.log().info("recalled", run=f"{run[0]}/{name}", cause="its end is in Argo's archive")
            self._offer(state)
        if unknown:
            self._again(self.held_every_s if silent else AGAIN_S)
        return lacking, unknown

    async def _hold(self, orphans: Set[RunId], *, complete: bool, too_many: bool) -> None:
        """Have each target hold its orphans, if they are too many or it held some already, until there are none."""
        over = [run for run in orphans if self._over(run)]
        concerned = Counter(entry.spec.target for run in orphans for entry in self._book.unsettled(run))
        held = {entry.spec.target for run in over for entry in self._book.unsettled(run)} if too_many else set()
        for seat in self._roster.seats():
            count = concerned[seat.ref]
            holds = seat.ref in held or (count > 0 and seat.hold is not None)
            await self._status.hold(seat, orphanage.message(seat.ref, count, complete=complete) if holds else "")
        self.held = sum(any(self._keeps(e) for e in self._book.unsettled(run)) for run in orphans)

    def _keeps(self, entry: Entry) -> bool:
        """Its target's orphans are held, and nobody has confirmed that they are to be closed."""
        seat = self._roster.get(entry.spec.target)
        return seat is not None and seat.hold is not None and not seat.close_confirmed

    async def _gone(self, run: RunId, name: str) -> bool:
        """The API server says that the run is not there, and no last body came after all."""
        namespace, uid = run
        try:
            body = await self._kube.get(f"{ARGO}/namespaces/{namespace}/workflows/{name}")
            if argo.header(body).uid == uid:
                self._missing.pop(run, None)
                return False
        except ApiError as error:
            if error.status != 404:
                return False
        except KubeError:
            return False
        state = self._state(run)
        return state is None or not state.gone

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
            else {"phase": "Stopped", "outcome": "deleted", "reason": _why(entry), "message": said}
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


def _now() -> float:
    return asyncio.get_running_loop().time()


def _why(entry: Entry) -> str:
    """Why a run that vanished is lost: nothing was kept of it, or what was kept is torn."""
    return "OutboxTorn" if entry.status.reason == "OutboxTorn" else "SourceDeleted"
