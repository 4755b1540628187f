"""The disk of the archive's cache is full: readers are answered out of Postgres or told so, and nothing is lost."""

import math
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import UUID

import pytest

from projections.archive.bucket import Bucket
from projections.storage.objects import StoreFull
from projections.verification import check_files
from tests.fault.places import Disk, Unavailable, small_disk
from tests.integration.telemetry import World, opened_world
from tests.object_stores import Place, S3Server
from tests.servers import Database
from workers.archive_policy import Policy

MANY = 20_000
APART = Policy(age_seconds=0, tail_seconds=0, file_batches=1, merge_files=99)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    try:
        with small_disk(tmp_path / "cache", 4) as disk:
            yield disk
    except Unavailable as reason:
        pytest.skip(f"NO SMALL DISK HERE, A FULL CACHE IS NOT TESTED: {reason}")


@pytest.fixture
def bucket(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Place:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    return s3.bucket()


@pytest.fixture
async def world(database: Database, bucket: Place, disk: Disk, tmp_path: Path) -> AsyncIterator[World]:
    """A project whose cache may be larger than its disk is."""
    async with opened_world(database.url, tmp_path / "parquet", Bucket.at(bucket.url, disk.path, 1 << 30)) as opened:
        yield opened


async def logged(world: World, batches: int = 1) -> UUID:
    run_id = await world.started_run()
    for number in range(batches):
        steps = range(number * MANY, (number + 1) * MANY)
        await world.metrics(run_id, {"loss": (steps, [math.sin(step) for step in steps])})
    return run_id


async def points(world: World, run_id: UUID) -> int:
    (series,) = await world.chart(run_id, ["loss"], x="time", buckets=10)
    return series.points


def copies(world: World) -> list[Path]:
    return [path for path in world.root.glob("ledger=*/run=*/*") if path.is_file()]


async def test_the_archiver_goes_on_when_there_is_room_and_until_then_postgres_answers(
    world: World, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = await logged(world)
    disk.fill()
    await world.archive()
    assert "No space left on device" in caplog.text
    assert await world.pool.fetchval("select count(*) from segment") == 0
    assert copies(world) == []
    assert await points(world, run_id) == MANY
    disk.free()
    await world.archive()
    assert await world.pool.fetchval("select sum(rows) from segment") == MANY
    assert await points(world, run_id) == MANY
    assert await check_files(world.ledger, world.ledger_id, world.store) == (2, None)


async def test_a_reader_for_whose_file_there_is_no_room_is_told_so_and_reads_it_when_there_is(
    world: World, disk: Disk, bucket: Place
) -> None:
    run_id = await logged(world)
    await world.archive()
    for copy in copies(world):
        copy.unlink()
    disk.fill()
    with pytest.raises(StoreFull, match="the disk of the archive's cache is full"):
        await points(world, run_id)
    assert copies(world) == []
    assert await check_files(world.ledger, world.ledger_id, world.store) == (2, None)  # reads where the files lie
    disk.free()
    assert await points(world, run_id) == MANY


async def test_copies_give_way_to_what_is_read_and_written_on_a_disk_smaller_than_the_cache_may_be(
    world: World, disk: Disk
) -> None:
    runs = []
    for _ in range(8):  # the files of all take more than there is
        runs.append(await logged(world, batches=4))
        await world.archive(APART)
    size = await world.pool.fetchval("select sum(bytes) + sum(levels_bytes) from segment")
    assert size > 4 << 20
    assert [await points(world, run_id) for run_id in runs] == [4 * MANY] * len(runs)
    for run_id in runs:
        await world.end(run_id)
    await world.archive(Policy(age_seconds=0, tail_seconds=0, merge_files=2))
    rows = await world.pool.fetch("select sum(rows) as rows, count(*) as files from segment group by run_id")
    assert [tuple(row) for row in rows] == [(4 * MANY, 1)] * len(runs)
    assert [await points(world, run_id) for run_id in runs] == [4 * MANY] * len(runs)
