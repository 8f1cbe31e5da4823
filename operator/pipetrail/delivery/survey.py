"""The survey: what events missed. It compares what stands in the cluster with what we know, from metadata alone.

kopf reports no deletion that happened while a list was being read again, and nothing at all while the process was
away. So at the start, every 10 minutes, after each restart of the watches and when a target appears, all Workflows'
metadata is listed: a run that changed is offered, one that is missing is asked for by name, and closed if it is gone.
Unless too many are gone at once (:mod:`pipetrail.delivery.orphans`), or Argo's archive has their end.
"""

import asyncio
from collections.abc import Callable, Sequence, Set

from pipetrail import observe
from pipetrail.delivery.book import Book, RunId
from pipetrail.delivery.orphans import Orphans, Parted
from pipetrail.delivery.roster import Roster
from pipetrail.delivery.runs import Runs, RunState
from pipetrail.delivery.seat import Seat
from pipetrail.kube import ARGO, ApiError, Kube, KubeError, collections
from pipetrail.shards import WHOLE, Share
from pipetrail.sources import argo

SETTLE_S = 2.0  # one survey for a burst of reasons
AGAIN_S = 10.0
HELD_EVERY_S = 60.0  # while runs are held (they may come back any moment) or their tracker did not let them be closed
GONE_S = 15.0
"""A run that is missing is given this long for its DELETED event, whose last body is worth more than knowing soon."""


class Survey:
    """Lists and compares; `offer` puts a run that has news before its targets, `orphans` are those that are gone."""

    def __init__(
        self, kube: Kube, *, book: Book, runs: Runs, roster: Roster, orphans: Orphans,
        takers: Callable[[argo.Header], list[Seat]], offer: Callable[[RunState], None],
        has_copy: Callable[[RunId], bool], namespaces: Sequence[str] = (), share: Share = WHOLE,
    ) -> None:  # fmt: skip
        self._kube = kube
        self._namespaces = namespaces
        self._share = share
        self._book = book
        self._runs = runs
        self._roster = roster
        self._orphans = orphans
        self._takers = takers
        self._offer = offer
        self.gone_s = GONE_S
        self.held_every_s = HELD_EVERY_S
        self._has_copy = has_copy
        self.told: Callable[[], bool] = lambda: True
        """Have the watches told all that they missed? Until then a last body may still come."""
        self._timer: asyncio.TimerHandle | None = None
        self._missing: dict[RunId, float] = {}  # since when
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
        parted = Parted()
        if self.told():
            over = {run for run in absent if self._over(run)}
            parted = await self._orphans.part_with(absent, over, complete=complete)
        for run in parted.back:
            self._missing.pop(run, None)
        self.passes += 1
        if parted.more:
            self._again(AGAIN_S)
        if any(since >= began for since in self._missing.values()) or (absent and not self.told()):
            self._again(self.gone_s)
        elif parted.left or any(seat.hold is not None for seat in self._roster.seats()):
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
            if run[1] not in listed and not entry.settled and self._runs.of(run) is None:
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
        return self._runs.of(run) is not None or bool(self._book.unsettled(run))


def _now() -> float:
    return asyncio.get_running_loop().time()
