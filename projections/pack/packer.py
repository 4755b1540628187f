"""Runs into an archive: `async for chunk in Packer(ledger, objects, store, Wanted(…)).chunks(): send(chunk)`.

Three passes over each run's history, so that memory grows with the number of files alone. Everything is as of one
position, whatever happens meanwhile; a run that is deleted meanwhile ends the archive, which then has no manifest and
so cannot be taken for whole.
"""

import asyncio
import hashlib
import zipfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import msgspec
import pyarrow as pa
from msgspec.structs import replace

from events import codec
from events.errors import Erased, NotFound
from events.ledger import Ledger, Recorded
from events.run_events import RunArtifactSaved, RunHistoryImported, RunImported
from events.sql import load
from events.types import Origin, PastEvent, Status
from projections import runs
from projections.archive.restore import Restorer
from projections.archive.stores import Store
from projections.encoders import ParquetEncoder, Sink
from projections.pack import columns
from projections.pack.columns import Part, part_of
from projections.pack.definitions import defined
from projections.pack.format import (
    DEFINED,
    DEFINITIONS,
    FORMAT,
    LOGS,
    MANIFEST,
    METRICS,
    PLAIN,
    TACHOGRAPH,
    ArchivedRun,
    File,
    LeftOut,
    Manifest,
    NotPacked,
    SavedArtifact,
    past_event,
)
from projections.replay import Replay
from projections.replay import Wanted as Range
from projections.runs import StoredRun
from projections.storage import artifacts
from projections.storage.artifacts import Artifact
from projections.storage.objects import ObjectStore
from projections.tenancy import Project

CHUNK_BYTES: Final = 64 << 10
PAGE_RUNS: Final = 500
HELD_BYTES: Final = 1 << 20
"""How much of a run's batches becomes rows at once."""

OURS_ALONE: Final = "run.telemetry_archived"
"""An event about where our own files lie; it says nothing of the run."""
_LIFECYCLE: Final = tuple(kind for kind in codec.EVENT_TYPES if kind != OURS_ALONE)
_json: Final = msgspec.json.Encoder()


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What to take out: one run, or all that are not deleted, as of a position; with the artifacts' contents or not."""

    project: Project
    run_id: UUID | None = None
    position: int
    chain: str
    contents: bool = False
    software: str


