"""What JetStream holds of a ledger, as a subscriber would find it."""

import contextlib
import json

from nats.js import JetStreamContext
from nats.js.api import RawStreamMsg
from nats.js.errors import NotFoundError


async def stored(jetstream: JetStreamContext, stream: str, ledger: object) -> list[RawStreamMsg]:
    """Return a stream's messages of a ledger, in the order in which they are stored."""
    found: list[RawStreamMsg] = []
    with contextlib.suppress(NotFoundError):
        while True:
            after = (found[-1].seq or 0) + 1 if found else 1
            subject = f"tachograph.{stream.lower()}.{ledger}.>"
            found.append(await jetstream.get_msg(stream, after, subject=subject, next=True))
    return found


def position(message: RawStreamMsg) -> int:
    """Return the ledger position that a message carries."""
    header = (message.headers or {}).get("ce-position")
    return int(header or json.loads(message.data or b"")["position"])


def applied(messages: list[RawStreamMsg]) -> list[int]:
    """Return the positions that a subscriber applies who skips what it has passed."""
    passed: list[int] = []
    for message in messages:
        if not passed or position(message) > passed[-1]:
            passed.append(position(message))
    return passed
