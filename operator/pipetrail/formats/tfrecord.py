"""TFRecord framing: length, its checksum, the bytes, their checksum. Event files of TensorBoard are rows of these.

Lengths are 8 bytes, little-endian; checksums are CRC-32C, rotated and shifted so that a checksum may be checksummed
(tensorflow/core/lib/io/record_writer.h). So a file that breaks off, wherever it was cut, is told from a whole one.
"""

from typing import Final

HEAD_BYTES: Final = 12
FOOT_BYTES: Final = 4


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)  # CRC-32C, reflected
        table.append(byte)
    return tuple(table)


_CRC: Final = _crc_table()


def masked_crc(data: bytes) -> int:
    """The checksum of `data` as it stands in a file."""
    crc, table = 0xFFFFFFFF, _CRC
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def payload_bytes(data: bytes, at: int) -> int | None:
    """The length that the record at `at` says its payload has; None if its head breaks off or is damaged."""
    length, crc = data[at : at + 8], data[at + 8 : at + HEAD_BYTES]
    whole = len(crc) == HEAD_BYTES - 8 and masked_crc(length) == int.from_bytes(crc, "little")
    return int.from_bytes(length, "little") if whole else None


def framed(payload: bytes) -> bytes:
    """`payload` as one record."""
    length = len(payload).to_bytes(8, "little")
    return b"%b%b%b%b" % (
        length, masked_crc(length).to_bytes(4, "little"), payload, masked_crc(payload).to_bytes(4, "little"),
    )  # fmt: skip
