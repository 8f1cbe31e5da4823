"""The ledger: one TrackedRun per run × target, three small writes: intent, opened, settled (design §7).

It is a hint, never the truth: what a tracker holds is found by key. But the *intent* stands before the first call to a
tracker, so that after a kill we know what may have been created. Every status write carries the resourceVersion that we
saw and a claim; a 409 means that someone else works on the run, and we let go.

Others may be allowed to write TrackedRuns. One whose target is not of its own namespace, or whose name is not the one
that we give, is none of ours. One that stands where we are about to write an intent, and says something else, is
replaced.
"""

import datetime as dt
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from pipetrail import api, observe
from pipetrail.api import (
    Changes,
    Claim,
    Policy,
    RunRef,
    StatusChange,
    StatusPartial,
    TargetRef,
    TrackedRunSpec,
    TrackedRunStatus,
)
from pipetrail.kube import TRACKED_RUNS, ApiError, Kube, collections
from pipetrail.record import Frozen, Partial
from pipetrail.shards import WHOLE, Share
from pipetrail.targets.target import Change

MAX_TEXT: Final = 400  # characters of a message
MAX_SHOWN_CHANGES: Final = 5  # settled, a TrackedRun takes at most 2 KiB; the total tells of the rest
MAX_SHOWN_PARTIAL: Final = 3
UNKEPT: Final = ""
"""The version of an entry that stands in memory, and in the outbox, alone: its namespace takes no new object."""


class Entry(Frozen, frozen=True):
    """A TrackedRun as we last saw it."""

    name: str
    namespace: str
    version: str
    spec: TrackedRunSpec
    status: TrackedRunStatus
    resend: str = ""
    uid: str = ""
    bytes: int = 0
    """What it takes in etcd, which keeps our kinds as JSON."""

    @property
    def settled(self) -> bool:
        """Nothing more is sent for it unless its run reopens or someone resends it."""
        done = self.status.phase in ("Synced", "Failed", "Stopped", "Skipped")
        return done and self.status.reason != "TargetDeleted"  # a target of the same name resumes it

    @property
    def asked(self) -> bool:
        """Someone asked for it to be sent again, and that was not heeded yet."""
        return bool(self.resend) and self.resend != self.status.resent

    @property
    def repolicy(self) -> bool:
        """The same, under the target's policy of today."""
        return self.asked and self.resend.startswith(api.REPOLICY)

    def reopened(self, generation: str) -> bool:
        """An ``argo retry``: the run that was begun or delivered in one generation now runs, or has run, in another."""
        begun = self.status.generation if self.status.phase == "Synced" else self.spec.run.generation
        return bool(begun) and bool(generation) and generation != begun


class Lost(Exception):
    """Someone else wrote this TrackedRun: it is theirs."""


