"""Brings runs into a project's ledger, so that the same again changes nothing, and what was cut off goes on.

A run appears with its end, in one append, so that nothing takes it for one that goes on. What it logged follows under
the keys that it had (attempt, source, sequence number), then its files, then the event that says that all of it is
here. Whoever dies on the way leaves a run that says `finished: false`, and continues it when asked again.

Source: docs/decisions/0029-archives.md.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Final, TypeVar
from uuid import UUID

import asyncpg
from msgspec.structs import replace

from events import codec
from events.commands import FinishImport, ImportRun, RecordHistory, RunCommand
from events.errors import Erased, IdReused, Rejected, TooLarge
from events.ids import derived
from events.ledger import Draft, Ledger, Proposal
from events.records import IMPORTER
from events.run_events import RunHistoryImported, RunImportFinished
from events.sql import load
from events.types import PastEvent, Status
from projections import runs
from projections.execute import Outcome, Request, execute
from projections.runs import StoredRun
from projections.storage.artifact_limits import QuotaExceeded
from projections.storage.upload_writer import UploadCut, Wanted, WrongDigest
from projections.storage.uploads import Uploads
from projections.tenancy import Project
from service.imports.definitions import linked
from service.imports.incoming import Batch, Incoming, IncomingFile, Input, Refused, Unreadable
from service.imports.report import RunReport

AT_ONCE: Final = 16
"""Batches that are appended together; the ledger takes them in order, in one transaction."""
HISTORY_BYTES: Final = 256 << 10
MAX_LEFT_OUT: Final = 100
"""How much of what was left out the ledger is told."""

T = TypeVar("T")
Progress = Callable[[int], None]


class Importer:
    """Brings runs into one project."""

    def __init__(self, ledger: Ledger, uploads: Uploads, project: Project) -> None:
        self._ledger = ledger
        self._uploads = uploads
        self._project = project

    async def take(self, incoming: Incoming, progress: Progress = lambda _: None) -> RunReport:
        """Bring a run here and say what became of it; `progress` is told how many points and lines were taken.

        Raises what the ledger and the object store raise when they are away; then ask again.
        """
        report = RunReport(original=incoming.imported.origin.run, name=incoming.imported.created.name)
        try:
            await self._take(incoming, report, progress)
        except IdReused:
            report.outcome = "refused"
            report.why = "half of it was imported from another archive; delete that run, and import again"
        except (Rejected, TooLarge, Erased) as error:
            report.outcome, report.why = "refused", str(error)
        return report

    async def _take(self, incoming: Incoming, report: RunReport, progress: Progress) -> None:
        run_id, stored = await self._place(incoming)
        report.run_id = run_id
        met = None if stored is None else _met(stored, incoming)
        if met is not None:
            report.outcome, report.why = met
            return
        if stored is None:
            report.name = (await self._open(run_id, incoming, report)).run.name
        await self._history(run_id, incoming, report)
        await self._batches(run_id, incoming, report, progress)
        await self._files(run_id, incoming, report)
        report.left_out += incoming.left_out
        finished = RunImportFinished(
            points=report.points,
            lines=report.lines,
            events=report.events,
            artifacts=report.artifacts,
            left_out=tuple(report.left_out[:MAX_LEFT_OUT]),
        )
        await self._do(run_id, FinishImport(finished=finished), "finished")
        report.outcome = "new" if stored is None else "continued"

    async def _place(self, incoming: Incoming) -> tuple[UUID, StoredRun | None]:
        """Return the id that the run has here: its own, unless another project of this database has it."""
        own = derived(self._project.project_id, "import", incoming.run_id)
        for run_id in (incoming.run_id, own):
            stored = await runs.get(self._ledger.pool, run_id)
            if stored is None or stored.ledger_id == self._project.project_id:
                return run_id, stored
        raise Rejected(f"run {incoming.run_id} and {own}, its place here, are both taken", asked="import")

    async def _open(self, run_id: UUID, incoming: Incoming, report: RunReport) -> Outcome:
        """Record that the run was imported, and its end; a name that is taken gets a part of the id behind it."""
        imported = incoming.imported
        project_id = self._project.project_id
        imported = replace(imported, created=await linked(self._ledger.pool, project_id, imported.created))
        first = next(await asyncio.to_thread(incoming.batches), None)
        epoch = incoming.epoch if first is None else first.epoch
        while True:
            created = imported.created
            row = await self._ledger.pool.fetchrow(
                load("projections.sql", "names_taken"), self._project.project_id, created.name, created.external_id
            )
            if row["name"]:
                created = replace(created, name=f"{created.name[:230]}-{run_id.hex[-8:]}")
                report.left_out.append(f"its name: another run here has it, so it is {created.name!r}")
            if row["external_id"]:
                report.left_out.append(f"its external id {created.external_id!r}: another run here has it")
                created = replace(created, external_id=None)
            command = ImportRun(
                imported=replace(imported, created=created, epoch=epoch), end=replace(incoming.end, epoch=epoch)
            )
            try:
                return await self._do(run_id, command, "opened")
            except asyncpg.UniqueViolationError:
                imported = replace(imported, created=created)  # taken meanwhile

    async def _history(self, run_id: UUID, incoming: Incoming, report: RunReport) -> None:
        held: list[PastEvent] = []
        size = number = 0
        stored = await self._stored(run_id)
        events = incoming.history()
        while page := await asyncio.to_thread(lambda: list(islice(events, 100))):
            for event in page:
                length = len(codec.encode(RunHistoryImported(epoch=0, events=(event,))))
                if held and size + length > HISTORY_BYTES:
                    await self._chapter(run_id, stored.run.epoch, held, number)
                    held, size, number = [], 0, number + 1
                held.append(event)
                size += length
                report.events += 1
        if held:
            await self._chapter(run_id, stored.run.epoch, held, number)

    async def _chapter(self, run_id: UUID, epoch: int, events: list[PastEvent], number: int) -> None:
        command = RecordHistory(history=RunHistoryImported(epoch=epoch, events=tuple(events)))
        await self._do(run_id, command, f"history {number}")

    async def _batches(self, run_id: UUID, incoming: Incoming, report: RunReport, progress: Progress) -> None:
        epoch = (await self._stored(run_id)).run.epoch
        batches = incoming.batches()
        while page := await asyncio.to_thread(lambda: list(islice(batches, AT_ONCE))):
            while page:
                if page[0].epoch > epoch:
                    epoch = page[0].epoch
                    await self._attempt(run_id, epoch)
                due = [batch for batch in page if batch.epoch <= epoch]
                await asyncio.gather(*(self._append(run_id, batch) for batch in due))
                page = page[len(due) :]
                for batch in due:
                    if batch.kind == codec.LOGS:
                        report.lines += batch.points
                    else:
                        report.points += batch.points
                progress(report.points + report.lines)
        if incoming.epoch > epoch:
            await self._attempt(run_id, incoming.epoch)

    async def _attempt(self, run_id: UUID, epoch: int) -> None:
        await self._do(run_id, RecordHistory(history=RunHistoryImported(epoch=epoch)), f"attempt {epoch}")

    async def _append(self, run_id: UUID, batch: Batch) -> None:
        payloads = [codec.encode(part) for part in batch.parts]
        digest = hashlib.sha256(batch.kind.encode())
        for payload in payloads:
            digest.update(hashlib.sha256(payload).digest())
        await self._ledger.append(
            Proposal(
                ledger_id=self._project.project_id,
                stream=run_id,
                event_id=derived(run_id, batch.epoch, batch.source, batch.seq),
                actor=IMPORTER,
                occurred_at=batch.received_at,
                drafts=[Draft(type=batch.kind, payload=payload) for payload in payloads],
                request=digest.digest(),
                epoch=batch.epoch,
                source=batch.source,
                seq=batch.seq,
            )
        )

    async def _files(self, run_id: UUID, incoming: Incoming, report: RunReport) -> None:
        stored = await self._stored(run_id)
        for file in incoming.files:
            wanted = Wanted(
                name=file.name,
                kind=file.kind,
                bytes=file.bytes,
                media_type=file.media_type,
                caption=file.caption,
                sha256=file.sha256,
            )
            try:
                await self._uploads.save(stored, self._project.organisation_id, wanted, _content(file), IMPORTER)
            except (TooLarge, QuotaExceeded, WrongDigest, UploadCut, Unreadable) as error:
                report.left_out.append(f"artifact {file.name!r}: {error}")
            else:
                report.artifacts += 1

    async def _stored(self, run_id: UUID) -> StoredRun:
        stored = await runs.get(self._ledger.pool, run_id)
        assert stored is not None
        return stored

    async def _do(self, run_id: UUID, command: RunCommand, step: str) -> Outcome:
        """Carry out a step that has its own id, so that it happens once however often it is asked for."""
        request = Request(
            actor=IMPORTER,
            event_id=derived(run_id, "import", step),
            body=step.encode(),
            named=True,
            occurred_at=datetime.now(UTC),
        )
        return await execute(self._ledger, self._project.project_id, run_id, command, request)


async def taken(source: Input, importer: Importer | None, progress: Progress) -> AsyncIterator[RunReport]:
    """Bring an input's runs here one by one, and yield what became of each; without an importer, only read them."""
    found = source.runs()
    while (incoming := await asyncio.to_thread(_next, found)) is not None:
        if isinstance(incoming, Refused):
            yield RunReport(original=incoming.original, name=incoming.name, why=incoming.why)
        elif importer is None:
            origin, created = incoming.imported.origin, incoming.imported.created
            yield RunReport(original=origin.run, name=created.name, outcome="readable")
        else:
            yield await importer.take(incoming, progress)


def _met(stored: StoredRun, incoming: Incoming) -> tuple[str, str] | None:
    """Return what to say of a run that is here already; None where its import is to go on."""
    known = stored.run.imported
    if stored.run.status is Status.DELETED:
        return "refused", "it was here and was deleted; what was deleted is not brought back"
    if known is None:
        return "already there", "it is here as the original"
    if known.origin.sha256 != incoming.imported.origin.sha256:
        return "refused", "another state of it was imported before; delete that run to import this one"
    return ("already there", "") if known.finished else None


async def _content(file: IncomingFile) -> AsyncIterator[bytes]:
    chunks = await asyncio.to_thread(file.read)
    while (chunk := await asyncio.to_thread(_next, chunks)) is not None:
        yield chunk


def _next(chunks: Iterator[T]) -> T | None:
    return next(chunks, None)
