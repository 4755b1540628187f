"""What another tracker left as an archive of ours, made where it lies: an import needs no more than that file.

The events of each run in it are those of its import, so a run that comes by an archive is the run that the command
would bring where the database is, and either goes on with what the other began. The same input makes the same bytes,
so an upload that was cut is known again.

Source: docs/decisions/0037-conversion.md.
"""

import hashlib
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import IO, Any, Final
from uuid import UUID

import msgspec
import pyarrow as pa
from msgspec.structs import replace

from events import codec
from events.ids import derived
from events.records import IMPORTER
from events.run import NO_RUN, evolve
from events.run_events import RunEvent, RunImportFinished
from events.telemetry import LogColumns
from events.types import PastEvent
from projections.encoders import ParquetEncoder
from projections.pack import columns
from projections.pack.columns import Part
from projections.pack.format import (
    CONVERTED,
    FORMAT,
    LOGS,
    MANIFEST,
    METRICS,
    ArchivedRun,
    File,
    Manifest,
    SavedArtifact,
)
from service import VERSION
from service.imports.importer import MAX_LEFT_OUT
from service.imports.incoming import Batch, Incoming, IncomingFile, Input, Refused, Unreadable, said
from service.imports.report import RunReport

HELD_ROWS: Final = 65_536
NO_TIME: Final = datetime(1970, 1, 1, tzinfo=UTC)
"""Of what nobody knows the time of; an import takes its own in its place."""

Progress = Callable[[str, int, int], None]
_json: Final = msgspec.json.Encoder()


def converted(source: Input, file: IO[bytes], progress: Progress) -> list[RunReport]:
    """Write the runs of an input as an archive, and say of each what is in it; `progress` is told runs and rows.

    Refused runs are in the report alone. Raises what reading the input raises; the file is no archive then.
    """
    archive = _Archive(file, source.system, progress)
    reports = []
    for one in source.runs():
        if isinstance(one, Refused):
            reports.append(RunReport(original=one.original, name=one.name, why=one.why))
        else:
            reports.append(archive.add(one))
        progress("runs read", len(reports), max(source.expected, len(reports)))
    archive.close()
    return reports


