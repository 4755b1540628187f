"""The views that SQL queries read: their columns, in order, with their types. Pure.

Ids are texts, times are TIMESTAMPTZ in UTC or microseconds since the epoch where a program gave them, documents are
JSON as text (`config->>'$.lr'`). What a run never had is NULL.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import pyarrow as pa

_TEXT, _INT, _REAL, _FLAG = pa.string(), pa.int64(), pa.float64(), pa.bool_()
_TIME: Final = pa.timestamp("us", "UTC")
_WORDS: Final = pa.dictionary(pa.int32(), _TEXT)

_NAMES: Final = {"TEXT": _TEXT, "INT": _INT, "REAL": _REAL, "FLAG": _FLAG, "TIME": _TIME, "TEXTS": pa.list_(_TEXT)}


def _schema(text: str) -> pa.Schema:
    """Return a schema from `name TYPE` lines."""
    return pa.schema([(name, _NAMES[type_]) for name, type_ in map(str.split, text.strip().splitlines())])


VIEWS: Final[Mapping[str, pa.Schema]] = {
    "runs": _schema("""
        run_id TEXT
        name TEXT
        external_id TEXT
        session_id TEXT
        mode TEXT
        status TEXT
        version INT
        position INT
        epoch INT
        workflow_id TEXT
        workflow_version INT
        worker_id TEXT
        path TEXT
        alias TEXT
        tags TEXTS
        notes TEXT
        config TEXT
        summary TEXT
        code TEXT
        dataset TEXT
        stage TEXT
        priority INT
        retries INT
        retry_of TEXT
        reproduced_from TEXT
        primary_metric TEXT
        primary_mode TEXT
        progress_done REAL
        progress_total REAL
        archived FLAG
        unresponsive FLAG
        kill_requested FLAG
        cause TEXT
        exit_code INT
        error TEXT
        created_at TIME
        started_at TIME
        status_since TIME
        ended_at TIME
        training_seconds REAL
    """),
    "metrics": pa.schema(
        {
            "run_id": _WORDS,
            "metric": _WORDS,
            "step": _INT,
            "time_us": _INT,
            "value": _REAL,
            "stage": _WORDS,
            "position": _INT,
        }
    ),
    "logs": pa.schema(
        {
            "run_id": _WORDS,
            "time_us": _INT,
            "stream": _WORDS,
            "text": _TEXT,
            "position": _INT,
            "line": pa.int32(),
        }
    ),
    "events": _schema("""
        position INT
        event_id TEXT
        stream TEXT
        run_id TEXT
        version INT
        type TEXT
        schema_version INT
        actor TEXT
        cause TEXT
        epoch INT
        occurred_at TIME
        recorded_at TIME
        data TEXT
    """),
    "transitions": _schema("""
        run_id TEXT
        version INT
        position INT
        event TEXT
        from_status TEXT
        to_status TEXT
        cause TEXT
        actor TEXT
        epoch INT
        at TIME
    """),
    "credits": _schema("""
        run_id TEXT
        workflow_id TEXT
        status TEXT
        accruing FLAG
        consumed_micro INT
        estimate_micro INT
        saved_micro INT
    """),
    "artifacts": _schema("""
        artifact_id TEXT
        run_id TEXT
        position INT
        name TEXT
        kind TEXT
        bytes INT
        sha256 TEXT
        media_type TEXT
        caption TEXT
        saved_at TIME
    """),
}
"""By name, the columns. `metrics` and `logs` are read from Parquet files as well, which have them in this order."""

COLUMNS: Final = {view: ", ".join(["run as run_id", *VIEWS[view].names[1:]]) for view in ("metrics", "logs")}
"""What is selected from a run's Parquet files."""


def table(view: str, rows: Iterable[tuple[Any, ...]]) -> pa.Table:
    """Return rows, whose values stand in the order of the view's columns, as a table."""
    schema = VIEWS[view]
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


def stream(whole: pa.Table) -> memoryview:
    """Return a table as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, whole.schema) as writer:
        writer.write_table(whole)
    return memoryview(sink.getvalue())
