"""Merging on a real ledger: readers see every point once, before, while and after files become one."""

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from uuid import UUID

import numpy as np
import pyarrow.parquet as pq
import pytest

from projections.archive import manifest
from projections.archive.parquet import File
from projections.archive.points import SortedPoints
from projections.archive.restore import Restorer
from projections.archive.writing import MetricsWriter
from projections.charts import run_points
from projections.verification import check_files
from stack.process import ROOT
from tests.integration.telemetry import World, drained
from workers.archive_policy import Policy

APART = Policy(age_seconds=0, tail_seconds=0, file_batches=1, merge_files=99)
TOGETHER = Policy(age_seconds=0, tail_seconds=0, file_batches=1)
STEPS = range(20)


async def scattered_run(world: World) -> UUID:
    """Return a run with a file for each of its batches, and some that repeat steps."""
    run_id = await world.started_run()
    for step in STEPS:
        await world.metrics(
            run_id, {"loss": ([step, step // 2], [float(step), -float(step)]), f"m{step}": ([1], [1.0])}
        )
        await world.lines(run_id, f"line {step}", "again")
    await world.archive(APART)
    return run_id


async def answers(world: World, run_id: UUID) -> object:
    stored = await world.stored(run_id)
    charts = await world.chart(run_id, ["loss", "m3"], buckets=1_000)
    coarse = await world.chart(run_id, ["loss"], buckets=3)
    logs = await world.logs.read(stored)
    found = await world.logs.read(stored, search="line 1", tail=3)
    columns = ("x", "first", "last", "min", "max", "count")
    return [{name: getattr(one, name).tolist() for name in columns} for one in (*charts, *coarse)], logs, found


async def counts(world: World, run_id: UUID) -> dict[str, int]:
    rows = await world.pool.fetch("select kind, count(*) from segment where run_id = $1 group by kind", run_id)
    return dict(rows)


async def test_small_files_become_one_and_every_reader_sees_the_same(world: World) -> None:
    run_id = await scattered_run(world)
    before = await answers(world, run_id)
    assert await counts(world, run_id) == {"metrics": 20, "logs": 20}
    files = world.files()
    await world.archive(TOGETHER)
    assert await counts(world, run_id) == {"metrics": 1, "logs": 1}
    assert await answers(world, run_id) == before
    assert set(files) < set(world.files()), "readers may be under way to what was merged"
    row = await world.pool.fetchrow("select * from segment where run_id = $1 and kind = 'metrics'", run_id)
    assert row["rows"] == 3 * len(STEPS)
    checked, bad = await check_files(world.ledger, world.ledger_id, world.store)
    assert (checked, bad) == (2, None)
    batches = await world.ledger.read_telemetry(
        world.ledger_id, run_id, after=0, limit=20, types=manifest.KINDS["metrics"]
    )
    restored = await Restorer(world.store).batch(world.pool, world.ledger_id, batches[7])
    assert restored is not None
    assert restored.values().tolist() == [-7.0, 7.0, 1.0]


async def test_the_example_counts_a_point_once_while_merged_away_files_are_still_there(world: World) -> None:
    run_id = await scattered_run(world)
    await world.archive(TOGETHER)
    assert len(list(world.root.rglob("metrics-*.parquet"))) == 21
    command = [sys.executable, "examples/analysis.py", world.root, str(world.ledger_id), "loss"]
    said = await asyncio.to_thread(subprocess.check_output, command, cwd=ROOT, text=True)
    assert f"{run_id}, {2 * len(STEPS)}, " in said
    assert f"{2 * len(STEPS)} points of loss, steps 0 to 19" in said


async def test_merged_away_files_are_removed_a_while_later_and_never_swept_before(world: World) -> None:
    run_id = await scattered_run(world)
    old = world.files()
    for path in old:
        os.utime(path, (0, 0))
    await world.archive(TOGETHER)
    await world.archive(TOGETHER)  # an archiver that starts sweeps what no manifest names
    assert set(old) <= set(world.files())
    await world.archive(Policy(age_seconds=0, tail_seconds=0, linger_seconds=1e-9))
    assert [str(path.relative_to(world.root)) for path in world.files()] == sorted(
        row["path"] for row in await world.pool.fetch("select path from segment")
    )
    assert await counts(world, run_id) == {"metrics": 1, "logs": 1}


async def test_of_archivers_that_merge_at_once_one_wins(world: World) -> None:
    run_id = await scattered_run(world)
    before = await answers(world, run_id)
    await asyncio.gather(*(world.archive(TOGETHER) for _ in range(3)))
    assert await counts(world, run_id) == {"metrics": 1, "logs": 1}
    assert await answers(world, run_id) == before
    events = await world.ledger.read(world.ledger_id, stream=run_id, types=["run.telemetry_archived"])
    replaced = [segment for event in events for segment in event.event().replaces]
    assert len(replaced) == len(set(replaced)) == 40
    assert len(world.files()) == 42


@pytest.mark.parametrize("reader", [manifest, run_points], ids=["logs", "charts"])
async def test_a_reader_under_way_finishes_with_what_it_began(
    world: World, monkeypatch: pytest.MonkeyPatch, reader: ModuleType
) -> None:
    """Everything is merged after a reader took the manifest, and before it opens the first file."""
    run_id = await scattered_run(world)
    before = await answers(world, run_id)
    read = reader.read

    async def then_merged(*arguments: object, **named: object) -> object:
        found = await read(*arguments, **named)
        if (await counts(world, run_id))["metrics"] > 1:
            await world.archive(TOGETHER)
        return found

    monkeypatch.setattr(reader, "read", then_merged)
    assert await answers(world, run_id) == before
    assert await counts(world, run_id) == {"metrics": 1, "logs": 1}


async def test_readers_that_go_on_while_files_are_written_and_merged_miss_and_double_nothing(world: World) -> None:
    run_id = await world.started_run()
    done = asyncio.Event()
    logged = 0

    async def log() -> None:
        nonlocal logged
        for step in range(60):
            await world.metrics(run_id, {"loss": ([step], [float(step)])})
            logged = step + 1
        done.set()

    async def archive_and_merge() -> None:
        archiver = world.archiver(Policy(age_seconds=0, tail_seconds=0, file_batches=1, merge_files=2))
        while not done.is_set():
            await drained(archiver)
        await drained(archiver)

    async def look() -> None:
        while not done.is_set():
            least = logged
            (series,) = await world.chart(run_id, ["loss"])
            assert series.last.tolist() == [float(step) for step in range(len(series.last))]
            assert len(series.last) >= least

    await asyncio.gather(log(), archive_and_merge(), look(), look())
    assert sum((await counts(world, run_id)).values()) < 60
    assert await world.pool.fetchval("select sum(rows) from segment") == 60


async def test_a_file_that_was_altered_is_not_merged_away(world: World, caplog: pytest.LogCaptureFixture) -> None:
    run_id = await scattered_run(world)
    path = next(path for path in world.files() if path.name.startswith("metrics"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    await world.archive(TOGETHER)
    assert (await counts(world, run_id)) == {"metrics": 20, "logs": 1}
    assert f"{path.name} is not the file that was recorded" in caplog.text
    _, bad = await check_files(world.ledger, world.ledger_id, world.store)
    assert bad is not None
    assert path.name in bad.reason


async def test_an_ended_run_has_few_files_and_a_running_one_waits_for_more(world: World) -> None:
    ended, running = await world.started_run(), await world.started_run()
    for run_id in (ended, running):
        for step in range(3):
            await world.metrics(run_id, {"loss": ([step], [1.0])})
    await world.end(ended)
    await world.archive(TOGETHER)
    assert await counts(world, ended) == {"metrics": 1}
    assert await counts(world, running) == {"metrics": 3}


async def test_a_purge_takes_what_was_merged_away_too(world: World) -> None:
    run_id = await scattered_run(world)
    await world.archive(TOGETHER)
    await world.end(run_id)
    await world.delete(run_id)
    await world.archive(TOGETHER)
    receipt = (await world.stored(run_id)).run.receipt
    assert receipt is not None
    assert receipt["parquet"].objects == 42
    assert world.files() == []
    for table in ("segment", "replaced_segment"):
        assert await world.pool.fetchval(f"select count(*) from {table}") == 0


async def test_a_merge_that_was_recorded_late_names_no_file_that_is_gone(world: World) -> None:
    """The file that several became is old when it is recorded: the sweep leaves it alone from then on."""
    await scattered_run(world)
    await world.archive(TOGETHER)
    for row in await world.pool.fetch("select path from segment"):
        os.utime(world.root / row["path"], (time.time() - 7_200,) * 2)
    await world.archive(TOGETHER)
    for row in await world.pool.fetch("select path, bytes, sha256 from segment"):
        assert world.store.is_whole(File(*row))


MERGE = """
import resource, sys
from pathlib import Path
from projections.archive.merging import merge_metrics
merge_metrics([Path(path) for path in sys.argv[2:]], Path(sys.argv[1])).publish()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.parametrize("overlap", [False, True])
def test_memory_does_not_grow_with_the_points_that_are_merged(tmp_path: Path, *, overlap: bool) -> None:
    def peak_mib(count: int) -> int:
        paths = []
        for index in range(4):
            paths.append(tmp_path / f"metrics-{count}-{index}.parquet")
            with MetricsWriter(paths[-1]) as writer:
                for begin in range(0, count, 100_000):
                    step = np.arange(begin, begin + 100_000) + (0 if overlap else index * count)
                    writer.add(
                        SortedPoints(
                            metrics=["a"], stages=[], metric=np.zeros(len(step), np.int32), step=step, time_us=step,
                            value=np.sin(step), stage=np.full(len(step), -1, np.int32), position=step,
                        )
                    )  # fmt: skip
                writer.close().publish()
        into = tmp_path / f"metrics-{count}.parquet"
        output = subprocess.check_output([sys.executable, "-c", MERGE, into, *paths], cwd=ROOT)
        assert pq.read_metadata(into).num_rows == 4 * count
        return int(output) >> 10

    small, large = 500_000, 1_500_000
    added = 4 * (large - small) * 44 / (1 << 20)
    assert peak_mib(large) < peak_mib(small) + added / 5
