"""Arrow IPC streams and Parquet files from anywhere: nothing is inflated, expanded or trusted before it was looked at.

A stream's buffers lie in the body as they are (buffers that are compressed one by one are refused: what they say of
their size would have to be believed; compress the body instead), and so do its messages, which code of ours goes
through first. A file's pages say how large they will be; they are
added up before one is read, and encodings by which a few bytes stand for many texts are refused.
"""

import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from events.errors import TooLarge
from service.ingest import parquet_pages
from service.ingest.batches import MAX_BODY_BYTES
from service.ingest.parquet_pages import Chunk
from service.ingest.table_columns import Layout
from service.problems import Invalid, Malformed

CONTINUATION: Final = -1
SCHEMA, DICTIONARY = 1, 2
KNOWN_SCHEMA_BYTES: Final = 16 << 10
"""Schemas of up to so many bytes are looked at once and then known."""
MAX_DELTAS: Final = 64
"""So often may dictionaries grow in a stream: each time all of one is copied."""
MAX_MESSAGES: Final = 1_000
"""Of a stream: each costs the event loop some 10 µs, however little it holds."""
MAX_PAGES: Final = 4_000
DELTA_BYTE_ARRAY: Final = 7

UNREADABLE: Final = (pa.ArrowException, OSError, struct.error, IndexError, UnicodeDecodeError)

_SHORT: Final[Callable[[bytes, int], tuple[int]]] = struct.Struct("<H").unpack_from
_INT: Final[Callable[[bytes, int], tuple[int]]] = struct.Struct("<i").unpack_from
_LONG: Final[Callable[[bytes, int], tuple[int]]] = struct.Struct("<q").unpack_from
_PREFIX: Final[Callable[[bytes, int], tuple[int, int]]] = struct.Struct("<ii").unpack_from


def from_stream(raw: bytes, layout: Layout) -> pa.RecordBatch:
    """Return the rows of an Arrow IPC stream. Raises `Malformed`, and `Invalid` where they do not fit the layout."""
    try:
        schema = raw[: _check_messages(raw)]
        check = _check_schema if len(schema) <= KNOWN_SCHEMA_BYTES else _check_schema.__wrapped__
        check(layout, schema)
        return _whole(pa.ipc.RecordBatchStreamReader(raw).read_all(), layout)
    except UNREADABLE as error:
        raise Malformed(f"the body is no Arrow IPC stream: {error}") from error


@lru_cache(maxsize=64)
def _check_schema(layout: Layout, message: bytes) -> None:
    """Check the schema that a stream begins with; a sender's streams all begin with the same."""
    layout.check_schema(pa.ipc.read_schema(pa.py_buffer(message)))


def _whole(table: pa.Table, layout: Layout) -> pa.RecordBatch:
    """Return a table as one batch once it was looked at: how many rows, and then everything in them."""
    layout.check_rows(table.num_rows)
    table.validate(full=True)
    parts = table.to_batches()
    return parts[0] if len(parts) == 1 else table.unify_dictionaries().combine_chunks().to_batches()[0]


def _check_messages(raw: bytes) -> int:
    """Refuse by fields of their flatbuffers what messages may not say; returns where the first one, a schema, ends.

    Source: Arrow's Message.fbs.
    """
    deltas = end = 0
    for number, (message, body) in enumerate(_messages(raw)):
        end = end or body
        if number > MAX_MESSAGES:  # the first is the schema
            raise Invalid(
                f"over {MAX_MESSAGES} messages in an Arrow stream: write more rows in a batch", limit=MAX_MESSAGES
            )
        root = message + _INT(raw, message)[0]
        kind = _field(raw, root, 1)
        if not kind or raw[kind] == SCHEMA:
            continue
        batch = _table(raw, root, 2)
        if raw[kind] == DICTIONARY:
            delta = _field(raw, batch, 2)
            deltas += bool(delta and raw[delta])
            batch = _table(raw, batch, 1)
        if _field(raw, batch, 3):
            raise Malformed("the buffers of this Arrow stream are compressed: send Content-Encoding zstd instead")
    if deltas > MAX_DELTAS:
        raise Malformed(f"the dictionaries of this Arrow stream grow {deltas} times, over {MAX_DELTAS}")
    return end


