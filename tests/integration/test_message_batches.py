"""Messages that JetStream stores as one batch: all or none, once, and gone when they are erased."""

import asyncio
import contextlib
import os
from pathlib import Path
from uuid import UUID

from nats.js import JetStreamContext

from events import bus
from events.ids import uuid7
from stack import Nats
from tests.api import SECONDS
from tests.integration.jetstream import connected, published
from workers.run_messages import erase_messages, find_messages


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
