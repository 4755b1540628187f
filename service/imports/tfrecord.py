"""TensorBoard's event files: records of TFRecord, checked by CRC-32C, with Protocol Buffers inside. Pure.

Written here because `tensorboard` brings a web server, and nothing lighter that is kept up reads both. Source:
tensorflow/core/lib/io/record_writer.h, protobuf.dev/programming-guides/encoding, RFC 3720 (CRC-32C).
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

CHECKED_BYTES: Final = 64 << 10
"""A larger record is an image, a graph or the like, which is left out: its length is checked, not its contents."""

_HEAD: Final = struct.Struct("<QI")
_CRC: Final = struct.Struct("<I")


class BadRecord(Exception):
    """The file is damaged at a place that is not its end."""


def _table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return tuple(table)


_TABLE: Final = _table()


def crc32c(data: bytes) -> int:
    """Return the CRC-32C (Castagnoli) of bytes."""
    table, crc = _TABLE, 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def masked(crc: int) -> int:
    """Return a checksum as TFRecord stores it, so that a checksum of checksums stays sound."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


class Records:
    """The records of a file; `left` is how many bytes at its end belong to a record that was never finished."""

    def __init__(self, path: Path, *, check: bool = True) -> None:
        self._path = path
        self._check = check
        self.left = 0

    def __iter__(self) -> Iterator[bytes]:
        """Yield the whole records; large ones come as nothing. Raises `BadRecord`."""
        size = self._path.stat().st_size
        with self._path.open("rb") as file:
            while (at := file.tell()) < size:
                data = self._one(file, at, size)
                if data is None:
                    self.left = size - at
                    return
                yield data

    def _one(self, file: BinaryIO, at: int, size: int) -> bytes | None:
        head = file.read(_HEAD.size)
        if len(head) < _HEAD.size:
            return None
        length, crc = _HEAD.unpack(head)
        if masked(crc32c(head[:8])) != crc:
            raise BadRecord(f"the length of the record at byte {at} does not match its checksum")
        if at + _HEAD.size + length + _CRC.size > size:
            return None
        if length > CHECKED_BYTES:
            file.seek(length + _CRC.size, 1)
            return b""
        data = file.read(length)
        (crc,) = _CRC.unpack(file.read(_CRC.size))
        if self._check and masked(crc32c(data)) != crc:
            raise BadRecord(f"the record at byte {at} does not match its checksum")
        return data


Field = tuple[int, int | bytes]


def fields(message: bytes) -> Iterator[Field]:
    """Yield a message's fields: numbers for varints, raw bytes for all else. Raises `BadRecord`."""
    at, end = 0, len(message)
    try:
        while at < end:
            key, at = _varint(message, at)
            number, wire = key >> 3, key & 7
            if wire == 0:
                value, at = _varint(message, at)
                yield number, value
                continue
            length, at = (8, at) if wire == 1 else (4, at) if wire == 5 else _varint(message, at)
            if wire not in {1, 2, 5} or at + length > end:
                raise BadRecord("a message is cut off, or has a field of an unknown kind")
            yield number, message[at : at + length]
            at += length
    except IndexError:
        raise BadRecord("a message is cut off") from None


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
        shift += 7
        if shift > 63:
            raise BadRecord("a number has more than 64 bits")


def signed(value: int | bytes) -> int:
    """Return a varint as an int64."""
    assert isinstance(value, int)
    return value - (1 << 64) if value >= 1 << 63 else value


def last(message: bytes, number: int) -> int | bytes | None:
    """Return a field's last value, which is the one that counts; None where it is not there."""
    found = None
    for known, value in fields(message):
        if known == number:
            found = value
    return found


def double(value: int | bytes | None) -> float | None:
    """Return a fixed64 as a double."""
    if not isinstance(value, bytes) or len(value) != 8:
        return None
    number: float = struct.unpack("<d", value)[0]
    return number


def text(value: int | bytes | None) -> str:
    """Return a string; what is no UTF-8 is shown as replaced."""
    return value.decode(errors="replace") if isinstance(value, bytes) else ""
