"""A rebuilt projection takes the live one's place while writes go on, and nothing is lost in between."""

import asyncio
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import asyncpg
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
import pytest

from events import codec
from events.errors import Busy
from events.ids import uuid7
from events.ledger import Fact
from events.telemetry import MetricColumns
from projections import dead_letters
from projections import rebuild as rebuilding
from projections.apply import Connection
from projections.archive import parquet
from projections.archived_metrics import ArchivedMetrics
from projections.metrics import Metrics
from projections.rebuild import ASYNCHRONOUS, NOT_PROJECTED, PROJECTIONS, RebuildRefusedError, rebuild
from stack.process import ROOT
from tests.api import SECONDS
from tests.integration.histories import opened_project
from tests.integration.telemetry import MASTER_KEY, World, metric_batch
from tests.servers import Database
from workers.projector import PROJECTIONS as PROJECTED
from workers.projector import Projector

NAN = float("nan")


async def shape(owner: asyncpg.Connection) -> list[tuple[str, ...]]:
    """Return what the tables are besides rows: columns, indexes, constraints, options, statistics, grants."""
    rows = await owner.fetch(
        """
        select c.relname, c.relacl::text, c.reloptions::text from pg_class c
        where c.relnamespace = 'projection'::regnamespace and c.relkind = 'r'
        union all
        select i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid), null from pg_index i
        join pg_class c on c.oid = i.indrelid where c.relnamespace = 'projection'::regnamespace
        union all
        select c.relname, a.attname || a.attnum || format_type(a.atttypid, a.atttypmod) || a.attnotnull,
               a.attstattarget::text
        from pg_attribute a join pg_class c on c.oid = a.attrelid
        where c.relnamespace = 'projection'::regnamespace and c.relkind = 'r' and a.attnum > 0
        union all
        select c.relname, k.conname, pg_get_constraintdef(k.oid) from pg_constraint k
        join pg_class c on c.oid = k.conrelid where c.relnamespace = 'projection'::regnamespace
        """
    )
    return sorted(tuple(str(value) for value in row.values()) for row in rows)


async def test_every_projection_is_swapped_while_writes_go_on(database: Database, owner: asyncpg.Connection) -> None:
    before = await shape(owner)
    async with opened_project(database.url) as project:
        await project.live_at_random(random.Random(1), 60)
        stop = asyncio.Event()

        async def write() -> None:
            random_ = random.Random(2)
            while not stop.is_set():
                await project.live_at_random(random_, 3)
                await project.project_all()

        writing = asyncio.create_task(write())
        before_swaps, _ = await project.ledger.head(project.ledger_id)
        for name, projection in PROJECTIONS.items():
            done = await rebuild(project.ledger, database.owner_url, projection, swap=True)
            assert (name, done.swapped, done.differences) == (name, True, [])
        stop.set()
        await writing
        assert (await project.ledger.head(project.ledger_id))[0] > before_swaps
        await project.project_all()
        for projection in PROJECTIONS.values():
            assert (await rebuild(project.ledger, database.owner_url, projection)).differences == []
    assert await shape(owner) == before
    left = "select count(*) from pg_namespace where nspname in ('projection_next', 'projection_old')"
    assert await owner.fetchval(left) == 0


async def test_a_swap_puts_wrong_rows_right(world: World, database: Database, owner: asyncpg.Connection) -> None:
    run_id = await world.started_run()
    await owner.execute("update projection.run set status = 'failed'")
    done = await rebuild(world.ledger, database.owner_url, PROJECTIONS["runs"], swap=True)
    assert [one.side for one in done.differences] == ["live", "rebuilt"]
    assert (await world.stored(run_id)).run.status == "running"
    assert await world.pool.fetchval("select status from run where run_id = $1", run_id) == "running"
    await world.end(run_id)


async def test_a_swap_gives_up_on_a_table_in_use(
    world: World, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuilding, "SWAPS", 2)
    monkeypatch.setattr(rebuilding, "LOCK_SECONDS", 1)
    monkeypatch.setattr(rebuilding, "SWAP_PAUSE_SECONDS", 0)
    reader = await asyncpg.connect(database.url)
    async with reader.transaction():
        await reader.execute("select from projection.run limit 1")
        with pytest.raises(Busy):
            await rebuild(world.ledger, database.owner_url, PROJECTIONS["runs"], swap=True)
    await reader.close()
    await world.started_run()  # nobody is held up afterwards
    assert (await rebuild(world.ledger, database.owner_url, PROJECTIONS["runs"], swap=True)).swapped


async def archived_world(world: World, owner: asyncpg.Connection) -> None:
    """Fill two runs with awkward points, all projected, most of them in Parquet only."""
    random_ = random.Random(7)
    values = [NAN, float("inf"), float("-inf"), 0.0, -0.0, 1.5, -2.5]
    runs = [await world.started_run() for _ in range(2)]
    projector = Projector(world.ledger)
    for _ in range(3):
        for run_id in runs:
            for _ in range(4):
                steps = [random_.randrange(4) for _ in range(9)]
                series = {
                    name: (steps, random_.choices(values, k=9)) for name in ("loss", "acc", f"m{random_.random()}")
                }
                await world.metrics(run_id, series)
        while await projector.step():
            pass
        await world.archive()
    await owner.execute("delete from ledger.telemetry")
    await world.metrics(runs[0], {"loss": ([3, 3], [0.5, -0.0])})
    while await projector.step():
        pass