def _messages(raw: bytes) -> Iterator[tuple[int, int]]:
    """Yield where each message's flatbuffer and body begin. Raises `Malformed` where the stream is not whole.

    Source: Arrow's IPC format, encapsulated messages.
    """
    at = 0
    while True:
        if len(raw) - at < 8:
            raise Malformed("the Arrow stream is cut off: it ends in an end-of-stream marker, and nothing after it")
        marker, size = _PREFIX(raw, at)
        at += 8
        if marker != CONTINUATION or size < 0:
            raise Malformed("the body is no Arrow IPC stream: a message begins with neither its marker nor its size")
        if size == 0 and at == len(raw):
            return
        if not 8 <= size <= len(raw) - at:
            raise Malformed("the Arrow stream is cut off within a message, or goes on behind its end")
        yield at, at + size
        length = _field(raw, at + _INT(raw, at)[0], 3)
        body = _LONG(raw, length)[0] if length else 0
        at += size + body
        if body < 0:
            raise Malformed("the body is no Arrow IPC stream: a message says to have a body of less than nothing")


def _field(flat: bytes, table: int, number: int) -> int:
    """Return where a field of a flatbuffer's table stands, or 0 where it is left out."""
    vtable = table - _INT(flat, table)[0]
    offset = 4 + 2 * number
    if vtable < 0 or table < 0:
        raise IndexError("a table of a flatbuffer lies outside of it")
    if offset + 2 > _SHORT(flat, vtable)[0]:
        return 0
    at = _SHORT(flat, vtable + offset)[0]
    return table + at if at else 0


def _table(flat: bytes, table: int, number: int) -> int:
    """Return where the table stands that a field points to."""
    at = _field(flat, table, number)
    return at + _INT(flat, at)[0]


def from_parquet(raw: bytes, layout: Layout) -> pa.RecordBatch:
    """Return the rows of a Parquet file. Raises `Malformed`, `TooLarge`, and `Invalid` where they do not fit."""
    try:
        _check_chunks(raw, parquet_pages.chunks(raw), layout)
        with pq.ParquetFile(pa.BufferReader(raw)) as file:
            schema = file.schema_arrow
        layout.check_schema(schema)
        texts = [name for name in layout.texts if name in schema.names]
        with pq.ParquetFile(pa.BufferReader(raw), read_dictionary=texts) as file:
            table = file.read(use_threads=False)
        return _whole(table, layout)
    except UNREADABLE as error:
        raise Malformed(f"the body is no Parquet file: {error}") from error


def _check_chunks(raw: bytes, chunks: Sequence[Chunk], layout: Layout) -> None:
    """Add up what the pages of a file will take once they are read, before anything of it is."""
    size = pages = 0
    rows: Counter[str] = Counter()
    for chunk in chunks:
        for page in parquet_pages.pages(raw, chunk):
            pages += 1
            if pages > MAX_PAGES:
                raise Invalid(f"over {MAX_PAGES} pages in a Parquet file: write larger ones", limit=MAX_PAGES)
            if page.encoding == DELTA_BYTE_ARRAY:
                raise Malformed(f"the column {chunk.name!r} is DELTA_BYTE_ARRAY encoded, which is not taken")
            size += page.bytes
            rows[chunk.name] += 0 if page.is_dictionary else page.values
            if size > MAX_BODY_BYTES:
                raise TooLarge(f"a Parquet file whose pages hold over {MAX_BODY_BYTES} bytes", limit=MAX_BODY_BYTES)
            if max(rows[chunk.name], chunk.rows) > layout.max_rows:
                layout.check_rows(max(rows[chunk.name], chunk.rows))


READERS: Final[Mapping[str, Callable[[bytes, Layout], pa.RecordBatch]]] = {
    "application/vnd.apache.arrow.stream": from_stream,
    "application/vnd.apache.parquet": from_parquet,
}
"""What reads a table, by its media type."""
