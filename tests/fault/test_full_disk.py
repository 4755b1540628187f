"""A disk that is full: the relay says that nothing is stored, and once there is room again nothing is missing."""

import math
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from nats.aio.client import Client

from events import bus
from events.commands import EditRun
from projections.execute import asked_by, execute
from stack import Nats
from tests.fault import messages
from tests.fault.places import Disk, Unavailable, small_disk
from tests.integration.telemetry import opened_world
from tests.servers import Database
from workers.archive_policy import Policy
from workers.relay import STALLS, Relay


@pytest.fixture
def disk(own_home: Path) -> Iterator[Disk]:
    try:
        with small_disk(own_home / "nats" / "jetstream", 16) as disk:
            yield disk
    except Unavailable as reason:
        pytest.skip(f"NO SMALL DISK HERE, A FULL DISK IS NOT TESTED: {reason}")


@asynccontextmanager
async def connected(nats: Nats) -> AsyncIterator[Client]:
    client = await bus.connect(nats.url("roles"), name="test")
    try:
        yield client
    finally:
        await client.close()


@pytest.fixture
def archive_disk(tmp_path: Path) -> Iterator[Disk]:
    (tmp_path / "parquet").mkdir()
    try:
        with small_disk(tmp_path / "parquet", 8) as disk:
            yield disk
    except Unavailable as reason:
        pytest.skip(f"NO SMALL DISK HERE, A FULL DISK IS NOT TESTED: {reason}")


async def test_a_full_disk_holds_up_the_archive_and_its_merges_and_loses_or_doubles_no_point(
    archive_disk: Disk, tmp_path: Path, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened_world(database.url, tmp_path / "parquet") as world:
        run_id = await world.started_run()
        steps = 0

        async def log(batches: int) -> None:
            nonlocal steps
            for _ in range(batches):
                step = range(steps, steps + 20_000)
                steps += 20_000
                await world.metrics(run_id, {"loss": (step, [math.sin(one) for one in step])})

        async def see() -> None:
            (series,) = await world.chart(run_id, ["loss"], x="time", buckets=10)
            assert series.points == steps
            (series,) = await world.chart(run_id, ["loss"], buckets=10)
            assert series.points == steps

        apart = Policy(age_seconds=0, tail_seconds=0, file_batches=1, merge_files=99)
        await log(8)
        await world.archive(apart)
        written = world.files()
        archive_disk.fill()
        await log(2)
        await world.archive(apart)  # there is no room for another file
        assert "failed (1 in a row)" in caplog.text
        await see()
        await world.archive(Policy(age_seconds=3_600, tail_seconds=0))  # nor for the one that the others become
        assert "its files of metrics stay as they are" in caplog.text
        assert [path for path in world.files() if path.parent.name.startswith("run=")] == written
        await see()
        archive_disk.free()
        await world.archive(Policy(age_seconds=0, tail_seconds=0))
        rows = await world.pool.fetchrow("select sum(rows) as rows, count(*) as files from segment")
        assert (rows["rows"], rows["files"]) == (steps, 1)
        await see()


async def test_the_relay_says_that_jetstream_stores_nothing_and_loses_nothing(
    disk: Disk, own_home: Path, own_nats: Nats, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus, "PUBLISH_SECONDS", 0.5)
    async with opened_world(database.url, own_home / "parquet") as world, connected(own_nats) as client:
        relay = Relay(world.ledger, client.jetstream())
        await relay.start()
        run_id = await world.started_run()
        while await relay.step():
            pass
        disk.fill()
        edit = EditRun(notes="n" * 20_000)  # more than what is left of a page
        await execute(world.ledger, world.ledger_id, run_id, edit, asked_by("key:test"))
        for _ in range(STALLS - 1):
            assert await relay.step() == 0
        with pytest.raises(bus.TransportRefused, match="is its disk full"):
            await relay.step()
        disk.free()
        own_nats.stop()
        own_nats.start()
        await relay.start()
        head, _ = await world.ledger.head(world.ledger_id)
        while await world.pool.fetchval("select position from ledger.cursor where reader = 'relay'") < head:
            await relay.step()
        found = await messages.stored(client.jetstream(), "EVENTS", world.ledger_id)
        assert messages.applied(found) == list(range(1, head + 1))
