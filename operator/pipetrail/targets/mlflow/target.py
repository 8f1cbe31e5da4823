"""MLflow as a target. The life of a run with 10 params and 20 metrics is three requests: create, log-batch, update."""

import asyncio
import itertools
import secrets
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, ClassVar, Final

from msgspec.structs import replace

from pipetrail.targets.figures import FOLDER, whole
from pipetrail.targets.mlflow import answers, batches, figures, files, links
from pipetrail.targets.mlflow.answers import History, Nothing, OneRun, Run, Runs
from pipetrail.targets.mlflow.auth import Auth, NoAuth
from pipetrail.targets.mlflow.experiments import Experiments, deleted
from pipetrail.targets.mlflow.fit import (
    KEY_TAG,
    MLFLOW_NOTE,
    MLFLOW_PARENT,
    NOTE_TAG,
    OPENED_TAG,
    PARENT_TAG,
    ROOT_TAG,
    fit,
)
from pipetrail.targets.mlflow.held import TO_MLFLOW, handle, held, in_order, metric, tags_of
from pipetrail.targets.mlflow.limits import CAPABILITIES
from pipetrail.targets.mlflow.wire import Rejection, SessionFactory, Wire, session
from pipetrail.targets.target import (
    Batch,
    Capabilities,
    Change,
    File,
    Handle,
    Health,
    Held,
    Metric,
    Receipt,
    Refused,
    Retry,
    RunStatus,
    Target,
    TrackerRun,
    Unusable,
)

PAGE_RUNS: Final = 50
PAGE_POINTS: Final = 10_000
READS_AT_ONCE: Final = 4
ISOLATING_MOST: Final = 200


