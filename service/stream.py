"""Server-Sent Events: a ledger read by position as it grows."""

import time
from collections.abc import AsyncIterator, Sequence
from typing import Final
from uuid import UUID

import msgspec
from litestar.response.sse import ServerSentEventMessage

from events import cloudevents
from events.ledger import Recorded
from service.context import Service

PAGE_EVENTS: Final = 200
LOOK_SECONDS: Final = 1.0
PING_SECONDS: Final = 15.0

_json: Final = msgspec.json.Encoder()


async def follow(
    service: Service, ledger_id: UUID, stream: UUID | None, after: int, types: Sequence[str] | None
) -> AsyncIterator[ServerSentEventMessage]:
    """Yield a ledger's events after a position, then whatever comes, until the client goes or we stop."""
    grown = service.tails.follow(ledger_id)
    said = time.monotonic()
    try:
        yield ServerSentEventMessage(comment="tachograph", data=None)
        while not service.stopping.is_set():
            grown.clear()
            head, _ = await service.ledger.head(ledger_id)
            while after < head and not service.stopping.is_set():
                page = await service.ledger.read(
                    ledger_id, after=after, up_to=head, limit=PAGE_EVENTS, types=types, stream=stream
                )
                for recorded in page:
                    yield _message(recorded)
                    said = time.monotonic()
                after = page[-1].position if len(page) == PAGE_EVENTS else head
            if time.monotonic() - said > PING_SECONDS:
                yield ServerSentEventMessage(comment="ping", data=None)
                said = time.monotonic()
            if not service.stopping.is_set():
                await service.tails.wait(ledger_id, grown, LOOK_SECONDS)
        yield ServerSentEventMessage(event="goodbye", data="{}")
    finally:
        service.tails.leave(ledger_id, grown)


def _message(recorded: Recorded) -> ServerSentEventMessage:
    body = _json.encode(cloudevents.document(recorded))
    return ServerSentEventMessage(data=body, event=recorded.type, id=recorded.position)
