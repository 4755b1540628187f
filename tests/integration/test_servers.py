"""The servers' settings that everything rests on, and what each of their users may do."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.api import ConsumerConfig

from events import bus
from stack import Postgres
from tests.api import SECONDS
from tests.servers import Database, NatsServer


@asynccontextmanager
async def connected(database: Database) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database.url)
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def client_of(url: str) -> AsyncIterator[tuple[Client, asyncio.Queue[Exception]]]:
    """A client, and what the server holds against it."""
    refused: asyncio.Queue[Exception] = asyncio.Queue()
    client = Client()
    await client.connect(url, error_cb=refused.put, allow_reconnect=False)
    try:
        yield client, refused
    finally:
        await client.close()


async def test_a_commit_that_returned_is_on_disk(own_postgres: Postgres):
    connection = await asyncpg.connect(own_postgres.url())
    for setting in ("fsync", "synchronous_commit", "full_page_writes"):
        assert await connection.fetchval("select current_setting($1)", setting) == "on"
    await connection.close()


@pytest.mark.parametrize(
    "statement",
    [
        "update ledger.event set type = 'x'",
        "delete from ledger.event",
        "truncate ledger.event",
        "drop table ledger.event",
    ],
)
async def test_the_application_role_cannot_change_history(database: Database, statement: str):
    async with connected(database) as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)


async def test_without_a_password_nats_answers_nobody(nats: NatsServer):
    address = nats.url().partition("@")[2]
    client = Client()
    with pytest.raises((NatsError, OSError)):
        await client.connect(f"nats://{address}", allow_reconnect=False, error_cb=_ignored)
    await client.close()


async def _ignored(_: Exception) -> None:
    """What is raised says it too."""


@pytest.mark.parametrize(
    "subject", ["tachograph.events.x.y.z", "tachograph.commands.another", "$JS.API.STREAM.DELETE.EVENTS"]
)
async def test_a_worker_may_not_publish(nats: NatsServer, subject: str):
    async with client_of(nats.url("worker")) as (client, refused):
        await client.publish(subject, b"{}")
        await client.flush()
        assert "permissions violation" in str(await asyncio.wait_for(refused.get(), SECONDS)).lower()


async def test_a_worker_may_not_listen(nats: NatsServer):
    async with client_of(nats.url("worker")) as (client, refused):
        await client.subscribe("tachograph.>")
        await client.flush()
        assert "permissions violation" in str(await asyncio.wait_for(refused.get(), SECONDS)).lower()


async def test_a_worker_beats_and_consumes_its_commands(nats: NatsServer):
    async with client_of(nats.url("roles")) as (roles, _), client_of(nats.url("worker")) as (worker, refused):
        await bus.ensure_streams(roles.jetstream())
        config = ConsumerConfig(durable_name="worker-7", filter_subject="tachograph.commands.7")
        await worker.jetstream().add_consumer("COMMANDS", config)
        await roles.jetstream().publish("tachograph.commands.7", b"start")
        subscription = await worker.jetstream().pull_subscribe_bind("worker-7", "COMMANDS")
        (message,) = await subscription.fetch(1, timeout=SECONDS)
        assert message.data == b"start"
        await message.ack_sync()
        await worker.publish("tachograph.heartbeats.7", b"{}")
        await worker.flush()
        beat = await roles.jetstream().get_last_msg("HEARTBEATS", "tachograph.heartbeats.7")
        assert beat.data == b"{}"
        assert refused.empty()


async def test_streams_of_the_test_before_are_gone(nats: NatsServer):
    async with client_of(nats.url("roles")) as (roles, _):
        assert await roles.jetstream().streams_info() == []
