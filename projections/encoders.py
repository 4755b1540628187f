"""Record batches as a file that is written while it is read: CSV, Parquet, or an Arrow IPC stream. Pure.

    encoder = ENCODERS["csv"](schema)
    for batch in batches: send(encoder.write(batch))
    send(encoder.close())

Parquet and Arrow hold every bit of a value. CSV says NaN, Infinity and -Infinity, and what may be taken for a formula
by a spreadsheet has an apostrophe before it. Source: OWASP, CSV injection.
"""

from collections.abc import Callable, Mapping
from io import RawIOBase
from typing import Any, Final, Literal, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from projections.archive import parquet

Format = Literal["csv", "parquet", "arrow"]

FORMULA: Final = r"^[=+\-@\t\r]"

MEDIA_TYPES: Final[Mapping[Format, str]] = {
    "csv": "text/csv",
    "parquet": "application/vnd.apache.parquet",
    "arrow": "application/vnd.apache.arrow.stream",
}


class Sink(RawIOBase):
    """A file that hands out what was written to it, and keeps nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self._written = bytearray()
        self._position = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._written += data
        size = memoryview(data).nbytes
        self._position += size
        return size

    def tell(self) -> int:
        return self._position

    def taken(self) -> bytes:
        """Return what was written since this was asked last."""
        taken = bytes(self._written)
        self._written.clear()
        return taken


class Encoder(Protocol):
    """Turns batches of one schema into the bytes of one file."""

    def write(self, batch: pa.RecordBatch) -> bytes:
        """Return the bytes that are ready after a batch."""

    def close(self) -> bytes:
        """Return the last bytes."""


class ArrowEncoder:
    """An Arrow IPC stream, a message a batch."""

    def __init__(self, schema: pa.Schema) -> None:
        self._sink = Sink()
        self._writer = pa.ipc.new_stream(self._sink, schema)

    def write(self, batch: pa.RecordBatch) -> bytes:
        self._writer.write_batch(batch)
        return self._sink.taken()

    def close(self) -> bytes:
        self._writer.close()
        return self._sink.taken()


class ParquetEncoder:
    """A Parquet file with the encodings of our own; a row group is held until it is full."""

    def __init__(self, schema: pa.Schema) -> None:
        self._sink = Sink()
        self._writer = pq.ParquetWriter(self._sink, schema, **parquet.parquet_options(schema))
        self._held: list[pa.RecordBatch] = []
        self._rows = 0

    def write(self, batch: pa.RecordBatch) -> bytes:
        self._held.append(batch)
        self._rows += batch.num_rows
        if self._rows >= parquet.ROW_GROUP_ROWS:
            self._flush()
        return self._sink.taken()

    def close(self) -> bytes:
        if self._held:
            self._flush()
        self._writer.close()
        return self._sink.taken()

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_batches(self._held).unify_dictionaries())
        self._held, self._rows = [], 0


class CsvEncoder:
    """Lines after RFC 4180 with a header; what is absent is empty, times are RFC 3339."""

    def __init__(self, schema: pa.Schema) -> None:
        self._sink = Sink()
        header = ",".join(f'"{name}"' for name in schema.names)
        self._sink.write(header.encode() + b"\r\n")
        self._options = pa.csv.WriteOptions(include_header=False, quoting_style="needed", eol="\r\n")

    def write(self, batch: pa.RecordBatch) -> bytes:
        columns = {name: _printed(column) for name, column in zip(batch.schema.names, batch.columns, strict=True)}
        pa.csv.write_csv(pa.table(columns), self._sink, self._options)
        return self._sink.taken()

    def close(self) -> bytes:
        return self._sink.taken()


ENCODERS: Final[Mapping[Format, Callable[[pa.Schema], Encoder]]] = {
    "csv": CsvEncoder,
    "parquet": ParquetEncoder,
    "arrow": ArrowEncoder,
}


def _printed(column: pa.Array) -> pa.Array:
    """Return a column as CSV shows it."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        words = pa.array([harmless(word) for word in column.dictionary.to_pylist()], pa.string())
        return pa.DictionaryArray.from_arrays(column.indices, words).cast(pa.string())
    if pa.types.is_string(kind):
        return pc.if_else(
            pc.match_substring_regex(column, FORMULA), pc.binary_join_element_wise("'", column, ""), column
        )
    if pa.types.is_timestamp(kind):
        return pc.strftime(column, "%Y-%m-%dT%H:%M:%SZ")
    if pa.types.is_floating(kind) and not pc.all(pc.is_finite(column)).as_py():
        return _numbers(column)
    return column


def _numbers(column: pa.Array) -> pa.Array:
    """Return numbers as texts, those that are none by the names that the API gives them."""
    texts = column.cast(pa.string())
    texts = pc.if_else(pc.is_nan(column), "NaN", texts)
    infinite = pc.is_inf(column)
    return pc.if_else(infinite, pc.if_else(pc.greater(column, 0), "Infinity", "-Infinity"), texts)


def harmless(text: str | None) -> str | None:
    """Return a text that no spreadsheet takes for a formula."""
    return f"'{text}" if text and text[0] in "=+-@\t\r" else text
