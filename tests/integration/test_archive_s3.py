"""The archive in an S3: the same points as from a directory, nothing kept that was deleted, no more than fits."""

import hashlib
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import numpy as np
import pyarrow.parquet as pq
import pytest
from obstore.store import S3Store

from events import codec
from events.errors import CorruptHistory, TooLarge
from events.ids import uuid7
from events.settings import SettingsError
from projections.archive import manifest
from projections.archive.bucket import Bucket
from projections.archive.restore import Restorer
from projections.archive.stores import forget_deleted, holding
from projections.exported import Wanted, exported
from projections.query.limits import Limits
from projections.query.queries import Queries
from projections.replay import Replay
from projections.replay import Wanted as Range
from projections.storage.objects import s3
from projections.verification import check_files
from tests.integration.telemetry import World, opened_world
from tests.object_stores import Place, S3Server
from tests.servers import Database
from workers import partitions
from workers.archive_policy import Policy

APART = Policy(age_seconds=0, tail_seconds=0, file_batches=1, merge_files=99)
TOGETHER = Policy(age_seconds=0, tail_seconds=0, linger_seconds=1e-9)
MANY = 20_000
"""Points enough for levels."""

Opens = Callable[..., Bucket]


@pytest.fixture
def bucket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A bucket that the environment knows."""
    server: S3Server = request.getfixturevalue("s3")
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return server.bucket()


@pytest.fixture
def opens(bucket: Place, tmp_path: Path) -> Opens:
    """Open the bucket as another machine does, with a cache of its own."""

    def opened(name: str, cache_bytes: int = 1 << 30) -> Bucket:
        return Bucket.at(bucket.url, tmp_path / name, cache_bytes)

    return opened


@pytest.fixture
async def world(database: Database, opens: Opens, tmp_path: Path) -> AsyncIterator[World]:
    async with opened_world(database.url, tmp_path / "parquet", opens("cache")) as opened:
        yield opened


def objects(bucket: Place) -> dict[str, bytes]:
    """Return what is in a bucket below the archive's prefix, as anybody may read it who has a key."""
    store = objects_store(bucket)
    return {one["path"]: store.get(one["path"]).bytes().to_bytes() for page in store.list() for one in page}


def put(bucket: Place, path: str, data: bytes | None) -> None:
    """Put an object where an archive's file is, or take it away."""
    if data is None:
        objects_store(bucket).delete(path)
    else:
        objects_store(bucket).put(path, data)


def objects_store(bucket: Place) -> S3Store:
    return s3("TEST", urlsplit(bucket.url))


async def logged(world: World, *, batches: int = 3) -> UUID:
    """Return a run with a few points of one metric in each batch, many of another, and lines; nothing is archived."""
    run_id = await world.started_run()
    for number in range(batches):
        steps = range(number * 10, number * 10 + 10)
        await world.metrics(run_id, {"loss": (steps, [step / 7 for step in steps])})
        await world.lines(run_id, f"line {number}", "another")
    await world.metrics(run_id, {"many": (range(MANY), [float(step % 97) for step in range(MANY)])})
    return run_id


async def read(world: World, run_id: UUID) -> list[object]:
    """Return what charts and logs say of a run."""
    points, many = await world.chart(run_id, ["loss", "many"], x="time", buckets=50)
    (levels,) = await world.chart(run_id, ["many"], buckets=100)
    lines = await world.logs.read(await world.stored(run_id))
    return [
        points.x.tolist(), points.last.tolist(), many.points, many.max.tolist(), [line.text for line in lines.lines],
        levels.points, levels.max.tolist(),
    ]  # fmt: skip


async def test_what_is_archived_lies_in_the_bucket_and_every_reader_has_it_from_there(
    world: World, bucket: Place, opens: Opens
) -> None:
    run_id = await logged(world)
    before = await read(world, run_id)
    await world.archive()
    rows = await world.pool.fetch("select * from segment")
    found = objects(bucket)
    named = {row["path"]: row["sha256"] for row in rows} | {
        row["levels_path"]: row["levels_sha256"] for row in rows if row["levels_path"]
    }
    assert {path: hashlib.sha256(data).hexdigest() for path, data in found.items()} == named
    assert len(named) == 3
    other = world.elsewhere(opens("another machine"))
    for one in (world, other):
        assert (await read(one, run_id))[:6] == before[:6]  # from then on of levels, whose buckets are others
        assert await check_files(one.ledger, one.ledger_id, one.store) == (3, None)
    head, _ = await world.ledger.head(world.ledger_id)
    third = opens("a third machine")
    wanted = Wanted(ledger_id=world.ledger_id, run_id=run_id, table="metrics", up_to=head)
    assert sum([batch.num_rows async for batch in exported(world.ledger, third, wanted)]) == MANY + 30
    answer = await Queries(world.ledger, third, Limits()).run(
        world.ledger_id, "select count(*) as n, sum(value) as s from metrics", form="csv"
    )
    assert answer.split()[1].startswith(f"{MANY + 30},".encode())
    replay = Replay(world.ledger, Restorer(third), Range(ledger_id=world.ledger_id, run_id=run_id, up_to=head))
    assert len([step async for step in replay.steps()]) == head - 1
    other.analytics.close()


