"""Looking at a Postgres that hangs: whoever looks is told, and holds nothing up."""

import asyncpg
import pytest

from events.database import open_pool
from service import glance
from service.glance import Glance
from tests.servers import Database


async def test_who_looks_at_a_server_that_hangs_is_told_and_one_question_is_asked(
    database: Database, owner: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(glance, "PATIENCE_SECONDS", 0.0)
    pool = await open_pool(database.url, name="glance", size=2)
    try:
        look = Glance(lambda: pool.fetchval("select pg_advisory_lock(1)"))
        await owner.execute("select pg_advisory_lock(1)")
        for _ in range(5):
            with pytest.raises(TimeoutError, match="no answer for"):
                await look.answer()
        assert await pool.fetchval("select 1", timeout=30) == 1, "one of two connections is left"
        await owner.execute("select pg_advisory_unlock(1)")
        monkeypatch.setattr(glance, "PATIENCE_SECONDS", 30.0)
        await look.answer()
    finally:
        pool.terminate()
