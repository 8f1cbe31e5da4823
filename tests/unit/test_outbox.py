"""The outbox's format: what comes out is what went in, to the last bit, or it is torn."""

import datetime as dt
import math
import secrets
from pathlib import Path

import msgspec
import pytest
import zstandard

from pipetrail import api
from pipetrail.delivery import outbox
from pipetrail.delivery.outbox import Copy, Cover, Torn
from pipetrail.record import FromStdout, Key, Outcome, Point, Record, Step

DATA = Path(__file__).parent.parent / "data" / "shape"
NAMES = sorted(path.name.removesuffix(".record.json") for path in DATA.glob("*.record.json"))
TARGET = api.TargetRef(kind="ClusterTrackingTarget", name="all")
NOON = dt.datetime(2026, 1, 2, 12, 0, 0, 123456, tzinfo=dt.UTC)


def copy_of(record: Record) -> Copy:
    run = api.RunRef(
        source=record.source, name=record.name, uid=record.key.uid, key=record.key.run, pipeline=record.pipeline,
        generation=record.key.generation,
    )  # fmt: skip
    policy = api.Policy(redact=api.Redact(additional_keys=("wage",)))
    return Copy(spec=api.TrackedRunSpec(run=run, target=TARGET, policy=policy, experiment="e"), record=record)


def odd(*values: float) -> Record:
    """A run with these as points of one step."""
    points = tuple(Point(key="k", value=v, time=NOON, source=FromStdout()) for v in values)
    step = Step(path="a", name="a", outcome=Outcome(status="succeeded"), points=points, params={"p": [1, {"q": None}]})
    return Record(
        key=Key(cluster="c", uid="u"), source="argo", name="run", namespace="team", pipeline="p",
        outcome=Outcome(status="succeeded"), finished=NOON, steps=(step,),
    )  # fmt: skip


def cover_of(copy: Copy, data: bytes, chunks: int = 1) -> Cover:
    record = copy.record
    return Cover(
        namespace=record.namespace, run=record.name, uid=record.key.uid, target=TARGET, digest=outbox.digest(data),
        bytes=len(data), chunks=chunks,
    )  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_recorded_run_comes_out_as_it_went_in(name):
    copy = copy_of(msgspec.json.decode((DATA / f"{name}.record.json").read_bytes(), type=Record))
    data = outbox.pack(copy)
    assert outbox.opened(cover_of(copy, data), data) == copy
    assert outbox.pack(copy) == data


def test_numbers_come_out_to_the_last_bit_and_digit():
    values = (0.1, -0.0, 5e-324, 1.7976931348623157e308, math.inf, -math.inf, 1, 1.0, 2**63, -(2**64), 10**3999)
    there = outbox.unpack(outbox.pack(copy_of(odd(*values)))).record.steps[0].points
    assert [(repr(p.value), p.time) for p in there] == [(repr(v), NOON) for v in values]
    assert math.isnan(outbox.unpack(outbox.pack(copy_of(odd(math.nan)))).record.steps[0].points[0].value)


def test_a_text_with_half_a_character_comes_out_as_it_is():
    record = msgspec.structs.replace(odd(1.5), params={"p": "\ud800"})
    assert outbox.unpack(outbox.pack(copy_of(record))).record == record


def test_chunks_are_no_larger_than_they_may_be_and_join_to_the_same():
    data = secrets.token_bytes(2 * outbox.CHUNK_BYTES + 1)
    chunks = outbox.cut(data)
    cover = cover_of(copy_of(odd()), data, len(chunks))
    assert [len(chunk) for chunk in chunks] == [outbox.CHUNK_BYTES, outbox.CHUNK_BYTES, 1]
    assert outbox.joined(cover, dict(enumerate(chunks))) == data


def test_whatever_is_not_what_was_written_is_torn():
    data = outbox.pack(copy_of(odd(*range(2000))))
    chunks = dict(enumerate(outbox.cut(data, 100)))
    cover = cover_of(copy_of(odd()), data, len(chunks))
    last = len(chunks) - 1
    cases = {
        "the first is missing": {n: c for n, c in chunks.items() if n != 0},
        "the last is missing": {n: c for n, c in chunks.items() if n != last},
        "one is cut": chunks | {1: chunks[1][:-1]},
        "one bit": chunks | {1: bytes([chunks[1][0] ^ 1]) + chunks[1][1:]},
        "two are swapped": chunks | {0: chunks[1], 1: chunks[0]},
        "one is empty": chunks | {last: b""},
    }
    for case, there in cases.items():
        with pytest.raises(Torn):
            print(case, outbox.joined(cover, there)[:1])


@pytest.mark.parametrize(
    "plain", [b"", b"m", b"m\x00", b"j{", b"j" + b"[" * 100_000, b"x{}", b"m" + msgspec.msgpack.encode({"spec": 1})]
)
def test_what_is_no_copy_of_this_version_is_torn(plain):
    with pytest.raises(Torn):
        outbox.unpack(zstandard.compress(plain))


def test_what_is_not_compressed_or_grows_without_end_is_torn(monkeypatch):
    with pytest.raises(Torn):
        outbox.unpack(b"no frame")
    monkeypatch.setattr(outbox, "MAX_UNPACKED_BYTES", 1 << 20)
    with pytest.raises(Torn):
        outbox.unpack(zstandard.compress(b"m" + bytes(2 << 20)))


def test_a_copy_under_the_cover_of_another_run_is_torn():
    mine, other = copy_of(odd()), copy_of(msgspec.structs.replace(odd(), key=Key(cluster="c", uid="v")))
    data = outbox.pack(other)
    with pytest.raises(Torn):
        outbox.opened(cover_of(mine, data), data)


@pytest.mark.parametrize("text", ["", "null", "{", "[]", '{"format":"pipetrail.outbox/v2"}', "\ud800"])
def test_a_cover_of_another_version_or_none_is_no_cover(text):
    assert outbox.from_text(text) is None


def test_a_cover_is_read_as_it_was_written_and_another_version_is_not():
    cover = cover_of(copy_of(odd()), b"data")
    assert outbox.from_text(outbox.to_text(cover)) == cover
    assert outbox.from_text(outbox.to_text(msgspec.structs.replace(cover, format="pipetrail.outbox/v2"))) is None
    assert len(cover.id) == 20
