"""Object stores that take a request and say nothing, or half of it: that ends, is said, and loses nothing."""

import asyncio
import math
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

import pytest

from projections.archive import bucket as archive_bucket
from projections.archive.bucket import ArchiveUnavailable, Bucket
from projections.storage import artifacts, circuit, objects
from projections.storage.artifacts import PART_BYTES, Artifact
from projections.storage.objects import ObjectStore, StoreUnavailable
from projections.verification import check_files
from tests.api import SECONDS, Api, accepted, eventually, refused, serving, until
from tests.fault.deaths import FINALLY
from tests.integration.telemetry import World, drained, opened_world
from tests.liar import WAYS, Liar, Way
from tests.object_stores import Place, S3Server
from tests.servers import Database, NatsServer, PostgresServer

MANY = 20_000
DATA = bytes(range(256)) * (PART_BYTES // 256) + b"the end"


@pytest.fixture
def liar(s3: S3Server) -> Iterator[Liar]:
    with Liar(s3.port) as liar:
        yield liar


@pytest.fixture
def place(s3: S3Server, liar: Liar, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A bucket behind the liar, which the environment knows, and little patience."""
    place = s3.bucket()
    for name, value in {**place.environment, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{liar.port}"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(archive_bucket, "PIECE_SECONDS", 1.0)
    monkeypatch.setattr(archive_bucket, "SEND_SECONDS", 2.0)
    monkeypatch.setattr(objects, "RETRY_SECONDS", 2)
    monkeypatch.setattr(objects, "OPERATION_SECONDS", 4.0)
    return place


@pytest.fixture
async def world(database: Database, place: Place, tmp_path: Path) -> AsyncIterator[World]:
    store = Bucket.at(place.url, tmp_path / "cache", 1 << 30)
    async with opened_world(database.url, tmp_path / "parquet", store) as opened:
        opened.objects = ObjectStore.at(f"{place.url}/objects")
        yield opened


async def logged(world: World) -> UUID:
    run_id = await world.started_run()
    await world.metrics(run_id, {"loss": (range(MANY), [math.sin(step) for step in range(MANY)])})
    return run_id


async def points(world: World, run_id: UUID) -> int:
    (series,) = await world.chart(run_id, ["loss"], x="time", buckets=10)
    return series.points


async def archived(world: World) -> None:
    async def done() -> bool:
        await world.archive()
        return await world.pool.fetchval("select count(*) from segment") == 1

    await eventually(done, "the file is in the manifest")


# --- the archive ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "way"), [("PUT", "silent"), *(("GET", way) for way in WAYS)])
async def test_a_file_counts_only_once_the_store_has_given_it_back(
    world: World, liar: Liar, caplog: pytest.LogCaptureFixture, method: str, way: Way
) -> None:
    run_id = await logged(world)
    liar.spoil(method, way)
    await world.archive()
    assert "the archive's object store" in caplog.text
    assert await world.pool.fetchval("select count(*) from segment") == 0
    assert [path for path in world.files() if "held" not in path.parts and path.name != "lock"] == []
    assert await points(world, run_id) == MANY
    liar.heal()
    await archived(world)
    assert await points(world, run_id) == MANY
    assert await check_files(world.ledger, world.ledger_id, world.store) == (2, None)
    await drained(world.archiver(FINALLY))  # what was sent and not recorded goes
    (row,) = await world.pool.fetch("select path, levels_path from segment")
    assert world.listed() == set(row)


@pytest.mark.parametrize("way", WAYS)
async def test_readers_are_told_that_the_store_is_away_and_never_that_history_is_corrupt(
    world: World, liar: Liar, place: Place, tmp_path: Path, way: Way
) -> None:
    run_id = await logged(world)
    await archived(world)
    other = world.elsewhere(Bucket.at(place.url, tmp_path / "another machine", 1 << 30))
    liar.spoil("GET", way)
    with pytest.raises(ArchiveUnavailable, match="the archive's object store"):
        await points(other, run_id)
    assert list(other.root.glob("ledger=*/run=*/*")) == []
    assert await points(world, run_id) == MANY  # out of the cache
    liar.heal()

    async def read() -> bool:
        try:
            return await points(other, run_id) == MANY
        except ArchiveUnavailable:
            return False

    await eventually(read, "the chart")
    other.analytics.close()


async def test_whoever_comes_next_does_not_wait_to_find_the_same(
    world: World, liar: Liar, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await logged(world)
    await archived(world)
    monkeypatch.setattr(circuit, "LEAST_AWAY_SECONDS", 600.0)
    other = world.elsewhere(Bucket.at(place.url, tmp_path / "another machine", 1 << 30))
    liar.spoil("GET", "silent")
    for _ in range(2):
        with pytest.raises(ArchiveUnavailable, match="the archive's object store"):
            await points(other, run_id)
        asked, liar.asked = liar.asked, []
    assert asked == []
    other.analytics.close()


async def test_a_store_that_lies_hides_no_file_from_who_verifies(world: World, liar: Liar) -> None:
    await logged(world)
    await archived(world)
    liar.spoil("GET", "short")
    with pytest.raises(ArchiveUnavailable):
        await check_files(world.ledger, world.ledger_id, world.store)


# --- over HTTP --------------------------------------------------------------------------------------------


@pytest.fixture
def api(postgres_server: PostgresServer, nats_server: NatsServer, servers_home: Path, place: Place) -> Iterator[Api]:
    environment = {
        "TACHOGRAPH_ARCHIVE_URL": place.url,
        "TACHOGRAPH_ARCHIVE_AGE_SECONDS": "0.000001",
        "TACHOGRAPH_OBJECT_STORE": f"{place.url}/objects",
    }
    with serving(postgres_server, nats_server, servers_home, roles=("roles",), environment=environment) as api:
        yield api


def test_who_waits_for_a_silent_store_is_told_and_the_others_do_not_wait(api: Api, liar: Liar) -> None:
    project = api.project()
    run = project.started()
    accepted(project.log(run, 1, {"loss": {"step": [1, 2], "value": [0.5, 0.25]}}), 202)
    accepted(api.client.put(f"/runs/{run['id']}/artifacts/a.bin", content=DATA), 201)

    def archived() -> bool:
        return any(event["type"] == "run.telemetry_archived" for event in project.events(run))

    until(archived, "the points are archived")
    chart, tail = f"/runs/{run['id']}/chart?metric=loss", "after={}&metric=loss"
    whole = accepted(api.client.get(chart))
    for copy in (api.home / "archive-cache").glob("ledger=*/run=*/*"):
        copy.unlink()
    liar.spoil("GET", "silent")
    liar.asked.clear()
    for path, kind in ((chart, "archive-unavailable"), (f"/runs/{run['id']}/artifacts/a.bin", "store-unavailable")):
        with ThreadPoolExecutor(12) as threads:
            answers = list(threads.map(lambda _: api.client.get(path), range(12)))  # noqa: B023
        answers += [api.client.get(path) for _ in range(12)]
        for answer in answers:
            assert refused(answer, 503)["type"].endswith(f":{kind}"), answer.text
            assert answer.headers["retry-after"] == "1"
        assert len(liar.asked) < len(answers) * 2, "each of them asked, and once more"
        liar.asked.clear()
    accepted(project.log(run, 2, {"loss": {"step": [3], "value": [0.125]}}), 202)
    new = accepted(api.client.get(f"/runs/{run['id']}/chart?{tail.format(whole['position'])}"))["series"]
    assert new[0]["x"] == [3]  # what is new needs no archive
    liar.heal()
    until(lambda: api.client.get(chart).status_code == 200, "the chart")
    assert accepted(api.client.get(chart))["series"][0]["x"] == [1, 2, 3]


# --- artifacts --------------------------------------------------------------------------------------------


async def content(world: World, artifact: Artifact) -> bytes:
    parts = artifacts.content(world.ledger, world.objects, artifact, 0, artifact.bytes - 1)
    return b"".join([part async for part in parts])


async def test_an_artifact_that_a_silent_store_did_not_confirm_is_not_recorded(world: World, liar: Liar) -> None:
    run_id = await world.started_run()
    liar.spoil("PUT", "silent")
    with pytest.raises(StoreUnavailable, match="the object store"):
        await world.save(run_id, "m", DATA)
    assert await world.pool.fetchval("select count(*) from artifact") == 0
    liar.heal()

    async def saved() -> bool:
        try:
            return await content(world, await world.save(run_id, "m", DATA)) == DATA
        except StoreUnavailable:
            return False

    await eventually(saved, "the artifact")


async def test_a_file_for_a_store_that_is_known_to_be_away_reserves_nothing(
    world: World, liar: Liar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(circuit, "LEAST_AWAY_SECONDS", 600.0)
    run_id = await world.started_run()
    liar.spoil("PUT", "silent")
    for _ in range(3):
        with pytest.raises(StoreUnavailable, match="the object store"):
            await world.save(run_id, "m", DATA)
    assert await world.pool.fetchval("select count(*) from operation.upload") == 1, "that of who found out"


async def test_who_writes_to_a_silent_store_does_not_wait_for_what_a_slow_one_may_take(
    place: Place, liar: Liar, monkeypatch: pytest.MonkeyPatch
) -> None:
    for patience in ("OPERATION_SECONDS", "RETRY_SECONDS"):
        monkeypatch.setattr(objects, patience, 600)
    monkeypatch.setattr(circuit, "LEAST_AWAY_SECONDS", 600.0)
    store = ObjectStore.at(f"{place.url}/objects", silent_seconds=0.2)
    async with asyncio.timeout(SECONDS):
        liar.spoil("PUT", "silent")
        writing = asyncio.create_task(store.put("slow", DATA))
        await eventually(lambda: _asked(liar, "HEAD", 2), "it is asked whether it is there")
        assert not writing.done()
        liar.heal()
        await writing
        assert await store.get("slow") == DATA
        liar.spoil("ANY", "silent")
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="the object store"):
                await store.put("silent", DATA)
            asked, liar.asked = liar.asked, []
        assert asked == []


async def _asked(liar: Liar, method: str, times: int) -> bool:
    return sum(asked.startswith(method) for asked in liar.asked) >= times


@pytest.mark.parametrize("way", WAYS)
async def test_an_artifact_is_read_whole_or_not_at_all(world: World, liar: Liar, way: Way) -> None:
    artifact = await world.save(await world.started_run(), "m", DATA)
    liar.spoil("GET", way)
    with pytest.raises(StoreUnavailable, match="the object store"):
        await content(world, artifact)
    liar.heal()

    async def read() -> bool:
        try:
            return await content(world, artifact) == DATA
        except StoreUnavailable:
            return False

    await eventually(read, "the artifact")


async def test_a_silent_store_is_found_away_by_who_asks_whether_it_is_there(world: World, liar: Liar) -> None:
    await world.objects.check()
    liar.spoil("HEAD", "silent")

    async def away() -> bool:
        try:
            await world.objects.check()
        except StoreUnavailable:
            return True
        await asyncio.sleep(0)
        return False

    await eventually(away, "the store is away")
