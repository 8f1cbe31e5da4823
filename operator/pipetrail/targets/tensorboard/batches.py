"""What is appended for a batch, and what is there afterwards. Pure.

The order is such that a file cut anywhere tells the truth: params before points, points before figures, and status, end
and HPARAMS' session last and in one record, since whoever reads *Finished* takes it that all has arrived.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final

from pipetrail.record import Frozen
from pipetrail.targets.target import Batch, Change, File, Metric
from pipetrail.targets.tensorboard import events, page
from pipetrail.targets.tensorboard.fit import shown_as
from pipetrail.targets.tensorboard.journal import Entry, Opening, State, after, written
from pipetrail.targets.tensorboard.limits import TIME_MOST_MS
from pipetrail.targets.tensorboard.page import Drawn, text_tag

ENTRY_CHARS: Final = 1 << 20  # of params and tags in one entry
SESSION_CHARS: Final = 4 << 20  # of params in HPARAMS: its metadata stays in the server's memory


class Addition(Frozen, frozen=True):
    """Records before and after the points (which are encoded as they are written), and the state behind all."""

    before: Sequence[bytes]
    metrics: Sequence[Metric]
    behind: Sequence[bytes]
    state: State
    changes: tuple[Change, ...] = ()

    @property
    def records(self) -> Iterator[bytes]:
        """All records in their order."""
        yield from self.before
        yield from events.scalars(self.metrics)
        yield from self.behind


def opened(opening: Opening, tags: Mapping[str, str], note: str) -> Addition:
    """The first records of a file. Tags and note come in the same record as the key."""
    entry = Entry(opening=opening, tags=tags, note=note)
    begun_s = opening.started_ms / 1000
    draft = _after(None, entry)
    text = page.page(draft)
    entry = Entry(opening=opening, tags=tags, note=note, texts={page.PAGE_TAG: page.digest(text)})
    values = [events.state(written(entry)), events.text(page.PAGE_TAG, text)]
    return Addition(
        before=[events.version(begun_s), events.event(begun_s, 0, values)], metrics=(), behind=(),
        state=_after(None, entry),
    )  # fmt: skip


def added(state: State, batch: Batch, drawn: Iterable[Drawn]) -> Addition:
    """The records of `batch` behind `state`; nothing that is shown already is shown again."""
    writer = _Writer(state)
    if state.session is not None:
        writer.changes += [
            Change(item="param", key=k, reason="NotInHparams", detail="HPARAMS was told the run's end before it")
            for k in batch.params
        ]
    for params, tags in _portions(batch.params, batch.tags):
        writer.put(Entry(params=params, tags=tags))
    if batch.note is not None:
        writer.put(Entry(note=batch.note))
    told = batch.note is not None or bool(batch.params) or (bool(batch.tags) and state.status != "Running")
    if told and batch.status is None:
        writer.page()
    before = writer.taken()
    metrics = [m for m in batch.metrics if _fits(m)]
    if len(metrics) < len(batch.metrics):
        writer.changes += [
            Change(item="metric", key=m.key, reason="Rejected", detail=f"step {m.step}: it was not fitted to float32")
            for m in batch.metrics
            if not _fits(m)
        ]
    for figure in drawn:
        writer.figure(figure)
    for file in batch.files:
        writer.file(file)
    if batch.status is not None:
        writer.status(batch)
    return Addition(
        before=before, metrics=metrics, behind=writer.taken(), state=writer.state, changes=tuple(writer.changes)
    )


class _Writer:
    """Records in the making, and the state behind them."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.changes: list[Change] = []
        self._records: list[bytes] = []

    def taken(self) -> Sequence[bytes]:
        """The records since the last time."""
        records, self._records = self._records, []
        return records

    def put(self, entry: Entry, values: Sequence[bytes] = (), *, wall_s: float | None = None, step: int = 0) -> None:
        """One record with `entry` and what it speaks of."""
        at = self._now_s() if wall_s is None else wall_s
        self._records.append(events.event(at, step, [events.state(written(entry)), *values]))
        self.state = _after(self.state, entry)

    def page(self) -> None:
        """What people read, if it is no longer what they would read."""
        text = page.page(self.state)
        name = page.digest(text)
        if self.state.texts.get(page.PAGE_TAG) != name:
            step = self.state.shown.get(page.PAGE_TAG, 0)
            self.put(Entry(texts={page.PAGE_TAG: name}), [events.text(page.PAGE_TAG, text)], step=step)

    def figure(self, figure: Drawn) -> None:
        """Image and text in one record."""
        self.changes += figure.changes
        values = [events.text(text_tag(figure.path), figure.text)]
        if figure.image is not None:
            values.append(events.image(figure.path, figure.image))
        step = self.state.shown.get(figure.path, 0)
        self.put(Entry(figures=(figure.path,)), values, wall_s=figure.time_ms / 1000, step=step)

    def file(self, file: File) -> None:
        """A markdown file as text."""
        tag = shown_as(file)
        text = file.data.decode(errors="replace")
        if tag and self.state.texts.get(tag) != (name := page.digest(text)):
            step = self.state.shown.get(tag, 0)
            self.put(Entry(texts={tag: name}), [events.text(tag, text)], step=step)

    def status(self, batch: Batch) -> None:
        """Status, end, page and session, in one record."""
        assert batch.status is not None
        finished_ms = None if batch.finished is None else milliseconds(batch.finished)
        end = (batch.status, finished_ms)
        starts = batch.status != "Running" and self.state.session is None
        if batch.status != "Running" and self.state.session not in (None, end):
            self.changes.append(
                Change(item="run", key="status", reason="FirstEndKept", detail="HPARAMS keeps the first end of a run")
            )
        draft = _after(self.state, Entry(status=batch.status, finished_ms=finished_ms))
        text = page.page(draft)
        name = page.digest(text)
        values: list[bytes] = []
        if self.state.texts.get(page.PAGE_TAG) != name:
            values.append(events.text(page.PAGE_TAG, text))
        if starts:
            ended_s = None if finished_ms is None else finished_ms / 1000
            values += events.session(self._hparams(), self._begun_s(), batch.status, ended_s)
        texts = {page.PAGE_TAG: name} if self.state.texts.get(page.PAGE_TAG) != name else {}
        entry = Entry(status=batch.status, finished_ms=finished_ms, texts=texts, session=starts)
        step = self.state.shown.get(page.PAGE_TAG, 0)
        self.put(entry, values, wall_s=self._begun_s() if finished_ms is None else finished_ms / 1000, step=step)

    def _hparams(self) -> Mapping[str, str]:
        kept: dict[str, str] = {}
        size = 0
        for key, value in self.state.params.items():
            size += len(key) + len(value)
            if size > SESSION_CHARS:
                self.changes.append(
                    Change(item="param", key=key, reason="NotInHparams", detail="too much for HPARAMS: see the text")
                )
                continue
            kept[key] = value
        return kept

    def _begun_s(self) -> float:
        return self.state.opening.started_ms / 1000

    def _now_s(self) -> float:
        """The run's own time, never our clock."""
        return self._begun_s() if self.state.finished_ms is None else self.state.finished_ms / 1000


def _fits(metric: Metric) -> bool:
    """False for what :func:`fit` never gives."""
    try:
        struct.pack("<fq", metric.value, metric.step)
    except (struct.error, OverflowError):
        return False
    return 0 <= metric.time_ms <= TIME_MOST_MS


def milliseconds(time: datetime) -> int:
    """Since 1970."""
    return round(time.timestamp() * 1000)


def _after(state: State | None, entry: Entry) -> State:
    made = after(state, entry)
    assert made is not None, "the first entry is an opening"
    return made


def _portions(
    params: Mapping[str, str], tags: Mapping[str, str]
) -> Iterator[tuple[Mapping[str, str], Mapping[str, str]]]:
    """Params and tags in entries that a reader takes whole; none if there are none."""
    portion: tuple[dict[str, str], dict[str, str]] = ({}, {})
    size = 0
    for which, items in enumerate((params, tags)):
        for key, value in items.items():
            portion[which][key] = value
            size += len(key) + len(value)
            if size > ENTRY_CHARS:
                yield portion
                portion, size = ({}, {}), 0
    if any(portion):
        yield portion
