"""What the views of a project consist of: rows of Postgres as Arrow, and the Parquet files of its runs.

Everything is read in pages, each a short statement of its own, up to a bound. Telemetry is first read from Postgres and
then looked up in the manifest: what left Postgres meanwhile is in a file by then, what is in both counts once, and
nothing is missing. Runs that are deleted are left out of everything.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any, Final
from uuid import UUID

import asyncpg
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from events import cloudevents, codec
from events.ledger import Ledger, Recorded
from events.sql import load
from projections.archive import manifest, parquet
from projections.archive.parquet import File
from projections.archive.sorting import metrics_table
from projections.credits import as_of, decoded
from projections.query.limits import Limits, QueryRefused
from projections.query.views import VIEWS, stream, table
from projections.runs import stored_run

PAGE_ROWS: Final = 500
PAGE_BATCHES: Final = 64

_FIRST: Final = UUID(int=0)
_LIFECYCLE: Final = tuple(codec.EVENT_TYPES)
_json: Final = msgspec.json.Encoder()


class Part(msgspec.Struct, frozen=True):
    """What a view consists of: an Arrow IPC stream, and files of the archive."""

    stream: memoryview
    files: tuple[File, ...] = ()


class Tables:
    """Reads the views of one project as of `now`."""

    def __init__(self, ledger: Ledger, ledger_id: UUID, now: datetime, limits: Limits) -> None:
        self._ledger = ledger
        self._ledger_id = ledger_id
        self._now = now
        self._limits = limits
        self._bytes = 0

    async def read(self, view: str) -> Part:
        """Return a view's contents. Raises `QueryRefused` past a bound."""
        if view in (manifest.METRICS, manifest.LOGS):
            return await self._telemetry(view)
        whole = await (self._events() if view == "events" else self._gathered(view, self._paged(view)))
        return Part(await asyncio.to_thread(stream, whole))

    async def _gathered(self, view: str, pages: AsyncIterator[list[tuple[Any, ...]]]) -> pa.Table:
        """Return rows as columns, page by page: as Python has rows, they take many times as much."""
        parts = [VIEWS[view].empty_table()]
        rows = 0
        async for page in pages:
            parts.append(table(view, page))
            rows += len(page)
            self._bound(view, rows)
            self._count(parts[-1].nbytes)
            await asyncio.sleep(0)
        return pa.concat_tables(parts)

    async def _paged(self, view: str) -> AsyncIterator[list[tuple[Any, ...]]]:
        sql = load("projections.sql", f"query_{view}")
        after: tuple[Any, ...] = (_FIRST, 0) if view == "transitions" else (_FIRST,)
        while page := await self._ledger.pool.fetch(sql, self._ledger_id, *after, PAGE_ROWS):
            last = page[-1]
            match view:
                case "runs":
                    yield [_run(row, self._now) for row in page]
                    after = (last["run_id"],)
                case "transitions":
                    yield [_named(row, view) for row in page]
                    after = (last["run_id"], last["version"])
                case "credits":
                    yield [_credits(row, self._now) for row in page]
                    after = (last["run_id"],)
                case _:
                    yield [_named(row, view) for row in page]
                    after = (last["artifact_id"],)

    async def _events(self) -> pa.Table:
        """Return all that happened but telemetry, which `metrics` and `logs` hold."""
        pages = self._ledger.pages(self._ledger_id, types=_LIFECYCLE)
        whole = await self._gathered("events", ([_event(one) for one in page] async for page in pages))
        gone = await self._ledger.pool.fetch(
            "select run_id from run where ledger_id = $1 and status = 'deleted'", self._ledger_id
        )
        deleted = pa.array([str(row["run_id"]) for row in gone], pa.string())
        return whole.filter(pc.invert(pc.is_in(whole["run_id"], deleted))) if len(deleted) else whole

    async def _telemetry(self, kind: str) -> Part:
        hot = [one async for one in self._tail(kind)]
        files: list[File] = []
        through: dict[UUID, int] = {}
        for row in await self._ledger.pool.fetch(load("projections.sql", "query_files"), self._ledger_id, kind):
            through[row["run_id"]] = max(through.get(row["run_id"], 0), row["last_position"] or 0)
            if row["path"] is not None:
                files.append(File(row["path"], row["bytes"], row["sha256"]))
        if len(files) > self._limits.files:
            raise QueryRefused(
                f"the view {kind} consists of {len(files)} files, over the {self._limits.files} that one query reads",
                limit=self._limits.files,
            )

        def told() -> memoryview:
            """Return what no file has, of runs that are not deleted."""
            parts = [_behind(part, through[run_id]) for run_id, part in hot if run_id in through]
            return stream(pa.concat_tables([VIEWS[kind].empty_table(), *parts]).unify_dictionaries())

        return Part(await asyncio.to_thread(told), tuple(files))

    async def _tail(self, kind: str) -> AsyncIterator[tuple[UUID, pa.Table]]:
        """Yield the batches in Postgres as columns, each with its run: packed they take a part of that."""
        sql, types = load("projections.sql", "query_tail"), list(manifest.KINDS[kind])
        run_id, position = _FIRST, 0
        while True:
            page = await self._ledger.unsealed(
                self._ledger_id,
                await self._ledger.pool.fetch(sql, self._ledger_id, kind, types, run_id, position, PAGE_BATCHES),
            )
            there = [one for one in page if one.payload is not None]  # others are of a run that was erased meanwhile
            for stream_id, batches in groupby(there, lambda one: one.stream):
                part = await asyncio.to_thread(_columns, kind, stream_id, list(batches))
                self._count(part.nbytes)
                yield stream_id, part
            if len(page) < PAGE_BATCHES:
                return
            run_id, position = page[-1].stream, page[-1].position

    def _bound(self, view: str, rows: int) -> None:
        if rows > self._limits.read_rows:
            raise QueryRefused(
                f"the view {view} has more than {self._limits.read_rows} rows; one query reads no more of Postgres",
                limit=self._limits.read_rows,
            )

    def _count(self, size: int) -> None:
        self._bytes += size
        if self._bytes > self._limits.read_bytes:
            raise QueryRefused(
                f"the query needs more than {self._limits.read_bytes} bytes that are not in Parquet files",
                limit=self._limits.read_bytes,
            )


