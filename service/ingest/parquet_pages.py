"""The column chunks of a Parquet file, and how large their pages say they are. Pure.

They are Thrift structs in the compact protocol. Source: parquet.thrift of apache/parquet-format; the Thrift compact
protocol specification.
"""

import struct
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from service.problems import Invalid, Malformed

MAGIC: Final = b"PAR1"
MAX_DEPTH: Final = 8
MAX_ROW_GROUPS: Final = 250
"""Each costs the event loop some 150 µs, however few rows it has."""
MAX_FOOTER_BYTES: Final = 512 << 10
TRUE, FALSE = 1, 2

Fields = dict[int, Any]


class Chunk(msgspec.Struct, frozen=True):
    """A column chunk: its column, how many rows its row group says to have, and where its pages lie."""

    name: str
    rows: int
    start: int
    end: int


class Page(msgspec.Struct, frozen=True):
    """What a page says of itself: bytes once decompressed, values, and the number of its encoding."""

    bytes: int
    values: int
    encoding: int
    is_dictionary: bool


def chunks(raw: bytes) -> list[Chunk]:
    """Return the column chunks of a file. Raises `Malformed`, and `Invalid` where it says too much of itself."""
    if len(raw) < 12 or raw[:4] != MAGIC or raw[-4:] != MAGIC:
        raise Malformed("the body is no whole Parquet file: it begins and ends in PAR1")
    size = int.from_bytes(raw[-8:-4], "little")
    if size > len(raw) - 12:
        raise Malformed("the footer of this Parquet file is cut off")
    if size > MAX_FOOTER_BYTES:
        raise Invalid(f"a footer of {size} bytes in a Parquet file, over {MAX_FOOTER_BYTES}", limit=MAX_FOOTER_BYTES)
    footer, _ = _struct(raw, len(raw) - 8 - size, 0)
    groups = _structs(footer, 4)
    if len(groups) > MAX_ROW_GROUPS:
        raise Invalid(
            f"{len(groups)} row groups in a Parquet file, over {MAX_ROW_GROUPS}: write larger ones",
            limit=MAX_ROW_GROUPS,
        )
    return [_chunk(raw, column, _number(group, 3)) for group in groups for column in _structs(group, 1)]


def _chunk(raw: bytes, column: Fields, rows: int) -> Chunk:
    about = column.get(3)
    if not isinstance(about, dict) or 1 in column:
        raise Malformed("a column chunk of this Parquet file is encrypted, or not in it")
    name = b".".join(one for one in _list(about, 3) if isinstance(one, bytes)).decode()
    offsets = [_number(about, 9), _number(about, 11, 0)]  # of the first data page and of the dictionary's page
    start = min((offset for offset in offsets if offset), default=0)  # 0: there is none
    end = start + _number(about, 7)
    if not 0 <= start <= end <= len(raw):
        raise Malformed(f"the column chunk {name!r} lies outside of this Parquet file")
    return Chunk(name, rows, start, end)


def pages(raw: bytes, chunk: Chunk) -> Iterator[Page]:
    """Yield the pages of a column chunk. Raises `Malformed`."""
    at = chunk.start
    while at < chunk.end:
        header, at = _struct(raw, at, 0)
        kind, inflated, compressed = (_number(header, number) for number in (1, 2, 3))
        detail = header.get({0: 5, 2: 7, 3: 8}.get(kind, 0), {})  # data page, dictionary page, data page version 2
        if not isinstance(detail, dict) or min(inflated, compressed, values := _number(detail, 1, 0)) < 0:
            raise Malformed("a page of this Parquet file does not say how large it is")
        yield Page(inflated, values, _number(detail, 4 if kind == 3 else 2, 0), kind == 2)
        at += compressed
    if at != chunk.end:
        raise Malformed("a page of this Parquet file reaches past its column chunk")


def _number(fields: Fields, number: int, default: int | None = None) -> int:
    found = fields.get(number, default)
    if not isinstance(found, int):
        raise Malformed(f"field {number} of a struct in this Parquet file is missing or no number")
    return found


def _list(fields: Fields, number: int) -> list[Any]:
    found = fields.get(number)
    if not isinstance(found, list):
        raise Malformed(f"field {number} of a struct in this Parquet file is missing or no list")
    return found


def _structs(fields: Fields, number: int) -> list[Fields]:
    found = _list(fields, number)
    if not all(isinstance(one, dict) for one in found):
        raise Malformed(f"field {number} of a struct in this Parquet file holds no structs")
    return found


def _struct(raw: bytes, at: int, depth: int) -> tuple[Fields, int]:
    """Return a struct's fields by number and where it ends."""
    if depth > MAX_DEPTH:
        raise Malformed("a page header of this Parquet file is nested too deeply")
    fields: Fields = {}
    number = 0
    while head := raw[at]:
        at += 1
        if head >> 4:
            number += head >> 4
        else:
            number, at = _integer(raw, at)
        fields[number], at = _value(raw, at, head & 15, depth)
    return fields, at + 1


def _value(raw: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    match kind:
        case 1 | 2:
            return kind == TRUE, at
        case 3:
            return raw[at], at + 1
        case 4 | 5 | 6:
            return _integer(raw, at)
        case 7:
            return struct.unpack_from("<d", raw, at)[0], at + 8
        case 8:
            size, at = _varint(raw, at)
            if size > len(raw) - at:
                raise Malformed("a text in this Parquet file is cut off")
            return raw[at : at + size], at + size
        case 9 | 10:
            return _elements(raw, at, depth)
        case 12:
            return _struct(raw, at, depth + 1)
        case _:  # no struct of a file has a map
            raise Malformed("a struct in this Parquet file cannot be read")


def _elements(raw: bytes, at: int, depth: int) -> tuple[list[Any], int]:
    head, at = raw[at], at + 1
    count, kind = head >> 4, head & 15
    if count == 15:
        count, at = _varint(raw, at)
    if count > len(raw) - at:
        raise Malformed("a list in this Parquet file is cut off")
    elements = []
    for _ in range(count):
        if kind in {TRUE, FALSE}:
            element, at = raw[at] == TRUE, at + 1
        else:
            element, at = _value(raw, at, kind, depth)
        elements.append(element)
    return elements, at


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64:
        byte = raw[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise Malformed("a page header of this Parquet file cannot be read")


def _integer(raw: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(raw, at)
    return (value >> 1) ^ -(value & 1), at
