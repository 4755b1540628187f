"""Server-Sent Events: a ledger's history, read by position for each client, and then what all of them share."""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Final
from uuid import UUID

import msgspec
from litestar.response.sse import ServerSentEventMessage

from service.context import Service
from service.keys import Principal
from service.tails import LOOK_SECONDS, PAGE_EVENTS, Told, told

PING_SECONDS: Final = 15.0

_json: Final = msgspec.json.Encoder()


class Wanted(msgspec.Struct, frozen=True):
    """What a client follows: a ledger, or one stream of it; all types of events, or some."""

    ledger_id: UUID
    stream: UUID | None
    types: Sequence[str] | None
    principal: Principal
    """Who follows; as long as it may."""


async def follow(service: Service, wanted: Wanted, after: int) -> AsyncGenerator[ServerSentEventMessage]:
    """Yield events after a position, then whatever comes, until the client goes, is too slow, or we stop."""
    yield ServerSentEventMessage(comment="tachograph", data=None)
    head, _ = await service.ledger.head(wanted.ledger_id)
    async for event in _history(service, wanted, after, head):
        yield _message(event)
    async with aclosing(_live(service, wanted, max(after, head))) as live:
        async for message in live:
            yield message
    if service.stopping.is_set():
        yield ServerSentEventMessage(event="goodbye", data="{}")


async def _history(service: Service, wanted: Wanted, after: int, up_to: int) -> AsyncIterator[Told]:
    """Yield what lies between two positions."""
    while after < up_to and not service.stopping.is_set() and await service.keys.still(wanted.principal):
        page = await service.ledger.read(
            wanted.ledger_id, after=after, up_to=up_to, limit=PAGE_EVENTS, types=wanted.types, stream=wanted.stream
        )
        for recorded in page:
            yield told(recorded)
        after = page[-1].position if page else up_to


async def _live(service: Service, wanted: Wanted, after: int) -> AsyncGenerator[ServerSentEventMessage]:
    """Yield what the ledger's feed hands on behind a position; first what lies before the feed's next event."""
    follower = await service.tails.follow(wanted.ledger_id, wanted.stream, wanted.types)
    said = time.monotonic()
    try:
        async for event in _history(service, wanted, after, follower.begins):
            yield _message(event)
        last = max(after, follower.begins)
        while not service.stopping.is_set():
            events = await follower.take(LOOK_SECONDS)
            if not await service.keys.still(wanted.principal):
                yield _cut("the key was revoked, or has expired", last)
                return
            for event in events:
                if event.position > last:
                    yield _message(event)
                    last, said = event.position, time.monotonic()
            if follower.reason is not None:
                yield _cut(follower.reason, last)
                return
            if time.monotonic() - said > PING_SECONDS:
                yield ServerSentEventMessage(comment="ping", data=None)
                said = time.monotonic()
    finally:
        service.tails.leave(wanted.ledger_id, follower)


def _cut(reason: str, last: int) -> ServerSentEventMessage:
    return ServerSentEventMessage(event="cut", data=_json.encode({"reason": reason, "last_event_id": last}))


def _message(event: Told) -> ServerSentEventMessage:
    return ServerSentEventMessage(data=event.body, event=event.type, id=event.position)
