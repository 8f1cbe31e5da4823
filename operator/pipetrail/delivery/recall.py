"""What the outbox gives back: a record as it was kept, or the word that its copy is torn."""

from collections.abc import Callable

from pipetrail import api, observe, redact
from pipetrail.delivery import ledger as ledgers
from pipetrail.delivery.book import Book
from pipetrail.delivery.copies import Copies, Kept
from pipetrail.delivery.ledger import Entry, Ledger, Lost
from pipetrail.delivery.notices import of_run
from pipetrail.delivery.outbox import Torn
from pipetrail.delivery.runs import RunState
from pipetrail.kube import Kube
from pipetrail.record import ALL_READ, Frozen, Record, Unread


class Found(Frozen, frozen=True):
    """The record that is to be delivered now.

    `unread` is what a later look may still give (a store was away). `spec` is the intent that its copy holds, where
    the record comes from one.
    """

    record: Record
    policy: api.Policy
    unread: Unread = ALL_READ
    spec: api.TrackedRunSpec | None = None


class Recall:
    """Opens copies. `vanished` asks for a survey: a run of which nothing is left is closed as what vanished unseen."""

    def __init__(self, kube: Kube, ledger: Ledger, book: Book, copies: Copies, vanished: Callable[[], None]) -> None:
        self._kube = kube
        self._ledger = ledger
        self._book = book
        self._copies = copies
        self._vanished = vanished

    async def found(self, state: RunState, kept: Kept, policy: api.Policy | None = None) -> Found | None:
        """The record in a copy, redacted under `policy` (default: the one that is pinned).

        None if the copy is torn, which is said; then it is no more.
        """
        entry = self._book.get(state.id, kept.cover.target)
        try:
            copy = await self._copies.read(kept)
        except Torn as torn:
            await self._torn(state, entry, kept, str(torn))
            return None
        pinned = policy or (copy.spec.policy if entry is None else entry.spec.policy)
        # Redacted it was; but the policy may have been pinned anew since.
        record = redact.redact(copy.record, additional_keys=pinned.redact.additional_keys)
        return Found(record=record, policy=pinned, spec=copy.spec)

    async def _torn(self, state: RunState, entry: Entry | None, kept: Kept, why: str) -> None:
        """A copy that is not what was written is never sent. Where nothing else is left of the run, it is lost."""
        if entry is not None:
            state.progress.pop(kept.cover.target, None)
        await self.say_torn(entry, kept.cover.target, why)
        await self._copies.remove(kept)
        left = any((k.cover.namespace, k.cover.uid) == state.id for k in self._copies.all())
        if state.only_kept and not left:
            state.only_kept = False
            self._vanished()

    async def say_torn(self, entry: Entry | None, target: api.TargetRef | None, why: str) -> None:
        """On the TrackedRun, by an Event, in the log and in a count."""
        observe.count("outbox_torn")
        run = "" if entry is None else f"{entry.namespace}/{entry.spec.run.name}"
        observe.log().error("copy torn", run=run, target=str(target or ""), cause=why)
        if entry is None:
            return
        said = f"its copy in the outbox is torn and was not sent: {why}"
        try:
            entry = await self._ledger.write(entry, reason="OutboxTorn", message=said[: ledgers.MAX_TEXT])
        except Lost:
            pass
        else:
            self._book.add(entry)
        await of_run(self._kube, entry, "Warning", "OutboxTorn", said)
