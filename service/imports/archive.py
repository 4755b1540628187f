"""Our own archives as an input; see `projections.pack.format` for what is in them.

Everything is checked before anything is stored: every file against its size and SHA-256, every event against the state
machine, every batch against the limits of ingest. Nothing is unpacked: names are compared with the manifest and never
become paths, and only files that are stored as they are (no compression, so no bomb) are read.
"""

import hashlib
import io
import re
import struct
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec.structs import replace

from events import codec
from events.errors import CorruptHistory
from events.ledger import MAX_EVENT_BYTES
from events.run import NO_RUN, Run, evolve
from events.run_events import (
    RunCompleted,
    RunCrashed,
    RunCreated,
    RunFailed,
    RunHistoryImported,
    RunImported,
    RunImportFinished,
    RunKilled,
)
from events.transitions import ENDED
from events.types import Origin, PastEvent
from projections.pack.format import (
    DEFINITIONS,
    FORMAT,
    FORMAT_VERSION,
    LOGS,
    MANIFEST,
    METRICS,
    TACHOGRAPH,
    ArchivedRun,
    Definition,
    File,
    Manifest,
)
from service.artifact_names import clean_media_type, clean_name
from service.imports.batches import merged, read_batches
from service.imports.described import check_described
from service.imports.incoming import (
    SYSTEMS,
    Batch,
    End,
    Incoming,
    IncomingFile,
    Refused,
    Unreadable,
    checked,
    said,
)
from service.imports.slices import Opener, Slice
from service.problems import Invalid

MAX_MANIFEST_BYTES: Final = 256 << 20
MAX_LINE_BYTES: Final = 4 << 20
CHUNK_BYTES: Final = 1 << 20
_LOCAL_HEADER: Final = struct.Struct("<4s5H3L2H")
_PATH: Final = re.compile(r"(events\.jsonl|metrics\.parquet|logs\.parquet|artifacts/[0-9a-f]{64})")
_past_events: Final = msgspec.json.Decoder(PastEvent)
_definitions: Final = msgspec.json.Decoder(Definition)


