"""Telemetry as Parquet: the files' columns and encodings, their places, and how one comes to be at its place.

Metrics are sorted by (metric, step), repeated steps in the order in which they arrived (`points`); logs stand in the
order in which they arrived. A file is written beside its final name, flushed, and renamed: no reader sees
half of one, and none counts that the manifest does not name.
"""

import os
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import msgspec
import numpy as np
import pyarrow as pa

from events.telemetry import STREAMS, LogColumns

ROW_GROUP_ROWS: Final = 122_880
"""A chart reads whole row groups; smaller ones cost more than they spare."""

TEMPORARY: Final = ".tmp"

_TEXTS: Final = pa.dictionary(pa.int32(), pa.string())
METRICS_SCHEMA: Final = pa.schema(
    [
        pa.field("metric", _TEXTS, nullable=False),
        pa.field("step", pa.int64(), nullable=False),
        pa.field("time_us", pa.int64(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
        pa.field("stage", _TEXTS),
        pa.field("position", pa.int64(), nullable=False),
    ]
)
LOGS_SCHEMA: Final = pa.schema(
    [
        pa.field("time_us", pa.int64(), nullable=False),
        pa.field("stream", _TEXTS, nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("position", pa.int64(), nullable=False),
        pa.field("line", pa.int32(), nullable=False),
    ]
)
DICTIONARIES: Final = frozenset({"metric", "stage", "stream"})
ENCODINGS: Final = {
    "step": "DELTA_BINARY_PACKED",
    "time_us": "DELTA_BINARY_PACKED",
    "position": "DELTA_BINARY_PACKED",
    "line": "DELTA_BINARY_PACKED",
    "value": "BYTE_STREAM_SPLIT",
    "text": "DELTA_LENGTH_BYTE_ARRAY",
}


def logs_table(batches: Sequence[tuple[int, LogColumns]]) -> pa.Table:
    """Return the lines of batches, given with their positions in order; see `LOGS_SCHEMA`."""
    positions = np.array([position for position, _ in batches], np.int64)
    streams = np.concatenate([batch.streams() for _, batch in batches]).astype(np.int32)
    columns = [
        pa.array(np.concatenate([batch.times() for _, batch in batches])),
        pa.DictionaryArray.from_arrays(streams, pa.array(STREAMS, pa.string())),
        pa.array(chain.from_iterable(batch.text for _, batch in batches), pa.string()),
        pa.array(np.repeat(positions, [batch.points for _, batch in batches])),
        pa.array(np.concatenate([np.arange(batch.points, dtype=np.int32) for _, batch in batches])),
    ]
    return pa.Table.from_arrays(columns, schema=LOGS_SCHEMA)


def parquet_options(schema: pa.Schema, encodings: Mapping[str, str] = ENCODINGS) -> dict[str, Any]:
    """Return how telemetry is written to Parquet."""
    return {
        "use_dictionary": [name for name in schema.names if name in DICTIONARIES],
        "column_encoding": {name: encodings[name] for name in schema.names if name in encodings},
        "compression": "zstd",
        "write_statistics": True,
        "write_page_index": True,
        "store_schema": False,
    }


def run_directory(ledger_id: UUID, run_id: UUID) -> str:
    """Return where a run's files are, relative to the Parquet root (Hive style)."""
    return f"ledger={ledger_id}/run={run_id}"


def segment_path(ledger_id: UUID, run_id: UUID, kind: str, segment: UUID) -> str:
    """Return a file's place relative to the Parquet root."""
    return f"{run_directory(ledger_id, run_id)}/{kind}-{segment}.parquet"


def levels_path(path: Path) -> Path:
    """Return where the levels of a file of metrics are, be they there or not."""
    return path.with_name(f"levels-{path.name.partition('-')[2]}")


def temporary_path(path: Path) -> Path:
    """Return the name beside `path` that a file has while it is written, at which no reader looks."""
    return path.with_name(f".{path.name}{TEMPORARY}")


def make_directory(path: Path) -> None:
    """Make a directory and those above it, durably."""
    missing = [directory for directory in (path, *path.parents) if not directory.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for created in missing:
        flush_directory(created.parent)


def write_temporary(path: Path, data: pa.Buffer | bytes) -> Path:
    """Write the bytes durably under the temporary name of `path`, and return that name."""
    make_directory(path.parent)
    temporary = temporary_path(path)
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def publish(temporary: Path, path: Path) -> None:
    """Give the written file its name, durably."""
    temporary.rename(path)
    flush_directory(path.parent)


def flush_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class File(msgspec.Struct, frozen=True):
    """A file as the ledger has it: its path below the root, its size, its hexadecimal SHA-256.

    Of levels that an older release archived the manifest does not say that: None.
    """

    path: str
    bytes: int
    sha256: str | None


class Found(msgspec.Struct, frozen=True):
    """A file of ours that is there, as its name tells; `path` is relative to the root."""

    ledger_id: UUID
    run_id: UUID
    segment_id: UUID
    path: str


def named(path: str) -> Found | None:
    """Return what the name of a file below the root says, or None where the file is none of ours."""
    try:
        ledger, run, name = path.split("/")
        name = name.removeprefix(".").removesuffix(TEMPORARY)
        return Found(
            UUID(ledger.removeprefix("ledger=")),
            UUID(run.removeprefix("run=")),
            UUID(name.removesuffix(".parquet").partition("-")[2]),
            path,
        )
    except ValueError:
        return None