async def test_batches_come_back_from_the_bucket_alone(world: World, database: Database, opens: Opens) -> None:
    run_id = await logged(world)
    await world.archive()
    batches = await world.ledger.read(world.ledger_id, types=[codec.METRICS], limit=10)
    restorer = Restorer(opens("elsewhere"))
    restored = await restorer.batch(world.pool, world.ledger_id, batches[1])
    assert restored is not None
    assert np.frombuffer(restored.step, "<i8").tolist() == list(range(10, 20))  # type: ignore[union-attr]
    assert run_id == batches[1].stream


async def test_merged_files_take_the_place_of_the_others(world: World, bucket: Place) -> None:
    run_id = await logged(world, batches=9)
    await world.archive(APART)
    before = await read(world, run_id)
    parts = len(objects(bucket))
    await world.end(run_id)
    await world.archive(TOGETHER)
    await world.archive(TOGETHER)
    rows = await world.pool.fetch("select path, levels_path from segment")
    assert set(objects(bucket)) == {path for row in rows for path in row if path}
    assert len(rows) < parts
    assert await read(world, run_id) == before
    assert (await check_files(world.ledger, world.ledger_id, world.store))[1] is None


@pytest.mark.parametrize("spoil", ["a bit", "the end", "all"])
async def test_a_copy_that_is_damaged_is_fetched_again(world: World, opens: Opens, spoil: str) -> None:
    run_id = await logged(world)
    await world.archive()
    before = await read(world, run_id)
    for copy in world.files():
        if copy.name.endswith(".parquet"):
            data = copy.read_bytes()
            middle = len(data) // 2
            bad = {"a bit": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :], "the end": data[:-9]}
            copy.write_bytes(bad.get(spoil, b""))
    assert await read(world, run_id) == before
    other = world.elsewhere(opens("cache"))  # the same cache, by a process that has compared nothing yet
    assert await read(other, run_id) == before
    other.analytics.close()


async def test_an_object_that_is_damaged_is_named_and_never_read(world: World, bucket: Place, opens: Opens) -> None:
    run_id = await logged(world)
    await world.archive()
    before = await read(world, run_id)
    found = objects(bucket)
    (levels,) = [path for path in found if "levels-" in path]
    (data,) = [path for path in found if "metrics-" in path]
    put(bucket, levels, found[levels][:-20] + bytes(20))
    other = world.elsewhere(opens("another machine"))
    assert (await read(other, run_id))[:6] == before[:6]  # made of points
    for bad in (found[data][:-20] + bytes(20), found[data][:-20], b""):
        put(bucket, levels, found[levels])
        put(bucket, data, bad)
        _, first_bad = await check_files(world.ledger, world.ledger_id, world.store)
        assert first_bad is not None
        assert data in first_bad.reason
        fresh = world.elsewhere(opens(f"machine {len(bad)}"))
        with pytest.raises(CorruptHistory, match="not the file that was recorded"):
            await fresh.chart(run_id, ["loss"], x="time")
        assert [path for path in fresh.files() if path.name.startswith("metrics")] == []
        fresh.analytics.close()
    put(bucket, data, None)
    fresh = world.elsewhere(opens("machine without"))
    with pytest.raises(CorruptHistory, match="cannot be read"):
        await fresh.chart(run_id, ["loss"], x="time")
    _, first_bad = await check_files(world.ledger, world.ledger_id, world.store)
    assert first_bad is not None
    assert first_bad.reason == f"{data} is missing"
    fresh.analytics.close()
    other.analytics.close()


async def test_copies_take_no_more_room_than_they_may(world: World, opens: Opens) -> None:
    runs = [await logged(world) for _ in range(6)]
    await world.archive()
    before = [await read(world, run_id) for run_id in runs]
    files = await all_files(world)
    limit = sum(file.bytes for file in files) * 3 // 4
    small = world.elsewhere(opens("small", limit))
    for _ in range(2):
        assert [await read(small, run_id) for run_id in runs] == before
        assert sum(path.stat().st_size for path in small.root.glob("ledger=*/run=*/*")) <= limit
    with pytest.raises(TooLarge, match="TACHOGRAPH_ARCHIVE_CACHE_BYTES"):
        async with holding(small.store, files):
            pass
    assert list(small.root.glob("held/*/*")) == []
    small.analytics.close()


