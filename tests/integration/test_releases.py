"""A database of every release that is kept is read by this one, and its code runs on this one's schema."""

import ast
import asyncio
import re
import shutil
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import msgspec
import pytest

from events.database import open_pool
from events.heads import SignedHead, Signer
from events.keys import Keyring
from events.ledger import Ledger
from events.verification import verify
from projections import credits, metrics, runs
from projections.archive.stores import Directory
from projections.execute import answered_before, as_of, asked_by
from projections.rebuild import PROJECTIONS, rebuild
from projections.verification import Places, audit
from service.commands.migrate import migrate
from service.commands.rebuild import projection
from tests import servers
from tests.golden.history import MASTER_KEY, SIGNING_SEED
from tests.golden.releases import PACKAGES, PARTITIONS, TABLES, Release, history, releases
from tests.servers import Database, PostgresServer
from workers import partitions


class Migrated(NamedTuple):
    """A release's database on this one's schema."""

    release: Release
    source: Path
    database: Database
    ledger: Ledger
    archive: Directory

    @property
    def ledger_id(self) -> UUID:
        return UUID(self.release.expected["ledger_id"])

    async def verified(self) -> None:
        head = msgspec.convert(self.release.expected["head"], SignedHead)
        head.expect(self.ledger_id, Signer(SIGNING_SEED).public_key)
        places = Places(database_url=self.database.url, archive=self.archive)
        report = await audit(Ledger(self.ledger.pool, Keyring(MASTER_KEY)), self.ledger_id, places, heads=[head])
        assert (report.first_bad, report.head) == (None, head.position)
        assert report.erased > 0
        assert report.files > 0


@pytest.fixture
async def empty(postgres_server: PostgresServer) -> AsyncIterator[Database]:
    """A database without any migration."""
    made = await servers.create_database(postgres_server, template="template0")
    yield made
    await servers.drop_database(postgres_server, made)


@pytest.fixture(params=releases(), ids=lambda release: release.directory.name)
def release(request: pytest.FixtureRequest) -> Release:
    kept: Release = request.param
    return kept


@pytest.fixture
def source(release: Release) -> Iterator[Path]:
    with release.source() as path:
        yield path


@pytest.fixture
async def migrated(release: Release, source: Path, empty: Database, tmp_path: Path) -> AsyncIterator[Migrated]:
    await release.restore(source, empty.owner_url, empty.superuser_url)
    await migrate(empty.owner_url)
    pool = await open_pool(empty.url, name="test")
    parquet = tmp_path / "parquet"
    shutil.copytree(release.parquet, parquet)
    yield Migrated(release, source, empty, Ledger(pool, Keyring(MASTER_KEY)), Directory(parquet))
    await pool.close()


async def test_what_a_release_recorded_is_verified_and_read_as_what_it_was(migrated: Migrated) -> None:
    ledger, expected = migrated.ledger, migrated.release.expected
    assert (await verify(ledger, migrated.ledger_id)).first_bad is None
    page = await ledger.read(migrated.ledger_id)
    assert [[one.position, one.type, one.version, one.payload is not None] for one in page] == expected["events"]
    for one in page:
        assert one.payload is None or one.event() is not None
    for was in expected["runs"].values():
        await read_back(migrated, was)


async def read_back(migrated: Migrated, was: dict[str, Any]) -> None:
    """Compare a run with what the release said of it."""
    ledger = migrated.ledger
    stored = await runs.get(ledger.pool, UUID(was["id"]))
    assert stored is not None
    run = stored.run
    assert [run.status, run.version, run.epoch] == [was["status"], was["version"], was["epoch"]]
    assert [run.config, list(run.tags), run.notes] == [was["config"], was["tags"], was["notes"]]
    summaries = await metrics.summaries(ledger.pool, stored)
    assert {one["name"]: [one["count"], one["last_step"]] for one in summaries} == was["metrics"]
    if run.ended_at is not None:
        costs = await credits.of_runs(ledger.pool, [stored.run_id], run.ended_at)
        assert costs[stored.run_id].consumed_micro == was["consumed_micro"]


async def test_what_a_release_projected_is_rebuilt_with_what_it_did_not_know(migrated: Migrated) -> None:
    """As an upgrade does it: migrate, then rebuild. From then on nothing differs, and runs say what they said."""
    for again in (False, True):
        for name in PROJECTIONS:
            rebuilt = projection(name, migrated.archive)
            done = await rebuild(migrated.ledger, migrated.database.owner_url, rebuilt, swap=not again)
            assert not again or (name, done.differences) == (name, [])
    await migrated.verified()
    for was in migrated.release.expected["runs"].values():
        await read_back(migrated, was)
        if was["status"] != "deleted":
            stored = await runs.get(migrated.ledger.pool, UUID(was["id"]))
            assert stored is not None
            assert await as_of(migrated.ledger, migrated.ledger_id, stored.run_id) == (stored.run, stored.position)


