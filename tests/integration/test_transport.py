"""The transport: refused where it cannot be relied on; what it lost is published again; what it cannot take is told."""

import asyncio
import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import UUID

import asyncpg
import httpx
import pytest
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import RawStreamMsg, RetentionPolicy, StorageType

from events import bus, codec
from events.beats import Order
from events.commands import EditRun
from events.ids import uuid7
from events.streams import COMMANDS, commands_consumer
from projections import dead_letters
from projections.execute import asked_by, execute
from stack import Nats
from tests.api import SECONDS, Api, Project, accepted, refused, serving, until
from tests.integration.telemetry import World, opened_world
from tests.servers import Database, NatsServer, PostgresServer
from workers.gpu.commands import Commands
from workers.purge import erase_messages, find_messages
from workers.relay import READER, Relay


@pytest.fixture
async def client(nats: NatsServer) -> AsyncIterator[Client]:
    connected = await bus.connect(nats.url("roles"), name="test")
    yield connected
    await connected.close()


async def published(jetstream: JetStreamContext, stream: str = "EVENTS") -> list[RawStreamMsg]:
    state = (await jetstream.stream_info(stream)).state
    return [await jetstream.get_msg(stream, seq) for seq in range(state.first_seq, state.last_seq + 1)]


async def drain(relay: Relay) -> int:
    passed = 0
    while done := await relay.step():
        passed += done
    return passed


async def positions(jetstream: JetStreamContext) -> list[int]:
    return [json.loads(message.data or b"")["position"] for message in await published(jetstream)]


async def lifecycle(world: World) -> list[int]:
    history = await world.ledger.read(world.ledger_id, payloads=False)
    return [recorded.position for recorded in history if recorded.type not in codec.TELEMETRY]


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


async def connected(client: Client) -> None:
    async with asyncio.timeout(SECONDS):
        while not client.is_connected:  # noqa: ASYNC110 (the client has no event to wait for)
            await asyncio.sleep(0.02)


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


async def poisoned(world: World) -> int:
    """Record events around one that a test will spoil; returns its position."""
    run_id = await world.started_run()
    noted = await execute(world.ledger, world.ledger_id, run_id, EditRun(notes="n"), asked_by("key:test"))
    await world.started_run()
    return noted.position


async def spoil(owner: asyncpg.Connection, ledger_id: UUID, position: int) -> bytes:
    """Flip a bit of a payload, as a fault in storage would; returns what it was."""
    was: bytes = await owner.fetchval(
        "select ciphertext from ledger.payload where ledger_id = $1 and position = $2", ledger_id, position
    )
    await put(owner, ledger_id, position, was[:-1] + bytes([was[-1] ^ 1]))
    return was


async def put(owner: asyncpg.Connection, ledger_id: UUID, position: int, ciphertext: bytes) -> None:
    await owner.execute(
        "update ledger.payload set ciphertext = $3 where ledger_id = $1 and position = $2",
        ledger_id,
        position,
        ciphertext,
    )


async def test_an_event_that_cannot_be_published_holds_up_its_ledger_alone(
    world: World, client: Client, database: Database, owner: asyncpg.Connection, tmp_path: Path
) -> None:
    position = await poisoned(world)
    whole = await spoil(owner, world.ledger_id, position)
    now = 0.0
    relay = Relay(world.ledger, client.jetstream(), clock=lambda: now)
    await relay.start()
    async with opened_world(database.url, tmp_path / "other") as other:
        await other.started_run()
        await drain(relay)
        head, _ = await other.ledger.head(other.ledger_id)
        cursors = dict(
            await world.pool.fetch("select ledger_id, position from ledger.cursor where reader = $1", READER)
        )
        assert cursors == {world.ledger_id: position - 1, other.ledger_id: head}
    (letter,) = await dead_letters.of_ledger(world.pool, world.ledger_id, ["held"], (0, ""), 10)
    assert (letter.reader, letter.position, letter.type, letter.failures) == (READER, position, "run.notes_set", 1)
    assert "altered" in letter.error
    await put(owner, world.ledger_id, position, whole)
    assert await drain(relay) == 0, "its turn has not come"
    await dead_letters.decide(world.pool, READER, world.ledger_id, position, "retry", "key:test")
    assert await drain(relay) == 3
    (letter,) = await dead_letters.of_ledger(world.pool, world.ledger_id, ["resolved"], (0, ""), 10)
    assert letter.position == position


