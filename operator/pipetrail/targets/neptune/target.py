"""Neptune as a target. Each call is done by the worker process (process.py); what it is made of is decided here.

A run's id is ours to choose, so a create that is sent again makes no second one. It has our key only a moment later: a
run that was made and not marked yet is empty, belongs to nobody else (its id is a hash of our key), and is taken up by
the next :meth:`NeptuneTarget.open`.
"""

import asyncio
import re
from collections import OrderedDict
from collections.abc import Sequence
from typing import ClassVar, Final, TypeVar

from pipetrail.record import Frozen
from pipetrail.targets.addresses import ANYWHERE, Addresses
from pipetrail.targets.figures import filed
from pipetrail.targets.neptune import held, paths, token, wire
from pipetrail.targets.neptune import operations as ops
from pipetrail.targets.neptune.fit import fit
from pipetrail.targets.neptune.limits import CAPABILITIES
from pipetrail.targets.neptune.process import Bounds, Process, Rejection
from pipetrail.targets.neptune.sender import Sender
from pipetrail.targets.target import (
    Batch,
    Capabilities,
    Change,
    File,
    Handle,
    Health,
    Held,
    Receipt,
    Refused,
    Retry,
    Target,
    TrackerRun,
    Unusable,
)

REMEMBERED: Final = 4096
DOUBT_KEPT_S: Final = 50.0
"""The courier looks again a minute after a doubt; what comes later than that is not seen by us (but by `verify`)."""
T = TypeVar("T")
_SYSTEM: Final = ("sys/", "monitoring/", "source_code/")


class Doubt(Frozen, frozen=True):
    """Series (paths) to which an append may still come, and since when (loop time)."""

    series: frozenset[str]
    since: float