class Packer:
    """One archive under way; `packed` counts runs."""

    def __init__(self, ledger: Ledger, objects: ObjectStore, store: Store, wanted: Wanted) -> None:
        self._ledger = ledger
        self._objects = objects
        self._store = store
        self._wanted = wanted
        self._sink = Sink()
        self._zip = zipfile.ZipFile(self._sink, "w", zipfile.ZIP_STORED)
        self._at = datetime.now(UTC)
        self._files: list[File] = []
        self._runs: list[ArchivedRun] = []
        self._left_out: list[LeftOut] = []
        self._not_packed: list[NotPacked] = []
        self.packed = 0

    async def expected(self) -> int:
        """Return how many runs there will be."""
        if self._wanted.run_id is not None:
            return 1
        count: int = await self._ledger.pool.fetchval(
            "select count(*) from run where ledger_id = $1 and status <> 'deleted'", self._wanted.project.project_id
        )
        return count

    async def chunks(self) -> AsyncGenerator[bytes]:
        """Yield the archive. Raises what the ledger and the object store raise."""
        async for run_id in self._run_ids():
            async for chunk in self._run(run_id):
                yield chunk
            self.packed += 1
        if self._wanted.run_id is None:
            project, position = self._wanted.project, self._wanted.position
            lines = defined(self._ledger, project, position, self._not_packed)
            async for chunk in self._file(DEFINITIONS, lines):
                yield chunk
        async for chunk in self._file(MANIFEST, _once(_json.encode(self._manifest()))):
            yield chunk
        self._zip.close()
        yield self._sink.taken()

    def _manifest(self) -> Manifest:
        wanted = self._wanted
        definitions = next((file for file in self._files if file.path == DEFINITIONS), None)
        return Manifest(
            format=FORMAT,
            version=DEFINED if definitions else PLAIN,
            software=wanted.software,
            exported_at=self._at,
            project_id=wanted.project.project_id,
            project=wanted.project.name,
            description=wanted.project.description,
            position=wanted.position,
            chain=wanted.chain,
            runs=self._runs,
            left_out=self._left_out,
            definitions=definitions,
            definitions_left_out=self._not_packed,
        )

    async def _run_ids(self) -> AsyncIterator[UUID]:
        if self._wanted.run_id is not None:
            yield self._wanted.run_id
            return
        after = UUID(int=0)
        sql, ledger_id = load("projections.sql", "packed_runs"), self._wanted.project.project_id
        while page := await self._ledger.pool.fetch(sql, ledger_id, after, self._wanted.position, PAGE_RUNS):
            for (after,) in page:
                yield after

    async def _run(self, run_id: UUID) -> AsyncIterator[bytes]:
        stored = await runs.get(self._ledger.pool, run_id)
        if stored is None:
            raise NotFound(f"there is no run {run_id}")
        if stored.run.imported is not None and not await self._whole(run_id):
            self._left_out.append(LeftOut(run_id, "its import was not finished"))
            return
        lifecycle = _Lifecycle()
        async for chunk in self._file(f"runs/{run_id}/events.jsonl", self._events(run_id, lifecycle)):
            yield chunk
        if lifecycle.events == 0:
            raise NotFound(f"run {run_id} did not exist at position {self._wanted.position}")
        points, lines = _Count(), _Count()
        for name, types, build, schema, count in (
            ("metrics", (codec.METRICS, codec.SYSTEM_METRICS), columns.points, METRICS, points),
            ("logs", (codec.LOGS,), columns.lines, LOGS, lines),
        ):
            rows = self._rows(run_id, types, build, count)
            async for chunk in self._file(f"runs/{run_id}/{name}.parquet", _parquet(schema, rows)):
                yield chunk
        saved: list[SavedArtifact] = []
        for artifact in lifecycle.saved:
            known = await self._content(stored, artifact)
            saved.append(artifact if known is None else replace(artifact, content=True))
            path = f"runs/{run_id}/artifacts/{artifact.sha256}"
            if known is not None and all(file.path != path for file in self._files):
                body = artifacts.content(self._ledger, self._objects, known, 0, known.bytes - 1)
                async for chunk in self._file(path, body if known.bytes else _once(b"")):
                    yield chunk
        entry = ArchivedRun(
            run_id=run_id,
            name=stored.run.name,
            status=lifecycle.status,
            origin=lifecycle.origin,
            events=lifecycle.events,
            points=points.rows,
            lines=lines.rows,
            artifacts=saved,
            files=self._files,
        )
        self._runs.append(entry)
        self._files = []

    async def _whole(self, run_id: UUID) -> bool:
        """Tell whether all of an imported run was here at the position."""
        count: int = await self._ledger.pool.fetchval(
            "select count(*) from ledger.event where ledger_id = $1 and stream = $2 and version is not null"
            " and position <= $3 and type = 'run.import_finished'",
            self._wanted.project.project_id,
            run_id,
            self._wanted.position,
        )
        return count > 0

    def _replay(self, run_id: UUID, types: Sequence[str]) -> Replay:
        wanted = Range(
            ledger_id=self._wanted.project.project_id, run_id=run_id, up_to=self._wanted.position, types=types
        )
        return Replay(self._ledger, Restorer(self._store), wanted)

    async def _events(self, run_id: UUID, lifecycle: "_Lifecycle") -> AsyncGenerator[bytes]:
        """Yield the lifecycle as lines; of a run that was imported, first what its own ledger had said."""
        replay = self._replay(run_id, _LIFECYCLE)
        ready = bytearray()
        async with aclosing(replay.steps()) as steps:
            async for step in steps:
                if step.recorded.payload is None:
                    raise Erased("the run was deleted while it was exported")
                lifecycle.status = step.run.status if step.run else lifecycle.status
                for event in lifecycle.told(step.recorded):
                    ready += _json.encode(event) + b"\n"
                if len(ready) >= CHUNK_BYTES:
                    yield bytes(ready)
                    ready.clear()
        yield bytes(ready)

    async def _rows(
        self,
        run_id: UUID,
        types: Sequence[str],
        build: Callable[[Sequence[Part]], pa.RecordBatch],
        count: "_Count",
    ) -> AsyncGenerator[pa.RecordBatch]:
        """Yield the batches of a run as rows, several at a time."""
        held: list[Recorded] = []
        size = 0
        async with aclosing(self._replay(run_id, types).steps()) as steps:
            async for step in steps:
                if step.recorded.payload is None:
                    raise Erased("the run was deleted while it was exported")
                held.append(step.recorded)
                size += len(step.recorded.payload)
                if size >= HELD_BYTES:
                    rows = await asyncio.to_thread(_built, build, held)
                    count.rows += rows.num_rows
                    held, size = [], 0
                    yield rows
        if held:
            rows = await asyncio.to_thread(_built, build, held)
            count.rows += rows.num_rows
            yield rows

    async def _content(self, stored: StoredRun, saved: SavedArtifact) -> Artifact | None:
        """Return the artifact whose content is to be packed; None where that was not asked for, or never came here."""
        if not self._wanted.contents:
            return None
        return await artifacts.by_content(self._ledger.pool, stored.ledger_id, stored.run_id, saved.sha256, saved.bytes)

    async def _file(self, path: str, content: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yield what a file adds to the archive, and note its hash."""
        digest, size = hashlib.sha256(), 0
        entry = zipfile.ZipInfo(path, self._at.timetuple()[:6])
        entry.external_attr = 0o644 << 16
        with self._zip.open(entry, "w", force_zip64=True) as file:
            async for data in content:
                digest.update(data)
                size += len(data)
                file.write(data)
                yield self._sink.taken()
        self._files.append(File(path, size, digest.hexdigest()))
        yield self._sink.taken()


class _Count:
    """How many rows there were."""

    def __init__(self) -> None:
        self.rows = 0


class _Lifecycle:
    """What the events of a run say of it; those of an import stand for what its own ledger had recorded."""

    def __init__(self) -> None:
        self.events = 0
        self.status: Status = Status.ABSENT
        self.origin: Origin | None = None
        self.saved: list[SavedArtifact] = []
        self._importing = False

    def told(self, recorded: Recorded) -> list[PastEvent]:
        """Return what an event adds to the archive."""
        event = recorded.event()
        if isinstance(event, RunImported):
            self.origin = event.origin
            self._importing = event.origin.system == TACHOGRAPH
        told = [past_event(recorded)]
        if self._importing:
            self._importing = recorded.type != "run.import_finished"
            told = list(event.events) if isinstance(event, RunHistoryImported) else []
        self.events += len(told)
        self.saved += [_saved(one) for one in told if one.type == "run.artifact_saved"]
        return told


def _saved(event: PastEvent) -> SavedArtifact:
    known = codec.from_document(event.type, event.schema_version, event.data)
    assert isinstance(known, RunArtifactSaved)
    names = ("name", "kind", "bytes", "sha256", "media_type", "caption")
    described = {name: getattr(known, name) for name in names}
    return SavedArtifact(**described, saved_at=event.recorded_at, content=False)


def _built(build: Callable[[Sequence[Part]], pa.RecordBatch], held: Sequence[Recorded]) -> pa.RecordBatch:
    return build([part_of(one) for one in held])


async def _once(data: bytes) -> AsyncGenerator[bytes]:
    yield data


async def _parquet(schema: pa.Schema, batches: AsyncIterator[pa.RecordBatch]) -> AsyncGenerator[bytes]:
    encoder = ParquetEncoder(schema)
    async for batch in batches:
        yield await asyncio.to_thread(encoder.write, batch)
    yield await asyncio.to_thread(encoder.close)