class Archive:
    """An archive, opened and found to be one. Raises `Unreadable`.

    `name` is what it is called in what is said of it.
    """

    def __init__(self, open_: Opener, size: int, name: str) -> None:
        self._open = open_
        try:
            with open_() as file, zipfile.ZipFile(file) as opened:
                entries = opened.infolist()
                names = {entry.filename: entry for entry in entries}
                if MANIFEST not in names:
                    raise Unreadable(f"{name} has no {MANIFEST}: it is no export, or the rest of it is missing")
                if names[MANIFEST].file_size > MAX_MANIFEST_BYTES:
                    raise Unreadable(f"{MANIFEST} has over {MAX_MANIFEST_BYTES} bytes")
                _only_stored(entries, size)
                self.manifest = _manifest(opened.read(MANIFEST))
        except (zipfile.BadZipFile, EOFError, struct.error) as error:
            raise Unreadable(f"{name} is no ZIP file, or its end is missing ({said(error)})") from error
        self._entries = names
        if len(names) < len(entries):
            raise Unreadable("two files of the archive have the same name")
        listed = [file for run in self.manifest.runs for file in _files_of(run)]
        if self.manifest.definitions is not None:
            listed.append(_definitions_of(self.manifest.definitions))
        paths = {file.path for file in listed}
        if len(paths) < len(listed) or paths | {MANIFEST} != set(names):
            odd = sorted((paths ^ set(names)) - {MANIFEST})[:3]
            raise Unreadable(f"the archive does not hold what its manifest lists: {odd}")
        self._listed = listed
        self.system = self.manifest.system
        self.expected = len(self.manifest.runs)

    @classmethod
    def at(cls, path: Path) -> "Archive":
        """Open a file. Raises `Unreadable`."""
        return cls(lambda: path.open("rb"), path.stat().st_size, str(path))

    def verify(self, progress: Callable[[int, int], None]) -> None:
        """Compare every file with its hash; `progress` is told bytes. Raises `Unreadable`."""
        total, done = sum(file.bytes for file in self._listed), 0
        for file in self._listed:
            digest = hashlib.sha256()
            for chunk in self._chunks(file):
                digest.update(chunk)
                done += len(chunk)
                progress(done, total)
            if digest.hexdigest() != file.sha256:
                raise Unreadable(f"{file.path} is not what the manifest says: its SHA-256 differs")
        for _ in self.definitions():
            pass  # each is one, so that none is stored beside a line that is not

    def definitions(self) -> Iterator[Definition]:
        """Yield workflows, sweeps and alert rules; verify first. Raises `Unreadable`."""
        if self.manifest.definitions is None:
            return
        with io.BufferedReader(self._slice(self.manifest.definitions), CHUNK_BYTES) as lines:
            while line := lines.readline(MAX_LINE_BYTES):
                try:
                    yield _definitions.decode(line)
                except msgspec.MsgspecError as error:
                    raise Unreadable(f"a line of {DEFINITIONS} cannot be read: {said(error)}") from error

    def runs(self) -> Iterator[Incoming | Refused]:
        """Yield the runs; verify first."""
        for archived in self.manifest.runs:
            try:
                yield self._run(archived)
            except MemoryError:
                raise
            except (Unreadable, CorruptHistory, Invalid, msgspec.MsgspecError, pa.ArrowException) as error:
                yield Refused(str(archived.run_id), archived.name, said(error))

    def _run(self, archived: ArchivedRun) -> Incoming:
        history, batches = self._history_of(archived), self._batches_of(archived)
        run, end, events = _folded(history())
        if run.status not in ENDED or end is None:
            raise Unreadable(f"it was {run.status} when it was exported; export it again when it has ended")
        if (events, run.status) != (archived.events, archived.status):
            raise Unreadable(f"its {events} events lead to {run.status}, not as the manifest says")
        points = lines = epoch = 0
        for batch in batches():
            if checked(batch).epoch < epoch:
                raise Unreadable("its attempts are not in order")
            epoch = batch.epoch
            points += batch.points * (batch.kind != codec.LOGS)
            lines += batch.points * (batch.kind == codec.LOGS)
        if (points, lines) != (archived.points, archived.lines):
            raise Unreadable(f"it has {points} points and {lines} lines, not as the manifest says")
        read = Incoming(
            run_id=archived.run_id,
            imported=_imported(run, self._origin(archived)),
            end=end,
            epoch=max(run.epoch, epoch),
            history=history,
            batches=batches,
            files=self._saved(archived),
            left_out=[f"artifact {one.name!r}: its content is not in the archive"
                      for one in archived.artifacts if not one.content],
        )  # fmt: skip
        return read if self.system == TACHOGRAPH else _from_elsewhere(read, self.system)

    def _origin(self, archived: ArchivedRun) -> Origin:
        content = f"{_file(archived, 'events.jsonl').sha256} {archived.points} {archived.lines}"
        return Origin(
            system=TACHOGRAPH,
            run=str(archived.run_id),
            project=str(self.manifest.project_id),
            sha256=hashlib.sha256(content.encode()).hexdigest(),
            exported_at=self.manifest.exported_at,
        )

    def _history_of(self, archived: ArchivedRun) -> Callable[[], Iterator[PastEvent]]:
        def history() -> Iterator[PastEvent]:
            with io.BufferedReader(self._slice(_file(archived, "events.jsonl")), CHUNK_BYTES) as lines:
                while line := lines.readline(MAX_LINE_BYTES):
                    if not line.endswith(b"\n"):
                        raise Unreadable(f"a line of events.jsonl is cut off, or has over {MAX_LINE_BYTES} bytes")
                    yield _past_events.decode(line)

        return history

    def _batches_of(self, archived: ArchivedRun) -> Callable[[], Iterator[Batch]]:
        def opened(name: str) -> pq.ParquetFile:
            words = ["source", "metric", "stage"] if name == "metrics.parquet" else ["source", "stream"]
            return pq.ParquetFile(self._slice(_file(archived, name)), read_dictionary=words, pre_buffer=False)

        def batches() -> Iterator[Batch]:
            points = read_batches(opened("metrics.parquet"), METRICS)
            return merged(points, read_batches(opened("logs.parquet"), LOGS))

        return batches

    def _saved(self, archived: ArchivedRun) -> list[IncomingFile]:
        return [
            IncomingFile(
                name=clean_name(one.name),
                kind=one.kind,
                bytes=one.bytes,
                media_type=clean_media_type(one.media_type),
                caption=one.caption,
                sha256=one.sha256,
                read=partial(self._chunks, _file(archived, f"artifacts/{one.sha256}")),
            )
            for one in archived.artifacts
            if one.content
        ]

    def _slice(self, file: File) -> Slice:
        """Return a file of the archive, where it lies behind its local header."""
        entry = self._entries[file.path]
        with self._open() as archive:
            archive.seek(entry.header_offset)
            header = archive.read(_LOCAL_HEADER.size)
        if len(header) < _LOCAL_HEADER.size or header[:4] != b"PK\x03\x04":
            raise Unreadable(f"{file.path} is not where the archive says")
        *_, name, extra = _LOCAL_HEADER.unpack(header)
        return Slice(self._open, entry.header_offset + _LOCAL_HEADER.size + name + extra, entry.file_size)

    def _chunks(self, file: File) -> Iterator[bytes]:
        with self._slice(file) as content:
            while chunk := content.read(CHUNK_BYTES):
                yield chunk


