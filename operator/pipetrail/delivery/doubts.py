"""Doubts of runs that are gone: what a create that committed late left in the tracker, and nobody is left to find.

While a run stands, is remembered or is in the outbox, its own turn looks a minute after the doubt
(:mod:`pipetrail.delivery.courier`). A run that settled, was deleted, and whose operator was then restarted has but its
TrackedRun, which says that there was a doubt and when. That is enough to look by its key.
"""

import asyncio
import datetime as dt
from collections.abc import Callable
from typing import Final

from pipetrail import observe
from pipetrail.delivery.book import Book, RunId
from pipetrail.delivery.closing import key_is_ours, parent_of
from pipetrail.delivery.courier import LOOK_AGAIN_S
from pipetrail.delivery.ledger import Entry, Ledger, Lost
from pipetrail.delivery.roster import Roster
from pipetrail.delivery.runs import Runs
from pipetrail.kube import KubeError
from pipetrail.targets.target import Refused, TargetError

EVERY_S: Final = 30.0


class Doubts:
    """Looks at what no lane looks at. `began` says whether what stands in the cluster is known."""

    def __init__(
        self, ledger: Ledger, book: Book, runs: Runs, roster: Roster, *, cluster: str,
        has_copy: Callable[[RunId], bool], began: Callable[[], bool],
    ) -> None:  # fmt: skip
        self._ledger = ledger
        self._book = book
        self._runs = runs
        self._roster = roster
        self._cluster = cluster
        self._has_copy = has_copy
        self._began = began

    async def run(self) -> None:
        """Look now and then, until cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                if self._began():
                    await self.look()
            except Exception as error:  # noqa: BLE001  deliveries go on without; it is said, and tried again
                observe.count("handler_errors")
                observe.log().error("doubts not looked at", error=observe.where(error))

    async def look(self) -> None:
        """Look at each doubt that is a minute old. Where a tracker does not answer the rest waits for another time."""
        silent = set()
        for entry in self._book.all():
            if entry.spec.target in silent or not self._is_ours(entry):
                continue
            try:
                await self._one(entry)
            except (TargetError, KubeError, Lost) as error:
                silent.add(entry.spec.target)
                run, target = f"{entry.namespace}/{entry.spec.run.name}", str(entry.spec.target)
                observe.log().warning("doubt not looked at", run=run, target=target, cause=str(error))

    def _is_ours(self, entry: Entry) -> bool:
        """It is doubtful, old enough, and nobody else looks. Keys that we do not give are not asked about."""
        run, since = entry.spec.run, entry.status.doubtful_at
        if not since or entry.status.phase != "Synced" or not key_is_ours(entry, self._cluster):
            return False
        if self._runs.get(run.uid) is not None or self._has_copy((entry.namespace, run.uid)):
            return False
        return _age_s(since) >= LOOK_AGAIN_S

    async def _one(self, entry: Entry) -> None:
        seat = self._roster.get(entry.spec.target)
        if seat is None or seat.courier is None:
            return
        run = entry.spec.run
        try:
            await seat.courier.undouble(entry, parent_of(entry))
        except Refused as refusal:  # what is there is another's, or was deleted: there is nothing to doubt
            observe.log().info("doubt refused", run=run.name, target=str(seat.ref), cause=refusal.message)
        self._book.add(await self._ledger.write(entry, doubtful_at=""))


def _age_s(since: str) -> float:
    """Seconds since a time that a status shows; one that can't be read is old."""
    try:
        return (dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(since)).total_seconds()
    except (ValueError, TypeError):
        return LOOK_AGAIN_S
