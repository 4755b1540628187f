"""Migrations: numbered SQL once, functions whenever their text changed.

Safe for any number of replicas that start at once: an advisory lock, a checksum for each file, one transaction.
"""

import hashlib
from pathlib import Path
from typing import Final

import asyncpg

from events.database import MIGRATIONS
from events.sql import load

ROOT: Final = Path(__file__).resolve().parent.parent.parent
FUNCTIONS: Final = (
    ("events.sql", "stored"),
    ("events.sql", "append"),
    ("events.sql", "append_one"),
    ("events.sql", "erase"),
    ("events.sql", "partitions"),
    ("projections.sql", "project_tenancy"),
    ("projections.sql", "project_account"),
    ("projections.sql", "project_run"),
    ("projections.sql", "project_run_states"),
    ("projections.sql", "project_transition"),
    ("projections.sql", "project_segment"),
    ("projections.sql", "project_artifact"),
    ("projections.sql", "project_subscription"),
    ("projections.sql", "project_demand"),
    ("projections.sql", "project_sweep"),
    ("projections.sql", "check_quota"),
    ("projections.sql", "check_admin"),
    ("projections.sql", "check_sweep"),
    ("projections.sql", "rewrite"),
)


class MigrationError(Exception):
    """A migration that was applied has another text now, or the database is newer than this release."""


async def migrate(owner_url: str) -> list[str]:
    """Bring the database up to this release; returns what was applied.

    `owner_url` is the owning role's. Raises `MigrationError` rather than guess.
    """
    connection = await asyncpg.connect(owner_url)
    try:
        async with connection.transaction():
            await connection.execute("select pg_advisory_xact_lock(hashtext('tachograph.migrate'))")
            await connection.execute(
                "create table if not exists public.migration (name text primary key, sha256 text not null,"
                " applied_at timestamptz not null default clock_timestamp())"
            )
            known = dict(await connection.fetch("select name, sha256 from public.migration"))
            applied = await _tables(connection, known)
            applied += await _functions(connection, known)
            if applied:
                await connection.execute(load("service", "grants"))
                await connection.execute("select ledger.create_partitions(3)")
            return applied
    finally:
        await connection.close()


async def _tables(connection: asyncpg.Connection, known: dict[str, str]) -> list[str]:
    applied = []
    files = sorted(MIGRATIONS.glob("[0-9]*.sql"))
    unknown = {name for name in known if name[0].isdigit()} - {file.stem for file in files}
    if unknown:
        raise MigrationError(
            f"the database is newer than this release, which does not know {', '.join(sorted(unknown))}: nothing was"
            " changed; start the newer release"
        )
    for file in files:
        text = file.read_text(encoding="utf-8")
        digest = hashlib.sha256(text.encode()).hexdigest()
        if file.stem not in known:
            await connection.execute("set local search_path = projection")  # whatever ran before it, or did not
            await connection.execute(text)
            await _note(connection, file.stem, digest)
            applied.append(file.stem)
        elif known[file.stem] != digest:
            raise MigrationError(
                f"migration {file.stem} was changed after it had been applied (SHA-256 {digest[:12]}…, then it was"
                f" {known[file.stem][:12]}…): nothing was changed; give the file back the text that it had"
            )
    return applied


async def _functions(connection: asyncpg.Connection, known: dict[str, str]) -> list[str]:
    applied = []
    await connection.execute("set local search_path = projection, ledger")
    for package, name in FUNCTIONS:
        text = load(package, name)
        digest = hashlib.sha256(text.encode()).hexdigest()
        if known.get(f"function {name}") != digest:
            await connection.execute(text)
            await _note(connection, f"function {name}", digest)
            applied.append(f"function {name}")
    return applied


async def _note(connection: asyncpg.Connection, name: str, digest: str) -> None:
    await connection.execute(
        "insert into public.migration (name, sha256) values ($1, $2)"
        " on conflict (name) do update set sha256 = excluded.sha256, applied_at = clock_timestamp()",
        name,
        digest,
    )
