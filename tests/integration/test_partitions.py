"""The hourly partitions of telemetry: made ahead, dropped once archived, and whole when they were late."""

from datetime import timedelta

import asyncpg

from workers import partitions


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
    assert (await world.charts.chart(await world.stored(run), ["loss"]))[0].points == 1


async def test_old_batches_of_the_default_partition_go_only_once_they_are_archived(
    world, owner: asyncpg.Connection
) -> None:
    run = await world.started_run()
    await world.metrics(run, {"loss": ([1], [1.0])})
    await owner.execute("update ledger.telemetry set recorded_at = '2020-01-01Z'")
    count = "select count(*) from ledger.telemetry_default"
    await partitions.drop_archived(world.pool, world.root, timedelta(hours=1))
    assert await owner.fetchval(count) == 1
    await world.archive()
    await world.readers_pass()
    await partitions.drop_archived(world.pool, world.root, timedelta(hours=1))
    assert await owner.fetchval(count) == 0
    assert (await world.charts.chart(await world.stored(run), ["loss"]))[0].points == 1
