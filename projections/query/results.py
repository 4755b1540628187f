"""Results of SQL queries as bytes: an Arrow IPC stream, Parquet, JSON or CSV, never past a bound. Pure.

In JSON and CSV, NaN and the infinities go by their names, integers and decimals with all their digits, times in UTC as
ISO 8601, bytes in hexadecimal. Nested values are JSON in both.
"""

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any, Final, Literal, Protocol
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

Format = Literal["json", "arrow", "csv", "parquet", "spreadsheet"]
FORMULA: Final = r"^([=+\-@\t\r\n])"
"""How a text begins that a spreadsheet would compute. Source: OWASP, CSV Injection."""


PIECE_BYTES: Final = 1 << 20


class Passed(Exception):
    """The result is larger than it may be: `what` of it, and the bound."""

    def __init__(self, what: str, limit: int) -> None:
        super().__init__(f"the result has more than {limit} {what}; narrow it down, or add a LIMIT")
        self.limit = limit


class _Writer(Protocol):
    def write_batch(self, batch: pa.RecordBatch) -> None: ...
    def close(self) -> None: ...


class _Bounded(io.BytesIO):
    """Bytes in memory, up to a bound."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def write(self, data: Any) -> int:
        written = super().write(data)
        if self.tell() > self._limit:
            raise Passed("bytes", self._limit)
        return written


def encoded(
    form: Format, reader: pa.RecordBatchReader, types: Mapping[str, str], *, max_rows: int, max_bytes: int
) -> bytes:
    """Return a result; `types` are DuckDB's of its columns. Raises `Passed`."""
    sink = _Bounded(max_bytes)
    writer = _WRITERS[form](sink, reader.schema, types)
    rows = 0
    for batch in reader:
        rows += batch.num_rows
        if rows > max_rows:
            raise Passed("rows", max_rows)
        writer.write_batch(batch)
    writer.close()
    return sink.getvalue()


class _Json:
    """A document with the columns, their names and types, and the rows as lists."""

    def __init__(self, sink: io.BytesIO, schema: pa.Schema, types: Mapping[str, str]) -> None:
        columns = [{"name": name, "type": type_} for name, type_ in zip(schema.names, types.values(), strict=True)]
        self._sink = sink
        self._first = True
        sink.write(b'{"columns":' + _dumped(columns) + b',"rows":[')

    def write_batch(self, batch: pa.RecordBatch) -> None:
        for rows in _rows(batch.columns, _column):
            self._sink.write((b"" if self._first else b",") + _dumped(rows)[1:-1])
            self._first = False

    def close(self) -> None:
        self._sink.write(b"]}")


class _Csv:
    """Lines after RFC 4180 with a header; what is NULL is empty."""

    def __init__(self, sink: io.BytesIO, schema: pa.Schema, types: Mapping[str, str]) -> None:
        self._sink = sink
        self._write([self._texts(pa.array(schema.names, pa.string())).to_pylist()])

    def _texts(self, column: pa.Array) -> pa.Array:
        """Return a column of texts as it is written."""
        return column

    def write_batch(self, batch: pa.RecordBatch) -> None:
        columns = [self._texts(column) if _is_text(column.type) else column for column in batch.columns]
        for rows in _rows(columns, _cells):
            self._write(rows)

    def _write(self, rows: Iterable[Sequence[Any]]) -> None:
        text = io.StringIO(newline="")
        csv.writer(text).writerows(rows)
        self._sink.write(text.getvalue().encode())

    def close(self) -> None:
        """All is written."""


class _Spreadsheet(_Csv):
    """As `_Csv`, but an apostrophe stands before text that a spreadsheet would take for a formula.

    Only before text: no number, time or blob is altered.
    """

    def _texts(self, column: pa.Array) -> pa.Array:
        return pc.replace_substring_regex(column.cast(pa.large_string()), FORMULA, r"'\1")


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return any(of(kind) for of in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


_WRITERS: Final[Mapping[Format, Callable[[io.BytesIO, pa.Schema, Mapping[str, str]], _Writer]]] = {
    "arrow": lambda sink, schema, _: pa.ipc.new_stream(sink, schema),
    "parquet": lambda sink, schema, _: pq.ParquetWriter(sink, schema, compression="zstd"),
    "json": _Json,
    "csv": _Csv,
    "spreadsheet": _Spreadsheet,
}


def _dumped(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _rows(columns: Sequence[pa.Array], values: Callable[[pa.Array], list[Any]]) -> Iterator[list[tuple[Any, ...]]]:
    """Yield rows, so many together as have about `PIECE_BYTES`; `values` makes a column's."""
    rows = len(columns[0])
    at_once = max(1, rows * PIECE_BYTES // max(1, sum(column.nbytes for column in columns)))
    for begin in range(0, rows, at_once):
        yield list(zip(*(values(column.slice(begin, at_once)) for column in columns), strict=True))


def _cells(column: pa.Array) -> list[Any]:
    """Return a column as values that a line can hold."""
    values = _column(column)
    if any(of(column.type) for of in (pa.types.is_nested, pa.types.is_interval, pa.types.is_boolean)):
        return [_dumped(one).decode() if isinstance(one, list | dict | bool) else one for one in values]
    return values


def _column(column: pa.Array) -> list[Any]:
    """Return a column as values that JSON can hold."""
    kind = column.type
    if pa.types.is_timestamp(kind):  # by Arrow, which knows more years than Python does
        return [None if one is None else one.replace(" ", "T", 1) for one in column.cast(pa.string()).to_pylist()]
    values: list[Any] = column.to_pylist()
    if pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_boolean(kind):
        return values
    return [plain(value) for value in values]


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it without losing anything."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            if math.isnan(value):
                return "NaN"
            return value if math.isfinite(value) else "Infinity" if value > 0 else "-Infinity"
        case Decimal():
            return int(value) if value == value.to_integral_value() and value.as_tuple().exponent == 0 else str(value)
        case date() | time():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case UUID():
            return str(value)
        case bytes():
            return value.hex()
        case dict():
            return {str(plain(key)): plain(below) for key, below in value.items()}
        case list() | tuple():
            return [plain(below) for below in value]
        case _:
            return str(value)
