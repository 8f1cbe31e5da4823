"""What watches saw, as news for the delivery. Everything here runs in the delivery's own loop."""

from collections.abc import Mapping, Set
from typing import Any, Protocol, TypedDict

from msgspec.structs import replace

from pipetrail.delivery import ledger
from pipetrail.delivery.dispatch import Dispatch
from pipetrail.sources import argo
from pipetrail.sources.argo.body import obj, word


class News(Protocol):
    """Takes what one watch saw of its collection."""

    def saw(self, change: str, body: Mapping[str, Any], *, listed: bool) -> None:
        """An object was ADDED, MODIFIED or DELETED; of one that is `listed` we may have missed what came before."""
        ...

    def stand(self, uids: Set[str]) -> None:
        """A list is read to its end, and these objects are all that there are."""
        ...


class RunNews:
    """Workflows of one watch. Repeats that change nothing that we read go no further."""

    def __init__(self, dispatch: Dispatch) -> None:
        self._dispatch = dispatch
        self._marks: dict[str, argo.Mark] = {}

    def saw(self, change: str, body: Mapping[str, Any], *, listed: bool) -> None:
        """Each change that matters, and the last body of a run that was deleted."""
        header = argo.header(body)
        if not header.uid:
            return
        if change == "DELETED":
            self._marks.pop(header.uid, None)
            self._dispatch.saw_run(header, body, fresh=False)
            return
        mark = argo.mark(body)
        if self._marks.get(header.uid) != mark:
            self._marks[header.uid] = mark
            self._dispatch.saw_run(header, None, fresh=change == "ADDED" and not listed)

    def stand(self, uids: Set[str]) -> None:
        """Runs that went while nobody watched are forgotten here; the survey finds out what became of them."""
        for uid in self._marks.keys() - uids:
            del self._marks[uid]


class PodNews:
    """Pods that have ended. Half of their events then change only what nobody reads: those go no further."""

    def __init__(self, dispatch: Dispatch) -> None:
        self._dispatch = dispatch
        self._marks: dict[str, tuple[int, bool]] = {}  # and whether it was told when it happened

    def saw(self, change: str, body: Mapping[str, Any], *, listed: bool) -> None:
        """A pod has ended, changed after its end or gone: its last body holds the most either way."""
        facts = argo.pod_facts(body)
        if facts is None:
            return
        mark, live = hash(replace(facts, version="")), not listed
        known = self._marks.pop(facts.uid, None)
        if change == "DELETED":
            # It can't be read again when its run's turn comes, and whether anyone took what was listed is not known.
            if known != (mark, True):
                self._dispatch.saw_pod(facts, listed=False)
            return
        if known is not None and known[0] == mark:
            live = known[1]
        else:
            self._dispatch.saw_pod(facts, listed=listed)
        self._marks[facts.uid] = mark, live

    def stand(self, uids: Set[str]) -> None:
        """Pods that went meanwhile are forgotten here; what they said is kept with their run."""
        for uid in self._marks.keys() - uids:
            del self._marks[uid]


class ResultNews:
    """WorkflowTaskResults that are complete."""

    def __init__(self, dispatch: Dispatch) -> None:
        self._dispatch = dispatch

    def saw(self, change: str, body: Mapping[str, Any], *, listed: bool) -> None:
        """A result has news. That it goes away takes nothing back, and its last body may be the first that we see."""
        facts = argo.result_facts(body)
        gone = change == "DELETED"
        if facts is not None and (facts.complete or not gone):
            self._dispatch.saw_result(facts, listed=listed and not gone)

    def stand(self, uids: Set[str]) -> None:
        """Of no matter: a result outlives its object."""


class TrackedRun(TypedDict, total=False):
    """What :class:`LedgerNews` looks at of an event."""

    metadata: Any
    status: Any


class LedgerNews:
    """TrackedRuns. We write them ourselves; what others may do is to ask for one again, and to delete it."""

    def __init__(self, dispatch: Dispatch) -> None:
        self._dispatch = dispatch

    def saw(self, change: str, body: Mapping[str, Any], *, listed: bool) -> None:
        """A wish that is not heeded yet, or a deletion."""
        if change == "DELETED":
            entry = ledger.decode(body)
            if entry is not None:
                self._dispatch.saw_entry_deleted(entry)
            return
        meta, status = obj(body, "metadata"), obj(body, "status")
        wish = ledger.wish(meta.get("annotations"))
        if wish and wish != status.get("resent"):
            self._dispatch.saw_wish(word(meta.get("namespace")), word(meta.get("name")))

    def stand(self, uids: Set[str]) -> None:
        """Of no matter: what the ledger holds is read at the start."""
