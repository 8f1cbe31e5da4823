"""The wire format of protocol buffers, by the examples of its own documentation."""

import struct

import pytest

from pipetrail.formats import protobuf
from pipetrail.formats.protobuf import Budget, Malformed, TooMuch


def value(field: int, raw: bytes) -> bytes:
    return protobuf.encoded({field: raw})


def test_the_documented_example_reads_as_150():
    assert list(protobuf.fields(bytes.fromhex("089601"))) == [(1, 150)]


def test_fields_come_in_their_order_with_raw_values():
    message = protobuf.encoded({1: 150, 2: "testing", 3: (1, 2)}) + b"\x25\x00\x00\x80\x3f"
    assert list(protobuf.fields(message)) == [(1, 150), (2, b"testing"), (3, 1), (3, 2), (4, b"\x00\x00\x80\x3f")]


def test_zeros_and_empty_texts_are_not_written():
    assert protobuf.encoded({1: 0, 2: "", 3: b"", 4: ()}) == b""


@pytest.mark.parametrize("number", [0, 1, 127, 128, 1 << 31, (1 << 63) - 1, -1, -(1 << 63)])
def test_int64_of_any_sign(number):
    [(_, raw)] = protobuf.fields(b"\x08" + protobuf.as_varint(number & ((1 << 64) - 1)))
    assert protobuf.signed(raw) == number


@pytest.mark.parametrize("message", ["08", "0896", "0a05616263", "0d000000", "0b", "08" + "ff" * 11])
def test_a_message_that_breaks_off_or_is_none_is_malformed(message):
    with pytest.raises(Malformed):
        list(protobuf.fields(bytes.fromhex(message)))


@pytest.mark.parametrize(
    ("read", "raw"),
    [
        (protobuf.signed, b"x"),
        (protobuf.double, b"1234567"),
        (protobuf.double, 1),
        (protobuf.text, b"\xff"),
        (protobuf.text, 1),
    ],
)
def test_a_value_of_another_kind_is_malformed(read, raw):
    with pytest.raises(Malformed):
        read(raw)


def test_a_struct_reads_as_json():
    def entry(key: str, raw: bytes) -> bytes:
        return value(1, protobuf.encoded({1: key, 2: raw}))

    number = b"\x11" + struct.pack("<d", 2.5)
    inner = entry("z", value(3, b"text"))
    message = (
        entry("n", number) + entry("b", b"\x20\x01") + entry("none", b"\x08\x00")
        + entry("list", value(6, value(1, number)))
        + entry("o", value(5, inner)) + entry("nothing", b"") + entry("n2", b"\x20\x01" + number)
    )  # fmt: skip
    assert protobuf.json_object(message, Budget(100)) == {
        "n": 2.5, "b": True, "none": None, "list": [2.5], "o": {"z": "text"}, "nothing": None, "n2": 2.5,
    }  # fmt: skip


def test_values_are_bounded_in_number_and_depth():
    message = b"".join(value(1, protobuf.encoded({1: str(n), 2: b"\x20\x01"})) for n in range(10))
    assert len(protobuf.json_object(message, Budget(11))) == 10
    with pytest.raises(TooMuch):
        protobuf.json_object(message, Budget(10))
    deep = b""
    for _ in range(1000):
        deep = value(1, protobuf.encoded({1: "a", 2: value(5, deep)}))
    with pytest.raises(TooMuch):
        protobuf.json_object(deep, Budget(10_000))


def test_an_object_that_is_written_reads_as_itself():
    given = {
        "n": 2.5,
        "i": 3,
        "none": None,
        "yes": True,
        "no": False,
        "": "",
        "l": [],
        "o": {},
        "d": {"a": [1.5, ["x"]]},
    }
    assert protobuf.json_object(protobuf.encoded_object(given), Budget(100)) == given
