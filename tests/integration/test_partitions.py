"""The hourly partitions of telemetry: made ahead, dropped once archived, and whole when they were late."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import pytest

from events import codec
from events.errors import IdReused, NotFound
from events.ids import uuid7
from events.ledger import Draft, Proposal
from projections.charts import run_points
from tests.integration.telemetry import World, metric_batch
from workers import partitions
from workers.archive_policy import Policy

NAN, INF = float("nan"), float("inf")
LATER = Policy(age_seconds=3600, tail_seconds=0, hot_bytes=1 << 30)


async def aged(owner: asyncpg.Connection, run_id: object = None) -> str:
    """Put the batches (of a run) where they would stand had they come in the first hour of 2020."""
    await owner.execute(
        "create table if not exists ledger.telemetry_20200101_00 partition of ledger.telemetry"
        " for values from ('2020-01-01T00:00Z') to ('2020-01-01T01:00Z')"
    )
    await owner.execute(
        "update ledger.telemetry set recorded_at = '2020-01-01T00:30Z' where $1::uuid is null or stream = $1", run_id
    )
    return "telemetry_20200101_00"


async def test_a_partition_is_dropped_when_all_of_it_is_in_parquet(world: World, owner: asyncpg.Connection) -> None:
    first, second = await world.started_run(), await world.started_run()
    for run_id in (first, second):
        await world.metrics(run_id, {"loss": ([1, 2], [1.0, 2.0])})
    await world.lines(second, "line")
    name = await aged(owner)
    keep = timedelta(hours=1)
    assert await partitions.drop_archived(world.pool, world.store, keep) == []
    await world.archive()
    await world.metrics(first, {"loss": ([3], [3.0])})
    assert await partitions.drop_archived(world.pool, world.store, keep) == []
    await world.readers_pass()
    assert await partitions.drop_archived(world.pool, world.store, keep) == [name]
    assert await owner.fetchval("select to_regclass('ledger.telemetry_20200101_00')") is None
    for run_id, points in ((first, 3), (second, 2)):
        (series,) = await world.chart(run_id, ["loss"])
        assert series.points == points


async def test_a_partition_stays_while_a_file_is_missing_or_a_reader_is_behind(
    world: World, owner: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = await world.started_run()
    await world.metrics(run_id, {"loss": ([1, 2], [1.0, 2.0])})
    await world.archive()
    name = await aged(owner)
    keep = timedelta(hours=1)
    (file,) = world.files()
    away = file.rename(world.root / "elsewhere")
    assert await partitions.drop_archived(world.pool, world.store, keep) == []
    assert "are not whole" in caplog.text
    away.rename(file)
    await world.readers_pass()
    await world.pool.execute("update checkpoint set position = 1 where projection = 'metrics'")
    assert await partitions.drop_archived(world.pool, world.store, keep) == []
    await world.readers_pass()
    assert await partitions.drop_archived(world.pool, world.store, keep) == [name]


@pytest.mark.parametrize("where", ["partition", "default partition"])
async def test_a_seq_is_not_taken_for_another_batch_once_its_partition_was_dropped(
    world: World, owner: asyncpg.Connection, where: str
) -> None:
    run_id = await world.started_run()
    first = await world.ledger.append(batch(world, run_id, b"first"))
    await world.archive()
    await world.readers_pass()
    if where == "default partition":
        await owner.execute("update ledger.telemetry set recorded_at = '2020-01-01Z'")
    else:
        await aged(owner)
    await partitions.drop_archived(world.pool, world.store, timedelta(hours=1))
    assert await owner.fetchval("select count(*) from ledger.telemetry") == 0
    again = await world.ledger.append(batch(world, run_id, b"first"))
    assert (again.position, again.repeated) == (first.position, True)
    with pytest.raises(IdReused):
        await world.ledger.append(batch(world, run_id, b"other"))
    await world.end(run_id)
    await world.delete(run_id)
    await world.ledger.erase(world.ledger_id, run_id)
    assert await owner.fetchval("select count(*) from ledger.archived_request") == 0
    with pytest.raises(NotFound, match="was deleted"):
        await world.ledger.append(batch(world, run_id, b"first"))


async def test_a_batch_recorded_before_digests_were_kept_is_still_recognised(
    world: World, owner: asyncpg.Connection
) -> None:
    run_id = await world.started_run()
    await world.ledger.append(batch(world, run_id, b"first"))
    await owner.execute("update ledger.telemetry set request = sha256('tachograph.request.1' || salt || 'first')")
    assert (await world.ledger.append(batch(world, run_id, b"first"))).repeated
    with pytest.raises(IdReused):
        await world.ledger.append(batch(world, run_id, b"other"))
    await world.archive()
    await world.readers_pass()
    await aged(owner)
    await partitions.drop_archived(world.pool, world.store, timedelta(hours=1))
    assert (await world.ledger.append(batch(world, run_id, b"first"))).repeated


def batch(world: World, run_id: UUID, request: bytes) -> Proposal:
    """Return a batch of one point under seq 1."""
    return Proposal(
        ledger_id=world.ledger_id,
        stream=run_id,
        event_id=uuid7(),
        actor="key:test",
        occurred_at=datetime.now(UTC),
        drafts=[Draft(type=codec.METRICS, payload=codec.encode(metric_batch({"loss": ([1], [1.0])})))],
        request=request,
        epoch=1,
        source="sdk",
        seq=1,
    )


async def test_a_deleted_run_holds_a_partition_until_it_is_purged(world: World, owner: asyncpg.Connection) -> None:
    run_id = await world.started_run()
    await world.metrics(run_id, {"loss": ([1, 2], [1.0, 2.0])})
    await world.end(run_id)
    await world.delete(run_id)
    name = await aged(owner)
    keep = timedelta(hours=1)
    assert await partitions.drop_archived(world.pool, world.store, keep) == []
    await world.archive()
    assert await partitions.drop_archived(world.pool, world.store, keep) == [name]


async def test_the_coming_hours_have_partitions(world: World) -> None:
    await world.archive()
    count = "select count(*) from pg_inherits where inhparent = 'ledger.telemetry'::regclass"
    assert await world.pool.fetchval(count) >= 1 + 4


async def test_a_partition_that_is_dropped_between_manifest_and_tail_loses_no_point(
    world: World, owner: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await world.started_run()
    await world.metrics(run_id, {"loss": ([1, 2], [1.0, 2.0])})
    border, calls = run_points.border, 0

    async def then_everything_moves(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        found = await border(*arguments)  # type: ignore[arg-type]
        if calls == 1:
            await world.archive()
            await aged(owner)
            await world.readers_pass()
            assert await partitions.drop_archived(world.pool, world.store, timedelta(hours=1))
        return found

    monkeypatch.setattr(run_points, "border", then_everything_moves)
    (series,) = await world.chart(run_id, ["loss"])
    assert series.last.tolist() == [1.0, 2.0]
    assert calls == 2, "after the second there is no tail whose border could move"


async def test_batches_that_found_no_partition_are_moved_into_it_and_go_when_archived(
    world, owner: asyncpg.Connection
) -> None:
    run = await world.started_run()
    made = await owner.fetch("select relname from pg_class where relname ~ '^telemetry_2' and relkind = 'r'")
    for row in made:
        await owner.execute(f'drop table ledger."{row["relname"]}"')
    await world.metrics(run, {"loss": ([1], [1.0])})
    count = "select count(*) from ledger.telemetry_default"
    assert await owner.fetchval(count) == 1

    assert await world.pool.fetchval("select ledger.create_partitions(3)") == 4
    assert await owner.fetchval(count) == 0
    indexes = await owner.fetch("select * from pg_indexes where tablename like 'telemetry_2%'")
    assert len(indexes) == 4
    assert (await world.chart(run, ["loss"]))[0].points == 1


async def test_old_batches_of_the_default_partition_go_only_once_they_are_archived(
    world, owner: asyncpg.Connection
) -> None:
    run = await world.started_run()
    await world.metrics(run, {"loss": ([1], [1.0])})
    await owner.execute("update ledger.telemetry set recorded_at = '2020-01-01Z'")
    count = "select count(*) from ledger.telemetry_default"
    await partitions.drop_archived(world.pool, world.store, timedelta(hours=1))
    assert await owner.fetchval(count) == 1
    await world.archive()
    await world.readers_pass()
    await partitions.drop_archived(world.pool, world.store, timedelta(hours=1))
    assert await owner.fetchval(count) == 0
    assert (await world.chart(run, ["loss"]))[0].points == 1