class Ledger:
    """Reads and writes TrackedRuns as `holder` (the name of this process), of some `namespaces` or of all; only those
    of its `share` are its own.
    """

    def __init__(self, kube: Kube, holder: str, namespaces: Sequence[str] = (), *, share: Share = WHOLE) -> None:
        self._share = share
        self._kube = kube
        self._holder = holder
        self._namespaces = namespaces
        self.read_at: dict[str, str] = {}
        """The resourceVersion of each collection as :meth:`entries` read it: from there a watch tells the rest."""

    async def entries(self) -> AsyncIterator[Entry]:
        """All TrackedRuns that are ours to look after, page by page."""
        for path in collections(TRACKED_RUNS, "trackedruns", self._namespaces, self._share):
            async for page in self._kube.pages(path, metadata_only=False, **self._share.query):
                self.read_at[path] = str(page["metadata"].get("resourceVersion") or "")
                for item in page.get("items", ()):
                    entry = decode(item)
                    if entry is not None and self._share.owns(entry.namespace):
                        yield entry

    async def intent(
        self,
        namespace: str,
        run: RunRef,
        target: TargetRef,
        policy: Policy,
        *,
        experiment: str,
        attempt: int = 1,
        supersedes: str = "",
    ) -> tuple[Entry, bool]:
        """Write down that `run` will be recorded in `target`.

        The second value is false if something stood there already: just that, or something else that was replaced.
        Then the tracker may hold something of it.
        """
        name = api.tracked_run_name(run.name, run.uid, target, attempt)
        spec = TrackedRunSpec(
            run=run, target=target, policy=policy, attempt=attempt, supersedes=supersedes, experiment=experiment
        )
        body = {
            "apiVersion": api.API_VERSION,
            "kind": "TrackedRun",
            "metadata": {"name": name, "namespace": namespace, "labels": _labels(run, target)},
            "spec": api.to_json(spec),
        }
        try:
            made = await self._kube.post(f"{TRACKED_RUNS}/namespaces/{namespace}/trackedruns", body)
        except ApiError as error:
            if _no_place(error):
                # What was seen of the run arrives all the same. Nothing says that we tried, so we look first.
                return unkept(namespace, spec), False
            if error.status != 409 or error.reason != "AlreadyExists":
                raise
            there = await self.read(namespace, name)
            if there is not None and there.spec == spec:
                return there, False
            return await self._replaced(namespace, name, body), False
        return _came_back(made), True

    async def _replaced(self, namespace: str, name: str, body: Mapping[str, Any]) -> Entry:
        """The intent `body` instead of what stands in its place (an edit of the target came between, or a person)."""
        observe.log().warning("tracked run replaced", tracked_run=f"{namespace}/{name}", cause="it was not our intent")
        try:
            await self._kube.delete(_path(namespace, name))
        except ApiError as error:
            if error.status != 404:
                raise
        try:
            return _came_back(await self._kube.post(f"{TRACKED_RUNS}/namespaces/{namespace}/trackedruns", body))
        except ApiError as error:
            if error.status == 409:
                raise Lost(f"TrackedRun {namespace}/{name}: someone writes it as fast as we do") from None
            raise

    async def again(self, entry: Entry) -> Entry | None:
        """`entry` as it stands now; None if it is gone, or something else stands there."""
        there = await self.read(entry.namespace, entry.name)
        return there if there is not None and there.spec == entry.spec else None

    async def read(self, namespace: str, name: str) -> Entry | None:
        """One TrackedRun, or None if it is gone or not one that we can read."""
        try:
            return decode(await self._kube.get(_path(namespace, name)))
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def write(self, entry: Entry, **status: Any) -> Entry:
        """Change fields of the status (snake_case names of :class:`TrackedRunStatus`), under our claim."""
        held = entry.status.claim
        if isinstance(held, Claim):
            claim = held if held.holder == self._holder else Claim(holder=self._holder, epoch=held.epoch + 1)
        else:
            claim = Claim(holder=self._holder)
        new = msgspec.structs.replace(entry.status, **status, claim=claim)
        if entry.version == UNKEPT:
            return msgspec.structs.replace(entry, status=new)
        # A merge patch leaves alone what it does not name, so fields that went back to their default are named as null.
        body = {**dict.fromkeys(api.to_json(entry.status)), **api.to_json(new)}
        patch = {"metadata": {"resourceVersion": entry.version}, "status": body}
        try:
            made = await self._kube.patch(f"{_path(entry.namespace, entry.name)}/status", patch)
        except ApiError as error:
            if error.status in (404, 409):
                raise Lost(f"TrackedRun {entry.namespace}/{entry.name}: {error.reason}") from None
            raise
        return _came_back(made)

    async def forget(self, entry: Entry) -> Entry | None:
        """Delete a TrackedRun whose time is over; gone already is fine. If someone wrote it meanwhile: as it is now."""
        if entry.version == UNKEPT:
            return None
        try:
            await self._kube.delete(
                _path(entry.namespace, entry.name), {"preconditions": {"resourceVersion": entry.version}}
            )
        except ApiError as error:
            if error.status == 409:
                return await self.read(entry.namespace, entry.name)
            if error.status != 404:
                raise
        return None


