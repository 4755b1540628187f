"""Arrow IPC streams and Parquet files from anywhere: nothing is inflated, expanded or trusted before it was looked at.

A stream's buffers lie in the body as they are (buffers that are compressed one by one are refused: what they say of
their size would have to be believed; compress the body instead). A file's pages say how large they will be; they are
added up before one is read, and encodings by which a few bytes stand for many texts are refused.
"""

import struct
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from events.errors import TooLarge
from service.ingest import parquet_pages
from service.ingest.batches import MAX_BODY_BYTES, MAX_POINTS, check_points
from service.ingest.parquet_pages import Chunk
from service.problems import Malformed

END_OF_STREAM: Final = b"\xff\xff\xff\xff\0\0\0\0"

TEXTS: Final = ["metric", "stage"]
DELTA_BYTE_ARRAY: Final = 7

UNREADABLE: Final = (pa.ArrowException, OSError, struct.error, IndexError, UnicodeDecodeError)

_INT: Final[Callable[[bytes, int], tuple[int]]] = struct.Struct("<i").unpack_from
_SHORT: Final[Callable[[bytes, int], tuple[int]]] = struct.Struct("<H").unpack_from

CheckSchema = Callable[[pa.Schema], None]


def from_stream(raw: bytes, check_schema: CheckSchema) -> pa.Table:
    """Return the table of an Arrow IPC stream. Raises `Malformed`, and whatever `check_schema` raises."""
    try:
        if any(_is_compressed(message) for message in pa.ipc.MessageReader.open_stream(raw)):
            raise Malformed("the buffers of this Arrow stream are compressed: send Content-Encoding zstd instead")
        source = pa.BufferReader(raw)
        with pa.ipc.open_stream(source) as stream:
            check_schema(stream.schema)
            batches = []
            points = 0
            for batch in stream:
                points += batch.num_rows
                if points > MAX_POINTS:
                    check_points(points, "metric")
                batch.validate(full=True)
                batches.append(batch)
        if not raw.endswith(END_OF_STREAM) or source.tell() != len(raw):
            raise Malformed("the Arrow stream is cut off: it ends in an end-of-stream marker, and nothing after it")
        table = pa.Table.from_batches(batches, stream.schema)
    except UNREADABLE as error:
        raise Malformed(f"the body is no Arrow IPC stream: {error}") from error
    return table


def _is_compressed(message: pa.ipc.Message) -> bool:
    """Whether a message's buffers are compressed: a field of its flatbuffer. Source: Arrow's Message.fbs."""
    if message.type == "schema":
        return False
    flat = message.metadata.to_pybytes()
    batch = _table(flat, _INT(flat, 0)[0], 2)
    if message.type == "dictionary":
        batch = _table(flat, batch, 1)
    return _field(flat, batch, 3) != 0


def _field(flat: bytes, table: int, number: int) -> int:
    """Return where a field of a flatbuffer's table stands, or 0 where it is left out."""
    vtable = table - _INT(flat, table)[0]
    offset = 4 + 2 * number
    if offset + 2 > _SHORT(flat, vtable)[0]:
        return 0
    at = _SHORT(flat, vtable + offset)[0]
    return table + at if at else 0


def _table(flat: bytes, table: int, number: int) -> int:
    """Return where the table stands that a field points to."""
    at = _field(flat, table, number)
    return at + _INT(flat, at)[0]


def from_parquet(raw: bytes, check_schema: CheckSchema) -> pa.Table:
    """Return the table of a Parquet file. Raises `Malformed`, `TooLarge`, and whatever `check_schema` raises."""
    try:
        _check_chunks(raw, parquet_pages.chunks(raw))
        with pq.ParquetFile(pa.BufferReader(raw)) as file:
            schema = file.schema_arrow
        check_schema(schema)
        texts = [name for name in TEXTS if name in schema.names]
        with pq.ParquetFile(pa.BufferReader(raw), read_dictionary=texts) as file:
            table = file.read(use_threads=False)
        table.validate(full=True)
    except UNREADABLE as error:
        raise Malformed(f"the body is no Parquet file: {error}") from error
    return table


def _check_chunks(raw: bytes, chunks: Sequence[Chunk]) -> None:
    """Add up what the pages of a file will take once they are read, before anything of it is."""
    size = 0
    points: Counter[str] = Counter()
    for chunk in chunks:
        for page in parquet_pages.pages(raw, chunk):
            if page.encoding == DELTA_BYTE_ARRAY:
                raise Malformed(f"the column {chunk.name!r} is DELTA_BYTE_ARRAY encoded, which is not taken")
            size += page.bytes
            points[chunk.name] += 0 if page.is_dictionary else page.values
            if size > MAX_BODY_BYTES:
                raise TooLarge(f"a Parquet file whose pages hold over {MAX_BODY_BYTES} bytes", limit=MAX_BODY_BYTES)
            if max(points[chunk.name], chunk.rows) > MAX_POINTS:
                check_points(max(points[chunk.name], chunk.rows), chunk.name)
