"""The archiver on a real Postgres: nothing lost, nothing doubled, whatever happens half way."""

import asyncio
import hashlib
import os
import random
import signal
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from events import bus
from events.commands import RecordArchive
from events.errors import Erased, Rejected
from events.ids import uuid7
from events.run_events import RunTelemetryArchived
from projections.archive import level_files
from projections.execute import asked_by, execute
from tests.api import SECONDS
from tests.integration.telemetry import ACTOR, AT_ONCE, MASTER_KEY, World, drained
from tests.servers import Database, NatsServer
from workers.archive_policy import Policy, from_environment
from workers.archive_tail import READER
from workers.archiver import Archiver

NAN, INF = float("nan"), float("inf")
LATER = Policy(age_seconds=3600, tail_seconds=0, hot_bytes=1 << 30)


def archived_rows(world: World, kind: str = "metrics") -> list[dict[str, object]]:
    return [row for path in world.files() if path.name.startswith(kind) for row in pq.read_table(path).to_pylist()]


async def cursor(world: World) -> int:
    return await world.pool.fetchval(
        "select position from ledger.cursor where reader = $1 and ledger_id = $2", READER, world.ledger_id
    )


async def test_metrics_and_logs_go_to_files_that_the_manifest_describes(world: World) -> None:
    run_id = await world.started_run()
    first = await world.metrics(run_id, {"loss": ([2, 1], [NAN, -INF]), "acc": ([1], [0.5])})
    await world.lines(run_id, "hello", "world")
    last = await world.metrics(run_id, {"loss": ([1], [0.1])}, stage="later")
    await world.archive()
    rows = await world.pool.fetch("select * from segment where run_id = $1 order by kind", run_id)
    assert [row["kind"] for row in rows] == ["logs", "metrics"]
    for row in rows:
        data = (world.root / row["path"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == row["sha256"]
        assert len(data) == row["bytes"]
    assert (rows[1]["first_position"], rows[1]["last_position"]) == (first.position, last.position)
    assert [(r["metric"], r["step"], r["stage"], r["position"]) for r in archived_rows(world)] == [
        ("acc", 1, None, first.position),
        ("loss", 1, None, first.position),
        ("loss", 1, "later", last.position),
        ("loss", 2, None, first.position),
    ]
    values = np.array([row["value"] for row in archived_rows(world)])
    np.testing.assert_array_equal(values.view("<u8"), np.array([0.5, -INF, 0.1, NAN]).view("<u8"))
    assert [row["text"] for row in archived_rows(world, "logs")] == ["hello", "world"]
    assert (await world.stored(run_id)).run.archived_through["metrics"] == last.position


async def test_a_metric_of_many_points_gets_levels_that_event_and_manifest_name(world: World) -> None:
    run_id, small = await world.started_run(), await world.started_run()
    await world.metrics(small, {"loss": ([1], [1.0])})
    await world.metrics(run_id, {"acc": ([1], [0.5]), "loss": (range(20_000), [float(n) for n in range(20_000)])})
    await world.archive()
    row = await world.pool.fetchrow("select * from segment where run_id = $1", run_id)
    (event,) = await world.ledger.read(world.ledger_id, stream=run_id, types=["run.telemetry_archived"])
    levels = event.event().levels
    data = (world.root / row["levels_path"]).read_bytes()
    assert (levels.path, levels.bytes, levels.sha256) == (
        row["levels_path"], len(data), hashlib.sha256(data).hexdigest(),
    )  # fmt: skip
    assert row["levels_bytes"] == len(data)
    rows = level_files.read(world.root / levels.path, "loss", low=0, high=20_000, widest=8)
    assert rows is not None
    assert rows.max.tolist() == [float(256 * (n + 1) - 1) for n in range(78)]
    assert level_files.read(world.root / levels.path, "acc", low=0, high=20_000, widest=8) is None
    assert await world.pool.fetchval("select levels_path from segment where run_id = $1", small) is None
    assert len(world.files()) == 3


async def test_a_second_archiver_finds_nothing_left_to_do(world: World) -> None:
    run_id = await world.started_run()
    await world.metrics(run_id, {"loss": ([1], [1.0])})
    await world.archive()
    files = world.files()
    await world.archive()
    assert world.files() == files
    assert await cursor(world) >= (await world.stored(run_id)).run.archived_through["metrics"]


async def test_of_two_archivers_at_once_one_wins_and_the_other_removes_its_file(world: World) -> None:
    run_id = await world.started_run()
    await world.metrics(run_id, {"loss": ([1, 2], [1.0, 2.0])})
    await asyncio.gather(world.archive(), world.archive(), world.archive())
    assert len(world.files()) == 1
    assert await world.pool.fetchval("select count(*) from segment") == 1


async def test_telemetry_waits_until_it_is_much_or_old_or_the_run_ended(world: World) -> None:
    run_id = await world.started_run()
    archiver = world.archiver(Policy(age_seconds=3600, tail_seconds=0, hot_bytes=8_000))
    steps = range(1000)
    await world.metrics(run_id, {"loss": ([1], [1.0])})
    await drained(archiver)
    assert world.files() == []
    before = await cursor(world)
    assert before < (await world.stored(run_id)).position + 1
    await world.metrics(run_id, {"loss": (steps, [random.random() for _ in steps])})
    await drained(archiver)
    assert len(world.files()) == 1
    await world.metrics(run_id, {"loss": ([2], [1.0])})
    await world.end(run_id)
    await drained(archiver)
    assert await world.pool.fetchval("select sum(rows) from segment") == 1002
    assert await cursor(world) > before


async def test_a_file_is_bounded_and_the_rest_goes_to_the_next(world: World) -> None:
    run_id = await world.started_run()
    for step in range(10):
        await world.metrics(run_id, {"loss": ([step], [float(step)])})
    await world.archive(Policy(age_seconds=0, tail_seconds=0, file_batches=4))
    sizes = await world.pool.fetch("select rows from segment order by first_position")
    assert [row["rows"] for row in sizes] == [4, 4, 2]
    assert sorted(row["step"] for row in archived_rows(world)) == list(range(10))


async def test_one_run_that_fails_does_not_hold_up_another(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken, healthy = await world.started_run(), await world.started_run()
    await world.metrics(broken, {"loss": ([1], [1.0])})
    await world.metrics(healthy, {"loss": ([1], [2.0])})
    (world.root / f"ledger={world.ledger_id}").mkdir(parents=True)
    (world.root / f"ledger={world.ledger_id}" / f"run={broken}").touch()  # a file where its directory should be
    await world.archive()
    assert (await world.stored(healthy)).run.archived_through
    assert not (await world.stored(broken)).run.archived_through
    assert "failed (1 in a row)" in caplog.text
    (world.root / f"ledger={world.ledger_id}" / f"run={broken}").unlink()
    await world.archive()
    assert (await world.stored(broken)).run.archived_through


CHILD = """
import asyncio, sys
from pathlib import Path
from events.database import open_pool
from events.keys import Keyring
from events.ledger import Ledger
from projections.archive.stores import Directory
from projections.storage.objects import ObjectStore
from workers.archive_policy import Policy
from workers.archiver import Archiver

async def main(url, root, master):
    pool = await open_pool(url, name="child")
    archiver = Archiver(
        Ledger(pool, Keyring(bytes.fromhex(master))), Directory(Path(root)),
        ObjectStore.at(Path(root).with_name("objects")),
        policy=Policy(age_seconds=1e-9, tail_seconds=1e-9)
    )
    await archiver.start()
    while await archiver.step():
        pass

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("point", "files", "counted"),
    [("archiver.after_write", 1, 0), ("archiver.after_rename", 1, 0), ("archiver.after_manifest", 1, 1)],
)
async def test_a_death_at_any_step_neither_loses_nor_doubles_a_point(
    world: World, database: Database, point: str, files: int, counted: int
) -> None:
    run_id = await world.started_run()
    await world.metrics(run_id, {"loss": ([1, 2, 2], [1.0, 2.0, 3.0])})
    before = await world.chart(run_id, ["loss"])
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, database.url, str(world.root), MASTER_KEY.hex(),
        env={**os.environ, "TACHOGRAPH_CRASH_AT": point},
    )  # fmt: skip
    assert await asyncio.wait_for(child.wait(), SECONDS) == -signal.SIGKILL
    assert len(world.files()) == files
    assert await world.pool.fetchval("select count(*) from segment") == counted
    for policy in (LATER, AT_ONCE):
        await world.archive(policy)
        after = await world.chart(run_id, ["loss"])
        assert after[0].last.tolist() == before[0].last.tolist() == [1.0, 2.0, 3.0]
    assert await world.pool.fetchval("select sum(rows) from segment") == 3


async def test_only_old_files_outside_the_manifest_are_swept(world: World) -> None:
    run_id = await world.started_run()
    await world.metrics(run_id, {"loss": ([1], [1.0])})
    await world.archive()
    (kept,) = world.files()
    orphans = [
        kept.with_name(f"metrics-{uuid7()}.parquet"),
        kept.with_name(f".metrics-{uuid7()}.parquet.tmp"),
    ]
    fresh = kept.with_name(f"metrics-{uuid7()}.parquet")
    for path in (*orphans, fresh):
        path.touch()
    for path in (*orphans, kept):
        os.utime(path, (0, 0))
    await world.archive()
    assert world.files() == sorted([kept, fresh])


async def test_a_deleted_run_takes_no_file(world: World) -> None:
    run_id = await world.started_run()
    appended = await world.metrics(run_id, {"loss": ([1], [1.0])})
    await world.end(run_id)
    await world.delete(run_id)
    archived = RunTelemetryArchived(
        segment=uuid7(), kind="metrics", path="p", rows=1, first_position=appended.position,
        last_position=appended.position, sha256="", bytes=0,
    )  # fmt: skip
    with pytest.raises(Erased):
        await execute(world.ledger, world.ledger_id, run_id, RecordArchive(archived=archived), asked_by(ACTOR))
    await world.archive()
    assert world.files() == []
    assert await world.pool.fetchval("select count(*) from segment") == 0


async def test_positions_are_archived_once(world: World) -> None:
    run_id = await world.started_run()
    appended = await world.metrics(run_id, {"loss": ([1], [1.0])})
    await world.archive()
    again = RunTelemetryArchived(
        segment=uuid7(), kind="metrics", path="p", rows=1, first_position=appended.position,
        last_position=appended.position, sha256="", bytes=0,
    )  # fmt: skip
    with pytest.raises(Rejected):
        await execute(world.ledger, world.ledger_id, run_id, RecordArchive(archived=again), asked_by(ACTOR))


async def test_a_run_deleted_while_it_is_archived_keeps_no_file(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = await world.started_run()
    await world.metrics(run_id, {"loss": ([1], [1.0])})
    await world.end(run_id)
    archiver = world.archiver()
    await archiver.start()
    from projections.archive import parquet

    publish, loop = parquet.publish, asyncio.get_running_loop()

    def deleted_meanwhile(temporary: Path, path: Path) -> None:
        publish(temporary, path)
        asyncio.run_coroutine_threadsafe(world.delete(run_id), loop).result(30)

    monkeypatch.setattr(parquet, "publish", deleted_meanwhile)
    while await archiver.step():
        pass
    assert world.files() == []
    assert (await world.stored(run_id)).run.receipt is not None


async def test_a_purge_leaves_no_file_no_payload_and_no_name(world: World) -> None:
    run_id, other = await world.started_run(), await world.started_run()
    for run in (run_id, other):
        await world.metrics(run, {"secret": ([1, 2], [1.0, 2.0])})
        await world.lines(run, "secret")
    await world.archive()
    await world.metrics(run_id, {"secret": ([3], [3.0])})
    await world.pool.execute(
        "insert into metric_summary values ($1, $2, 'secret', 1, 0, 1, 1, 1, 1, 1, 1, 1, 1)",
        world.ledger_id,
        run_id,
    )
    await world.end(run_id)
    await world.delete(run_id)
    stored = await world.stored(run_id)
    with pytest.raises(Erased):
        await world.chart(run_id, ["secret"])
    with pytest.raises(Erased):
        await world.logs.read(stored)
    await world.archive()
    run = (await world.stored(run_id)).run
    assert run.receipt is not None
    assert run.receipt["parquet"].objects == 2
    assert run.receipt["parquet"].bytes > 0
    assert run.receipt["postgres"].objects > 3
    assert [path for path in world.files() if str(run_id) in str(path)] == []
    for table in ("segment", "metric_summary"):
        assert await world.pool.fetchval(f"select count(*) from {table} where run_id = $1", run_id) == 0
    assert await world.pool.fetchval("select count(*) from ledger.telemetry where stream = $1", run_id) == 0
    assert await world.pool.fetchval("select count(*) from ledger.data_key where stream = $1", run_id) == 0
    kept = await world.ledger.read_stream(world.ledger_id, run_id)
    assert [one.type for one in kept if one.payload] == ["run.deleted", "run.purged"]
    (series,) = await world.chart(other, ["secret"])
    assert series.points == 2


async def test_a_purge_is_finished_only_after_the_projections_have_passed_the_deletion(world: World) -> None:
    run_id = await world.started_run()
    await world.end(run_id)
    await world.delete(run_id)
    await world.pool.execute("insert into checkpoint values ('metrics', $1, 1)", world.ledger_id)
    await world.archive()
    assert (await world.stored(run_id)).run.receipt is None
    assert await world.pool.fetchval("select count(*) from ledger.data_key where stream = $1", run_id) == 0
    await world.pool.execute("update checkpoint set position = $1", (await world.stored(run_id)).position)
    await world.archive()
    assert (await world.stored(run_id)).run.receipt is not None


def test_the_policy_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    from events.settings import SettingsError

    monkeypatch.setenv("TACHOGRAPH_ARCHIVE_AGE_SECONDS", "2.5")
    monkeypatch.setenv("TACHOGRAPH_ARCHIVE_HOT_BYTES", "1000")
    assert from_environment() == Policy(age_seconds=2.5, hot_bytes=1000)
    monkeypatch.setenv("TACHOGRAPH_ARCHIVE_HOT_BYTES", "many")
    with pytest.raises(SettingsError, match="HOT_BYTES"):
        from_environment()
    monkeypatch.setenv("TACHOGRAPH_ARCHIVE_HOT_BYTES", "0")
    with pytest.raises(SettingsError, match="HOT_BYTES"):
        from_environment()


async def test_a_purge_removes_the_runs_messages_once_the_relay_has_passed_its_deletion(
    world: World, nats: NatsServer
) -> None:
    client = await bus.connect(nats.url(), name="test")
    try:
        jetstream = client.jetstream()
        await bus.ensure_streams(jetstream)
        run_id = await world.started_run()
        await world.end(run_id)
        await world.delete(run_id)
        for stream, run in (("events", run_id), ("events", uuid7()), ("telemetry", run_id)):
            await jetstream.publish(f"tachograph.{stream}.{world.ledger_id}.{run}.type", b"secret")
        archiver = Archiver(world.ledger, world.store, world.objects, jetstream=jetstream, policy=AT_ONCE)
        await drained(archiver)
        assert (await world.stored(run_id)).run.receipt is None
        await world.pool.execute(
            "insert into ledger.cursor values ('relay', $1, $2)",
            world.ledger_id,
            (await world.stored(run_id)).position,
        )
        await drained(archiver)
        receipt = (await world.stored(run_id)).run.receipt
        assert receipt is not None
        assert receipt["jetstream"].objects == 2
        left = [(await jetstream.stream_info(name)).state.messages for name in ("EVENTS", "TELEMETRY")]
        assert left == [1, 0]
    finally:
        await client.close()
