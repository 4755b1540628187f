"""The subscriber of examples/: killed at any moment, and through repeats, it has each event once, in order."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from events import bus, codec
from stack.process import ROOT
from tests.api import until
from tests.integration.telemetry import World
from tests.servers import NatsServer
from workers.relay import READER, Relay


@contextmanager
def subscribing(nats: NatsServer, results: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "examples" / "subscriber.py"), str(results)],
        env={**os.environ, "TACHOGRAPH_NATS_URL": nats.url("roles")},
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def lines(results: Path) -> list[dict]:
    text = results.read_text() if results.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def wait_for(results: Path, count: int) -> None:
    until(lambda: len(lines(results)) >= count, f"{count} events came")


async def publish_all(world: World, relay: Relay) -> list[int]:
    while await relay.step():
        pass
    history = await world.ledger.read(world.ledger_id)
    return [one.position for one in history if one.type not in codec.TELEMETRY]


async def test_it_resumes_exactly_where_it_stopped(world: World, nats: NatsServer, tmp_path: Path) -> None:
    results = tmp_path / "events.jsonl"
    client = await bus.connect(nats.url("roles"), name="test")
    relay = Relay(world.ledger, client.jetstream())
    await relay.start()
    for _ in range(60):
        await world.end(await world.started_run())
    expected = await publish_all(world, relay)
    for stop_after in (1, 20, 45, len(expected)):
        with subscribing(nats, results):
            wait_for(results, stop_after)
    assert [one["position"] for one in lines(results)] == expected
    with results.open("a") as torn:
        torn.write('{"ledger": "half a li')
    await client.jetstream().purge_stream("EVENTS")
    await client.jetstream().delete_stream("EVENTS")  # with it the consumer, and every id that was remembered
    await world.pool.execute("update ledger.cursor set position = 0 where reader = $1", READER)
    await relay.start()
    for _ in range(5):
        await world.end(await world.started_run())
    expected = await publish_all(world, relay)
    with subscribing(nats, results):
        wait_for(results, len(expected))
    assert [one["position"] for one in lines(results)] == expected
    await client.close()