async def all_files(world: World) -> list[manifest.File]:
    runs = [row["run_id"] for row in await world.pool.fetch("select distinct run_id from segment")]
    return [
        one.file
        for run_id in runs
        for kind in manifest.KINDS
        for one in await manifest.segments(world.pool, world.ledger_id, run_id, kind)
    ]


async def test_what_is_held_stays_whole_while_others_make_room_or_purge(world: World, opens: Opens) -> None:
    run_id = await logged(world)
    await world.archive()
    files = await all_files(world)
    with world.store.held(files) as root:
        opens("cache", 1).held([]).__enter__()
        for path in world.root.glob("ledger=*/run=*/*"):
            path.unlink()  # as whoever makes room does
        assert sum(pq.read_metadata(root / file.path).num_rows for file in files if "metrics" in file.path) == MANY + 30
    assert (await read(world, run_id))[2] == MANY


async def test_a_deleted_run_leaves_no_object_and_no_copy_on_any_machine(
    world: World, bucket: Place, opens: Opens
) -> None:
    run_id, kept = await logged(world), await logged(world)
    await world.archive()
    other = world.elsewhere(opens("another machine"))
    for one in (run_id, kept):
        await read(other, one)
    size = sum(len(data) for path, data in objects(bucket).items() if str(run_id) in path)
    await world.end(run_id)
    await world.delete(run_id)
    await world.archive()
    receipt = (await world.stored(run_id)).run.receipt
    assert receipt is not None
    assert (receipt["parquet"].objects, receipt["parquet"].bytes) == (3, size)
    assert [path for path in objects(bucket) if str(run_id) in path] == []
    assert list(world.root.rglob(f"*{run_id}*")) == []
    assert list(other.root.rglob(f"*{run_id}*")) != []
    assert await forget_deleted(world.pool, other.store) == 1
    assert list(other.root.rglob(f"*{run_id}*")) == []
    assert list(other.root.rglob(f"*{kept}*")) != []
    assert (await read(world, kept))[2] == MANY
    other.analytics.close()


async def test_objects_that_no_manifest_names_are_removed_when_they_are_old(world: World, bucket: Place) -> None:
    await logged(world)
    await world.archive()
    named = set(objects(bucket))
    stray = f"ledger={world.ledger_id}/run={uuid7()}/metrics-{uuid7()}.parquet"
    for path in (stray, "notes.txt", "artifacts/ledger=x/run=y/z/0"):
        put(bucket, path, b"of somebody else")
    await world.archive()
    assert set(objects(bucket)) == {*named, stray, "notes.txt", "artifacts/ledger=x/run=y/z/0"}
    await world.archive(Policy(age_seconds=0, tail_seconds=0, orphan_seconds=1e-9))
    assert set(objects(bucket)) == {*named, "notes.txt", "artifacts/ledger=x/run=y/z/0"}


async def test_payloads_leave_postgres_only_when_their_files_are_in_the_bucket_byte_by_byte(
    world: World, bucket: Place, opens: Opens, database: Database
) -> None:
    run_id = await logged(world)
    await world.archive()
    await world.readers_pass()
    found = objects(bucket)
    (data,) = [path for path in found if "metrics-" in path]
    rows = await world.pool.fetch("select path, bytes, sha256 from segment")
    files = [manifest.File(*row) for row in rows]
    for store in (world.store, opens("elsewhere")):
        assert all(store.is_whole(file) for file in files)
        put(bucket, data, found[data][:-1] + b"?")
        assert [file.path for file in files if not store.is_whole(file)] == [data]
        put(bucket, data, None)
        assert [file.path for file in files if not store.is_whole(file)] == [data]
        put(bucket, data, found[data])
    assert await partitions.drop_archived(world.pool, world.store, timedelta(hours=1)) == []
    assert (await read(world, run_id))[2] == MANY


@pytest.mark.parametrize("place", ["gs://bucket/x", "s3://", "s3://key:secret-12@bucket/x", "/srv/parquet"])
def test_a_place_that_is_none_is_refused(place: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="TACHOGRAPH_ARCHIVE_URL") as caught:
        Bucket.at(place, tmp_path / "cache", 1)
    assert "secret-12" not in str(caught.value)


def test_links_of_a_process_that_died_are_removed(opens: Opens, tmp_path: Path) -> None:
    held = tmp_path / "cache" / "held"
    (held / "of a dead process" / "0").mkdir(parents=True)
    with opens("cache").held([]), opens("cache").held([]):
        assert len(list(held.iterdir())) == 2
        assert not (held / "of a dead process").exists()