async def test_a_discarded_event_is_passed_over_for_good(
    world: World, client: Client, owner: asyncpg.Connection
) -> None:
    position = await poisoned(world)
    await spoil(owner, world.ledger_id, position)
    relay = Relay(world.ledger, client.jetstream())
    await relay.start()
    await drain(relay)
    await dead_letters.decide(world.pool, READER, world.ledger_id, position, "discarded", "key:test")
    await drain(relay)
    found = [json.loads(message.data or b"")["position"] for message in await published(client.jetstream())]
    assert found == [one for one in await lifecycle(world) if one != position]
    (letter,) = await dead_letters.of_ledger(world.pool, world.ledger_id, ["discarded"], (0, ""), 10)
    assert letter.decided_by == "key:test"


@pytest.fixture(scope="module")
def api(postgres_server: PostgresServer, nats_server: NatsServer, servers_home: Path) -> Iterator[Api]:
    with serving(postgres_server, nats_server, servers_home, roles=("projector", "relay")) as api:
        yield api


def spoil_batch(api: Api, project: Project, position: int) -> None:
    async def flip() -> None:
        connection = await asyncpg.connect(api.database.superuser_url)
        await connection.execute(
            "update ledger.telemetry set ciphertext = set_byte(ciphertext, 20, 255 - get_byte(ciphertext, 20))"
            " where ledger_id = $1 and position = $2",
            UUID(project.id),
            position,
        )
        await connection.close()

    asyncio.run(flip())


def test_dead_letters_are_listed_explained_retried_and_discarded(api: Api) -> None:
    project = api.project()
    path = f"/projects/{project.id}/dead-letters"
    run = project.started()
    api.processes["projector"].stop(10)
    api.processes["relay"].stop(10)
    position = accepted(project.log(run, 1, {"a": {"step": [1], "value": [1.0]}}), 202)["position"]
    spoil_batch(api, project, position)
    accepted(project.log(run, 2, {"a": {"step": [2], "value": [2.0]}}), 202)
    for role in ("projector", "relay"):
        api.processes[role].start()

    def listed(states: str = "held,retry") -> list[dict]:
        return accepted(api.client.get(path, params={"states": states}))["items"]

    until(lambda: len(listed()) == 2, "both readers stop at the event")
    assert {(one["reader"], one["position"], one["state"]) for one in listed()} == {
        ("projector.metrics", position, "held"),
        ("relay", position, "held"),
    }
    explained = accepted(api.client.get(f"{path}/relay/{position}"))
    assert explained["waiting_events"] == 1
    assert explained["event"] is None
    assert "altered" in explained["unreadable"]
    told = httpx.get(f"{api.url}/metrics", headers={"X-API-Key": api.key}).text
    assert 'tachograph_dead_letters{reader="relay"} 1.0' in told
    failures = explained["letter"]["failures"]
    retried = accepted(api.client.post(f"{path}/relay/{position}/retry"))
    assert retried["state"] == "retry"
    until(
        lambda: accepted(api.client.get(f"{path}/relay/{position}"))["letter"]["failures"] > failures,
        "it was tried again",
    )
    for reader in ("relay", "projector.metrics"):
        assert accepted(api.client.post(f"{path}/{reader}/{position}/discard"))["state"] == "discarded"
    until(lambda: [one["count"] for one in metrics(api, run)] == [1], "the projection goes on without it")
    assert listed() == []
    assert len(listed("discarded")) == 2
    refused(api.client.post(f"{path}/relay/{position}/discard"), 404)
    refused(api.client.get(path, params={"states": "lost"}), 422)
    refused(api.client.get(path, params={"cursor": "x"}), 422)
    with api.other_tenant() as other:
        refused(other.get(path), 404)


def metrics(api: Api, run: dict) -> list[dict]:
    return accepted(api.client.get(f"/runs/{run['id']}/metrics"))["metrics"]


def test_roles_are_seen_in_readiness_and_figures(api: Api) -> None:
    def roles() -> dict[str, str]:
        answer = httpx.get(f"{api.url}/readyz")
        assert answer.status_code == 200
        return answer.json()["roles"]

    until(lambda: (roles()["relay"], roles()["projector"]) == ("ok", "ok"), "both roles say that they are well")
    assert roles()["monitor"] == "not running"
    told = httpx.get(f"{api.url}/metrics", headers={"X-API-Key": api.key}).text
    assert 'tachograph_role_up{role="relay"} 1.0' in told
    assert 'tachograph_reader_lag_events{reader="relay"}' in told


def lines(ledger_id: UUID, number: int, *, begin: int = 0) -> list[bus.Message]:
    """Messages of one run of a ledger, each with an id of its own that says which it is."""
    subject = f"tachograph.events.{ledger_id}.{ledger_id}.run.started"
    return [
        (subject, f'{{"secret": "of {ledger_id}, {n}"}}'.encode(), {"Nats-Msg-Id": f"{ledger_id}-{n}"})
        for n in range(begin, begin + number)
    ]


