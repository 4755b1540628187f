"""A service that is told to stop while it waits for its database."""

import asyncio
from pathlib import Path

import asyncpg
import httpx

from tests.api import Api, eventually, refused, serving
from tests.servers import NatsServer, PostgresServer


def test_a_request_that_a_stop_cuts_off_is_answered_as_one_to_repeat(
    postgres_server: PostgresServer, nats_server: NatsServer, servers_home: Path
) -> None:
    with serving(postgres_server, nats_server, servers_home) as api:
        answer = asyncio.run(_cut_off(api, f"/projects/{api.project().id}/runs"))
    assert refused(answer, 503)["type"].endswith(":unavailable")
    assert answer.headers["retry-after"] == "1"


async def _cut_off(api: Api, path: str) -> httpx.Response:
    """Post something that waits for the database, stop the service, and return the answer."""
    owner = await asyncpg.connect(api.database.owner_url)
    try:
        async with owner.transaction():
            await owner.execute("lock table ledger.event in access exclusive mode")
            asking = asyncio.create_task(asyncio.to_thread(api.client.post, path, json={"name": "r"}))

            async def waits() -> bool:
                return bool(await owner.fetchval("select exists (select from pg_locks where not granted)"))

            await eventually(waits, "the request waits for the database")
            api.processes["service"].ask()
            return await asking
    finally:
        await owner.close()
