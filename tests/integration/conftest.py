"""Fixtures of the tests against a real Postgres."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from tests import servers
from tests.integration.telemetry import World, opened_world
from tests.object_stores import Place, S3Server, s3_server
from tests.servers import Database, PostgresServer


@pytest.fixture
async def owner(database: Database) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database.owner_url)
    yield connection
    await connection.close()


@pytest.fixture
async def world(database: Database, tmp_path: Path) -> AsyncIterator[World]:
    async with opened_world(database.url, tmp_path / "parquet") as opened:
        yield opened


@pytest.fixture
async def elsewhere(postgres_server: PostgresServer, tmp_path: Path) -> AsyncIterator[World]:
    """Another home: a database, a directory for Parquet and an object store of its own."""
    database = await servers.create_database(postgres_server)
    async with opened_world(database.url, tmp_path / "elsewhere" / "parquet") as opened:
        yield opened
    await servers.drop_database(postgres_server, database)


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture(params=["directory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty object store: a directory, and a bucket."""
    if request.param == "directory":
        return Place(str(tmp_path / "objects"), {})
    s3: S3Server = request.getfixturevalue("s3")
    return s3.bucket()
