"""Bodies of log lines as Arrow IPC streams and Parquet files: one row a line, in the order in which they stand.

    text     a string, or a dictionary of strings
    time_us  where there is one: an integer, or a timestamp
    stream   where there is one: `stdout`, `stderr` or `log`, as strings or a dictionary of them

The key of the batch stands in the query: `?epoch=1&seq=17&source=rank0`.
"""

from collections.abc import Mapping
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa

from events.telemetry import STREAMS, LogColumns
from service.ingest import batches, table_columns
from service.ingest.arrow import READERS
from service.ingest.batches import MAX_LINE_CHARACTERS, MAX_LINES, Batch, Key
from service.ingest.table_columns import Layout
from service.problems import Invalid

LAYOUT: Final = Layout(
    what="logs",
    row="line",
    max_rows=MAX_LINES,
    columns=(("text", "text"), ("time_us", "time"), ("stream", "text")),
    required=("text",),
)
_STREAMS: Final[Mapping[str | None, int]] = {stream: index for index, stream in enumerate(STREAMS)}


class TableKey(Key, frozen=True, forbid_unknown_fields=True):
    """What the query of a table of logs says."""


def logs(raw: bytes, media_type: str, query: Mapping[str, str], received_us: int) -> Batch:
    """Return the batch that a table holds. Raises `Invalid` naming the column, `Malformed` and `TooLarge`."""
    key = msgspec.convert(query, TableKey, strict=False)
    rows = READERS[media_type](raw, LAYOUT)
    present = rows.schema.names
    timed = "time_us" in present
    if timed:
        times = table_columns.times(rows.column("time_us"), "time_us")
    else:
        times = np.full(rows.num_rows, received_us, np.int64)
    columns = LogColumns(
        time_us=times.tobytes(),
        stream=_streams(rows.column("stream")) if "stream" in present else bytes([_STREAMS["log"]]) * rows.num_rows,
        text=_lines(rows.column("text")),
    )
    return batches.of_logs(key, columns, "time_us", received_us, timed=timed)


def _lines(column: pa.Array) -> tuple[str, ...]:
    """Return a column of lines; of those that repeat, every one counts towards what a body may hold."""
    index, found = table_columns.texts(column, "text")
    lines: list[str] = []
    for text in found[:-1]:
        if text is not None and len(text) > MAX_LINE_CHARACTERS:
            raise Invalid(
                f"a line of {len(text)} characters, over {MAX_LINE_CHARACTERS}", path="text", limit=MAX_LINE_CHARACTERS
            )
    sizes = np.array([0 if text is None else len(text.encode()) for text in found], np.int64)
    table_columns.check_bytes(int(sizes[index].sum()), "text")
    for one in index.tolist():
        line = found[one]
        if line is None:
            raise Invalid("a line is null", path="text")
        lines.append(line)
    return tuple(lines)


def _streams(column: pa.Array) -> bytes:
    """Return the streams of lines as indices into `STREAMS`, uint8[n]."""
    index, found = table_columns.texts(column, "stream")
    for one in np.unique(index).tolist():
        if found[one] not in _STREAMS:
            raise Invalid(f"a line's stream is {', '.join(STREAMS)}, not {str(found[one])[:80]!r}", path="stream")
    known = np.array([_STREAMS.get(text, 0) for text in found], np.uint8)
    return known[index].tobytes()
