"""What we remember of runs that are not settled: identity, facts of their pods, and how far each delivery is.

A body is kept only where it can't be read again: of a run that was deleted. All else is read from the API server when
its turn comes. What a run that has ended and waits still needs to know is packed (:meth:`RunState.rest`), so that it
costs little whatever its size.
"""

import asyncio
import pickle
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from pipetrail.api import GROUP, TargetRef
from pipetrail.capture import FileCache
from pipetrail.delivery.metadata import Said
from pipetrail.delivery.progress import Progress
from pipetrail.sources import argo

MAX_STRAYS: Final = 1000
"""Pods and results whose run we have not seen yet (their watch was faster); the oldest go first."""


MAX_PACKED_BYTES: Final = 1536
"""Of what a resting run knows; more of it only where its pods alone take more."""


class _Details:
    """What is looked at while a run is worked on."""

    __slots__ = ("asked_for", "facts", "files", "said")

    def __init__(self, facts: argo.RunFacts, files: FileCache, asked_for: set[str]) -> None:
        self.facts = facts
        self.files = files
        self.asked_for = asked_for  # attempts whose pods were asked for by name, because no event had told of them
        self.said = Said()  # by KFP's metadata store


class RunState:
    """One run that some target may still want something of."""

    __slots__ = (
        "_capturing", "_details", "api_failures", "archived", "buried_at", "earlier_for", "edition", "facts_known",
        "files_dropped", "header", "last_body", "left_by", "lifetime", "lost", "met_at", "only_kept", "progress",
        "settled_at", "stirred_at",
    )  # fmt: skip

    def __init__(self, header: argo.Header) -> None:
        self.header = header
        self.edition = 0  # grows with each news, so that a record made before it is told apart
        self.progress: dict[TargetRef, Progress] = {}
        self.lost: tuple[TargetRef, ...] = ()  # claims that someone else took: what they made is looked up first
        self.earlier_for: tuple[TargetRef, ...] = ()  # they take it though it had ended before they were made
        self.left_by = ""  # the rule by which a target left it that only the run's record tells
        self.last_body: bytes | None = None
        self.archived = False  # that body can be had again, from Argo's archive
        self.buried_at = 0.0  # loop time, where there is a last body
        self.only_kept = False  # all that we have of it are its copies in the outbox
        self.lifetime: argo.Lifetime | None = None  # as of the body that was read last
        self.files_dropped = False  # some of what was read of it is held no more
        self.facts_known = False  # the API server was asked for its pods, or each of them will be told
        self.api_failures = 0  # in a row
        self.met_at = asyncio.get_running_loop().time()
        self.stirred_at = self.met_at  # when it last had news or was worked on
        self.settled_at: float | None = None
        self._details: _Details | bytes = _Details(argo.RunFacts(), FileCache(), set())
        self._capturing: asyncio.Lock | None = None

    @property
    def facts(self) -> argo.RunFacts:
        """What pods and task results told."""
        return self._awake().facts

    @facts.setter
    def facts(self, facts: argo.RunFacts) -> None:
        self._awake().facts = facts

    @property
    def files(self) -> FileCache:
        """What was fetched."""
        return self._awake().files

    @property
    def said(self) -> Said:
        """What KFP's metadata store said."""
        return self._awake().said

    @property
    def asked_for(self) -> set[str]:
        """Attempts whose pods were asked for by name."""
        return self._awake().asked_for

    @property
    def capturing(self) -> asyncio.Lock:
        """One capture at a time: what `files` says afterwards is of that one. One intent at a time as well."""
        if self._capturing is None:
            self._capturing = asyncio.Lock()
        return self._capturing

    @property
    def awake(self) -> bool:
        """False while it rests."""
        return not isinstance(self._details, bytes)

    def rest(self) -> None:
        """Hold little, until there is news or its turn comes. Nobody may be working on it.

        Pods stay, for theirs may be gone. What was fetched and what results told stays if it is small: else files are
        fetched again, and of a run that has ended the nodes hold the results.
        """
        if isinstance(self._details, bytes):
            return
        facts, files, asked = self._details.facts, self._details.files, self._details.asked_for
        pods_alone = msgspec.structs.replace(facts, results={})
        for kept in ((facts, files, asked), (pods_alone, files, asked), (pods_alone, FileCache(), asked)):
            packed = zlib.compress(pickle.dumps(kept, pickle.HIGHEST_PROTOCOL), 6)
            if len(packed) <= MAX_PACKED_BYTES:
                break
        self._details = packed
        self._capturing = None
        self.files_dropped |= kept[1] is not files
        ours = {k: v for k, v in self.header.annotations.items() if k.startswith(f"{GROUP}/")}
        self.header = msgspec.structs.replace(self.header, annotations=ours)  # a body is read before it is decided on

    def stir(self) -> None:
        """There is news of it, or it is worked on."""
        self.stirred_at = asyncio.get_running_loop().time()

    def _awake(self) -> _Details:
        self.stir()
        if isinstance(self._details, bytes):
            # Packed by us, in this process: nobody else's bytes are ever read so.
            self._details = _Details(*pickle.loads(zlib.decompress(self._details)))  # noqa: S301
        return self._details

    @property
    def id(self) -> tuple[str, str]:
        """The run object's namespace and uid, as the book has it."""
        return self.header.namespace, self.header.uid

    @property
    def uid(self) -> str:
        """The run object's uid, under which everything is kept."""
        return self.header.uid

    def bury(self, body: Mapping[str, Any], *, archived: bool = False) -> None:
        """The run was deleted: its last body is all that there will ever be, unless Argo has it `archived`."""
        self.archived = archived
        self.facts_known |= archived  # its pods went with it, long ago
        if self.last_body is None:
            self.buried_at = asyncio.get_running_loop().time()
        self.last_body = zlib.compress(msgspec.json.encode(body), 1)
        self.only_kept = False
        self.facts = self.facts.gone()
        self.edition += 1

    @property
    def only_here(self) -> bool:
        """It was deleted, and nobody but us has its last body."""
        return self.last_body is not None and not self.archived

    @property
    def gone(self) -> bool:
        """Its object does not stand any more; what there is of it is here."""
        return self.last_body is not None or self.only_kept

    def release(self) -> None:
        """The outbox has a copy for each of its targets: nothing of the run need be held here."""
        self.last_body, self.only_kept, self.files_dropped, self.facts_known = None, True, True, False
        self._details = _Details(argo.RunFacts(), FileCache(), set())

    def learn(self, listed: argo.RunFacts, before: argo.RunFacts) -> None:
        """Take in facts that were listed on top of those `before`; what events said meanwhile comes on top of both."""
        now = self.facts
        for pod in now.pods.values():
            if before.pods.get(pod.uid) is not pod:
                listed = listed.with_pod(pod)
        for result in now.results.values():
            if before.results.get(result.node_id) is not result:
                listed = listed.with_result(result)
        self.facts = listed.gone() if now.deleted else listed
        self.edition += 1

    def exhume(self) -> Any:
        """The last body of a deleted run, or None if the run still stands."""
        return None if self.last_body is None else msgspec.json.decode(zlib.decompress(self.last_body))


