"""Imports of uploaded archives: those that are due are carried out behind an API process, one at a time.

Each has a process of its own, which takes no time of the API's and may die without it. Who carries one out holds it for
half a minute at a time, so what died is taken over.

Source: docs/decisions/0035-import-jobs.md.
"""

import asyncio
import logging
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Final
from uuid import UUID

import asyncpg
import msgspec

from events.ids import uuid7
from events.ledger import Ledger
from projections import import_jobs
from projections.import_jobs import HOLD_SECONDS, Claimed, ImportJob
from service.imports.carrier import AWAY, RETRY_SECONDS
from service.imports.incoming import said
from service.imports.process import AWAY_STATUS, Taken
from service.imports.report import Outcomes

log = logging.getLogger("tachograph.service")

PAUSE_SECONDS: Final = 5.0
"""Between looks for imports whose archive came to another process, or whose process died."""
STOP_SECONDS: Final = 5.0
KEPT_SECONDS: Final = 7 * 86_400.0
"""How long a report is kept."""
ROOT: Final = Path(__file__).resolve().parent.parent.parent

Carry = Callable[[Claimed, UUID], Awaitable[None]]
"""Carries out an import that was claimed for a holder."""


class Jobs:
    """Has imports carried out. `step` takes one, so tests call it directly."""

    def __init__(self, pool: asyncpg.Pool, carry: Carry) -> None:
        self._pool = pool
        self._carry = carry
        self._due = asyncio.Event()

    def nudge(self) -> None:
        """An archive is whole."""
        self._due.set()

    async def run(self) -> None:
        """Have imports carried out until cancelled."""
        while True:
            self._due.clear()
            try:
                if await self.step():
                    continue
                await import_jobs.forget(self._pool, KEPT_SECONDS)
            except AWAY as error:
                log.warning("imports wait: %s", said(error))
            except Exception:
                log.exception("imports failed; again in %g s", PAUSE_SECONDS)
            with suppress(TimeoutError):
                async with asyncio.timeout(PAUSE_SECONDS):
                    await self._due.wait()

    async def step(self) -> bool:
        """Have the import carried out that is due; False where none is."""
        holder = uuid7()
        job = await import_jobs.claim(self._pool, holder)
        if job is None:
            return False
        await self._carry(job, holder)
        return True


class Apart:
    """Carries imports out in a process each, which ends with ours."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def carry(self, job: Claimed, holder: UUID) -> None:
        """Have an import carried out; cancelled, it is given back. Raises `OSError`, and what Postgres does."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "service.imports.process",
            stdin=PIPE,
            cwd=ROOT,
            env={**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system"},  # others reserve a GiB ahead, and it counts
            start_new_session=True,
        )
        try:
            assert process.stdin is not None
            with suppress(ConnectionError):  # then its status says it
                process.stdin.write(msgspec.json.encode(Taken(job, holder)) + b"\n")
                await process.stdin.drain()
            status = await self._status(process, job, holder)
        except asyncio.CancelledError:  # we stop: the next process need not wait until our hold ends
            await _ended(process)
            with suppress(Exception):
                await import_jobs.leave(self._pool, job.import_id, holder, 0.0, attempted=False)
            raise
        finally:
            await _ended(process)
        if status:
            log.warning("the process of import %s ended with status %d", job.import_id, status)
            attempted = status != AWAY_STATUS
            await import_jobs.leave(self._pool, job.import_id, holder, RETRY_SECONDS, attempted=attempted)

    async def _status(self, process: Process, job: Claimed, holder: UUID) -> int:
        """Return how a process ended; 0 also for one that stands still and has lost its hold."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(HOLD_SECONDS):
                    return await process.wait()
            if not await import_jobs.held(self._pool, job.import_id, holder):
                log.warning("the process of import %s stands still", job.import_id)
                return 0


async def _ended(process: Process) -> None:
    """End a process: it has a moment to give its import back."""
    if process.returncode is not None:
        return
    with suppress(ProcessLookupError):
        process.terminate()
    with suppress(TimeoutError):
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
            return
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()


async def report_of(ledger: Ledger, job: ImportJob) -> Outcomes | None:
    """Return what became of an import that ended."""
    if job.report is None:
        return None
    key = await import_jobs.project_key(ledger, job.ledger_id)
    return msgspec.json.decode(key.unseal(job.report, job.import_id.bytes), type=Outcomes)
