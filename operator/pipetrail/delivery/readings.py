"""Readings: a run as it stands when its turn comes, its object and the facts beside it, and the record made of them."""

from collections.abc import Callable
from typing import Any

from pipetrail import api, capture, redact
from pipetrail.delivery.memo import Memo, Moment
from pipetrail.delivery.runs import RunState
from pipetrail.kube import Kube
from pipetrail.readers import Reader
from pipetrail.readers import argo as objects
from pipetrail.record import ALL_READ, Record, Unread
from pipetrail.sources import Reading, argo


class Readings:
    """Reads runs. It holds no run's state of its own but a small memory of records just made.

    `vanished` is told of a run whose object is gone without a last body.
    """

    def __init__(self, kube: Kube, reader: Reader, cluster: str, vanished: Callable[[], None]) -> None:
        self._kube = kube
        self._reader = reader
        self._cluster = cluster
        self._vanished = vanished
        self._memo = Memo()

    async def read(self, state: RunState) -> tuple[Reading, Moment] | None:
        """The run as it stands now, or as it last stood; None if it vanished and its last body has not come (yet)."""
        final = False  # what is known of its pods, because they were asked for after its end
        if not state.facts_known:
            final = state.last_body is not None
            await self._ask_for_facts(state)
        body = await self._body(state)
        if body is None:
            return None
        reading, moment = await self._reading(state, body)
        unseen = _unseen(self._as_argo_has_it(reading, state, body)) - state.asked_for
        if unseen and not (final or state.archived):
            # The Workflow's watch was faster than the pods'. A tracker fixes a child's start when it is made, and only
            # the pod knows when the program began: ask once instead of waiting for the event. Of a run that was deleted
            # the pods may stand for a moment more.
            state.asked_for.update(unseen)
            await self._ask_for_facts(state)
            if state.last_body is not None or state.header.version != moment[0]:
                # What we now know is newer than the body: with it a run that has ended would be one that was killed.
                body = await self._body(state)
                if body is None:
                    return None
            reading, moment = await self._reading(state, body)
        return reading, moment

    async def record(
        self, state: RunState, reading: Reading, moment: Moment, pinned: api.Policy
    ) -> tuple[Record, Unread]:
        """The whole record, redacted, and what of it a later capture may still give (a store was away)."""
        async with state.capturing:
            made = self._memo.get(state.uid, pinned.digest, moment)
            if made is not None:
                return made, ALL_READ
            files = state.files
            captured = await capture.capture(reading, self._reader, capture.wants(pinned), files)
            unread = files.unread
        made = redact.redact(captured, additional_keys=pinned.redact.additional_keys)
        if unread.nothing:
            self._memo.put(state.uid, pinned.digest, moment, made)
        return made, unread

    async def _body(self, state: RunState) -> Any:
        """The Workflow as the API server has it or, if it was deleted (while we asked, too), as it last was."""
        body = state.exhume()
        if body is None and not state.only_kept:
            header = state.header
            there = await objects.workflow(self._kube, header.namespace, header.name)
            body = state.exhume()
            if body is None:
                read = argo.header(there)
                if read.uid != header.uid:
                    # Its DELETED event may be on its way; the survey closes it if none comes.
                    self._vanished()
                    return None
                state.header, body = read, there
        if body is not None:
            state.lifetime = argo.lifetime(body)
        return body

    async def _reading(self, state: RunState, body: Any) -> tuple[Reading, Moment]:
        """What `body` and the facts of now say, and which body and which facts that were.

        News may come while it is read: a record is that of its own moment, never of the one in which it was ready.
        """
        moment = (argo.header(body).version, state.edition)
        reading = await capture.reading(body, state.facts, state.said.at(body, self._reader), cluster=self._cluster)
        if reading.again:
            state.said.forget()
        return reading, moment

    def _as_argo_has_it(self, reading: Reading, state: RunState, body: Any) -> Record:
        """The record with a step for each pod: of KFP's own pods, drivers and the like, a user's record shows none."""
        if reading.record.source == "argo":
            return reading.record
        return argo.read(body, state.facts, cluster=self._cluster).record

    async def _ask_for_facts(self, state: RunState) -> None:
        before = state.facts
        state.learn(await objects.facts(self._kube, state.header, before), before)
        state.facts_known = True


def _unseen(record: Record) -> set[str]:
    """Attempts that have ended and whose pod nobody has told us of (a cached step never had one)."""
    return {
        f"{step.path} {step.iteration} {len(step.attempts)}"
        for step in record.steps
        if step.kind == "pod" and step.outcome.status in ("succeeded", "failed", "error")
        if step.attempts and step.attempts[-1].pod_uid is None
    }