def _only_stored(entries: list[zipfile.ZipInfo], size: int) -> None:
    """Raise `Unreadable` for what unpacks to more than it is, overlaps, or is encrypted."""
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size or entry.flag_bits & 1:
            raise Unreadable(f"{entry.filename!r} is compressed or encrypted; an export stores its files as they are")
    if sum(entry.file_size for entry in entries) > size:
        raise Unreadable("the archive says that it holds more than it has bytes")


def _manifest(data: bytes) -> Manifest:
    try:
        known = msgspec.json.decode(data)
        if not isinstance(known, dict) or known.get("format") != FORMAT:
            raise Unreadable(f"{MANIFEST} is not of an export of ours")
        version = known.get("version")
        if not isinstance(version, int) or version > FORMAT_VERSION:
            raise Unreadable(f"the archive has format {version!r}; this release reads up to {FORMAT_VERSION}")
        manifest = msgspec.convert(known, Manifest)
    except msgspec.MsgspecError as error:
        raise Unreadable(f"{MANIFEST} cannot be read: {said(error)}") from error
    if manifest.system not in SYSTEMS:
        raise Unreadable(f"{MANIFEST}: there is no import from {manifest.system!r}")
    return manifest


def _files_of(run: ArchivedRun) -> list[File]:
    for file in run.files:
        below = file.path.removeprefix(f"{run.directory}/")
        if below == file.path or not _PATH.fullmatch(below):
            raise Unreadable(f"{file.path!r} is no file of run {run.run_id}")
    return run.files


def _definitions_of(file: File) -> File:
    if file.path != DEFINITIONS:
        raise Unreadable(f"{file.path!r} is not {DEFINITIONS}")
    return file


def _file(run: ArchivedRun, name: str) -> File:
    path = f"{run.directory}/{name}"
    for file in run.files:
        if file.path == path:
            return file
    raise Unreadable(f"the archive has no {path}")


def _folded(history: Iterator[PastEvent]) -> tuple[Run, End | None, int]:
    """Return what a history adds up to, its last end, and how many events it has.

    Raises `CorruptHistory` where it is none, `Unreadable` for an event that the ledger would not take.
    """
    run, end, count = NO_RUN, None, 0
    for past in history:
        count += 1
        event = codec.from_document(past.type, past.schema_version, past.data)
        run = evolve(run, event, past.recorded_at)  # type: ignore[arg-type]
        if isinstance(event, RunCompleted | RunFailed | RunKilled | RunCrashed):
            end = event
        if len(codec.encode(RunHistoryImported(epoch=0, events=(past,)))) > MAX_EVENT_BYTES:
            raise Unreadable(f"{past.type} at its position {past.position} has over {MAX_EVENT_BYTES} bytes")
    return run, replace(end, fenced=False) if isinstance(end, RunKilled) else end, count


def _from_elsewhere(read: Incoming, system: str) -> Incoming:
    """Return a run of another tracker as its own input would have: what the archive says happened to it is its import.

    Raises `Unreadable`.
    """
    match [codec.from_document(one.type, one.schema_version, one.data) for one in islice(read.history(), 4)]:
        case [RunImported() as told, _, RunImportFinished() as finished] if told.origin.system == system:
            times = {name: getattr(told, name) for name in ("created_at", "started_at", "ended_at")}
            return replace(
                read,
                imported=replace(read.imported, origin=told.origin, **times),
                history=lambda: iter(()),
                left_out=[*read.left_out, *finished.left_out],
            )
        case _:
            raise Unreadable(f"an archive of runs of {system} holds nothing of a run but its import")


def _imported(run: Run, origin: Origin) -> RunImported:
    """Return the run as it is here: what it asked of a queue and of other runs there is in its history alone."""
    fields = {name: getattr(run, name) for name in RunCreated.__struct_fields__ if name in Run.__struct_fields__}
    created = RunCreated(**{**fields, "retries": 0, "retry_of": None, "priority": 0})
    check_described(created)
    imported = RunImported(
        origin=origin,
        created=created,
        summary=run.summary,
        primary_metric=run.primary_metric.name if run.primary_metric else None,
        primary_mode=run.primary_metric.mode if run.primary_metric else None,
        host=run.host,
        archived=run.archived,
        created_at=run.created_at,
        started_at=run.started_at,
        ended_at=run.ended_at,
    )
    size = len(codec.encode(imported))
    if size > MAX_EVENT_BYTES:
        raise Unreadable(f"its configuration and summary have {size} bytes, over {MAX_EVENT_BYTES}")
    return imported
