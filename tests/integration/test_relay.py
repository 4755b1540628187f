"""The relay: whatever is committed is published in order, under its own id, and nothing twice while ids are known."""

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import msgspec
import pytest
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import RawStreamMsg
from nats.js.errors import NotFoundError

from events import bus, codec
from events.commands import CreateRun, EditRun
from events.ids import uuid7
from events.ledger import Recorded
from events.packing import unpacked
from events.run_events import RunCreated
from events.telemetry import MetricColumns
from events.types import Mode
from projections.execute import asked_by, execute
from stack import Nats
from tests.api import SECONDS, accepted, serving, until
from tests.integration.jetstream import drain
from tests.integration.telemetry import World, opened_world
from tests.servers import Database, NatsServer, PostgresServer
from workers.relay import READER, Relay

STREAMS = ("EVENTS", "TELEMETRY")


@pytest.fixture
async def jetstream(client: Client) -> JetStreamContext:
    return client.jetstream()


async def published(jetstream: JetStreamContext, stream: str, ledger: str = "*") -> list[RawStreamMsg]:
    """Return everything that a stream holds of a ledger, in order."""
    found: list[RawStreamMsg] = []
    with contextlib.suppress(NotFoundError):
        while True:
            after = (found[-1].seq or 0) + 1 if found else 1
            subject = f"tachograph.{stream.lower()}.{ledger}.>"
            found.append(await jetstream.get_msg(stream, after, subject=subject, next=True))
    return found


async def rewind(world: World) -> None:
    """Put the cursor back, as if the relay had died before it moved it."""
    await world.pool.execute("update ledger.cursor set position = 0 where reader = $1", READER)


def ids(messages: Sequence[RawStreamMsg]) -> list[str]:
    return [(message.headers or {})["Nats-Msg-Id"] for message in messages]


def split(history: Sequence[Recorded]) -> dict[str, list[Recorded]]:
    telemetry = [recorded for recorded in history if recorded.type in codec.TELEMETRY]
    events = [recorded for recorded in history if recorded.type not in codec.TELEMETRY]
    return {"EVENTS": events, "TELEMETRY": telemetry}


async def some_history(world: World, runs: int = 2) -> UUID:
    run_id = uuid7()
    for _ in range(runs):
        run_id = await world.started_run()
        await world.metrics(run_id, {"a": ([1, 2], [0.5, float("nan")])}, stage="x")
        await world.lines(run_id, "hello", "🦊")
        await world.end(run_id)
    return run_id


async def test_everything_is_published_in_order_under_its_own_id(world: World, jetstream: JetStreamContext):
    await some_history(world, runs=100)
    relay = Relay(world.ledger, jetstream)
    await relay.start()
    history = await world.ledger.read(world.ledger_id)
    assert await drain(relay) == len(history) == 501
    for stream, expected in split(history).items():
        messages = await published(jetstream, stream)
        assert ids(messages) == [str(recorded.event_id) for recorded in expected]
        assert [message.subject for message in messages] == [
            f"tachograph.{stream.lower()}.{world.ledger_id}.{one.stream if one.position > 1 else '_'}.{one.type}"
            for one in expected
        ]
    assert await relay.step() == 0
    assert await world.pool.fetchval("select position from ledger.cursor where reader = $1", READER) == 501


async def test_events_are_cloudevents_and_telemetry_is_columns(world: World, jetstream: JetStreamContext):
    run_id = await some_history(world, runs=1)
    relay = Relay(world.ledger, jetstream)
    await relay.start()
    await drain(relay)
    history = split(await world.ledger.read(world.ledger_id))
    for recorded, message in zip(history["EVENTS"], await published(jetstream, "EVENTS"), strict=True):
        assert message.headers is not None
        assert message.headers["content-type"] == "application/cloudevents+json"
        document = json.loads(message.data or b"")
        assert (document["specversion"], document["id"]) == ("1.0", str(recorded.event_id))
        assert (document["ledger"], document["position"]) == (str(world.ledger_id), recorded.position)
        assert (document["type"], document["version"]) == (recorded.type, recorded.version)
        assert document["data"] is not None
    metrics, logs = await published(jetstream, "TELEMETRY")
    for recorded, message in zip(history["TELEMETRY"], (metrics, logs), strict=True):
        assert message.headers is not None
        assert message.headers["content-type"] == "application/vnd.tachograph.columns+msgpack"
        assert message.headers["ce-id"] == message.headers["Nats-Msg-Id"] == str(recorded.event_id)
        assert message.headers["ce-position"] == str(recorded.position)
        assert message.headers["ce-subject"] == f"runs/{run_id}"
        assert (message.headers["ce-epoch"], message.headers["ce-sender"]) == ("1", "sdk")
        assert message.headers["content-encoding"] == "lz4-block"
    document = unpacked(metrics.data or b"")
    assert msgspec.msgpack.decode(document, type=MetricColumns) == history["TELEMETRY"][0].event()


