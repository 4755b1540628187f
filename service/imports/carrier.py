"""An import of an uploaded archive, carried out: its runs are brought here, and it says how far it is.

Every step of an import may be repeated, so one whose process died is simply taken over, and goes on where it was cut
off. The archive is read where it lies, part by part: nothing of it is ever written to a disk in clear.

Source: docs/decisions/0035-import-jobs.md.
"""

import asyncio
import logging
from contextlib import suppress
from typing import Final
from uuid import UUID

import msgspec

from events.commit import LOST_CONNECTION
from events.errors import CorruptHistory, Erased, Unavailable
from events.ledger import Ledger
from projections import import_jobs, tenancy
from projections.import_jobs import Claimed
from projections.storage import artifacts
from projections.storage.objects import ObjectStore, StoreFull
from projections.storage.upload_writer import Upload
from projections.storage.uploads import Uploads
from service.imports.archive import Archive
from service.imports.definitions import Definer, taken_over
from service.imports.importer import Importer, taken
from service.imports.incoming import Unreadable, said
from service.imports.report import Outcomes
from service.imports.slices import parted

log = logging.getLogger("tachograph.imports")

SAY_SECONDS: Final = 1.0
RETRY_SECONDS: Final = 10.0
MOST_ATTEMPTS: Final = 5
"""After so many that ended in an error of ours, or with the process, an import is given up."""
AWAY: Final = (Unavailable, StoreFull, TimeoutError, *LOST_CONNECTION)


class Carrier:
    """Carries out imports that were claimed."""

    def __init__(self, ledger: Ledger, objects: ObjectStore, uploads: Uploads) -> None:
        self._ledger = ledger
        self._objects = objects
        self._uploads = uploads

    async def carry(self, job: Claimed, holder: UUID) -> None:
        """Carry an import out, and say what became of it; cancelled, leave it for whoever comes.

        Raises one of `AWAY` where the database is: then its hold ends by itself.
        """
        pool = self._ledger.pool
        work = _Work(self._ledger, self._objects, self._uploads, job)
        task = asyncio.create_task(work.carry_out())
        try:
            while not (await asyncio.wait({task}, timeout=SAY_SECONDS))[0]:
                if not await import_jobs.hold(pool, job.import_id, holder, *work.done):
                    log.warning("import %s was taken away, or given up", job.import_id)
                    return
            await self._ended(job, holder, work, task)
        except asyncio.CancelledError:  # we stop: the next process need not wait until our hold ends
            with suppress(Exception):
                await import_jobs.leave(pool, job.import_id, holder, 0.0, attempted=False)
            raise
        finally:
            work.stopped = True
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _ended(self, job: Claimed, holder: UUID, work: "_Work", task: "asyncio.Task[None]") -> None:
        pool = self._ledger.pool
        try:
            task.result()
        except (Unreadable, CorruptHistory, Erased) as error:
            work.outcomes.why = said(error)
        except AWAY as error:
            log.warning("import %s waits: %s", job.import_id, said(error))
            await import_jobs.leave(pool, job.import_id, holder, RETRY_SECONDS, attempted=False)
            return
        except MemoryError:
            work.outcomes.why = "it takes more memory than an import may have"
        except Exception as error:
            log.exception("import %s failed, attempt %d", job.import_id, job.attempts)
            if job.attempts < MOST_ATTEMPTS:
                await import_jobs.leave(pool, job.import_id, holder, RETRY_SECONDS, attempted=True)
                return
            work.outcomes.why = f"it failed {job.attempts} times, at last with {type(error).__name__}"
        key = await import_jobs.project_key(self._ledger, job.ledger_id)
        report = key.seal(msgspec.json.encode(work.outcomes), job.import_id)
        state: import_jobs.State = "failed" if work.outcomes.why else "finished"
        await import_jobs.end(pool, job.import_id, holder, state, report, *work.done)
        await self._uploads.discard(work.upload)


class _Work:
    """One import under way: how far it is, and what became of its runs."""

    def __init__(self, ledger: Ledger, objects: ObjectStore, uploads: Uploads, job: Claimed) -> None:
        self._ledger = ledger
        self._objects = objects
        self._uploads = uploads
        self._job = job
        self._runs = self._rows = self._before = 0
        self.outcomes = Outcomes()
        self.stopped = False

    @property
    def done(self) -> tuple[int, int, int]:
        """Runs that are done, runs that there are, rows that are done."""
        return self.outcomes.total, self._runs, self._before + self._rows

    @property
    def upload(self) -> Upload:
        """The archive."""
        job = self._job
        return import_jobs.upload_of(job.ledger_id, job.import_id, job.bytes)

    async def carry_out(self) -> None:
        """Bring all runs here. Raises what importing raises."""
        if self._job.attempts > MOST_ATTEMPTS:
            raise Unreadable(f"it was given up: {MOST_ATTEMPTS} attempts ended with their process")
        project = await tenancy.project_by_id(self._ledger.pool, self._job.ledger_id)
        if project is None:
            raise Erased(f"there is no project {self._job.ledger_id}")
        archive = await asyncio.to_thread(self._opened, asyncio.get_running_loop())
        self._runs = archive.expected
        definer = None if self._job.dry_run else Definer(self._ledger, project)
        async for defined in taken_over(archive.definitions, definer):
            self.outcomes.define(defined)
        importer = None if self._job.dry_run else Importer(self._ledger, self._uploads, project)
        async for one in taken(archive, importer, self._progress):
            self.outcomes.add(one)
            self._before, self._rows = self._before + one.points + one.lines, 0
        await self._ledger.drained()

    def _progress(self, rows: int) -> None:
        self._rows = rows

    def _opened(self, loop: asyncio.AbstractEventLoop) -> Archive:
        job = self._job

        def read(number: int) -> bytes:
            if self.stopped:
                raise Unreadable("the import was stopped")
            part = artifacts.read_part(self._ledger, self._objects, job.ledger_id, job.ledger_id, job.import_id, number)
            return asyncio.run_coroutine_threadsafe(part, loop).result()

        archive = Archive(parted(read, job.bytes), job.bytes, "the archive")
        archive.verify(lambda _done, _total: None)
        return archive
