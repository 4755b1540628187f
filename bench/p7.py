"""P7: bytes a point at rest in Parquet, levels included, against one sorted rewrite of all points, and against MLflow.

A run logs while the archiver follows, so that its points go to many files first and are merged by and by; then it ends.
The rewrite has the same rows, encodings and row groups, and no levels. Slim event rows, and a run that is small, are
reported beside it.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import asyncpg

from bench import corpus
from bench.archived import Archive, drained, own_archive
from bench.curves import curve, names
from bench.harness import Result
from bench.mlflow import DATABASE, mlflow
from bench.p6 import write
from projections.archive.sorting import metrics_table
from stack.system import Stack
from workers.archive_policy import Policy

METRICS: Final = 10
STEPS: Final = 1_000
RUNS: Final = {"large": 300, "medium": 10, "smallest": 1}
"""How many batches of `METRICS` × `STEPS` points a run logs."""
SMALL_STEPS: Final = 10
FOLLOW_BATCHES: Final = 5
HOT_BYTES: Final = 1 << 20

MLFLOW_POINTS: Final = 20_000
MLFLOW_BATCH: Final = 1_000

REWRITE_GOAL: Final = 1.1
MLFLOW_GOAL: Final = 0.02

_met: Final = {True: "met", False: "not met"}


async def archived(archive: Archive, batches: int, steps: int) -> tuple[int, list[tuple[Path, int, int]]]:
    """Let a run log and end while an archiver follows; returns how many points, and its files."""
    run_id = await archive.run()
    archiver = await archive.archiver(Policy(age_seconds=3_600, tail_seconds=1e-9, hot_bytes=HOT_BYTES))
    points = 0
    for first in range(0, batches, FOLLOW_BATCHES):
        some = range(first, min(first + FOLLOW_BATCHES, batches))
        points += await archive.log(run_id, [corpus.batch(METRICS, n * steps, steps) for n in some])
        await drained(archiver)
    await archive.end(run_id)
    await drained(archiver)
    return points, await archive.files(run_id, points)


async def run(stack: Stack) -> tuple[list[Result], list[str]]:
    """Measure, and return what came of it as notes."""
    notes = []
    worst = 0.0
    with tempfile.TemporaryDirectory(prefix="bench-p7-") as home:
        async with own_archive(stack.postgres, Path(home)) as archive:
            for name, batches in RUNS.items():
                points, found = await archived(archive, batches, STEPS)
                data, levels = sum(one for _, one, _ in found), sum(one for _, _, one in found)
                rewrite = Path(home) / "rewrite.parquet"
                every = [(n + 1, corpus.batch(METRICS, n * STEPS, STEPS)) for n in range(batches)]
                write(metrics_table(every), rewrite)
                ratio = (data + levels) / rewrite.stat().st_size
                worst = max(worst, (data + levels) / points)
                notes.append(
                    f"The {name} run, {points:,} points of {METRICS} metrics in {len(found)} files: "
                    f"{(data + levels) / points:.2f} bytes a point, {levels / points:.2f} of them levels; the rewrite "
                    f"{rewrite.stat().st_size / points:.2f}: {ratio:.3f} times (goal ≤ {REWRITE_GOAL:g}, "
                    f"{_met[ratio <= REWRITE_GOAL]})."
                )
            points, found = await archived(archive, 1, SMALL_STEPS)
            size = sum(one + levels for _, one, levels in found)
            notes.append(f"A small run, {points:,} points of {METRICS} metrics: {size / points:.0f} bytes a point.")
            notes.append(await archive.event_bytes())
    return [], [*notes, await _mlflow(stack, worst)]


def _points(names: Sequence[str], first: int) -> list[dict[str, Any]]:
    """Return points as MLflow's log-batch takes them, `MLFLOW_BATCH` of them."""
    count = MLFLOW_BATCH // len(names)
    return [
        {"key": name, "value": value, "timestamp": (corpus.START_US + at * corpus.STEP_US) // 1_000, "step": at}
        for series, name in enumerate(names)
        for at, value in zip(range(first, first + count), curve(series, first, count).tolist(), strict=True)
    ]


async def _mlflow(stack: Stack, ours: float) -> str:
    """Compare with what MLflow's table and its indexes take for a point."""
    async with mlflow(stack.postgres) as peer:
        client = peer.client()
        run_id = client.ask("runs/create", {"experiment_id": "0"})["run"]["info"]["run_id"]
        metrics = names(METRICS)
        for begin in range(0, MLFLOW_POINTS // METRICS, MLFLOW_BATCH // METRICS):
            client.ask("runs/log-batch", {"run_id": run_id, "metrics": _points(metrics, begin)})
        client.close()
    owner = await asyncpg.connect(stack.postgres.url("postgres", DATABASE))
    size, rows = await owner.fetchrow("select pg_total_relation_size('metrics'), (select count(*) from metrics)")
    await owner.close()
    ratio = ours / (size / rows)
    return (
        f"MLflow's table of metrics and its indexes: {size / rows:.0f} bytes a point over {rows:,} points; the most of "
        f"ours is {ratio:.4f} times that (goal ≤ {MLFLOW_GOAL:g}, {_met[ratio <= MLFLOW_GOAL]})."
    )
