"""However an event file breaks off or is spoiled, appending what is missing gives the run that should be there."""

import io
import struct
from datetime import UTC, datetime

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tensorboard.compat.proto.event_pb2 import Event

from pipetrail.delivery import plan as plans
from pipetrail.formats.tfrecord import FOOT_BYTES, HEAD_BYTES, framed, payload_bytes
from pipetrail.record import ConfusionMatrix
from pipetrail.targets.target import Batch, File, Handle, Held, Metric, Plot, TrackerRun
from pipetrail.targets.tensorboard import batches, events, journal
from pipetrail.targets.tensorboard.fit import fit
from pipetrail.targets.tensorboard.journal import Opening
from pipetrail.targets.tensorboard.page import Drawn, text_tag

START = datetime(2025, 11, 3, 9, 30, tzinfo=UTC)
START_MS = round(START.timestamp() * 1000)
PNG = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 3, 2) + b"and so on"

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
numbers = st.one_of(st.floats(width=32), st.integers(-(2**40), 2**40), st.floats())
metrics = st.builds(
    Metric, key=st.sampled_from(["loss", "train/acc", "é"]), value=numbers, step=st.integers(-3, 5),
    time_ms=st.integers(START_MS, START_MS + 10**6),
)  # fmt: skip
runs = st.builds(
    TrackerRun, key=st.just("c/u"), root=st.just("c/u"), experiment=texts, name=texts, note=texts,
    status=st.sampled_from(["Running", "Finished", "Failed", "Killed"]), started=st.just(START),
    finished=st.sampled_from([None, START]), params=st.dictionaries(texts, texts, max_size=4),
    tags=st.dictionaries(texts, texts, max_size=4), metrics=st.lists(metrics, max_size=12).map(tuple),
    files=st.sampled_from([(), (File(path="pipetrail/artifacts.md", media_type="text/markdown", data=b"| a |"),)]),
    figures=st.sampled_from(
        [(), (Plot(path="cm", figure=ConfusionMatrix(labels=("a",), rows=((1,),)), time_ms=START_MS),)]
    ),
)  # fmt: skip


def opened(run: TrackerRun) -> bytes:
    opening = Opening(
        key=run.key, root=run.root, name=run.name, experiment=run.experiment, started_ms=START_MS, opened_ns=1
    )
    return b"".join(batches.opened(opening, run.tags, run.note).records)


def drawn(batch: Batch) -> list[Drawn]:
    return [Drawn(path=p.path, time_ms=p.time_ms, text="| 1 |", image=PNG) for p in batch.figures]


def brought(data: bytes, run: TrackerRun) -> bytes:
    """`data` once delivery has brought it to `run`, as the target does it."""
    found = journal.read(io.BytesIO(data))
    if found.state is None:
        return brought(opened(run), run)
    held = as_held(data)
    batch = plans.plan(run, run.note, plans.from_held(held)).batch
    return data[: found.end] + b"".join(batches.added(found.state, batch, drawn(batch)).records)


def as_held(data: bytes) -> Held:
    found = journal.read(io.BytesIO(data))
    state = found.state
    assert state is not None
    return Held(
        key=state.opening.key, handle=Handle(id="e/r"), name=state.opening.name, status=state.status,
        started_ms=state.opening.started_ms, finished_ms=state.finished_ms, params=state.params, tags=state.tags,
        metrics=found.metrics, note=state.note, figures=state.figures, whole=True,
    )  # fmt: skip


def there(data: bytes) -> object:
    """All that a file says, in any order of points."""
    held = as_held(data)
    return replace(held, metrics=tuple(sorted(map(repr, held.metrics))))