class MlflowTarget(Target):
    """One MLflow server. Values are resolved already: no reference, no environment is read here.

    With `own_stores` files go with the operator's own credentials where MLflow does not take them itself.
    """

    capabilities: ClassVar[Capabilities] = CAPABILITIES

    def __init__(
        self, tracking_uri: str, *, ui_uri: str | None = None, auth: Auth | None = None, ca_pem: str | None = None,
        session_factory: SessionFactory = session, own_stores: bool = True,
    ) -> None:  # fmt: skip
        self._wire = Wire(tracking_uri, NoAuth() if auth is None else auth, ca_pem, session_factory)
        self._pages = (ui_uri or self._wire.where).rstrip("/")
        self._experiments = Experiments(self._wire)
        self._worker = asyncio.Semaphore(1) if own_stores else None  # a worker process costs 84 MiB

    def __repr__(self) -> str:
        """The address alone."""
        return f"MlflowTarget({self._wire.where!r})"

    def fit(self, run: TrackerRun) -> TrackerRun:
        """See :func:`pipetrail.targets.mlflow.fit.fit`."""
        return fit(run)

    def describe(self, run: TrackerRun, children: Sequence[Handle]) -> str:
        """The run's note, headed by the link to the page that compares its children."""
        return links.with_compare(run.note, self._pages, children)

    async def check(self) -> Health:
        """One call that a delivery could make, and the version where the server shows it."""
        try:
            await self._wire.call("GET", "experiments/search", answers.Experiments, query={"max_results": "1"})
        except Rejection as refusal:
            raise Unusable("NotMlflow", f"{self._wire.where} does not list experiments: {refusal.text}") from None
        try:
            version = await self._wire.text("/version")
        except (Unusable, Rejection):  # a proxy that lets the API through alone
            version = ""
        return Health(version=version if version[:1].isdigit() and len(version) <= 40 else "")

    async def find(self, run: TrackerRun) -> Sequence[Held]:
        """What carries the root key, in the order of :func:`in_order`.

        A run that someone deleted is not made again: :class:`Refused`. (A double that we deleted has a living twin.)
        """
        experiment = await self._experiments.known(run.experiment)
        # An experiment that someone has renamed still holds the run.
        experiments = await self._experiments.every() if experiment is None else [experiment]
        if not experiments:
            return []
        found = [r for r in await self._search(experiments, run.root) if tags_of(r).get(ROOT_TAG) == run.root]
        alive = [r for r in found if r.info.lifecycle_stage == "active"]
        keys = {tags_of(r).get(KEY_TAG) for r in alive}
        for gone in found:
            if tags_of(gone).get(KEY_TAG) not in keys:
                raise _deleted(gone.info.run_id, gone.info.run_name)
        return [held(r, self._pages) for r in in_order(alive, run.root)]

    async def open(self, run: TrackerRun, parent: Handle | None) -> Handle:
        """One runs/create that carries key and tags. An experiment that is not there is made first.

        A child goes where its parent is, whatever that experiment is called by now.
        """
        tags = {**run.tags, KEY_TAG: run.key, ROOT_TAG: run.root, OPENED_TAG: _stamp()}
        if parent is not None:
            tags[MLFLOW_PARENT if run.nested else PARENT_TAG] = parent.id
        if run.note:
            tags |= {MLFLOW_NOTE: run.note, NOTE_TAG: links.note_digest(run.note)}
        experiment = parent.experiment_id if parent is not None else ""
        body = {
            "experiment_id": experiment or await self._experiments.needed(run.experiment), "run_name": run.name,
            "start_time": _ms(run.started), "tags": [batches.Tag(key=k, value=v) for k, v in tags.items()],
        }  # fmt: skip
        try:
            made = await self._wire.call("POST", "runs/create", OneRun, body=body, changes=True)
        except Rejection as refusal:
            self._experiments.forget(run.experiment)
            if refusal.code == "RESOURCE_DOES_NOT_EXIST":
                if experiment:
                    raise Refused("RunGone", f"experiment {experiment} of the run is no longer in MLflow") from None
                raise Retry("Unreachable", f"experiment {run.experiment!r} is gone: it is looked up again") from None
            if "must be in the 'active' state" in refusal.text:
                raise deleted(run.experiment) from None
            raise Refused("Rejected", f"MLflow does not take the run: {refusal.text}") from None
        return handle(made.run, self._pages)

    async def write(self, handle: Handle, batch: Batch) -> Receipt:
        """log-batch, then status and end, then files and figures; what MLflow refuses is found by halving and named."""
        changes: list[Change] = []
        tags = {} if batch.note is None else await self._note(handle, batch.note, changes)
        tries = itertools.count()
        items, unfit = batches.items(batch, tags)
        changes += unfit
        for chunk in batches.chunks(items):
            await self._log(handle, chunk, changes, tries)
        if batch.status is not None:
            await self._update(handle, batch.status, batch.finished)
        if batch.files or batch.figures:
            root = handle.artifacts or (await self._get(handle)).info.artifact_uri
            if batch.files:
                changes += await files.upload(self._wire, root, batch.files, self._worker)
            changes += await figures.send(self._wire, root, batch.figures, self._worker)
        return Receipt(changes=tuple(changes))

    async def discard(self, handle: Handle) -> None:
        """runs/delete, if the run carries a key of ours; nothing if it is gone already."""
        try:
            run = await self._get(handle)
        except Refused as refusal:
            if refusal.reason in ("RunGone", "RunDeleted"):
                return
            raise
        if KEY_TAG not in tags_of(run):
            raise Refused("NotOurs", f"run {handle.id} does not carry a key of ours: it is left alone")
        try:
            await self._wire.call("POST", "runs/delete", Nothing, body={"run_id": handle.id}, changes=True)
        except Rejection as refusal:
            if await self._dead(handle, refusal) is None:
                raise await self._refusal(handle, refusal) from None

    async def read(self, handle: Handle) -> Held:
        """Everything, every point."""
        run = await self._get(handle)
        at_once = asyncio.Semaphore(READS_AT_ONCE)
        try:
            async with asyncio.TaskGroup() as tasks:
                reads = [tasks.create_task(self._history(handle, m.key, at_once)) for m in run.data.metrics]
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        there = whole(await files.listed(self._wire, handle.id, FOLDER))
        return replace(held(run, self._pages, tuple(m for r in reads for m in r.result())), figures=there)

    async def kept(self, handle: Handle, sent: Sequence[File]) -> frozenset[str]:
        """Read them back and compare; none where MLflow does not serve artifacts itself."""
        root = handle.artifacts or (await self._get(handle)).info.artifact_uri
        return await files.kept(self._wire, root, sent)

    async def close(self) -> None:
        """Let calls under way end, then give connections back."""
        await self._wire.close()

    async def _search(self, experiments: Sequence[str], root: str) -> list[Run]:
        body: dict[str, Any] = {
            "experiment_ids": experiments, "filter": f"tags.`{ROOT_TAG}` = {_quoted(root)}", "run_view_type": "ALL",
            "max_results": PAGE_RUNS, "order_by": ["attributes.start_time ASC"],
        }  # fmt: skip
        found: list[Run] = []
        while True:
            try:
                page = await self._wire.call("POST", "runs/search", Runs, body=body)
            except Rejection as refusal:
                if refusal.code == "ANSWER_TOO_LONG" and body["max_results"] > 1:
                    body["max_results"] = 1
                    continue
                raise Refused("Rejected", f"MLflow does not look up the run: {refusal.text}") from None
            found += page.runs
            if not page.next_page_token or not page.runs:
                return found
            body["page_token"] = page.next_page_token

    async def _get(self, handle: Handle) -> Run:
        try:
            run = (await self._wire.call("GET", "runs/get", OneRun, query={"run_id": handle.id})).run
        except Rejection as refusal:
            raise await self._refusal(handle, refusal) from None
        if run.info.lifecycle_stage != "active":
            raise _deleted(handle.id, run.info.run_name)
        return run

    async def _history(self, handle: Handle, key: str, at_once: asyncio.Semaphore) -> list[Metric]:
        query = {"run_id": handle.id, "metric_key": key, "max_results": str(PAGE_POINTS)}
        found: list[Metric] = []
        async with at_once:
            while True:
                try:
                    page = await self._wire.call("GET", "metrics/get-history", History, query=query)
                except Rejection as refusal:
                    raise await self._refusal(handle, refusal) from None
                found += map(metric, page.metrics)
                if not page.next_page_token or not page.metrics:
                    return found
                query["page_token"] = page.next_page_token

    async def _note(self, handle: Handle, note: str, changes: list[Change]) -> dict[str, str]:
        """The tags that bring the note, unless a person has written over ours."""
        tags = tags_of(await self._get(handle))
        there, ours = tags.get(MLFLOW_NOTE, ""), tags.get(NOTE_TAG)
        if there != note and (there if ours is None else links.note_digest(there) != ours):
            changes.append(Change(item="note", key="", reason="NoteKept", detail="someone has edited the description"))
            return {}
        return {MLFLOW_NOTE: note, NOTE_TAG: links.note_digest(note)}

    async def _log(
        self, handle: Handle, chunk: Sequence[batches.Item], changes: list[Change], tries: Iterator[int]
    ) -> None:
        """Send `chunk`; if MLflow refuses it, send its parts until what it refuses stands alone."""
        try:
            await self._wire.call("POST", "runs/log-batch", Nothing, body=batches.body(handle.id, chunk), changes=True)
        except Rejection as refusal:
            if (dead := await self._dead(handle, refusal)) is not None:
                raise dead from None
            if len(chunk) == 1 or next(tries) >= ISOLATING_MOST:
                changes += [batches.refused(item, refusal.text) for item in chunk]
                return
            for part in batches.halves(chunk):
                await self._log(handle, part, changes, tries)

    async def _update(self, handle: Handle, status: RunStatus, finished: datetime | None) -> None:
        body: dict[str, Any] = {"run_id": handle.id, "status": TO_MLFLOW[status]}
        if finished is not None:
            body["end_time"] = _ms(finished)
        elif status == "Running":
            body["end_time"] = 0  # a reopened run: MLflow would keep the old end
        try:
            await self._wire.call("POST", "runs/update", Nothing, body=body, changes=True)
        except Rejection as refusal:
            raise await self._refusal(handle, refusal) from None

    async def _refusal(self, handle: Handle, refusal: Rejection) -> Refused:
        return await self._dead(handle, refusal) or Refused("Rejected", f"run {handle.id}: {refusal.text}")

    async def _dead(self, handle: Handle, refusal: Rejection) -> Refused | None:
        """If the run itself is the trouble, not what is sent to it: why."""
        if refusal.code == "RESOURCE_DOES_NOT_EXIST":
            return Refused("RunGone", f"run {handle.id} is no longer in MLflow")
        if "must be in the 'active' state" not in refusal.text:
            return None
        if handle.experiment_id and await self._experiments.is_deleted(handle.experiment_id):
            return deleted(handle.experiment_id)
        return _deleted(handle.id, "")


def _ms(time: datetime) -> int:
    return round(time.timestamp() * 1000)


_sequence = itertools.count()


def _stamp() -> str:
    """Sorts creates by when they were sent: our milliseconds, a number of this process, chance."""
    return f"{time.time_ns() // 1_000_000:013d}-{next(_sequence) % 1_000_000:06d}-{secrets.token_hex(3)}"


def _quoted(value: str) -> str:
    """As a string of MLflow's filters, which know no escape: the other quote if one is in it."""
    return f'"{value}"' if "'" in value else f"'{value}'"


def _deleted(run_id: str, name: str) -> Refused:
    return Refused("RunDeleted", f"someone deleted run {name or run_id} in MLflow: restore it there to have it go on")