async def test_metric_summaries_come_from_the_archive(
    world: World, database: Database, owner: asyncpg.Connection
) -> None:
    await archived_world(world, owner)
    with pytest.raises(RebuildRefusedError):
        await rebuild(world.ledger, database.owner_url, Metrics())
    done = await rebuild(world.ledger, database.owner_url, ArchivedMetrics(world.store), swap=True)
    assert done.differences == []
    assert done.rows["metric_summary"] > 20
    world.files()[0].unlink()
    with pytest.raises(RebuildRefusedError, match="which is missing"):
        await rebuild(world.ledger, database.owner_url, ArchivedMetrics(world.store))


async def test_metric_summaries_come_from_merged_files(
    world: World, database: Database, owner: asyncpg.Connection
) -> None:
    """A file that took the place of several, as large as it may be, holds all batches of theirs."""
    await archived_world(world, owner)
    rows = await owner.fetch(
        "select run_id, array_agg(path order by first_position) as paths, min(first_position) as first,"
        " max(last_position) as last, sum(rows)::bigint as rows"
        " from projection.segment where kind = 'metrics' group by run_id"
    )
    for row in rows:
        assert len(row["paths"]) == 3
        files = [pq.ParquetFile(world.root / path).read() for path in row["paths"]]
        whole = pa.concat_tables(files)
        order = pa.compute.sort_indices(
            whole.append_column("arrival", pa.array(range(whole.num_rows))),
            [("metric", "ascending"), ("step", "ascending"), ("position", "ascending"), ("arrival", "ascending")],
        )
        merged = parquet.segment_path(world.ledger_id, row["run_id"], "metrics", uuid7())
        pq.write_table(whole.take(order), world.root / merged, row_group_size=7)
        await owner.execute(
            "delete from projection.segment where run_id = $1 and path <> $2", row["run_id"], row["paths"][0]
        )
        await owner.execute(
            "update projection.segment set path = $2, first_position = $3, last_position = $4, rows = $5"
            " where run_id = $1",
            row["run_id"], merged, row["first"], row["last"], row["rows"],
        )  # fmt: skip
        for path in row["paths"]:
            (world.root / path).unlink()
    for projection in (ArchivedMetrics(world.store), ArchivedMetrics(world.store, window_rows=5)):
        assert (await rebuild(world.ledger, database.owner_url, projection)).differences == []


async def test_what_was_discarded_live_is_left_out_of_the_rebuilt_too(
    world: World, database: Database, owner: asyncpg.Connection
) -> None:
    run_id = await world.started_run()
    await world.metrics(run_id, {"a": ([1], [1.0])})
    bad = await world.log(run_id, codec.METRICS, metric_batch({"a": ([2], [2.0])}))
    await world.metrics(run_id, {"a": ([3], [0.5])})

    class Fails(Metrics):
        async def columns(
            self, connection: Connection, ledger_id: UUID, batches: Sequence[Fact]
        ) -> list[tuple[UUID, MetricColumns]]:
            if any(one.position == bad.position for one in batches):
                raise ValueError("cannot be taken")
            return await super().columns(connection, ledger_id, batches)

    projector = Projector(world.ledger, [Fails()])
    while await projector.step():
        pass
    await dead_letters.decide(world.pool, "projector.metrics", world.ledger_id, bad.position, "discarded", "key:test")
    while await projector.step():
        pass
    done = await rebuild(world.ledger, database.owner_url, Metrics(), swap=True)
    assert (done.differences, done.left_out) == ([], 1)
    assert await owner.fetchval("select count from projection.metric_summary") == 2


async def test_every_table_is_rebuilt_or_said_not_to_be(owner: asyncpg.Connection) -> None:
    tables = {row["relname"] for row in await owner.fetch(
        "select relname from pg_class where relnamespace = 'projection'::regnamespace and relkind = 'r'"
    )}  # fmt: skip
    rebuilt = {table for projection in PROJECTIONS.values() for table in projection.tables}
    assert tables == rebuilt | NOT_PROJECTED.keys()
    assert not rebuilt & NOT_PROJECTED.keys()
    assert {projection.name for projection in PROJECTED} == ASYNCHRONOUS.keys()


async def test_the_command_line_reports(
    world: World, database: Database, owner: asyncpg.Connection, tmp_path: Path
) -> None:
    await archived_world(world, owner)
    key = tmp_path / "master.key"
    key.write_bytes(MASTER_KEY)
    environment = os.environ | {
        "TACHOGRAPH_DATABASE_URL": database.url,
        "TACHOGRAPH_OWNER_DATABASE_URL": database.owner_url,
        "TACHOGRAPH_NATS_URL": "nats://127.0.0.1:1",
        "TACHOGRAPH_MASTER_KEY": str(key),
        "TACHOGRAPH_PARQUET": str(world.root),
    }

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "service", "rebuild", *options],
            cwd=ROOT, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False,
        )  # fmt: skip

    done = run("--all")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("nothing differs") == len(PROJECTIONS)
    assert done.stdout.count("writers waited") == len(PROJECTIONS)
    await owner.execute(
        "update projection.run set name = $1 where name = (select min(name) from projection.run)", str(uuid7())
    )
    done = run("runs", "--compare")
    assert done.returncode == 1
    assert "differs: run, live only" in done.stdout
    assert run("nothing").returncode == 2