async def test_a_page_that_is_published_again_is_not_stored_again(world: World, jetstream: JetStreamContext):
    await some_history(world)
    relay = Relay(world.ledger, jetstream)
    await relay.start()
    await drain(relay)
    before = {stream: ids(await published(jetstream, stream)) for stream in STREAMS}
    await rewind(world)
    assert await drain(Relay(world.ledger, jetstream)) == 11
    assert {stream: ids(await published(jetstream, stream)) for stream in STREAMS} == before


async def test_two_relays_at_once_publish_each_event_once(world: World, jetstream: JetStreamContext, client: Client):
    await some_history(world, runs=40)
    relays = [Relay(world.ledger, jetstream), Relay(world.ledger, client.jetstream())]
    for relay in relays:
        await relay.start()
    await asyncio.gather(*(drain(relay) for relay in relays))
    assert sum([await drain(relay) for relay in relays]) == 0
    for stream, expected in split(await world.ledger.read(world.ledger_id)).items():
        found = ids(await published(jetstream, stream))
        assert sorted(found) == sorted(str(recorded.event_id) for recorded in expected)


async def test_a_subscriber_that_skips_what_it_has_passed_sees_each_event_once(
    world: World, jetstream: JetStreamContext
):
    """Ids are remembered for a while only; repeats that come later are told by ledger and position."""
    await some_history(world)
    relay = Relay(world.ledger, jetstream)
    await relay.start()
    await jetstream.update_stream(dataclasses.replace(bus.STREAMS[0], duplicate_window=0.1))
    await drain(relay)
    once = len(await published(jetstream, "EVENTS"))
    async with asyncio.timeout(SECONDS):
        while len(await published(jetstream, "EVENTS")) < 2 * once:
            await rewind(world)
            await drain(relay)
    passed: dict[str, int] = {}
    seen = []
    for message in await published(jetstream, "EVENTS"):
        document = json.loads(message.data or b"")
        if document["position"] > passed.get(document["ledger"], 0):
            passed[document["ledger"]] = document["position"]
            seen.append(document["id"])
    history = split(await world.ledger.read(world.ledger_id))["EVENTS"]
    assert seen == [str(recorded.event_id) for recorded in history]


async def test_what_was_erased_before_its_turn_says_so_and_holds_nobody_up(world: World, jetstream: JetStreamContext):
    run_id = await some_history(world, runs=1)
    await world.delete(run_id)
    await world.ledger.erase(world.ledger_id, run_id)
    after = await world.started_run()
    relay = Relay(world.ledger, jetstream)
    await relay.start()
    await drain(relay)
    assert await published(jetstream, "TELEMETRY") == []
    documents = [json.loads(message.data or b"") for message in await published(jetstream, "EVENTS")]
    of_run = [one for one in documents if one["subject"] == f"runs/{run_id}"]
    assert [(one["type"], one["data"] is None) for one in of_run] == [
        ("run.created", True),
        ("run.started", True),
        ("run.completed", True),
        ("run.deleted", False),
    ]
    assert documents[-1]["subject"] == f"runs/{after}"