class NeptuneTarget(Target):
    """One project of one Neptune server. Values are resolved already: no reference, no environment is read here.

    Raises :class:`Unusable` or :class:`Unauthorised` if the address and the token can't be right together. No process
    is started before the first call.
    """

    capabilities: ClassVar[Capabilities] = CAPABILITIES

    def __init__(
        self, server_uri: str, project: str, api_token: str, *, ca_pem: str | None = None,
        addresses: Addresses = ANYWHERE, bounds: Bounds | None = None,
    ) -> None:  # fmt: skip
        token.admitted(server_uri, api_token)
        if ca_pem is not None and "BEGIN CERTIFICATE" not in ca_pem:
            raise Unusable("TlsFailed", "the CA bundle holds no certificate in PEM form")
        self._server_uri = server_uri.rstrip("/")
        self._project = project
        setup = wire.Setup(
            server_uri=self._server_uri, project=project, token=api_token,
            allowed=tuple(map(str, addresses.allowed)),
            api_server=tuple((str(address), port) for address, port in addresses.api_server),
        )  # fmt: skip
        self.process = Process(setup, ca_pem=ca_pem, bounds=bounds)
        self._sender = Sender(self.process)
        # By short id; and by custom id those that a search may not show yet. Only spares calls, or gives a hint.
        self._runs: OrderedDict[str, str] = OrderedDict()
        self._made: OrderedDict[str, str] = OrderedDict()
        self._in_doubt: OrderedDict[str, Doubt] = OrderedDict()

    def __repr__(self) -> str:
        """The address and the project."""
        return f"NeptuneTarget({self._server_uri!r}, {self._project!r})"

    def fit(self, run: TrackerRun) -> TrackerRun:
        """See :func:`pipetrail.targets.neptune.fit.fit`."""
        return fit(run)

    def describe(self, run: TrackerRun, children: Sequence[Handle]) -> str:
        """The run's note: Neptune has no page that an address with several runs would open."""
        del children
        return run.note

    async def check(self) -> Health:
        """Log in and look up the project."""
        said = await self._sender.ask(wire.Check())
        assert isinstance(said, wire.Project)
        return Health(version=said.version)

    async def find(self, run: TrackerRun) -> Sequence[Held]:
        """What carries the root key, parent first, then in the order in which Neptune made it.

        A search may be late (its index is filled after a write), so what this process has made is looked up besides.
        Where an append of ours had an unknown end, points that are there twice since are taken away first.
        A run that someone put into the trash is not made again: :class:`Refused`.
        """
        root = paths.custom_id(run.root)
        found = await self._sender.ask(wire.Search(path=paths.ROOT, value=root))
        assert isinstance(found, wire.Ids)
        ids = dict.fromkeys(found.ids)
        if run.key and (made := self._made.get(paths.custom_id(run.key))):
            ids[made] = None
        ids |= dict.fromkeys(i for key, i in self._made.items() if key.startswith(f"{root}/"))
        for run_id in ids:
            await self._mend(run_id)
        runs = [h for i in ids if (h := await self._held(i, root)) is not None]
        return sorted(runs, key=lambda h: (h.key != run.root, _number(h.handle.id), h.handle.id))

    async def open(self, run: TrackerRun, parent: Handle | None) -> Handle:
        """The run with the id that is its key's, made if it is not there, then told what it is, and whose.

        One that carries the key already is not written to: the courier must read first what it holds.
        """
        custom, root = paths.custom_id(run.key), paths.custom_id(run.root)
        made = await self._create(custom, run)
        # Under the root too, so that a look-up of the parent gives its children.
        for name in {custom, f"{root}/{custom}"}:
            _remember(self._made, name, made.id)
        _remember(self._runs, made.short, made.id)
        there = await self._sender.attributes(made.id)
        marks = held.by_path(there.attributes)
        if (key := marks.get(paths.KEY)) is not None:
            if key.value != run.key:
                raise Refused("NotOurs", f"run {made.short} has the id of this run and carries another key")
            raise Retry("AlreadyThere", f"run {made.short} is there already: it is read first", doubtful=True)
        begun = marks.get(paths.ROOT)
        foreign = [path for path in marks if not path.startswith(_SYSTEM)]
        if foreign and (begun is None or begun.value != root):
            raise Refused("NotOurs", f"run {made.short} has the id of this run, no key of ours, and {foreign[0]}")
        # Of a run that is new nothing can be refused but by a rule that we don't know: then the run would lack it.
        changes = await self._sender.send(made.id, ops.opening(run, parent.id if parent is not None else ""))
        if any(change.item == "run" for change in changes):
            raise Refused("Rejected", f"Neptune does not take {changes[0].key} of the run: {changes[0].detail}")
        if refused := await self._sender.send(made.id, ops.claiming(run.key)):
            raise Refused("Rejected", f"Neptune does not take the run's key: {refused[0].detail}")
        return held.handle(self._server_uri, self._project, made.short)

    async def write(self, handle: Handle, batch: Batch) -> Receipt:
        """Params, tags, points, then files, and status and end last, when all else is seen to be there."""
        run = await self._id(handle)
        there = await self._attributes(run, handle)
        changes: list[Change] = []
        wanted, unfit = ops.content(batch)
        changes += unfit
        if batch.note is not None:
            if _edited(there, batch.note):
                said = "someone has edited the description"
                changes.append(Change(item="note", key="", reason="NoteKept", detail=said))
            else:
                wanted += ops.noting(batch.note)
        series = frozenset(o.path for o in wanted if isinstance(o, wire.Append))
        try:
            changes += await self._sender.send(run, wanted)
        except (Retry, asyncio.CancelledError) as trouble:
            if series and (not isinstance(trouble, Retry) or trouble.doubtful):
                before = self._in_doubt[run].series if run in self._in_doubt else frozenset()
                since = asyncio.get_running_loop().time()
                _remember(self._in_doubt, run, Doubt(series=series | before, since=since))
            raise
        await self._mend(run)
        for file in batch.files:
            changes += await self._upload(run, file)
        for plot in batch.figures:
            drawn = await filed(plot)
            changes += drawn.changes
            for file in drawn.files:
                changes += await self._upload(run, file)
        if batch.status is not None:
            end = ops.ending(batch.status, batch.finished, was_finished=paths.FINISHED in there)
            changes += await self._sender.send(run, end)
        return Receipt(changes=tuple(changes))

    async def discard(self, handle: Handle) -> None:
        """Into the trash, if the run carries a key of ours; nothing if it is there already."""
        try:
            run = await self._id(handle)
            there = await self._attributes(run, handle)
        except Refused as refusal:
            if refusal.reason in ("RunGone", "RunDeleted"):
                return
            raise
        if paths.KEY not in there:
            raise Refused("NotOurs", f"run {handle.id} does not carry a key of ours: it is left alone")
        said = await self._sender.ask(wire.Trash(id=handle.id))
        assert isinstance(said, wire.Errors)
        if said.errors:
            raise Retry("Unreachable", f"Neptune does not put run {handle.id} into the trash: {said.errors[0][:200]}")

    async def read(self, handle: Handle) -> Held:
        """Everything, every point."""
        run = await self._id(handle)
        there = await self._attributes(run, handle)
        series = {a.path: await self._sender.series(run, a.path) for a in there.values() if held.is_series(a)}
        return held.held(handle, there, series)

    async def close(self) -> None:
        """Let the call under way end, then end the worker."""
        await self.process.close()

    async def _mend(self, run: str) -> None:
        """See whether an append that was given up has come through after all, for as long as it may."""
        doubt = self._in_doubt.get(run)
        if doubt is None:
            return
        await self._sender.mend(run, sorted(doubt.series))
        if asyncio.get_running_loop().time() - doubt.since > DOUBT_KEPT_S and self._in_doubt.get(run) is doubt:
            del self._in_doubt[run]

    async def _create(self, custom: str, run: TrackerRun) -> wire.Run:
        try:
            made = await self.process.call(wire.Create(custom_id=custom))
        except Rejection as refusal:
            raise Refused("Rejected", f"Neptune does not take the run: {refusal.text}") from None
        assert isinstance(made, wire.Run)
        if made.trashed:
            raise _deleted(run.name or made.short)
        return made

    async def _held(self, run: str, root: str) -> Held | None:
        """A run as far as its attributes tell; None if it has no mark of ours (yet), or another root's."""
        there = await self._sender.attributes(run)
        marks = held.by_path(there.attributes)
        short, key, of = (marks.get(p) for p in ("sys/id", paths.KEY, paths.ROOT))
        if short is None or key is None or of is None or of.value != root:
            return None
        if there.trashed:
            raise _deleted(str(short.value))
        _remember(self._runs, str(short.value), run)
        return held.held(held.handle(self._server_uri, self._project, str(short.value)), marks)

    async def _id(self, handle: Handle) -> str:
        """Neptune's own id of a run, by the short one."""
        if (known := self._runs.get(handle.id)) is not None:
            return known
        found = await self._sender.ask(wire.Get(id=handle.id))
        assert isinstance(found, wire.Run)
        _remember(self._runs, handle.id, found.id)
        return found.id

    async def _attributes(self, run: str, handle: Handle) -> dict[str, wire.Attribute]:
        there = await self._sender.attributes(run)
        if there.trashed:
            raise _deleted(handle.id)
        return held.by_path(there.attributes)

    async def _upload(self, run: str, file: File) -> Sequence[Change]:
        """A file that Neptune does not take stops nothing else; one whose fate is unknown is sent again, over it."""
        ending = file.path.rpartition("/")[2].rpartition(".")[2] if "." in file.path else ""
        try:
            said = await self.process.call(wire.Upload(run=run, path=file.path, extension=ending, data=file.data))
        except Rejection as refusal:
            return (_not_uploaded(file, refusal.text),)
        assert isinstance(said, wire.Errors)
        return (_not_uploaded(file, said.errors[0]),) if said.errors else ()


def _edited(there: dict[str, wire.Attribute], note: str) -> bool:
    """True if what stands in the description is neither ours nor nothing."""
    text, ours = there.get(paths.NOTE), there.get(paths.NOTE_DIGEST)
    if text is None or text.value in (None, note) or (ours is None and not text.value):
        return False
    return ours is None or ops.digest(str(text.value)) != ours.value


def _not_uploaded(file: File, why: str) -> Change:
    return Change(item="file", key=file.path, reason="FileNotUploaded", detail=why)


def _deleted(name: str) -> Refused:
    return Refused("RunDeleted", f"someone deleted run {name} in Neptune: restore it from the trash to have it go on")


def _number(short: str) -> int:
    """The 12 of PIPE-12, by which runs of a project are counted."""
    match = re.search(r"(\d+)$", short)
    return int(match[1]) if match else 0


def _remember(cache: OrderedDict[str, T], name: str, value: T) -> None:
    cache[name] = value
    cache.move_to_end(name)
    while len(cache) > REMEMBERED:
        cache.popitem(last=False)
