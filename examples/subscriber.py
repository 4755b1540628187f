"""A subscriber that resumes exactly where it stopped: a durable JetStream consumer, and a place of its own.

    TACHOGRAPH_NATS_URL=nats://user:password@127.0.0.1:4222 python examples/subscriber.py

JetStream delivers at least once: again after a lost acknowledgement, again after a lost store. Each event carries its
ledger and its position, and positions of a ledger only grow, so a subscriber that keeps the last position of each
ledger with its own results, and skips whatever it has passed, sees every event once. That takes the events in order, so
one is on its way at a time (`max_ack_pending=1`): with more of them, those that a killed subscriber had fetched would
come again only after `ack_wait`, behind newer ones, and be taken for passed. Here a line of a file is the result and
the place at once; with a database, write both in one transaction. Ended by an error (NATS went away, the consumer is
gone with its store), it is simply started again.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nats
from nats.js.api import AckPolicy, ConsumerConfig

Event = dict[str, Any]
SUBJECTS = "tachograph.events.>"


async def events(url: str, name: str, passed: dict[str, int]) -> AsyncIterator[Event]:
    """Yield each event behind the positions passed; one is done with when the next is asked for."""
    connection = await nats.connect(url)
    try:
        stream = connection.jetstream()
        config = ConsumerConfig(
            durable_name=name, ack_policy=AckPolicy.EXPLICIT, ack_wait=5, max_ack_pending=1, filter_subject=SUBJECTS
        )
        await stream.add_consumer("EVENTS", config)
        subscription = await stream.pull_subscribe_bind(name, "EVENTS")
        while True:
            try:
                (message,) = await subscription.fetch(1, timeout=5)
            except TimeoutError:  # nothing new; ask again
                continue
            event = json.loads(message.data)
            if event["position"] > passed.get(event["ledger"], 0):
                yield event
                passed[event["ledger"]] = event["position"]
            await message.ack()
    finally:
        await connection.close()


def passed_before(path: Path) -> dict[str, int]:
    """Return the last position of each ledger in a file of results; cuts off a line that a crash left half written."""
    whole = path.read_bytes() if path.exists() else b""
    whole = whole[: whole.rfind(b"\n") + 1]
    if path.exists():
        os.truncate(path, len(whole))
    results = map(json.loads, whole.splitlines())
    return {result["ledger"]: result["position"] for result in results}


async def main(path: Path) -> None:
    """Append a line for each event to a file, until Ctrl-C."""
    passed = passed_before(path)
    with path.open("a", encoding="utf-8") as results:
        async for event in events(os.environ["TACHOGRAPH_NATS_URL"], "example", passed):
            result = {name: event.get(name) for name in ("ledger", "position", "type", "subject", "id")}
            print(json.dumps(result), file=results, flush=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1] if len(sys.argv) > 1 else "events.jsonl")))
