"""Fixtures of the tests against a real Postgres."""

import gc
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from tests.integration.telemetry import World, opened_world
from tests.servers import Database


def pytest_unconfigure() -> None:
    """Let the interpreter end quietly: Hypothesis' hook in the collector keeps DuckDB's types alive past their end."""
    gc.callbacks.clear()


@pytest.fixture
async def owner(database: Database) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database.owner_url)
    yield connection
    await connection.close()


@pytest.fixture
async def world(database: Database, tmp_path: Path) -> AsyncIterator[World]:
    async with opened_world(database.url, tmp_path / "parquet") as opened:
        yield opened