async def test_what_a_release_archived_is_dropped_and_its_requests_are_remembered(migrated: Migrated) -> None:
    ledger, named = migrated.ledger, migrated.release.expected["named"]
    before = await ledger.pool.fetchval("select count(*) from ledger.telemetry")
    owner = await asyncpg.connect(migrated.database.owner_url)
    for row in await owner.fetch(PARTITIONS):  # where the release was made within this very hour
        hour = f"ledger.{row['relname']}"
        await owner.execute(f"alter table ledger.telemetry detach partition {hour}")
        await owner.execute(f"insert into ledger.telemetry select * from {hour}")
    await owner.close()
    await partitions.drop_archived(ledger.pool, migrated.archive, timedelta())
    assert await ledger.pool.fetchval("select count(*) from ledger.telemetry") < before
    found = await verify(ledger, migrated.ledger_id)
    assert found.first_bad is None
    assert found.archived > 0
    run_id = UUID(migrated.release.expected["runs"]["running"]["id"])
    request = msgspec.structs.replace(
        asked_by("anybody"), event_id=UUID(named["event_id"]), body=named["body"].encode(), named=True
    )
    answered = await answered_before(ledger, migrated.ledger_id, run_id, request)
    assert answered is not None
    assert answered.run.notes == "named"


async def test_a_releases_code_runs_on_the_newer_schema(migrated: Migrated) -> None:
    """And on one that the next migration may make of it, where every table has one more column."""
    owner = await asyncpg.connect(migrated.database.owner_url)
    for row in await owner.fetch(TABLES):
        await owner.execute(f"alter table {row[0]} add column one_more text")
    await owner.close()
    said = msgspec.json.decode(
        await asyncio.to_thread(history, migrated.source, "live", migrated.database.url, str(migrated.archive))
    )
    for lived in (UUID(said["ledger_id"]), migrated.ledger_id):
        found = await verify(migrated.ledger, lived)
        assert found.first_bad is None
        assert found.erased > 0
    assert len(await migrated.ledger.read(UUID(said["ledger_id"]))) == len(said["events"])


async def test_every_statement_of_a_release_is_one_on_the_newer_schema(migrated: Migrated) -> None:
    found = dict(statements(migrated.source))
    assert len(found) > 80
    refused = {}
    async with migrated.ledger.pool.acquire() as connection:
        for where, text in found.items():
            try:
                await connection.prepare(text)
            except asyncpg.PostgresError as error:
                refused[where] = str(error)
    assert refused == {}


async def test_a_statement_that_the_schema_no_longer_takes_is_noticed(migrated: Migrated) -> None:
    """The test above can fail: it does once a column that the release reads has another name."""
    owner = await asyncpg.connect(migrated.database.owner_url)
    await owner.execute("alter table projection.run rename column status to state_of_it")
    await owner.close()
    with pytest.raises(AssertionError):
        await test_every_statement_of_a_release_is_one_on_the_newer_schema(migrated)
    with pytest.raises(AssertionError, match="history live failed"):
        await asyncio.to_thread(history, migrated.source, "live", migrated.database.url, "/nonexistent")


async def test_two_replicas_migrate_at_once(release: Release, source: Path, empty: Database) -> None:
    """On an old database and on a new one, everything is applied once, by whoever came first."""
    await release.restore(source, empty.owner_url, empty.superuser_url)
    owner = await asyncpg.connect(empty.owner_url)
    known = {row["name"] for row in await owner.fetch("select name from public.migration")}
    both = await asyncio.gather(*(migrate(empty.owner_url) for _ in range(4)))
    applied = [name for one in both for name in one]
    assert len(applied) == len(set(applied))
    assert {name for name in applied if name[0].isdigit()}.isdisjoint(known)
    await owner.execute("drop schema ledger, projection, operation cascade; drop table public.migration")
    both = await asyncio.gather(*(migrate(empty.owner_url) for _ in range(4)))
    assert sorted(map(bool, both)) == [False, False, False, True]
    await owner.close()


_STATEMENT = re.compile(r"\s*(select|insert|update|delete|with)\b", re.IGNORECASE)

_DUCKDBS = re.compile(r"\{\w*\}|\$[a-z]")
"""Parameters by name, or parts that are filled in: charts and lines, read from Parquet."""


def statements(source: Path) -> Iterator[tuple[str, str]]:
    """Yield every statement in a release's source by its place: in files, and written where it runs."""
    for package in PACKAGES:
        for file in sorted((source / package).rglob("*.sql")):
            text = re.sub(r"^--.*\n", "", file.read_text(), flags=re.MULTILINE)
            if _STATEMENT.match(text) and not _DUCKDBS.search(text):
                yield str(file.relative_to(source)), text
        for file in sorted((source / package).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text())):
                if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
                    continue
                first = node.args[0]
                if node.func.attr not in {"fetch", "fetchrow", "fetchval", "execute", "executemany", "cursor"}:
                    continue
                if isinstance(first, ast.Constant) and isinstance(first.value, str) and _STATEMENT.match(first.value):
                    yield f"{file.relative_to(source)}:{node.lineno}", first.value
