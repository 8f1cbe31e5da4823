"""Orphans: runs that are not settled and whose object is gone, though nobody saw it go.

A few are runs that people or Argo's TTL deleted while we were away: they go on from Argo's archive, or are closed as
killed. Many at once look like a mishap that may be mended (CRDs removed, a restore that is not over yet, a wrong
cluster): closing them would say of live runs that they were killed, for good. So they are held, target by target, until
they are back or someone confirms.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Set
from typing import Final

from pipetrail import observe
from pipetrail.api import TargetRef
from pipetrail.delivery.book import Book, RunId
from pipetrail.delivery.closing import Closing
from pipetrail.delivery.ledger import Entry
from pipetrail.delivery.roster import Roster
from pipetrail.delivery.runs import Runs, RunState
from pipetrail.delivery.status import StatusWriter
from pipetrail.kube import ARGO, ApiError, Kube, KubeError
from pipetrail.readers.archive import ArchiveFailed, ArgoArchive
from pipetrail.record import Frozen
from pipetrail.sources import argo

LEAST: Final = 20
SHARE: Final = 0.2
RECALLED_MOST: Final = 200
"""Runs that come back from Argo's archive in one pass: each holds its body until it is delivered."""


class Parted(Frozen, frozen=True):
    """How a pass ended.

    `back` are runs that are not missing after all, or go on from Argo's archive. `left` says that some could not be
    closed now (its tracker, the API server or the archive did not answer, say), `more` that a pass soon gets further.
    """

    back: frozenset[RunId] = frozenset()
    left: bool = False
    more: bool = False


class _Recalled:
    """What Argo's archive gave back, what it is `lacking`, and whether it is `silent` or has `more`."""

    def __init__(self) -> None:
        self.back: set[RunId] = set()
        self.lacking: dict[RunId, str] = {}
        self.silent = False
        self.more = False


