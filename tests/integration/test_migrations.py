"""A database that is not what a migration takes it for is refused, and one that a migration died on is as before."""

import asyncio
import sys
from collections.abc import AsyncIterator
from functools import partial

import asyncpg
import pytest

from events.database import wait_until_there
from service.commands.migrate import MigrationError, migrate
from stack.process import ROOT
from tests import servers
from tests.api import eventually
from tests.servers import Database, PostgresServer

MIGRATE = "import asyncio, sys; from service.commands.migrate import migrate; asyncio.run(migrate(sys.argv[1]))"
NOTED = "select name, sha256 from public.migration order by name"


@pytest.fixture
async def empty(postgres_server: PostgresServer) -> AsyncIterator[Database]:
    """A database without any migration."""
    made = await servers.create_database(postgres_server, template="template0")
    yield made
    await servers.drop_database(postgres_server, made)


@pytest.fixture
async def connection(database: Database) -> AsyncIterator[asyncpg.Connection]:
    owner = await asyncpg.connect(database.owner_url)
    yield owner
    await owner.close()


async def test_a_migration_that_was_changed_is_refused(database: Database, connection: asyncpg.Connection) -> None:
    await connection.execute("update public.migration set sha256 = repeat('0', 64) where name = '0011_search'")
    before = await connection.fetch(NOTED)
    with pytest.raises(
        MigrationError, match=r"0011_search was changed .* then it was 000000000000….*nothing was changed"
    ):
        await migrate(database.owner_url)
    assert await connection.fetch(NOTED) == before


async def test_a_newer_database_is_refused(database: Database, connection: asyncpg.Connection) -> None:
    await connection.execute("insert into public.migration (name, sha256) values ('9999_flying_cars', 'x')")
    await connection.execute("delete from public.migration where name = 'function append'")
    before = await connection.fetch(NOTED)
    with pytest.raises(MigrationError, match="newer than this release, which does not know 9999_flying_cars"):
        await migrate(database.owner_url)
    assert await connection.fetch(NOTED) == before


async def test_a_killed_migration_leaves_the_database_as_it_was(database: Database, empty: Database) -> None:
    """It is killed while it waits for a table, with most of its work done; the next one does all of it."""
    await migrate(empty.owner_url)
    superuser = await asyncpg.connect(empty.superuser_url)
    await superuser.execute("delete from public.migration where name like 'function %'")
    await superuser.execute("drop table operation.alert_firing; delete from public.migration where name like '0053%'")
    before = await superuser.fetch(NOTED)
    async with superuser.transaction():
        await superuser.execute("lock table ledger.telemetry")  # which new partitions, at the end, wait for
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", MIGRATE, empty.owner_url, cwd=ROOT)

        async def waits() -> bool:
            return bool(
                await superuser.fetchval(
                    "select exists (select from pg_locks where not granted and relation = 'ledger.telemetry'::regclass)"
                )
            )

        try:
            await eventually(waits, "the migration waits for the table")
        finally:
            child.kill()
            await child.wait()
    assert await superuser.fetch(NOTED) == before
    assert await superuser.fetchval("select to_regclass('operation.alert_firing')") is None
    applied = await migrate(empty.owner_url)
    assert {"0053_alert_firings", "function append"} <= set(applied)
    assert await superuser.fetchval("select to_regclass('operation.alert_firing')") is not None
    assert await migrate(empty.owner_url) == []
    await superuser.close()


async def test_a_part_that_is_newer_than_the_database_waits_for_its_schema(
    empty: Database, caplog: pytest.LogCaptureFixture
) -> None:
    waiting = asyncio.create_task(wait_until_there(empty.url))

    async def says(name: str) -> bool:
        return f"waiting for `python -m service bootstrap`: the database lacks migration {name}" in caplog.text

    await eventually(partial(says, "0001_ledger"), "it says that it waits")
    await migrate(empty.owner_url)
    await waiting
    owner = await asyncpg.connect(empty.owner_url)
    await owner.execute("delete from public.migration where name = '0053_alert_firings'")
    waiting = asyncio.create_task(wait_until_there(empty.url))
    await eventually(partial(says, "0053_alert_firings"), "it says which one")
    await owner.execute("insert into public.migration values ('0053_alert_firings', ''), ('9999_newer', '')")
    await waiting
    await owner.close()
