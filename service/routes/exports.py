"""Downloads of what runs logged, and of what happened to them: as CSV, Parquet or Arrow, and as an archive."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Annotated, Final
from uuid import UUID

import pyarrow as pa
from litestar import Router, get
from litestar.params import Parameter, QueryParameter
from litestar.response import Stream
from msgspec.structs import replace

from events.errors import Erased
from events.sql import load
from projections.encoders import ENCODERS, MEDIA_TYPES, Format
from projections.exported import SCHEMAS, Table, Wanted, exported
from projections.pack.packer import Packer
from projections.pack.packer import Wanted as Archive
from projections.tenancy import Project
from service.access import READ
from service.commands.export import SOFTWARE
from service.context import Http, Service
from service.http.downloads import download
from service.openapi import described
from service.problems import Invalid

MAX_METRICS: Final = 1_000
PAGE_RUNS: Final = 500
CHUNK_BYTES: Final = 64 << 10

_FIRST: Final = UUID(int=0)
_RUN: Final = pa.field("run_id", pa.dictionary(pa.int32(), pa.string()), nullable=False)

Of = Annotated[Table, Parameter(description="which rows: points, log lines, or lifecycle events")]
As = Annotated[Format, QueryParameter(name="format")]
Metrics = Annotated[list[str] | None, QueryParameter(name="metric", description="only these metrics; repeatable")]

ARCHIVE_MEDIA_TYPE: Final = "application/zip"
Contents = Annotated[bool, Parameter(description="with the contents of artifacts")]

_ARCHIVE: Final = described(answers=(ARCHIVE_MEDIA_TYPE,))
_DOWNLOAD: Final = described(answers=tuple(MEDIA_TYPES.values()))


@get("/runs/{run:str}/export", needs=READ, operation_class=_DOWNLOAD)
async def export_run(
    request: Http, service: Service, run: str, table: Of = "metrics", form: As = "csv", metric: Metrics = None
) -> Stream:
    """All points, lines or events of a run up to now, as a file; never sampled.

    Parquet and Arrow hold values bit for bit. In CSV a text that a spreadsheet would take for a formula has an
    apostrophe before it.
    """
    stored = await service.run(request, run)
    up_to, _ = await service.ledger.head(stored.ledger_id)
    wanted = Wanted(
        ledger_id=stored.ledger_id, run_id=stored.run_id, table=table, up_to=up_to, metrics=_names(table, metric)
    )
    rows = exported(service.ledger, service.archive, wanted)
    chunks = _encoded(form, SCHEMAS[table], rows)
    return download(request, service, chunks, MEDIA_TYPES[form], f"{stored.run.name}-{table}.{form}")


@get("/projects/{project:str}/export", needs=READ, operation_class=_DOWNLOAD)
async def export_project(
    request: Http, service: Service, project: str, table: Of = "metrics", form: As = "csv", metric: Metrics = None
) -> Stream:
    """The same of all runs of a project that are not deleted, run by run, with `run_id` before the other columns."""
    known = await service.project(request, project)
    up_to, _ = await service.ledger.head(known.project_id)
    wanted = Wanted(ledger_id=known.project_id, run_id=_FIRST, table=table, up_to=up_to, metrics=_names(table, metric))
    chunks = _encoded(form, pa.schema([_RUN, *SCHEMAS[table]]), _of_all(service, wanted))
    return download(request, service, chunks, MEDIA_TYPES[form], f"{known.name}-{table}.{form}")


@get("/runs/{run:str}/export/archive", needs=READ, operation_class=_ARCHIVE)
async def archive_of_run(request: Http, service: Service, run: str, artifacts: Contents = False) -> Stream:  # noqa: FBT002
    """A run as an archive (ZIP) of Parquet and JSON that `python -m service import` brings into another project."""
    stored = await service.run(request, run)
    project = await service.project(request, str(stored.ledger_id))
    return await _archive(request, service, project, stored.run_id, stored.run.name, contents=artifacts)


@get("/projects/{project:str}/export/archive", needs=READ, operation_class=_ARCHIVE)
async def archive_of_project(request: Http, service: Service, project: str, artifacts: Contents = False) -> Stream:  # noqa: FBT002
    """The same of all runs of a project that are not deleted."""
    known = await service.project(request, project)
    return await _archive(request, service, known, None, known.name, contents=artifacts)


async def _archive(
    request: Http, service: Service, project: Project, run_id: UUID | None, name: str, *, contents: bool
) -> Stream:
    position, chain = await service.ledger.head(project.project_id)
    wanted = Archive(
        project=project, run_id=run_id, position=position, chain=chain.hex(), contents=contents, software=SOFTWARE
    )
    packer = Packer(service.ledger, service.objects, service.archive, wanted)
    return download(request, service, packer.chunks(), ARCHIVE_MEDIA_TYPE, f"{name}.zip")


def _names(table: Table, metrics: list[str] | None) -> Sequence[str]:
    if metrics and table != "metrics":
        raise Invalid(f"metrics narrow down table=metrics, not table={table}", path="metric")
    if metrics and len(metrics) > MAX_METRICS:
        raise Invalid(f"at most {MAX_METRICS} metrics at once", path="metric", limit=MAX_METRICS)
    return metrics or ()


async def _of_all(service: Service, wanted: Wanted) -> AsyncIterator[pa.RecordBatch]:
    after = _FIRST
    sql = load("projections.sql", "exported_runs")
    while page := await service.pool.fetch(sql, wanted.ledger_id, after, PAGE_RUNS):
        for (after,) in page:
            try:
                async for batch in exported(service.ledger, service.archive, replace(wanted, run_id=after)):
                    yield _with_run(batch, str(after))
            except Erased:
                continue  # deleted since it was listed


def _with_run(batch: pa.RecordBatch, run_id: str) -> pa.RecordBatch:
    ids = pa.DictionaryArray.from_arrays(pa.array([0], pa.int32()).take(pa.repeat(0, batch.num_rows)), [run_id])
    return pa.RecordBatch.from_arrays([ids, *batch.columns], schema=pa.schema([_RUN, *batch.schema]))


async def _encoded(form: Format, schema: pa.Schema, batches: AsyncIterator[pa.RecordBatch]) -> AsyncGenerator[bytes]:
    """Yield a file, some tens of kilobytes at a time."""
    encoder = await asyncio.to_thread(ENCODERS[form], schema)
    ready = bytearray()
    async for batch in batches:
        ready += await asyncio.to_thread(encoder.write, batch)
        if len(ready) >= CHUNK_BYTES:
            yield bytes(ready)
            ready.clear()
    yield bytes(ready) + await asyncio.to_thread(encoder.close)


ROUTES: Final = Router(
    path="", route_handlers=[export_run, export_project, archive_of_run, archive_of_project], tags=["exports"]
)
"""Where runs are taken out as files."""
