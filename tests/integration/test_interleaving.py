"""Appends that meet inside the database, in many orders: none of them may lose, double or skip anything."""

from collections.abc import AsyncIterator
from typing import Final

import asyncpg
import pytest

from tests.integration.histories import Project, opened_project
from tests.integration.interleaving import explore, install
from tests.servers import Database

SEEDS: Final = range(32)


@pytest.fixture
async def project(database: Database) -> AsyncIterator[Project]:
    async with opened_project(database.url) as opened:
        yield opened


async def test_in_whatever_order_appends_meet_the_ledger_is_whole(
    project: Project, database: Database, owner: asyncpg.Connection
) -> None:
    await install(owner)
    explored = [await explore(project, database.url, owner, seed) for seed in SEEDS]
    assert {seed: one.wrong for seed, one in zip(SEEDS, explored, strict=True) if one.wrong} == {}
    assert len({one.order for one in explored}) > len(SEEDS) * 3 // 4  # so these were different orders
    assert sum(one.stood_behind > 0 for one in explored) > len(SEEDS) // 2  # in which they did meet


async def test_without_the_lock_on_the_head_the_same_orders_break_it(
    project: Project, database: Database, owner: asyncpg.Connection
) -> None:
    await install(owner, lock=False)
    broken = [seed for seed in SEEDS if (await explore(project, database.url, owner, seed)).wrong]
    assert len(broken) > len(SEEDS) // 2
