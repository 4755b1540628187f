"""Rows of one Struct as a table: CSV for spreadsheets, Parquet for analytics."""

import csv
import io
from collections.abc import Sequence
from datetime import date
from typing import Any, Final, Literal, get_args, get_type_hints
from uuid import UUID

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from litestar import Response

from projections.encoders import harmless

Format = Literal["json", "csv", "parquet"]

MEDIA_TYPES: Final[dict[Format, str]] = {
    "json": "application/json",
    "csv": "text/csv",
    "parquet": "application/vnd.apache.parquet",
}

_TYPES: Final[dict[type, pa.DataType]] = {
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    str: pa.string(),
    UUID: pa.string(),
    date: pa.date32(),
}


def as_table(rows: Sequence[msgspec.Struct], kind: type[msgspec.Struct]) -> pa.Table:
    """Return rows as columns: ids as strings, days as date32, integers as int64; what may lack is nullable."""
    hints = get_type_hints(kind)
    columns = {}
    for name in kind.__struct_fields__:
        plain = next(one for one in (*get_args(hints[name]), hints[name]) if one in _TYPES)
        values: list[Any] = [getattr(row, name) for row in rows]
        if plain is UUID:
            values = [None if value is None else str(value) for value in values]
        columns[name] = pa.array(values, _TYPES[plain])
    return pa.table(columns)


def download(rows: Sequence[msgspec.Struct], kind: type[msgspec.Struct], form: Format, name: str) -> Response[bytes]:
    """Return rows as a file to download."""
    headers = {"Content-Disposition": f'attachment; filename="{name}.{form}"'}
    if form == "csv":
        return Response(_csv(rows, kind).encode(), media_type=MEDIA_TYPES["csv"], headers=headers)
    sink = pa.BufferOutputStream()
    pq.write_table(as_table(rows, kind), sink, compression="zstd")
    return Response(sink.getvalue().to_pybytes(), media_type=MEDIA_TYPES["parquet"], headers=headers)


def _csv(rows: Sequence[msgspec.Struct], kind: type[msgspec.Struct]) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(kind.__struct_fields__)
    for row in rows:
        values = [getattr(row, name) for name in kind.__struct_fields__]
        writer.writerow([harmless(value) if isinstance(value, str) else value for value in values])
    return text.getvalue()
