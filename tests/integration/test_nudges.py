"""Nudges: who needs no telemetry is not woken by it."""

import asyncio

from events import bus
from events.ids import uuid7
from tests.api import SECONDS
from tests.servers import NatsServer


async def test_a_nudge_says_whether_a_ledger_has_grown_by_telemetry_alone(nats: NatsServer):
    listener = await bus.connect(nats.url("roles"), name="listener")
    speaker = await bus.connect(nats.url("service"), name="speaker")
    heard = await listener.subscribe(bus.nudge_subject("*"))
    await listener.flush()
    nudges = bus.Nudges(speaker)
    first, quiet, busy = uuid7(), uuid7(), uuid7()
    nudges(first, telemetry=False)
    await heard.next_msg(SECONDS)  # what follows is gathered
    for ledger_id, telemetry in ((quiet, True), (busy, True), (busy, False), (busy, True), (quiet, True)):
        nudges(ledger_id, telemetry=telemetry)
    said = [await heard.next_msg(SECONDS) for _ in range(2)]
    assert {message.subject: message.data for message in said} == {
        bus.nudge_subject(quiet): bus.BY_TELEMETRY,
        bus.nudge_subject(busy): b"",
    }
    await asyncio.gather(listener.close(), speaker.close())