def unkept(namespace: str, spec: TrackedRunSpec) -> Entry:
    """An entry that has no place in the cluster: its namespace is going, or has gone."""
    name = api.tracked_run_name(spec.run.name, spec.run.uid, spec.target, spec.attempt)
    return Entry(name=name, namespace=namespace, version=UNKEPT, spec=spec, status=TrackedRunStatus())


def decode(body: Mapping[str, Any]) -> Entry | None:
    """A TrackedRun's body as an :class:`Entry`; None if it is none that this version can read, or none of ours."""
    try:
        meta = body["metadata"]
        entry = Entry(
            name=meta["name"],
            namespace=meta["namespace"],
            version=meta["resourceVersion"],
            spec=msgspec.convert(body["spec"], TrackedRunSpec),
            status=msgspec.convert(body.get("status") or {}, TrackedRunStatus),
            resend=wish(meta.get("annotations")),
            uid=meta.get("uid") or "",
            bytes=len(msgspec.json.encode(body)),
        )
    except (KeyError, TypeError, AttributeError, msgspec.ValidationError):
        return None
    return entry if _consistent(entry) else None


def wish(annotations: Any) -> str:
    """What a TrackedRun's annotations say of sending it again, as its status can repeat it; empty if nothing."""
    said = annotations.get(api.RESEND_ANNOTATION) if isinstance(annotations, Mapping) else None
    return said[: api.MAX_RESEND] if isinstance(said, str) else ""


def _consistent(entry: Entry) -> bool:
    """Its target is of its own namespace or the cluster's, and its name is the one of its run, target and attempt."""
    spec = entry.spec
    own = entry.namespace if spec.target.kind == "TrackingTarget" else ""
    name = api.tracked_run_name(spec.run.name, spec.run.uid, spec.target, spec.attempt)
    return spec.target.namespace == own and entry.name == name


def _came_back(body: Mapping[str, Any]) -> Entry:
    entry = decode(body)
    if entry is None:
        raise Lost("a TrackedRun came back changed")
    return entry


def _no_place(error: ApiError) -> bool:
    """The namespace is being deleted (registry/core/namespace says so in the message alone), or is gone."""
    ending = error.status == 403 and "because it is being terminated" in error.message
    return ending or (error.status == 404 and error.message.startswith("namespaces "))


def now() -> str:
    """The time as a status shows it."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def changes(all_changes: Mapping[tuple[str, str, str, str], Change]) -> Changes:
    """The status form of everything that arrived otherwise: a total, and the first few in full."""
    shown = list(all_changes.values())[:MAX_SHOWN_CHANGES]
    return Changes(
        total=len(all_changes),
        items=tuple(
            StatusChange(
                item=c.item, key=_cut(c.key, 80), reason=c.reason, detail=_cut(c.detail, 80), run=_cut(c.run, 60)
            )
            for c in shown
        ),
    )


def partials(partial: tuple[Partial, ...]) -> tuple[StatusPartial, ...]:
    """The status form of what could not be known."""
    return tuple(
        StatusPartial(reason=p.reason, message=_cut(p.message, 160), step=_cut(p.step or "", 60))
        for p in partial[:MAX_SHOWN_PARTIAL]
    )


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _path(namespace: str, name: str) -> str:
    return f"{TRACKED_RUNS}/namespaces/{namespace}/trackedruns/{name}"


def _labels(run: RunRef, target: TargetRef) -> dict[str, str]:
    """What ``kubectl get trun -l`` selects by; a value that is no label value is left out."""
    labels = {
        f"{api.GROUP}/run": run.name,
        f"{api.GROUP}/uid": run.uid,
        f"{api.GROUP}/pipeline": run.pipeline,
        f"{api.GROUP}/target": target.name,
    }
    return {k: v for k, v in labels.items() if 0 < len(v) <= 63 and v[0].isalnum() and v[-1].isalnum() and _plain(v)}


def _plain(value: str) -> bool:
    return all(c.isascii() and (c.isalnum() or c in "-_.") for c in value)
