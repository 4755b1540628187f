"""Tables as the bodies that carry them."""

import io
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ARROW: Final = "application/vnd.apache.arrow.stream"
PARQUET: Final = "application/vnd.apache.parquet"
BOTH: Final = pytest.mark.parametrize("media_type", [ARROW, PARQUET])


def written(table: pa.Table, media_type: str, **options: Any) -> bytes:
    """Return a table as a file or a stream."""
    sink = io.BytesIO()
    if media_type == PARQUET:
        pq.write_table(table, sink, **options)
    else:
        with pa.ipc.new_stream(sink, table.schema, **options) as stream:
            stream.write_table(table)
    return sink.getvalue()


def views_of_one(text: str, count: int) -> pa.Array:
    """Return as many strings as wanted that are all shown from the same bytes."""
    _, view, data = pa.array([text], pa.string_view()).buffers()
    return pa.Array.from_buffers(pa.string_view(), count, [None, pa.py_buffer(view.to_pybytes()[:16] * count), data])
