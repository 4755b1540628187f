"""Imports of uploaded archives as jobs: what is known of each, and who carries it out now.

The archive is an upload like those of artifacts (parts, sealed, durable one after the other), under the stream of its
project. Who carries an import out holds it for `HOLD_SECONDS` at a time; what died is taken over after that.

Source: docs/decisions/0035-import-jobs.md.
"""

from datetime import datetime
from typing import Final, Literal, TypeAlias
from uuid import UUID

import asyncpg
import msgspec

from events.database import as_struct
from events.errors import Erased, NotFound, Rejected
from events.keys import DataKey
from events.ledger import Ledger
from events.sql import load
from projections.storage.artifact_limits import Limits, QuotaExceeded
from projections.storage.upload_writer import Upload, Wanted

OPEN_IMPORTS: Final = 16
"""How many of a project may be under way."""
HOLD_SECONDS: Final = 30.0

State: TypeAlias = Literal["uploading", "waiting", "running", "finished", "failed"]


class ImportJob(msgspec.Struct, frozen=True, kw_only=True):
    """An import: how much of its archive is durable, how far it is, and in the end its report (sealed)."""

    import_id: UUID
    ledger_id: UUID
    actor: str
    report: bytes | None
    bytes: int
    dry_run: bool
    state: State
    runs_done: int
    runs: int
    rows_done: int
    created_at: datetime
    changed_at: datetime
    received: int

    @property
    def upload(self) -> Upload:
        """Its archive on the way."""
        return upload_of(self.ledger_id, self.import_id, self.bytes, self.received)


class Claimed(msgspec.Struct, frozen=True, kw_only=True):
    """An import that the caller is to carry out; `attempts` were made, this one among them."""

    import_id: UUID
    ledger_id: UUID
    bytes: int
    dry_run: bool
    attempts: int


async def reserve(
    ledger: Ledger,
    project_id: UUID,
    organisation_id: UUID,
    import_id: UUID,
    size: int,
    actor: str,
    limits: Limits,
    *,
    dry_run: bool,
) -> ImportJob:
    """Reserve room for an archive of `size` bytes; the same id and wish again is the same import.

    Raises `QuotaExceeded`, `Rejected` where the id meant something else.
    """
    known = await find(ledger.pool, project_id, import_id)
    if known is None:
        key = await project_key(ledger, project_id)
        description = key.seal(msgspec.msgpack.encode(_wanted(size)), import_id)
        async with ledger.pool.acquire() as connection, connection.transaction():
            await connection.execute(
                "select pg_advisory_xact_lock(hashtext('tachograph.quota'), hashtext($1))", str(organisation_id)
            )
            row = await connection.fetchrow(
                load("projections.sql", "reserve_import"),
                import_id,
                project_id,
                organisation_id,
                size,
                description,
                actor,
                dry_run,
                OPEN_IMPORTS,
                limits.project_bytes,
                limits.organisation_bytes,
            )
        known = await find(ledger.pool, project_id, import_id)
        if known is None and not row["made"]:
            raise _refusal(row, size, limits)
    if known is None:
        raise NotFound(f"import {import_id} was given up meanwhile")
    if (known.bytes, known.dry_run) != (size, dry_run):
        raise Rejected("this import was opened for something else", asked="open an import")
    return known


async def find(pool: asyncpg.Pool, project_id: UUID, import_id: UUID) -> ImportJob | None:
    """Return an import of a project."""
    row = await pool.fetchrow(load("projections.sql", "import_jobs"), project_id, import_id, None, None, 1)
    return None if row is None else as_struct(ImportJob, row)


async def listed(
    pool: asyncpg.Pool, project_id: UUID, after: tuple[datetime, UUID] | None, limit: int
) -> list[ImportJob]:
    """Return a project's imports, newest first, those after a key (created at, id)."""
    rows = await pool.fetch(load("projections.sql", "import_jobs"), project_id, None, *(after or (None, None)), limit)
    return [as_struct(ImportJob, row) for row in rows]


async def queue(pool: asyncpg.Pool, import_id: UUID) -> None:
    """Let an import begin once its archive is whole."""
    await pool.execute(load("projections.sql", "queue_import"), import_id)


async def claim(pool: asyncpg.Pool, holder: UUID) -> Claimed | None:
    """Take the import that is due, if one is."""
    row = await pool.fetchrow(load("projections.sql", "claim_import"), holder, HOLD_SECONDS)
    return None if row is None else as_struct(Claimed, row)


async def hold(pool: asyncpg.Pool, import_id: UUID, holder: UUID, runs_done: int, runs: int, rows_done: int) -> bool:
    """Keep an import and say how far it is; False where it is the caller's no more."""
    sql = load("projections.sql", "hold_import")
    return await pool.fetchval(sql, import_id, holder, HOLD_SECONDS, runs_done, runs, rows_done) is not None


async def held(pool: asyncpg.Pool, import_id: UUID, holder: UUID) -> bool:
    """Tell whether an import is held by somebody who went on saying so."""
    return await pool.fetchval(load("projections.sql", "import_held"), import_id, holder) is not None


async def leave(pool: asyncpg.Pool, import_id: UUID, holder: UUID, seconds: float, *, attempted: bool) -> None:
    """Let somebody else, or the same one later, go on with an import."""
    await pool.execute(load("projections.sql", "leave_import"), import_id, holder, seconds, attempted)


async def end(
    pool: asyncpg.Pool,
    import_id: UUID,
    holder: UUID,
    state: State,
    report: bytes,
    runs_done: int,
    runs: int,
    rows_done: int,
) -> None:
    """Say what became of an import; `report` is sealed."""
    sql = load("projections.sql", "end_import")
    await pool.execute(sql, import_id, holder, state, report, runs_done, runs, rows_done)


async def remove(pool: asyncpg.Pool, import_id: UUID) -> None:
    """Forget an import; who carries it out notices, and stops."""
    await pool.execute("delete from operation.import_job where import_id = $1", import_id)


async def forget(pool: asyncpg.Pool, seconds: float) -> int:
    """Forget what ended that long ago, and uploads that were given up; returns how many."""
    return len(await pool.fetch(load("projections.sql", "forget_imports"), seconds))


async def project_key(ledger: Ledger, project_id: UUID) -> DataKey:
    """Return the key of a project's own stream. Raises `Erased`."""
    key = await ledger.key(project_id, project_id)
    if key is None:
        raise Erased(f"project {project_id} has no key")
    return key


def upload_of(project_id: UUID, import_id: UUID, size: int, received: int = 0) -> Upload:
    """Return the archive of an import as an upload."""
    return Upload(upload_id=import_id, ledger_id=project_id, run_id=project_id, received=received, wanted=_wanted(size))


def _wanted(size: int) -> Wanted:
    return Wanted(name="archive.zip", kind="file", bytes=size, media_type="application/zip")


def _refusal(row: asyncpg.Record, size: int, limits: Limits) -> QuotaExceeded:
    if row["imports"] >= OPEN_IMPORTS:
        return QuotaExceeded(f"a project has at most {OPEN_IMPORTS} imports under way", limit=OPEN_IMPORTS)
    whose, taken, limit = "project", row["project_bytes"], limits.project_bytes
    if taken + size <= limit:
        whose, taken, limit = "organisation", row["organisation_bytes"], limits.organisation_bytes
    return QuotaExceeded(
        f"{size} bytes more than the {taken} that the {whose} has in artifacts are over its {limit}", limit=limit
    )