class Runs:
    """All run states by uid, and the facts that came before their run did.

    A fact counts only if its object is in the run's own namespace: an owner reference is text, and may name a run of
    another one.
    """

    def __init__(self) -> None:
        self._states: dict[str, RunState] = {}
        self._strays: OrderedDict[tuple[str, str, str], argo.PodFacts | argo.ResultFacts] = OrderedDict()

    def __len__(self) -> int:
        return len(self._states)

    def get(self, uid: str) -> RunState | None:
        """The state of a run, if it is remembered."""
        return self._states.get(uid)

    def of(self, run: tuple[str, str]) -> RunState | None:
        """The state of the run of this namespace and uid.

        A TrackedRun that someone forged may name the uid of one in another namespace.
        """
        state = self._states.get(run[1])
        return state if state is not None and state.id == run else None

    def all(self) -> tuple[RunState, ...]:
        """Every state, in no order that means anything."""
        return tuple(self._states.values())

    def upsert(self, header: argo.Header) -> RunState:
        """The state of the run that `header` is of, made if need be, with the facts that waited for it."""
        state = self._states.get(header.uid)
        if state is None:
            state = self._states[header.uid] = RunState(header)
            for key in [k for k in self._strays if k[:2] == (header.namespace, header.uid)]:
                _add(state, self._strays.pop(key))
        state.header = header
        state.stir()
        return state

    def add(self, owner_uid: str, fact: argo.PodFacts | argo.ResultFacts, identity: str) -> RunState | None:
        """Add what a pod or a task result said.

        Null if its run is not known (then it waits) or is elsewhere, or if it is what a result said before.
        """
        state = self._states.get(owner_uid)
        if state is not None:
            if fact.namespace != state.header.namespace:
                return None
            if isinstance(fact, argo.ResultFacts) and state.facts.has(fact):
                return None
            _add(state, fact)
            return state
        self._strays[fact.namespace, owner_uid, identity] = fact
        if len(self._strays) > MAX_STRAYS:
            self._strays.popitem(last=False)
        return None

    def forget(self, uid: str) -> None:
        """Nothing more is expected of this run."""
        self._states.pop(uid, None)


def _add(state: RunState, fact: argo.PodFacts | argo.ResultFacts) -> None:
    state.edition += 1
    match fact:
        case argo.PodFacts():
            state.facts = state.facts.with_pod(fact)
        case argo.ResultFacts():
            state.facts = state.facts.with_result(fact)
