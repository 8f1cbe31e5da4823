"""Protocol buffers on the wire, as far as we read and write them: no generated code, no protobuf package.

A message is a row of fields, each a number and a value; what the value means only the reader of that message knows
(https://protobuf.dev/programming-guides/encoding). All that a stranger may send raises :class:`Malformed`, and what is
made of one message, however deep and long it is, is bounded by a :class:`Budget`.
"""

import struct
from collections.abc import Iterator, Mapping
from typing import Any, Final

MAX_DEPTH: Final = 64  # of google.protobuf.Struct in itself; protobuf's own readers stop at 100 messages
_INT64: Final = 1 << 63


class Malformed(ValueError):
    """These bytes are no such message."""


class TooMuch(ValueError):
    """The message says more than its reader takes."""


class Budget:
    """How many values may still be made of one answer."""

    def __init__(self, values: int) -> None:
        self.left = values

    def spend(self, values: int = 1) -> None:
        """Take some; raises :class:`TooMuch` if there are none left."""
        self.left -= values
        if self.left < 0:
            raise TooMuch("more values than are taken")


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers and raw values in their order: varints as int, all else as bytes. Raises :class:`Malformed`."""
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        match tag & 7:
            case 0:
                value, at = _varint(message, at)
                yield tag >> 3, value
                continue
            case 1:
                size = 8
            case 2:
                size, at = _varint(message, at)
            case 5:
                size = 4
            case _:
                raise Malformed("not a protobuf wire type")
        if at + size > end:
            raise Malformed("the message breaks off")
        yield tag >> 3, message[at : at + size]
        at += size


def signed(value: int | bytes) -> int:
    """The raw value of an int64 or int32 field."""
    if not isinstance(value, int):
        raise Malformed("a number is expected")
    value &= (_INT64 << 1) - 1
    return value - (_INT64 << 1) if value >= _INT64 else value


def double(value: int | bytes) -> float:
    """The raw value of a double field."""
    if not isinstance(value, bytes) or len(value) != 8:
        raise Malformed("a double is expected")
    number: float = struct.unpack("<d", value)[0]
    return number


def text(value: int | bytes) -> str:
    """The raw value of a string field."""
    try:
        return message(value).decode()
    except UnicodeDecodeError:
        raise Malformed("a string is no UTF-8") from None


def message(value: int | bytes) -> bytes:
    """The raw value of a field that is a message, a string or bytes."""
    if not isinstance(value, bytes):
        raise Malformed("a message is expected")
    return value


def json_object(value: int | bytes, budget: Budget, depth: int = 0) -> dict[str, Any]:
    """A ``google.protobuf.Struct`` as the JSON object that it stands for; its numbers are floats."""
    budget.spend()
    if depth > MAX_DEPTH:
        raise TooMuch("nested too deeply")
    made: dict[str, Any] = {}
    for number, entry in fields(message(value)):
        if number == 1:
            key, inner = "", b""
            for part, raw in fields(message(entry)):
                if part == 1:
                    key = text(raw)
                elif part == 2:
                    inner = message(raw)
            made[key] = _json(inner, budget, depth + 1)
    return made


def _json(value: bytes, budget: Budget, depth: int) -> Any:
    """A ``google.protobuf.Value``; of several kinds in one the last counts, as in every oneof."""
    budget.spend()
    if depth > MAX_DEPTH:
        raise TooMuch("nested too deeply")
    made: Any = None
    for number, raw in fields(value):
        match number:
            case 1:
                made = None
            case 2:
                made = double(raw)
            case 3:
                made = text(raw)
            case 4:
                made = bool(signed(raw))
            case 5:
                made = json_object(raw, budget, depth + 1)
            case 6:
                made = [_json(message(v), budget, depth + 1) for n, v in fields(message(raw)) if n == 1]
    return made


def encoded(parts: Mapping[int, int | str | bytes | tuple[int, ...]]) -> bytes:
    """A message of a few fields: numbers as varints (a tuple: repeated), text and messages by length; zeros left out.

    Numbers are not negative: no field that we write has such.
    """
    made = bytearray()
    for number, value in parts.items():
        match value:
            case int():
                if value:
                    made += as_varint(number << 3) + as_varint(value)
            case tuple():
                for one in value:
                    made += as_varint(number << 3) + as_varint(one)
            case str() | bytes():
                raw = value.encode() if isinstance(value, str) else value
                if raw:
                    made += as_varint(number << 3 | 2) + as_varint(len(raw)) + raw
    return bytes(made)


def encoded_object(value: Mapping[str, Any]) -> bytes:
    """A JSON object as a ``google.protobuf.Struct``: numbers as doubles, which is all that it has."""
    return b"".join(encoded({1: encoded({1: key, 2: _encoded_value(inner)})}) for key, inner in value.items())


def _encoded_value(value: Any) -> bytes:
    match value:
        case None:
            return b"\x08\x00"
        case bool():
            return b"\x20\x01" if value else b"\x20\x00"
        case int() | float():
            return b"\x11" + struct.pack("<d", value)
        case str():
            return _framed(3, value.encode())
        case Mapping():
            return _framed(5, encoded_object(value))
        case _:
            return _framed(6, b"".join(_framed(1, _encoded_value(inner)) for inner in value))


def _framed(number: int, raw: bytes) -> bytes:
    """A field by length, also if it is empty: in a oneof that says which kind it is."""
    return as_varint(number << 3 | 2) + as_varint(len(raw)) + raw


def as_varint(value: int) -> bytes:
    """A number that is not negative, seven bits a byte."""
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value, at
        if shift > 63:
            raise Malformed("a varint that is too long")
    raise Malformed("the message breaks off")