def _columns(kind: str, run_id: UUID, batches: Sequence[Recorded]) -> pa.Table:
    """Return the points or lines of batches of a run."""
    schema = VIEWS[kind]
    build: Callable[..., pa.Table] = metrics_table if kind == manifest.METRICS else parquet.logs_table
    points = build([(one.position, one.event()) for one in batches])
    ids = pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(points), np.int32)), pa.array([str(run_id)]))
    arrays = [ids, *(points.column(name) for name in schema.names[1:])]
    return pa.table(dict(zip(schema.names, arrays, strict=True))).cast(schema)


def _behind(part: pa.Table, position: int) -> pa.Table:
    """Return the rows behind a position, of some whose positions are in order."""
    return part if part["position"][0].as_py() > position else part.filter(pc.greater(part["position"], position))


def _run(row: asyncpg.Record, now: datetime) -> tuple[Any, ...]:
    stored = stored_run(row)
    run = stored.run
    trained = ((run.ended_at or now) - run.started_at).total_seconds() if run.started_at else 0.0
    known = {
        "run_id": stored.run_id,
        "position": stored.position,
        "workflow_id": run.workflow.id if run.workflow else None,
        "workflow_version": run.workflow.version if run.workflow else None,
        "worker_id": run.worker,
        "config": run.config,
        "summary": run.summary,
        "error": run.error,
        "primary_metric": run.primary_metric.name if run.primary_metric else None,
        "primary_mode": run.primary_metric.mode if run.primary_metric else None,
        "progress_done": run.progress.done if run.progress else None,
        "progress_total": run.progress.total if run.progress else None,
        "kill_requested": run.kill is not None,
        "training_seconds": max(0.0, trained),
    }
    return tuple(_value(known[name] if name in known else getattr(run, name)) for name in VIEWS["runs"].names)


def _credits(row: asyncpg.Record, now: datetime) -> tuple[Any, ...]:
    counted = as_of(decoded(row["state"]), now)
    ids = tuple(_value(row[name]) for name in ("run_id", "workflow_id", "status", "accruing"))
    return *ids, counted.consumed_micro, counted.estimate_micro, counted.saved_micro


def _event(one: Recorded) -> tuple[Any, ...]:
    stream_, of_run = str(one.stream), one.type.startswith("run.")
    known = {"stream": stream_, "run_id": stream_ if of_run else None, "data": cloudevents.data(one)}
    return tuple(_value(known[name] if name in known else getattr(one, name)) for name in VIEWS["events"].names)


def _named(row: asyncpg.Record, view: str) -> tuple[Any, ...]:
    return tuple(_value(row[name]) for name in VIEWS[view].names)


def _value(value: Any) -> Any:
    match value:
        case UUID():
            return str(value)
        case str():
            return str(value.value) if hasattr(value, "value") else value
        case tuple():
            return list(value)
        case dict() | msgspec.Struct():
            return _json.encode(value).decode()
        case _:
            return value