class _Archive:
    """The archive under way."""

    def __init__(self, file: IO[bytes], system: str, progress: Progress) -> None:
        self._zip = zipfile.ZipFile(file, "w", zipfile.ZIP_STORED)
        self._system = system
        self._progress = progress
        self._runs: list[ArchivedRun] = []
        self._files: list[File] = []
        self._latest = NO_TIME
        self._rows = 0

    def add(self, run: Incoming) -> RunReport:
        """Add a run."""
        imported = run.imported
        report = RunReport(imported.origin.run, imported.created.name, run.run_id, "readable")
        at = imported.ended_at or imported.created_at or NO_TIME
        self._latest = max(self._latest, at)
        directory = f"runs/{run.run_id}"
        self._telemetry(directory, run.batches(), report)
        saved = list(self._saved(directory, run.files, at, report))
        report.left_out += run.left_out
        finished = RunImportFinished(
            points=report.points,
            lines=report.lines,
            artifacts=len(saved),
            left_out=tuple(report.left_out[:MAX_LEFT_OUT]),
        )
        events: list[RunEvent] = [replace(imported, epoch=run.epoch), replace(run.end, epoch=run.epoch), finished]
        ended = NO_RUN
        for event in events:
            ended = evolve(ended, event, at)
        lines = [_json.encode(_told(run.run_id, version, one, at)) for version, one in enumerate(events, 1)]
        self._file(f"{directory}/events.jsonl", [line + b"\n" for line in lines])
        self._runs.append(
            ArchivedRun(
                run_id=run.run_id,
                name=imported.created.name,
                status=ended.status,
                origin=imported.origin,
                events=len(events),
                points=report.points,
                lines=report.lines,
                artifacts=saved,
                files=self._files,
            )
        )
        self._files = []
        return report

    def close(self) -> None:
        """Finish the archive."""
        manifest = Manifest(
            format=FORMAT,
            version=CONVERTED,
            software=f"tachograph {VERSION}",
            exported_at=self._latest,
            project_id=UUID(int=0),
            project="",
            description="",
            position=0,
            chain="",
            system=self._system,
            runs=self._runs,
        )
        self._file(MANIFEST, [_json.encode(manifest)])
        self._zip.close()

    def _telemetry(self, directory: str, batches: Iterator[Batch], report: RunReport) -> None:
        """Write points and lines, each as they come; lines wait in a file that has no name."""
        with tempfile.TemporaryFile() as apart:
            lines = _Rows(LOGS, columns.lines)
            points = _Rows(METRICS, columns.points)
            self._file(f"{directory}/metrics.parquet", self._parted(batches, points, lines, apart))
            apart.write(lines.close())
            apart.seek(0)
            self._file(f"{directory}/logs.parquet", iter(lambda: apart.read(1 << 20), b""))
        report.points, report.lines = points.rows, lines.rows

    def _parted(self, batches: Iterator[Batch], points: "_Rows", lines: "_Rows", apart: IO[bytes]) -> Iterator[bytes]:
        for batch in batches:
            for number, rows in enumerate(batch.parts):
                part = Part(batch.kind, batch.epoch, batch.source, batch.seq, number, batch.received_at, rows)
                if isinstance(rows, LogColumns):
                    apart.write(lines.add(part))
                else:
                    yield points.add(part)
            self._rows += batch.points
            self._progress("rows read", self._rows, self._rows)
        yield points.close()

    def _saved(
        self, directory: str, files: Sequence[IncomingFile], at: datetime, report: RunReport
    ) -> Iterator[SavedArtifact]:
        """Add the contents of files; one that cannot be read is left out, and said to be."""
        for file in files:
            with tempfile.TemporaryFile() as content:
                digest, size = hashlib.sha256(), 0
                try:
                    for chunk in file.read():
                        content.write(chunk)
                        digest.update(chunk)
                        size += len(chunk)
                except (Unreadable, OSError) as error:
                    report.left_out.append(f"artifact {file.name!r}: {said(error)}")
                    continue
                content.seek(0)
                path = f"{directory}/artifacts/{digest.hexdigest()}"
                if all(one.path != path for one in self._files):
                    self._file(path, iter(lambda content=content: content.read(1 << 20), b""))  # type: ignore[misc]
            report.artifacts += 1
            yield SavedArtifact(
                name=file.name,
                kind=file.kind,
                bytes=size,
                sha256=digest.hexdigest(),
                media_type=file.media_type,
                caption=file.caption,
                saved_at=at,
                content=True,
            )

    def _file(self, path: str, content: Iterator[bytes] | Sequence[bytes]) -> None:
        digest, size = hashlib.sha256(), 0
        entry = zipfile.ZipInfo(path)
        entry.external_attr = 0o644 << 16
        with self._zip.open(entry, "w", force_zip64=True) as file:
            for data in content:
                digest.update(data)
                size += len(data)
                file.write(data)
        self._files.append(File(path, size, digest.hexdigest()))


class _Rows:
    """A Parquet file under way: what is added comes back as its bytes, once there is enough of it."""

    def __init__(self, schema: pa.Schema, build: Callable[[Sequence[Part]], pa.RecordBatch]) -> None:
        self._encoder = ParquetEncoder(schema)
        self._build = build
        self._held: list[Part] = []
        self._held_rows = 0
        self.rows = 0

    def add(self, part: Part) -> bytes:
        self._held.append(part)
        self._held_rows += part.rows.points
        self.rows += part.rows.points
        return self._flushed() if self._held_rows >= HELD_ROWS else b""

    def close(self) -> bytes:
        return (self._flushed() if self._held else b"") + self._encoder.close()

    def _flushed(self) -> bytes:
        data = self._encoder.write(self._build(self._held))
        self._held, self._held_rows = [], 0
        return data


def _told(run_id: UUID, version: int, event: RunEvent, at: datetime) -> PastEvent:
    data: dict[str, Any] = msgspec.to_builtins(event)
    kind = data.pop("type")
    return PastEvent(
        id=derived(run_id, "import", version),
        position=version,
        version=version,
        type=kind,
        schema_version=codec.EVENT_TYPES[kind].schema_version,
        actor=IMPORTER,
        occurred_at=at,
        recorded_at=at,
        data=data,
    )
