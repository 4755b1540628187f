"""What a run logged, or what happened to it, as record batches: in order, up to a position, in constant memory.

    async for batch in exported(ledger, store, Wanted(ledger_id=…, run_id=…, table="metrics", up_to=head)): ...

Telemetry is read file by file, and behind the files batch by batch from Postgres. The archiver may move the border
meanwhile: a page of Postgres is read first, and then looked up in the manifest, so that what left it is found there.
Within a file rows are sorted by (metric, step); logs and events stand in the order in which they came.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, Final, Literal
from uuid import UUID

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from events import cloudevents, codec
from events.ledger import Ledger, Recorded
from projections.apply import TelemetryMovedError
from projections.archive import manifest, parquet
from projections.archive.manifest import Segment
from projections.archive.parquet import File
from projections.archive.sorting import metrics_table
from projections.archive.stores import Store

Table = Literal["metrics", "logs", "events"]

BATCH_ROWS: Final = 65_536
PAGE_BATCHES: Final = 64
PAGE_EVENTS: Final = 200

_TEXT: Final = pa.string()
_WORDS: Final = pa.dictionary(pa.int32(), _TEXT)
SCHEMAS: Final[dict[Table, pa.Schema]] = {
    "metrics": parquet.METRICS_SCHEMA,
    "logs": parquet.LOGS_SCHEMA,
    "events": pa.schema(
        [
            pa.field("position", pa.int64(), nullable=False),
            pa.field("event_id", _TEXT, nullable=False),
            pa.field("version", pa.int64(), nullable=False),
            pa.field("type", _WORDS, nullable=False),
            pa.field("actor", _TEXT, nullable=False),
            pa.field("cause", _TEXT),
            pa.field("epoch", pa.int64()),
            pa.field("occurred_at", pa.timestamp("us", "UTC"), nullable=False),
            pa.field("recorded_at", pa.timestamp("us", "UTC"), nullable=False),
            pa.field("data", _TEXT, nullable=False),
        ]
    ),
}
"""The columns of each table; `data` is JSON. Of several runs, `run_id` stands before them."""

_LIFECYCLE: Final = tuple(codec.EVENT_TYPES)
_json: Final = msgspec.json.Encoder()


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which rows: a run's table, up to a position of its ledger; of metrics all, or those named."""

    ledger_id: UUID
    run_id: UUID
    table: Table
    up_to: int
    metrics: Sequence[str] = ()


async def exported(ledger: Ledger, store: Store, wanted: Wanted) -> AsyncIterator[pa.RecordBatch]:
    """Yield a run's rows; see `SCHEMAS`.

    Raises `NotFound`, `Erased` once the run was deleted, and `TelemetryMovedError` for a batch that is nowhere.
    """
    if wanted.table == "events":
        async for page in _events(ledger, wanted):
            yield page
        return
    after, missing = 0, None
    while after < wanted.up_to:
        page = await ledger.read_telemetry(
            wanted.ledger_id, wanted.run_id, after=after, limit=PAGE_BATCHES, types=manifest.KINDS[wanted.table]
        )
        files = await manifest.segments(ledger.pool, wanted.ledger_id, wanted.run_id, wanted.table)
        file = next((one for one in files if one.last_position > after), None)
        if file is not None:  # what left Postgres before the page was read is in a file by now
            try:
                async for rows in _file(store, file, wanted, after):
                    yield rows
            except FileNotFoundError as error:  # merged away meanwhile, or really missing
                if file.path == missing:
                    raise TelemetryMovedError(f"{file.path} is missing") from error
                missing = file.path
                continue
            after = file.last_position
            continue
        due = [one for one in page if one.position <= wanted.up_to]
        if not due:
            return
        for batch in await asyncio.to_thread(_columns, wanted, due):
            yield batch
        after = due[-1].position


async def _file(store: Store, file: Segment, wanted: Wanted, after: int) -> AsyncIterator[pa.RecordBatch]:
    """Yield a file's rows in (after, up_to]. An open file stays whole, whoever removes its name."""
    batches = await asyncio.to_thread(_opened, store, file.file, wanted)
    while (batch := await asyncio.to_thread(next, batches, None)) is not None:
        if after >= file.first_position or file.last_position > wanted.up_to:
            position = batch["position"]
            batch = batch.filter(pc.and_(pc.greater(position, after), pc.less_equal(position, wanted.up_to)))
        if batch.num_rows:
            yield batch


def _opened(store: Store, file: File, wanted: Wanted) -> Iterator[pa.RecordBatch]:
    schema = SCHEMAS[wanted.table]
    words = [field.name for field in schema if pa.types.is_dictionary(field.type)]
    with store.held([file]) as root:
        opened = pq.ParquetFile(root / file.path, read_dictionary=words, pre_buffer=False)
    return _rows(opened, schema, wanted.metrics)


def _rows(opened: pq.ParquetFile, schema: pa.Schema, metrics: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a file; row groups that have none of the metrics are not read."""
    with opened:
        groups = [number for number in range(opened.num_row_groups) if _may_have(opened, number, metrics)]
        for batch in opened.iter_batches(batch_size=BATCH_ROWS, row_groups=groups):
            rows = batch.filter(pc.is_in(batch["metric"], pa.array(metrics, _TEXT))) if metrics else batch
            yield rows.select(schema.names).cast(schema)


def _may_have(opened: pq.ParquetFile, group: int, metrics: Sequence[str]) -> bool:
    column = opened.metadata.row_group(group).column(0)
    statistics = column.statistics
    if not metrics or column.path_in_schema != "metric" or statistics is None or not statistics.has_min_max:
        return True
    return any(statistics.min <= name <= statistics.max for name in metrics)


def _columns(wanted: Wanted, batches: Sequence[Recorded]) -> list[pa.RecordBatch]:
    build: Callable[[Any], pa.Table] = metrics_table if wanted.table == "metrics" else parquet.logs_table
    table = build([(one.position, one.event()) for one in batches])
    if wanted.metrics:
        table = table.filter(pc.is_in(table["metric"], pa.array(wanted.metrics, _TEXT)))
    rows: list[pa.RecordBatch] = table.to_batches(max_chunksize=BATCH_ROWS)
    return rows


async def _events(ledger: Ledger, wanted: Wanted) -> AsyncIterator[pa.RecordBatch]:
    after = 0
    while page := await ledger.read(
        wanted.ledger_id, after=after, up_to=wanted.up_to, limit=PAGE_EVENTS, types=_LIFECYCLE, stream=wanted.run_id
    ):
        after = page[-1].position
        yield pa.RecordBatch.from_pylist([_event(one) for one in page], SCHEMAS["events"])


def _event(one: Recorded) -> dict[str, Any]:
    known = {name: getattr(one, name, None) for name in SCHEMAS["events"].names}
    return {**known, "event_id": str(one.event_id), "data": _json.encode(cloudevents.data(one)).decode()}