class _Asked:
    """What the API server says in one pass of runs that it did not list; each is asked for once."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self._gone: dict[RunId, bool] = {}
        self.back: set[RunId] = set()

    async def gone(self, run: RunId, name: str) -> bool:
        """True if it says that the run is not there; false also if it does not say."""
        if run not in self._gone:
            self._gone[run] = await self._ask(run, name)
        return self._gone[run]

    async def _ask(self, run: RunId, name: str) -> bool:
        namespace, uid = run
        try:
            body = await self._kube.get(f"{ARGO}/namespaces/{namespace}/workflows/{name}")
        except ApiError as error:
            return error.status == 404
        except KubeError:
            return False
        if argo.header(body).uid != uid:
            return True
        self.back.add(run)
        return False


class Orphans:
    """Parts with them: from the archive, by closing, or not at all. `offer` puts a run before its targets."""

    def __init__(
        self, kube: Kube, *, book: Book, runs: Runs, roster: Roster, status: StatusWriter, closing: Closing,
        offer: Callable[[RunState], None], archive: ArgoArchive | None = None,
    ) -> None:  # fmt: skip
        self._kube = kube
        self._book = book
        self._runs = runs
        self._roster = roster
        self._status = status
        self._closing = closing
        self._offer = offer
        self._archive = archive
        self.held = 0
        """Runs that are gone and not closed, because too many went at once."""

    async def part_with(self, absent: Mapping[RunId, str], over: Set[RunId], *, complete: bool) -> Parted:
        """Close what is gone for good, unless so much is gone at once that it looks like a mishap: then hold.

        `absent` are runs that were not listed, by name; `over` those of them that have had their time; `complete` is
        false if the API server has no Workflows at all. Missing means a GET that says 404 or another uid. Of many that
        are absent no more are asked for than it takes to know that they are too many.
        """
        asked, unanswered = _Asked(self._kube), set[TargetRef]()
        found = await self._recall({run: name for run, name in absent.items() if run in over}, asked)
        orphans = absent.keys() - found.back
        unsettled = {(e.namespace, e.spec.run.uid) for e in self._book.all() if not e.settled}
        most, gone = bearable(len(unsettled)), set[RunId]()
        for run in found.lacking.keys() & unsettled:
            if len(gone) > most:
                break
            if await self._gone(run, absent[run], asked):
                gone.add(run)
        await self._hold(orphans & unsettled, over, complete=complete, too_many=len(gone) > most or not complete)
        closed, left = False, found.silent
        for run, name in found.lacking.items():
            free = [entry for entry in self._book.unsettled(run) if not self._keeps(entry)]
            if run in unsettled and not free:
                continue
            if not (run in gone or await self._gone(run, name, asked)):
                left = True
                continue
            for entry in free:
                await self._closing.close(entry, unanswered)
                closed = True
            left |= any(self._roster.get(entry.spec.target) is not None for entry in self._book.unsettled(run))
            if self._runs.of(run) is not None and not self._book.unsettled(run):
                self._runs.forget(run[1])
        held_still = closed and any(seat.hold is not None for seat in self._roster.seats())
        return Parted(back=frozenset(found.back | asked.back), left=left, more=found.more or held_still)

    async def _recall(self, over: Mapping[RunId, str], asked: _Asked) -> _Recalled:
        """Have runs that Argo archived go on from there.

        An archive that does not answer is asked again in the next pass; until it says, none of its runs is closed.
        """
        found = _Recalled()
        if self._archive is None:
            found.lacking.update(over)
            return found
        for run, name in over.items():
            if found.silent:
                break
            if len(found.back) >= RECALLED_MOST:
                found.more = True
                break
            try:
                mine = self._runs.of(run) is not None or self._runs.get(run[1]) is None
                body = await self._archive.body(*run) if mine and await self._gone(run, name, asked) else None
            except ArchiveFailed as error:
                observe.log().warning("archive not read", run=f"{run[0]}/{name}", cause=str(error))
                found.silent = True
                continue
            if body is None:
                found.lacking[run] = name
                continue
            found.back.add(run)
            state = self._runs.upsert(argo.header(body))
            state.bury(body, archived=True)
            observe.count("recalled")
            observe.log().info("recalled", run=f"{run[0]}/{name}", cause="its end is in Argo's archive")
            self._offer(state)
        return found

    async def _hold(self, orphans: Set[RunId], over: Set[RunId], *, complete: bool, too_many: bool) -> None:
        """Have each target hold its orphans, if they are too many or it held some already, until there are none."""
        concerned = Counter(entry.spec.target for run in orphans for entry in self._book.unsettled(run))
        many = orphans & over if too_many else frozenset[RunId]()
        held = {entry.spec.target for run in many for entry in self._book.unsettled(run)}
        for seat in self._roster.seats():
            count = concerned[seat.ref]
            holds = seat.ref in held or (count > 0 and seat.hold is not None)
            await self._status.hold(seat, message(seat.ref, count, complete=complete) if holds else "")
        self.held = sum(any(self._keeps(e) for e in self._book.unsettled(run)) for run in orphans)

    def _keeps(self, entry: Entry) -> bool:
        """Its target's orphans are held, and nobody has confirmed that they are to be closed."""
        seat = self._roster.get(entry.spec.target)
        return seat is not None and seat.hold is not None and not seat.close_confirmed

    async def _gone(self, run: RunId, name: str, asked: _Asked) -> bool:
        """The API server says that the run is not there, and no last body came after all."""
        if not await asked.gone(run, name):
            return False
        state = self._runs.of(run)
        return state is None or not state.gone


def bearable(unsettled: int) -> float:
    """How many of so many unsettled runs may be gone in one pass without being held."""
    return max(LEAST, SHARE * unsettled)


def message(ref: TargetRef, gone: int, *, complete: bool) -> str:
    """What the condition says; `complete` is false if the API server has no Workflows at all."""
    where = f" -n {ref.namespace}" if ref.namespace else ""
    why = "more at once than looks meant" if complete else "and the API server knows no Workflows at all"
    return (
        f"{gone} unsettled runs are gone, {why}: none of them is closed. If they come back this is over; if they are "
        f"gone for good: pipetrail confirm-close {ref.name}{where}"
    )
