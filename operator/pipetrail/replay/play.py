"""Playing a script onto an API server: the same objects in the same order at the same pace, or any other.

One run is played by one task, one call at a time: what follows in the recording follows on the server. Objects that
someone else has taken away meanwhile (a garbage collector after the Workflow's end) are no error. While the API server
cannot be reached the play waits for it, up to a minute, as a controller would.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal

from pipetrail.kube import ARGO, ApiError, Kube, KubeError, Unreachable
from pipetrail.record import Frozen
from pipetrail.replay.script import Hole, Move, Script, shifted

MAX_SPEED: Final = math.inf
PATIENCE_S: Final = 60.0
RETRY_S: Final = 0.5
AT_ONCE: Final = {"gracePeriodSeconds": 0, "propagationPolicy": "Background"}

_PLURAL: Final = {
    "Workflow": "workflows",
    "WorkflowTaskResult": "workflowtaskresults",
    "WorkflowTaskSet": "workflowtasksets",
}


class ReplayError(Exception):
    """A recording could not be played; the text says what to do."""


class Played(Frozen, frozen=True):
    """One move that was made: `n` of `total`, `late_s` behind its time, `says` in the new run's names."""

    n: int
    total: int
    move: Move
    late_s: float
    says: tuple[str, ...]


class Replayed(Frozen, frozen=True):
    """A run that was played: its identity on this cluster, when, and how many writes it took."""

    name: str
    namespace: str
    uid: str
    started: float
    finished: float
    shift_s: int
    writes: int
    worst_delay_s: float


async def prepare(kube: Kube, namespace: str) -> None:
    """The namespace and its ServiceAccount `default`, which without a controller-manager nobody makes."""
    for path, body in (
        ("/api/v1/namespaces", {"metadata": {"name": namespace}}),
        (f"/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": {"name": "default"}}),
    ):
        try:
            await kube.post(path, body)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise


async def replay(
    script: Script,
    kube: Kube,
    *,
    name: str | None = None,
    speed: float = 1.0,
    keep_times: bool = False,
    on_move: Callable[[Played], None] = lambda _: None,
) -> Replayed:
    """Play `script` as a run called `name` (default: as recorded), `speed` times as fast as it happened.

    Stamps are moved so that the run happens now: it begins now if played at its own pace or slower, ends now (as far
    as its stamps go) if played faster, so that no stamp lies in the future. Raises :class:`ReplayError`.
    """
    play = _Play(script, kube, name or script.name, speed, keep_times=keep_times)
    return await play.run(on_move)