def shown(data: bytes) -> list[str]:
    """Tags that TensorBoard's own messages hold, but for scalars and our entries, each as often as it is there."""
    found, at = [], 0
    while (size := payload_bytes(data, at)) is not None:
        event = Event.FromString(data[at + HEAD_BYTES : at + HEAD_BYTES + size])
        found += [v.tag for v in event.summary.value if v.WhichOneof("value") != "simple_value"]
        at += HEAD_BYTES + size + FOOT_BYTES
    return sorted(t for t in found if t != "pipetrail/state")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(runs, st.data())
def test_a_file_cut_at_any_byte_is_continued_as_if_it_had_not_been(run: TrackerRun, data: st.DataObject) -> None:
    wanted = fit(run)
    whole = brought(opened(wanted), wanted)
    cut = data.draw(st.integers(0, len(whole)))
    mended = brought(whole[:cut], wanted)
    assert there(mended) == there(whole)
    left = plans.plan(wanted, wanted.note, plans.from_held(as_held(mended))).batch
    assert replace(left, files=()).empty  # files are laid down anew, and shown once
    once = [t for t in shown(mended) if t != "pipetrail/run"]
    assert once == [t for t in shown(whole) if t != "pipetrail/run"]
    assert len(once) == len(set(once))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(runs, st.data())
def test_a_spoiled_byte_costs_what_stands_behind_it_and_that_is_sent_again(
    run: TrackerRun, data: st.DataObject
) -> None:
    wanted = fit(run)
    whole = brought(opened(wanted), wanted)
    at = data.draw(st.integers(0, len(whole) - 1))
    spoiled = whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :]
    assert there(brought(spoiled, wanted)) == there(whole)


@settings(max_examples=100, deadline=None)
@given(runs, runs)
def test_a_run_that_grows_in_two_steps_has_each_point_once(first: TrackerRun, second: TrackerRun) -> None:
    early = fit(replace(first, status="Running", finished=None))
    late = fit(replace(second, experiment=first.experiment, name=first.name, metrics=first.metrics + second.metrics))
    data = brought(brought(opened(early), early), late)
    held = as_held(data)
    wanted = sorted((m.key, m.step, plans.value_id(m.value)) for m in late.metrics)
    found = sorted((m.key, m.step, plans.value_id(m.value)) for m in held.metrics)
    assert found == wanted
    assert brought(data, late) == data


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.binary(max_size=100).map(framed)), st.booleans())
def test_no_bytes_make_the_reader_fail(junk: bytes, behind: bool) -> None:
    head = opened(fit(TrackerRun(key="k", root="k", experiment="e", name="n", status="Running", started=START)))
    found = journal.read(io.BytesIO(head + junk if behind else junk))
    assert (found.state is not None) == behind
    journal.opening(io.BytesIO(junk))


@settings(max_examples=200, deadline=None)
@given(metrics, texts, texts)
def test_what_we_write_is_what_tensorboards_own_messages_read(metric: Metric, tag: str, text: str) -> None:
    (m,) = fit(
        TrackerRun(key="k", root="k", experiment="e", name="n", status="Running", started=START, metrics=(metric,))
    ).metrics
    (record,) = events.scalars([m])
    event = Event.FromString(record[HEAD_BYTES:-FOOT_BYTES])
    value = event.summary.value[0]
    assert (value.tag, event.step, round(event.wall_time * 1000)) == (m.key, m.step, m.time_ms)
    assert plans.value_id(value.simple_value) == plans.value_id(m.value)
    shown_text = Event.FromString(events.event(1.5, 7, [events.text(tag, text)])[HEAD_BYTES:-FOOT_BYTES])
    value = shown_text.summary.value[0]
    assert (value.tag, value.tensor.string_val[0].decode()) == (tag, text)
    assert (value.metadata.plugin_data.plugin_name, shown_text.step) == ("text", 7)
    picture = Event.FromString(events.event(1.5, 0, [events.image(tag, PNG)])[HEAD_BYTES:-FOOT_BYTES]).summary.value[0]
    assert (picture.image.width, picture.image.height, picture.image.encoded_image_string) == (3, 2, PNG)
    assert text_tag("cm") == "cm/text"
