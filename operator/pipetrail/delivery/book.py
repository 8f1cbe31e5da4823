"""The book: the ledger's entries in memory, the newest attempt of each run × target, and which runs are gone."""

from collections.abc import Iterator
from typing import Final

from msgspec.structs import replace

from pipetrail.api import Policy, SyncCounts, TargetRef
from pipetrail.delivery.ledger import Entry

MAX_POLICIES: Final = 1000
RunId = tuple[str, str]
"""A run object's namespace and uid."""


class Book:
    """What is known of TrackedRuns. The operator alone should write them, so what it wrote last is what stands.

    A run is (namespace, uid). An entry speaks for runs of its own namespace alone, whatever uid its spec names: who may
    write TrackedRuns in one namespace says nothing of the runs of another.
    """

    def __init__(self) -> None:
        self._entries: dict[RunId, dict[TargetRef, Entry]] = {}
        self._gone_at: dict[RunId, float] = {}
        self._policies: dict[Policy, Policy] = {}  # few, and each is in thousands of entries
        self.bytes = 0
        """What these TrackedRuns take in etcd."""

    def add(self, entry: Entry) -> None:
        """Take in an entry; of several attempts the newest counts."""
        mine = self._entries.setdefault(_run(entry), {})
        known = mine.get(entry.spec.target)
        if known is None or known.spec.attempt <= entry.spec.attempt:
            mine[entry.spec.target] = self._sharing(entry)
            self.bytes += entry.bytes - (known.bytes if known is not None else 0)

    def _sharing(self, entry: Entry) -> Entry:
        """`entry` with the policy that equal ones have: what is decoded has a copy of its own."""
        if len(self._policies) > MAX_POLICIES:
            self._policies.clear()
        policy = self._policies.setdefault(entry.spec.policy, entry.spec.policy)
        return entry if policy is entry.spec.policy else replace(entry, spec=replace(entry.spec, policy=policy))

    def get(self, run: RunId, ref: TargetRef) -> Entry | None:
        """The entry of one run for one target."""
        return self._entries.get(run, {}).get(ref)

    def drop(self, entry: Entry) -> None:
        """Forget an entry."""
        run = _run(entry)
        mine = self._entries.get(run, {})
        dropped = mine.pop(entry.spec.target, None)
        self.bytes -= dropped.bytes if dropped is not None else 0
        if not mine:
            self._entries.pop(run, None)

    def of(self, run: RunId) -> tuple[Entry, ...]:
        """All entries of one run."""
        return tuple(self._entries.get(run, {}).values())

    def unsettled(self, run: RunId) -> tuple[Entry, ...]:
        """Entries of one run that something is still to be sent for."""
        return tuple(e for e in self.of(run) if not e.settled)

    def all(self) -> Iterator[Entry]:
        """Every entry; the book may change meanwhile."""
        for mine in list(self._entries.values()):
            yield from list(mine.values())

    def gone(self, run: RunId, now: float) -> None:
        """The run's object no longer stands (since `now`, in the loop's time, if it was not gone already)."""
        if run in self._entries:
            self._gone_at.setdefault(run, now)

    def stands(self, run: RunId) -> None:
        """The run's object is there."""
        self._gone_at.pop(run, None)

    def retired(self, now: float, ttl_s: float) -> list[Entry]:
        """Entries whose run has been gone for `ttl_s` and that nobody waits for (a failed one stays)."""
        over = [run for run, at in self._gone_at.items() if now - at > ttl_s]
        return [e for run in over for e in self.of(run) if e.status.phase in ("Synced", "Stopped", "Skipped")]

    def counts(self, ref: TargetRef) -> SyncCounts:
        """How many runs of a target are where."""
        mine = [entry.status for entry in self.all() if entry.spec.target == ref]
        return SyncCounts(
            synced=sum(s.phase == "Synced" for s in mine),
            pending=sum(s.phase in ("Pending", "Tracking") for s in mine),
            failed=sum(s.phase == "Failed" for s in mine),
            last_sync=max((s.settled_at for s in mine), default=""),
        )


def _run(entry: Entry) -> RunId:
    return entry.namespace, entry.spec.run.uid