class _Play:
    def __init__(self, script: Script, kube: Kube, name: str, speed: float, *, keep_times: bool) -> None:
        self._script = script
        self._kube = kube
        self._name = name
        self._speed = speed
        begins = time.time()
        ahead = script.duration_s * (1 - 1 / speed) if speed > 1 else 0.0
        self._shift_s = 0 if keep_times else math.floor(begins - script.started - ahead)
        self._started = begins
        self._uids: dict[str, str] = {}
        self._versions: dict[tuple[str, str], str] = {}  # of live objects; "" for a pod, which needs none
        self._gone: set[tuple[str, str]] = set()
        self._stamps: dict[str, str] = {}
        self._writes = 0

    async def run(self, on_move: Callable[[Played], None]) -> Replayed:
        begun = time.monotonic()
        worst = 0.0
        total = len(self._script.moves)
        for n, move in enumerate(self._script.moves, 1):
            due = begun + move.at_s / self._speed
            if (early := due - time.monotonic()) > 0:
                await asyncio.sleep(early)
            late = 0.0 if math.isinf(self._speed) else max(0.0, time.monotonic() - due)
            worst = max(worst, late)
            await self._patiently(lambda move=move: self._make(move))  # type: ignore[misc]
            says = tuple(self._script.renamed(text, self._name) for text in move.says)
            on_move(Played(n=n, total=total, move=move, late_s=late, says=says))
        return Replayed(
            name=self._name, namespace=self._script.namespace, uid=self._uids.get(self._script.uid, ""),
            started=self._started, finished=time.time(), shift_s=self._shift_s, writes=self._writes,
            worst_delay_s=worst,
        )  # fmt: skip

    async def _patiently(self, call: Callable[[], Awaitable[None]]) -> None:
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                return await call()
            except Unreachable as error:
                if time.monotonic() > until:
                    raise ReplayError(f"the API server has been out of reach for {PATIENCE_S:.0f} s: {error}") from None
            except ApiError as error:
                if error.status not in (429, 500, 503, 504) or time.monotonic() > until:
                    raise ReplayError(_advice(error)) from None
            except KubeError as error:
                raise ReplayError(str(error)) from None
            await asyncio.sleep(RETRY_S)

    async def _make(self, move: Move) -> None:
        what = (move.kind, self._named(move.name))
        match move.type:
            case "DELETED":
                await self._delete(what)
            case _ if what in self._versions:
                await self._update(what, move)
            case _ if what in self._gone and move.type == "MODIFIED":
                pass  # what follows a deletion that came from elsewhere has nothing to follow
            case _:
                await self._create(what, move)

    async def _create(self, what: tuple[str, str], move: Move) -> None:
        body = move.body.fill(self._value)
        path = self._path(what[0])
        self._writes += 1
        try:
            made = await self._kube.post(path, body)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            made = await self._adopted(what, body)
        self._uids[move.uid] = made["metadata"]["uid"]
        self._versions[what] = made["metadata"]["resourceVersion"]
        self._gone.discard(what)
        # A create drops the status of what has it as a subresource.
        if ("status" in body and "status" not in made) or (what[0] == "Pod" and _beyond_new(body)):
            await self._put_status(what, body)

    async def _adopted(self, what: tuple[str, str], body: dict[str, Any]) -> Any:
        """Ours after all, if a create took effect though its answer was lost; someone else's else."""
        there = await self._kube.get(f"{self._path(what[0])}/{what[1]}")
        owners = [owner["uid"] for owner in there["metadata"].get("ownerReferences", ())]
        mine = [owner["uid"] for owner in body["metadata"].get("ownerReferences", ())]
        if what[0] == "Workflow" or owners != mine:
            raise ReplayError(
                f"{what[0]} {what[1]} is in {self._script.namespace} already: play it under another --name "
                "(without one it gets a fresh one), or delete that one"
            )
        return there

    async def _update(self, what: tuple[str, str], move: Move) -> None:
        body = move.body.fill(self._value)
        if what[0] == "Pod":
            await self._put_status(what, body)
            return
        path = f"{self._path(what[0])}/{what[1]}"
        body["metadata"]["resourceVersion"] = self._versions[what]
        self._writes += 1
        try:
            made = await self._kube.put(path, body)
        except ApiError as error:
            if error.reason == "NotFound":
                self._lost(what)
                return
            if error.reason != "Conflict":
                raise
            # Someone labelled it, or an answer was lost: the recorded body is the controller's word, and stands.
            there = await self._fetched(path)
            if there is None:
                self._lost(what)
                return
            body["metadata"]["resourceVersion"] = there["metadata"]["resourceVersion"]
            made = await self._kube.put(path, body)
        self._versions[what] = made["metadata"]["resourceVersion"]
        if "status" in body and made.get("status") != body["status"] and what[0] == "WorkflowTaskSet":
            await self._put_status(what, body)

    async def _put_status(self, what: tuple[str, str], body: dict[str, Any]) -> None:
        """Labels, annotations and status of a pod in the one write that a kubelet would make."""
        if what[0] == "Pod":
            body.pop("spec")  # the server keeps its own
        else:
            body["metadata"]["resourceVersion"] = self._versions[what]
        self._writes += 1
        try:
            made = await self._kube.put(f"{self._path(what[0])}/{what[1]}/status", body)
        except ApiError as error:
            if error.reason != "NotFound":
                raise
            self._lost(what)
            return
        self._versions[what] = made["metadata"]["resourceVersion"]

    async def _delete(self, what: tuple[str, str]) -> None:
        if self._versions.pop(what, None) is None:
            return
        self._gone.add(what)
        self._writes += 1
        try:
            await self._kube.delete(f"{self._path(what[0])}/{what[1]}", AT_ONCE)
        except ApiError as error:
            if error.reason != "NotFound":
                raise

    async def _fetched(self, path: str) -> Any:
        try:
            return await self._kube.get(path)
        except ApiError as error:
            if error.reason == "NotFound":
                return None
            raise

    def _lost(self, what: tuple[str, str]) -> None:
        self._versions.pop(what, None)
        self._gone.add(what)

    def _path(self, kind: str) -> str:
        if kind == "Pod":
            return f"/api/v1/namespaces/{self._script.namespace}/pods"
        return f"{ARGO}/namespaces/{self._script.namespace}/{_PLURAL[kind]}"

    def _named(self, name: str) -> str:
        return self._script.renamed(name, self._name)

    def _value(self, hole: Hole) -> str:
        kind: Literal["name", "uid", "stamp"] = hole[0]
        match kind:
            case "name":
                return self._name
            case "uid":
                return self._uids.get(hole[1], hole[1])
            case "stamp":
                if hole[1] not in self._stamps:
                    self._stamps[hole[1]] = shifted(hole[1], self._shift_s)
                return self._stamps[hole[1]]


def _beyond_new(body: dict[str, Any]) -> bool:
    """A pod that was recorded when it was no longer new."""
    status = body.get("status") or {}
    return bool(status.keys() - {"phase", "qosClass"}) or status.get("phase", "Pending") != "Pending"


def _advice(error: ApiError) -> str:
    if error.status == 404:
        return f"{error}; are Argo's resource definitions installed here, and is the namespace there?"
    if error.status in (401, 403):
        return f"{error}; playing a run needs the right to write Workflows, their results and Pods in that namespace"
    return str(error)
