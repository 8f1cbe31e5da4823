"""What we remember of runs that are not settled: identity, facts of their pods, and how far each delivery is.

A body is kept only where it can't be read again: of a run that was deleted. All else is read from the API server when
its turn comes, so a waiting run costs little whatever its size.
"""

import asyncio
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from pipetrail.api import TargetRef
from pipetrail.capture import FileCache
from pipetrail.delivery.courier import Progress
from pipetrail.delivery.metadata import Said
from pipetrail.sources import argo

MAX_STRAYS: Final = 1000
"""Pods and results whose run we have not seen yet (their watch was faster); the oldest go first."""


class RunState:
    """One run that some target may still want something of."""

    def __init__(self, header: argo.Header) -> None:
        self.header = header
        self.facts = argo.RunFacts()
        self.asked_for: set[str] = (
            set()
        )  # attempts whose pods were asked for by name, because no event had told of them
        self.edition = 0  # grows with each news, so that a record made before it is told apart
        self.files = FileCache()
        self.said = Said()  # by KFP's metadata store
        self.progress: dict[TargetRef, Progress] = {}
        self.capturing = asyncio.Lock()  # one capture at a time: what `files` says afterwards is of that one
        self.lost: set[TargetRef] = set()  # claims that someone else took: what they made is looked up first
        self.last_body: bytes | None = None
        self.buried_at = 0.0  # loop time, where there is a last body
        self.facts_known = True
        self.api_failures = 0  # in a row
        self.met_at = asyncio.get_running_loop().time()
        self.settled_at: float | None = None

    @property
    def id(self) -> tuple[str, str]:
        """The run object's namespace and uid, as the book has it."""
        return self.header.namespace, self.header.uid

    @property
    def uid(self) -> str:
        """The run object's uid, under which everything is kept."""
        return self.header.uid

    def bury(self, body: Mapping[str, Any]) -> None:
        """The run was deleted: its last body is all that there will ever be."""
        if self.last_body is None:
            self.buried_at = asyncio.get_running_loop().time()
        self.last_body = zlib.compress(msgspec.json.encode(body), 1)
        self.facts = self.facts.gone()
        self.edition += 1

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
        return state

    def add(self, owner_uid: str, fact: argo.PodFacts | argo.ResultFacts, identity: str) -> RunState | None:
        """Add what a pod or a task result said; null if its run is not known (then it waits) or is elsewhere."""
        state = self._states.get(owner_uid)
        if state is not None:
            if fact.namespace != state.header.namespace:
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
