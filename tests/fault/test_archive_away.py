"""An archive in an S3 that is away, refuses, is slow or breaks off: no point is lost or doubled, no half file read."""

import math
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from events import bus
from projections.archive.bucket import ArchiveUnavailable, Bucket
from projections.verification import check_files
from tests.api import Api, Json, accepted, eventually, refused, serving, until
from tests.fault.deaths import FINALLY, Stage
from tests.fault.test_crash_points import SCENES
from tests.gate import Gate
from tests.integration.telemetry import World, drained, opened_world
from tests.object_stores import Place, S3Server
from tests.servers import Database, NatsServer, PostgresServer

MANY = 20_000


@pytest.fixture
def gate(s3: S3Server) -> Iterator[Gate]:
    with Gate(s3.port) as gate:
        yield gate


@pytest.fixture
def bucket(s3: S3Server, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A bucket behind the gate, which the environment knows."""
    place = s3.bucket()
    environment = {**place.environment, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{gate.port}"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return Place(place.url, environment)


@pytest.fixture
async def world(database: Database, bucket: Place, tmp_path: Path) -> AsyncIterator[World]:
    store = Bucket.at(bucket.url, tmp_path / "cache", 1 << 30)
    async with opened_world(database.url, tmp_path / "parquet", store) as opened:
        yield opened


async def logged(world: World, steps: range) -> UUID:
    run_id = await world.started_run()
    await world.metrics(run_id, {"loss": (steps, [math.sin(step) for step in steps])})
    await world.lines(run_id, "one", "two")
    return run_id


async def archived(world: World) -> None:
    """Let archivers work until nothing waits, once the store is there again."""

    async def done() -> bool:
        await world.archive()
        return await world.pool.fetchval("select count(*) from segment") == 2

    await eventually(done, "both files are in the manifest")


def shut(gate: Gate) -> None:
    gate.shut()


def refuse(gate: Gate) -> None:
    gate.refuse()


def cut_the_upload(gate: Gate) -> None:
    gate.shut_within(b"PUT ", 100_000)


def lose_the_answer(gate: Gate) -> None:
    gate.shut_at(b"PUT ", answered=True)


def cut_the_reading_back(gate: Gate) -> None:
    gate.shut_at(b"GET ")


@pytest.mark.parametrize("hurt", [shut, refuse, cut_the_upload, lose_the_answer, cut_the_reading_back])
async def test_a_store_that_fails_while_a_run_is_archived_costs_and_doubles_no_point(
    world: World, gate: Gate, caplog: pytest.LogCaptureFixture, hurt: Callable[[Gate], None]
) -> None:
    run_id = await logged(world, range(MANY))

    async def see() -> None:
        (series,) = await world.chart(run_id, ["loss"], x="time", buckets=10)
        assert series.points == MANY
        assert len((await world.logs.read(await world.stored(run_id))).lines) == 2

    hurt(gate)
    await world.archive()
    assert "the archive's object store cannot be used" in caplog.text
    assert await world.pool.fetchval("select count(*) from segment") == 0
    assert [path for path in world.files() if "held" not in path.parts and path.name != "lock"] == []
    await see()
    gate.open()
    await archived(world)
    await see()
    rows = await world.pool.fetch("select kind, rows from segment order by kind")
    assert [tuple(row) for row in rows] == [("logs", 2), ("metrics", MANY)]
    assert await check_files(world.ledger, world.ledger_id, world.store) == (3, None)
    await drained(world.archiver(FINALLY))  # what was sent and not recorded goes
    named = await world.pool.fetch("select path, levels_path from segment")
    assert world.listed() == {path for row in named for path in row if path}


async def test_a_slow_store_is_waited_for(world: World, gate: Gate) -> None:
    gate.narrow(0.05)
    run_id = await logged(world, range(MANY))
    await archived(world)
    (series,) = await world.chart(run_id, ["loss"], x="time", buckets=10)
    assert series.points == MANY


async def test_a_store_that_goes_away_within_a_file_gives_no_reader_half_of_it(
    world: World, bucket: Place, gate: Gate, tmp_path: Path
) -> None:
    run_id = await logged(world, range(MANY))
    await archived(world)
    other = world.elsewhere(Bucket.at(bucket.url, tmp_path / "another machine", 1 << 30))
    gate.shut_at(b"GET ", answered=True)
    with pytest.raises(ArchiveUnavailable):
        await other.chart(run_id, ["loss"], x="time", buckets=10)
    assert list(other.root.glob("ledger=*/run=*/*")) == []
    gate.open()

    async def read() -> bool:
        try:
            (series,) = await other.chart(run_id, ["loss"], x="time", buckets=10)
        except ArchiveUnavailable:
            return False
        assert series.points == MANY
        return True

    await eventually(read, "the chart")
    other.analytics.close()


async def test_deleting_goes_on_where_it_was_when_the_store_is_back(world: World, gate: Gate) -> None:
    run_id = await logged(world, range(MANY))
    await archived(world)
    await world.end(run_id)
    await world.delete(run_id)
    gate.shut()
    await world.archive()
    assert (await world.stored(run_id)).run.receipt is None
    assert await world.pool.fetchval("select count(*) from ledger.data_key where stream = $1", run_id) == 0
    gate.open()

    async def purged() -> bool:
        await world.archive()
        return (await world.stored(run_id)).run.receipt is not None

    await eventually(purged, "the receipt")
    receipt = (await world.stored(run_id)).run.receipt
    assert receipt is not None
    assert receipt["parquet"].objects == 3
    assert world.listed() == set()
    assert list(world.root.rglob(f"*{run_id}*")) == []


FILES = ("after_write", "after_rename", "after_manifest", "after_sweep", "after_refusal", "after_merge_write")
POINTS = [f"archiver.{step}" for step in (*FILES, "after_merge_rename", "after_merge", "after_removal", "after_drop")]


@pytest.mark.parametrize("point", [*POINTS, "purge.after_files"])
async def test_nothing_is_lost_or_doubled_when_the_archiver_dies_with_its_files_in_an_s3(
    world: World, database: Database, nats: NatsServer, bucket: Place, tmp_path: Path, point: str
) -> None:
    client = await bus.connect(nats.url("roles"), name="test")
    owner = await asyncpg.connect(database.owner_url)
    environment = {"TACHOGRAPH_ARCHIVE_URL": bucket.url, "TACHOGRAPH_ARCHIVE_CACHE": str(world.root)}
    try:
        stage = Stage(world, database, owner, nats, tmp_path, client, environment)
        prepare, die = SCENES[point]
        await prepare(stage)
        await die(stage, point)
        await stage.run()
        await stage.check()
    finally:
        await owner.close()
        await client.close()


# --- over HTTP ------------------------------------------------------------------------------------------------


@pytest.fixture
def api(postgres_server: PostgresServer, nats_server: NatsServer, servers_home: Path, bucket: Place) -> Iterator[Api]:
    environment = {
        **bucket.environment,
        "TACHOGRAPH_ARCHIVE_URL": bucket.url,
        "TACHOGRAPH_ARCHIVE_AGE_SECONDS": "0.000001",
    }
    with serving(postgres_server, nats_server, servers_home, roles=("roles",), environment=environment) as api:
        yield api


def questions(api: Api, run: Json) -> Mapping[str, Callable[[], Any]]:
    """Return what is asked of archived telemetry."""
    sql = {"sql": "select count(*) as n from metrics"}
    return {
        "chart": lambda: api.client.get(f"/runs/{run['id']}/chart", params={"metric": "loss", "x": "time"}),
        "logs": lambda: api.client.get(f"/runs/{run['id']}/logs"),
        "query": lambda: api.client.post(f"/projects/{run['project_id']}/query", json=sql),
    }


def test_readers_are_told_to_come_again_while_the_store_is_away_and_nothing_is_cached(api: Api, gate: Gate) -> None:
    project = api.project()
    run = project.started()

    def archived() -> bool:
        kinds = [event["data"]["kind"] for event in project.events(run) if event["type"].endswith("telemetry_archived")]
        return {"metrics", "logs"} <= set(kinds)

    accepted(project.log(run, 1, {"loss": {"step": [1, 2], "value": [0.5, 0.25]}}), 202)
    accepted(project.write(run, 2, "one", "two"), 202)
    until(archived, "both are archived")
    asked = questions(api, run)
    before = {name: accepted(ask()) for name, ask in asked.items()}
    gate.shut()
    assert {name: accepted(ask()) for name, ask in asked.items()} == before  # out of the cache
    for copy in (api.home / "archive-cache").glob("ledger=*/run=*/*"):
        copy.unlink()
    for ask in asked.values():
        answer = ask()
        problem = refused(answer, 503)
        assert problem["type"] == "urn:tachograph:problem:archive-unavailable"
        assert answer.headers["retry-after"] == "1"
    accepted(project.log(run, 3, {"loss": {"step": [3], "value": [0.125]}}), 202)  # goes on being taken
    gate.open()
    until(lambda: all(ask().status_code == 200 for ask in asked.values()), "all are answered")
    (series,) = accepted(asked["chart"]())["series"]
    assert series["last"] == [0.5, 0.25, 0.125]
    assert accepted(asked["logs"]()) == before["logs"]
    assert project.verified()["verified"]