async def test_an_event_too_large_for_a_message_is_published_with_where_to_find_it(
    world: World, jetstream: JetStreamContext
):
    """A number of nine bytes takes eighteen as JSON, so an event within its own bound can pass that of a message."""
    run_id = uuid7()
    created = RunCreated(name="large", session_id="s", mode=Mode.TRACKED, config={"x": [1e15] * 57_000})
    for command in (CreateRun(created=created), EditRun(notes="and on")):
        await execute(world.ledger, world.ledger_id, run_id, command, asked_by("key:test"))
    relay = Relay(world.ledger, jetstream)
    await relay.start()
    assert await drain(relay) == 3
    _, large, small = [json.loads(message.data or b"") for message in await published(jetstream, "EVENTS")]
    assert (large["type"], large["subject"]) == ("run.created", f"runs/{run_id}")
    assert "data" not in large
    assert large["dataref"] == f"/api/v1/projects/{world.ledger_id}/events?after=1&limit=1"
    assert small["data"] == {"notes": "and on"}


async def test_it_goes_on_when_nats_comes_back(database: Database, own_nats: Nats, tmp_path: Path):
    client = await bus.connect(own_nats.url(), name="test")
    jetstream = client.jetstream()
    async with opened_world(database.url, tmp_path / "parquet") as world:
        relay = Relay(world.ledger, jetstream)
        await relay.start()
        await some_history(world)
        await drain(relay)
        await asyncio.to_thread(own_nats.kill)
        await some_history(world)
        assert await relay.step() == 0, "what is not surely stored is not passed"
        await asyncio.to_thread(own_nats.start)
        head, _ = await world.ledger.head(world.ledger_id)
        async with asyncio.timeout(SECONDS):
            while await world.pool.fetchval("select position from ledger.cursor where reader = $1", READER) != head:
                await drain(relay)
                await asyncio.sleep(0.05)
        for stream, expected in split(await world.ledger.read(world.ledger_id)).items():
            assert ids(await published(jetstream, stream)) == [str(recorded.event_id) for recorded in expected]
    await client.close()


def test_killed_again_and_again_between_publishing_and_remembering_it_loses_and_repeats_nothing(
    postgres_server: PostgresServer, nats_server: NatsServer, servers_home: Path
):
    crashing = {"TACHOGRAPH_CRASH_AT": "relay.after_publish"}
    with serving(postgres_server, nats_server, servers_home, roles=("relay",), environment=crashing) as api:
        relay = api.processes["relay"]
        project = api.project()
        for _ in range(3):
            run = project.finished()
            accepted(project.log(run, 1, {"a": {"step": [1], "value": [1.0]}}), 202)
        until(lambda: relay.restarts >= 2, "the relay was killed twice at its crash point")
        assert relay.environment is not None
        del relay.environment["TACHOGRAPH_CRASH_AT"]
        if relay.failure is not None:
            relay.start()
        run = project.finished()
        expected = [event["id"] for event in project.events()]

        def all_there() -> list[str] | None:
            found = asyncio.run(of_ledger(nats_server, project.id))
            return found if len(found) >= len(expected) else None

        found = until(all_there, "everything is published")
        assert len(found) == len(set(found))
        assert sorted(found) == sorted(expected)
        lifecycle = [event["id"] for event in project.events() if "version" in event]
        assert [one for one in found if one in set(lifecycle)] == lifecycle


async def of_ledger(nats: NatsServer, ledger: str) -> list[str]:
    """Return the ids of a ledger's messages, stream by stream."""
    client = await bus.connect(nats.url("roles"), name="test")
    try:
        jetstream = client.jetstream()
        return [found for stream in STREAMS for found in ids(await published(jetstream, stream, ledger))]
    finally:
        await client.close()


async def test_no_header_of_a_batch_can_say_more_than_its_value(jetstream: JetStreamContext):
    await bus.ensure_streams(jetstream)
    said = {3: "key\r\nce-cause: theirs", 5: "key\nce-cause: theirs", 7: "schlüssel"}
    messages = [
        ("tachograph.telemetry.a.b.c", b"%d" % n, {"Nats-Msg-Id": str(n), "ce-actor": said.get(n, "key")})
        for n in range(bus.BATCH_MESSAGES)
    ]
    assert await bus.publish(jetstream, messages) == len(messages)
    found = await published(jetstream, "TELEMETRY", "a")
    assert [message.data for message in found] == [body for _, body, _ in messages]
    assert ids(found) == [str(n) for n in range(bus.BATCH_MESSAGES)]
    headers = [message.headers or {} for message in found]
    assert not any("ce-cause" in one for one in headers)
    assert [one["ce-actor"] for one in headers if one["ce-actor"] == "key"] == ["key"] * (len(messages) - len(said))
