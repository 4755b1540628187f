"""Runs that asked for it are followed by another one: created first, then named in the run that it follows.

The successor's id and its creation's are always the same, so dying in between, or doing it twice, makes one run.
"""

import logging
from datetime import UTC, datetime
from typing import Final

import asyncpg
from msgspec.structs import replace

from events.commands import CreateRun, MarkRetried
from events.errors import Rejected, VersionConflict
from events.ids import derived
from events.ledger import Ledger
from events.retries import successor, successor_id
from events.run_events import RunCreated
from events.sql import load
from events.types import Status
from projections import runs
from projections.execute import Request, asked_by, execute
from projections.runs import StoredRun

log = logging.getLogger("tachograph.scheduler")

AT_ONCE: Final = 100


async def follow(ledger: Ledger, actor: str) -> int:
    """Follow the runs that are due; returns how many."""
    now = datetime.now(UTC)
    followed = 0
    for row in await ledger.pool.fetch(load("projections.sql", "retries_due"), AT_ONCE):
        stored = runs.stored_run(row)
        ended = stored.run.ended_at or now
        if stored.run.status is Status.CRASHED and (now - ended).total_seconds() < stored.run.liveness.crashed_seconds:
            continue  # it may still come back
        try:
            await _follow(ledger, actor, stored)
        except (Rejected, VersionConflict) as refusal:
            log.info("run %s is not retried: %s", stored.run_id, refusal)
            continue
        followed += 1
    return followed


async def _follow(ledger: Ledger, actor: str, stored: StoredRun) -> None:
    run_id = successor_id(stored.run_id)
    if await runs.get(ledger.pool, run_id) is None:
        (first,) = await ledger.read_stream(stored.ledger_id, stored.run_id, up_to=1)
        created = first.event()
        assert isinstance(created, RunCreated)
        await _create(ledger, actor, stored, successor(stored.run_id, created))
    await execute(ledger, stored.ledger_id, stored.run_id, MarkRetried(retry=run_id), asked_by(actor))
    log.info("run %s: run %s follows", stored.run_id, run_id)


async def _create(ledger: Ledger, actor: str, stored: StoredRun, created: RunCreated) -> None:
    """Create the successor; where its name is taken, under a name that is not."""
    run_id = successor_id(stored.run_id)
    for named in (created, replace(created, name=f"{created.name}-{run_id.hex[-8:]}")):
        request = Request(actor=actor, event_id=derived(run_id, named.name), occurred_at=datetime.now(UTC))
        try:
            await execute(ledger, stored.ledger_id, run_id, CreateRun(created=named), request)
        except asyncpg.UniqueViolationError:
            continue
        return
    raise Rejected(f"the names {created.name!r} and {named.name!r} are taken", state=stored.run.status, asked="retry")
