"""The transport: refused where it cannot be relied on, put right where it drifted; what it lost is published again."""

import asyncio
import dataclasses
import shutil
from pathlib import Path

import pytest
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import RetentionPolicy, StorageType

from events import bus
from events.beats import Order
from events.ids import uuid7
from events.streams import COMMANDS, commands_consumer
from stack import Nats
from tests.api import SECONDS
from tests.integration.jetstream import connected, drain, lifecycle, positions, published
from tests.integration.telemetry import World, opened_world
from tests.servers import Database
from workers.gpu.commands import Commands
from workers.relay import Relay


def in_order_of_first(found: list[int]) -> list[int]:
    """Return what a subscriber sees that skips the positions which it has passed."""
    seen: list[int] = []
    for position in found:
        if not seen or position > seen[-1]:
            seen.append(position)
    return seen


class LaxNats(Nats):
    """A server that acknowledges before it syncs."""

    def _configuration(self):
        configuration = super()._configuration()
        configuration["jetstream"]["sync_interval"] = "30s"
        configuration["max_payload"] = 1 << 18
        return configuration


async def test_a_server_that_syncs_later_or_takes_too_little_is_refused(own_home: Path) -> None:
    server = LaxNats(own_home)
    server.start()
    client = await bus.connect(server.url(), name="test")
    try:
        with pytest.raises(bus.TransportRefused, match="max_payload to 1048576"):
            await bus.check_server(client, None)
        client._max_payload = 1 << 20
        with pytest.raises(bus.TransportRefused, match=r"every 30 s .*sync_interval to always"):
            await bus.check_server(client, server.monitor_url)
        assert not await bus.check_server(client, None)
    finally:
        await client.close()
        server.stop()


async def test_a_server_as_it_should_be_is_taken(own_nats: Nats) -> None:
    client = await bus.connect(own_nats.url(), name="test")
    assert await bus.check_server(client, own_nats.monitor_url)
    await client.close()


async def test_limits_that_drifted_are_put_right_and_another_kind_of_stream_is_refused(client: Client) -> None:
    jetstream = client.jetstream()
    declared = bus.STREAMS[0]
    await jetstream.add_stream(dataclasses.replace(declared, max_age=600, max_bytes=1 << 20))
    await bus.ensure_streams(jetstream)
    found = (await jetstream.stream_info("EVENTS")).config
    assert (found.max_age, found.max_bytes) == (declared.max_age, declared.max_bytes)
    for field, wrong in (("storage", StorageType.MEMORY), ("retention", RetentionPolicy.INTEREST)):
        await jetstream.delete_stream("EVENTS")
        await jetstream.add_stream(dataclasses.replace(declared, **{field: wrong, "max_bytes": 1 << 20}))
        with pytest.raises(bus.TransportRefused, match=f"EVENTS has {field} {wrong.value}, not"):
            await bus.ensure_streams(jetstream)


class NoOrders:
    """A worker that is asked for nothing."""

    async def start(self, _: Order) -> bool:
        raise AssertionError

    def kill(self, _: Order) -> None:
        raise AssertionError


async def test_a_consumer_that_drifted_is_put_right_and_keeps_its_place(client: Client) -> None:
    """As a GPU worker does it whenever it comes: declared again, then bound to."""
    jetstream = client.jetstream()
    await bus.ensure_streams(jetstream)
    worker = str(uuid7())
    declared = commands_consumer(worker)
    name = declared.durable_name or ""
    drifted = dataclasses.replace(declared, ack_wait=3_600.0, max_deliver=1, max_ack_pending=1)
    await jetstream.add_consumer(COMMANDS, drifted)
    for number in range(3):
        await jetstream.publish(declared.filter_subject or "", str(number).encode())
    bound = await jetstream.pull_subscribe_bind(name, COMMANDS)
    (message,) = await bound.fetch(1)
    await message.ack_sync()
    await bound.unsubscribe()
    orders = Commands(client, worker, NoOrders())
    subscription = await orders._subscribe()
    found = (await subscription.consumer_info()).config
    assert (found.ack_wait, found.max_deliver, found.max_ack_pending) == (30.0, 100, 256)
    assert [message.data for message in await subscription.fetch(16, timeout=SECONDS)] == [b"1", b"2"]


@pytest.mark.parametrize("relay_was", ["running", "restarted"])
@pytest.mark.parametrize("lost", ["everything", "the tail"])
async def test_what_nats_lost_is_published_again(
    database: Database, own_nats: Nats, tmp_path: Path, lost: str, relay_was: str
) -> None:
    """The store is lost, or an older one restored, while the relay runs or rests."""
    client = await bus.connect(own_nats.url(), name="test")
    jetstream = client.jetstream()
    async with opened_world(database.url, tmp_path / "parquet") as world:
        relay = Relay(world.ledger, jetstream, monitor_url=own_nats.monitor_url)
        await relay.start()
        for _ in range(3):
            run_id = await world.started_run()
            await world.metrics(run_id, {"a": ([1], [0.5])})
        await drain(relay)
        older = tmp_path / "older"
        await asyncio.to_thread(own_nats.stop)
        shutil.copytree(own_nats.data / "jetstream", older)
        await asyncio.to_thread(own_nats.start)
        await connected(client)
        for _ in range(3):
            await world.end(await world.started_run())
        async with asyncio.timeout(SECONDS):
            while (
                await world.pool.fetch("select 1 from ledger.cursor natural join ledger.head where reader = 'relay'")
                == []
            ):
                await drain(relay)
        before = await positions(jetstream)
        await asyncio.to_thread(own_nats.kill)
        shutil.rmtree(own_nats.data / "jetstream")
        if lost == "the tail":
            shutil.copytree(older, own_nats.data / "jetstream")
        await world.started_run()
        await asyncio.to_thread(own_nats.start)
        await connected(client)
        if relay_was == "restarted":
            relay = Relay(world.ledger, jetstream)
            await relay.start()
        head, _ = await world.ledger.head(world.ledger_id)
        async with asyncio.timeout(SECONDS):
            while await world.pool.fetchval("select position from ledger.cursor where reader = 'relay'") != head or (
                not await positions_or_none(jetstream)
            ):
                await drain(relay)
                await asyncio.sleep(0.02)
        found = await positions(jetstream)
        assert found == await lifecycle(world), "nothing is missing, nothing twice"
        assert in_order_of_first(before + found) == await lifecycle(world)
        telemetry = [message.headers["ce-position"] for message in await published(jetstream, "TELEMETRY")]
        assert len(telemetry) == len(set(telemetry)) == 3
    await client.close()


async def positions_or_none(jetstream: JetStreamContext) -> list[int]:
    try:
        return await positions(jetstream)
    except bus.NotFoundError:
        return []


async def test_streams_that_were_purged_are_not_taken_for_lost(world: World, client: Client) -> None:
    jetstream = client.jetstream()
    relay = Relay(world.ledger, jetstream)
    await relay.start()
    await world.end(await world.started_run())
    await drain(relay)
    await jetstream.purge_stream("EVENTS")
    again = Relay(world.ledger, jetstream)
    await again.start()
    assert await drain(again) == 0
    await world.started_run()
    assert await drain(again) == 2
    assert len(await published(jetstream)) == 2
