"""What is on JetStream, and what ought to be."""

import asyncio
import json

from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import RawStreamMsg

from events import codec
from tests.api import SECONDS
from tests.integration.telemetry import World
from workers.relay import Relay


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


async def connected(client: Client) -> None:
    async with asyncio.timeout(SECONDS):
        while not client.is_connected:  # noqa: ASYNC110 (the client has no event to wait for)
            await asyncio.sleep(0.02)