async def ids(jetstream: JetStreamContext) -> list[str]:
    return [(message.headers or {})["Nats-Msg-Id"] for message in await published(jetstream)]


def told(nats: Nats, ledger_id: UUID) -> int:
    """How many messages of a ledger the server's files hold, staged ones and copies included."""
    found = 0
    for directory, _, names in os.walk(nats.data):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # the server removes files meanwhile
                found += Path(directory, name).read_bytes().count(f"of {ledger_id}".encode())
    return found


async def test_many_messages_are_stored_as_one_batch_and_a_repetition_stores_none_again(own_nats: Nats) -> None:
    client = await bus.connect(own_nats.url(), name="test")
    jetstream = client.jetstream()
    await bus.ensure_streams(jetstream)
    ledger_id = uuid7()
    tails = {"EVENTS": await bus.tail(jetstream, "EVENTS")}
    batch = lines(ledger_id, 2 * bus.BATCH_MESSAGES)
    assert await bus.publish(jetstream, batch, tails) == len(batch)
    stored = await published(jetstream)
    assert [message.data for message in stored] == [body for _, body, _ in batch]
    assert {(message.headers or {}).get("Nats-Batch-Id") for message in stored} != {None}  # it was a batch
    assert tails["EVENTS"] == await bus.tail(jetstream, "EVENTS")

    assert await bus.publish(jetstream, batch) == len(batch)
    overlapping = [*batch[-5:], *lines(ledger_id, bus.BATCH_MESSAGES, begin=len(batch))]
    assert await bus.publish(jetstream, overlapping) == len(overlapping)
    everything = [*batch, *overlapping[5:]]
    assert await ids(jetstream) == [headers["Nats-Msg-Id"] for _, _, headers in everything]
    await client.close()


async def test_a_batch_is_refused_where_the_stream_ends_elsewhere_than_was_expected(own_nats: Nats) -> None:
    client = await bus.connect(own_nats.url(), name="test")
    jetstream = client.jetstream()
    await bus.ensure_streams(jetstream)
    ledger_id = uuid7()
    tails = {"EVENTS": await bus.tail(jetstream, "EVENTS")}
    first, second, third = (lines(ledger_id, bus.BATCH_MESSAGES, begin=begin) for begin in (0, 100, 200))
    assert await bus.publish(jetstream, first, tails) == len(first)
    old = dict(tails)
    assert await bus.publish(jetstream, second, tails) == len(second)
    assert await bus.publish(jetstream, third, old) == 0  # another relay has gone on meanwhile
    assert await ids(jetstream) == [headers["Nats-Msg-Id"] for _, _, headers in [*first, *second]]
    await client.close()


async def test_no_copy_of_an_erased_message_is_left_where_its_batch_was_staged(own_nats: Nats) -> None:
    client = await bus.connect(own_nats.url(), name="test")
    jetstream = client.jetstream()
    await bus.ensure_streams(jetstream)
    ledger_id = uuid7()
    batch = lines(ledger_id, bus.BATCH_MESSAGES)
    assert await bus.publish(jetstream, batch) == len(batch)
    assert await asyncio.to_thread(told, own_nats, ledger_id) == len(batch)  # each once
    await erase_messages(jetstream, await find_messages(jetstream, ledger_id, ledger_id))
    assert await asyncio.to_thread(told, own_nats, ledger_id) == 0
    await client.close()


async def test_a_batch_that_died_with_the_server_leaves_nothing_and_is_stored_when_it_comes_again(
    own_nats: Nats,
) -> None:
    client = await bus.connect(own_nats.url(), name="test")
    jetstream = client.jetstream()
    await bus.ensure_streams(jetstream)
    ledger_id = uuid7()
    batch = lines(ledger_id, bus.BATCH_MESSAGES)
    for number, (subject, body, headers) in enumerate(batch, 1):  # never committed
        part = {**headers, "Nats-Batch-Id": "dies", "Nats-Batch-Sequence": str(number)}
        await client.publish(subject, body, headers=part)
    async with asyncio.timeout(SECONDS):
        while not await asyncio.to_thread(told, own_nats, ledger_id):  # noqa: ASYNC110 (the server tells nobody)
            await asyncio.sleep(0.02)
    await asyncio.to_thread(own_nats.kill)
    await asyncio.to_thread(own_nats.start)
    await connected(client)
    assert await asyncio.to_thread(told, own_nats, ledger_id) == 0
    assert await bus.publish(jetstream, batch) == len(batch)
    assert await ids(jetstream) == [headers["Nats-Msg-Id"] for _, _, headers in batch]
    await client.close()
