"""P6: telemetry from Postgres to Parquet while points keep coming in, against bare `pyarrow.write_table`.

Ours reads the batches from Postgres, unseals and decodes them, sorts the points, writes them with their levels, syncs,
hashes and records the file. The floor gets the same points sorted in memory, and writes them with the same encodings,
row groups and batches, without a sync. During both, a client logs to the running system as fast as it is answered.
"""

import asyncio
import multiprocessing
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Final
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from bench import corpus
from bench.archived import Archive, drained, own_archive
from bench.client import Client
from bench.harness import Comparison, Result, Sample, Stopwatch, Void, judged, rounds
from events.telemetry import MetricColumns
from projections.archive import parquet as files
from projections.archive.sorting import metrics_table
from projections.archive.writing import BATCH_ROWS
from stack.system import Stack
from workers.archive_policy import Policy

ROUNDS: Final = 7
METRICS: Final = 10
STEPS: Final = 1_000
BATCHES: Final = 200
POINTS: Final = METRICS * STEPS * BATCHES
INGEST_STEPS: Final = 100
INGEST_BODIES: Final = 50

COMPARISONS: Final = (
    Comparison(what="archive to Parquet", ours="archiver", against="write_table", unit="points", goal=0.4),
)


class Ours:
    """An archiver, given a run's points to archive again and again."""

    def __init__(self, archive: Archive, batches: list[MetricColumns]) -> None:
        self._archive = archive
        self._batches = batches

    async def measure(self) -> Sample:
        """Log to a new run, which is not counted, and archive all of it."""
        run_id = await self._archive.run()
        archiver = await self._archive.archiver(Policy(age_seconds=1e-9, tail_seconds=1e-9))
        points = await self._archive.log(run_id, self._batches)
        watch = Stopwatch()
        await drained(archiver)
        sample = watch.sample(points)
        await self._archive.files(run_id, points)
        return sample


class Floor:
    """The same points, sorted."""

    def __init__(self, batches: list[MetricColumns], path: Path) -> None:
        self._table = metrics_table(list(enumerate(batches, 1)))
        self._path = path

    async def measure(self) -> Sample:
        """Write them."""
        watch = Stopwatch()
        await asyncio.to_thread(write, self._table, self._path)
        return watch.sample(len(self._table))


def write(table: pa.Table, path: Path) -> None:
    """Write a table as the archive's files are written."""
    options = files.parquet_options(table.schema)
    pq.write_table(table, path, row_group_size=files.ROW_GROUP_ROWS, write_batch_size=BATCH_ROWS, **options)


@contextmanager
def ingesting(stack: Stack) -> Iterator["Synchronized[int]"]:
    """Log to a run of the running system until the end of the block; gives how many points were acknowledged so far.

    The client is a process of its own, as clients are: in ours it would take the archiver's turn at the interpreter.
    """
    assert stack.api_key is not None
    apart = multiprocessing.get_context("spawn")
    acknowledged, over = apart.Value("q", 0), apart.Event()
    client = apart.Process(target=log_until, args=(over, acknowledged, stack.url, stack.api_key), name="ingest")
    client.start()
    try:
        yield acknowledged
    finally:
        over.set()
        client.join()
    if client.exitcode:
        raise Void("the client that logs meanwhile failed")


def log_until(over: Event, acknowledged: "Synchronized[int]", url: str, api_key: str) -> None:
    """Log body after body to a run of one's own, as fast as they are answered."""
    client = Client(url, api_key)
    run_id = client.started_run(client.project(f"p6-{uuid4()}"))
    for seq in count(1):
        if over.is_set():
            break
        first = seq % INGEST_BODIES * INGEST_STEPS
        body = corpus.body("MessagePack", seq, METRICS, first, INGEST_STEPS)
        client.call("POST", f"/runs/{run_id}/metrics", body, corpus.MEDIA["MessagePack"][0])
        acknowledged.value += METRICS * INGEST_STEPS
    client.close()


async def run(stack: Stack) -> tuple[list[Result], list[str]]:
    """Measure, and check after each round that every point is in the files."""
    batches = [corpus.batch(METRICS, n * STEPS, STEPS) for n in range(BATCHES)]
    with tempfile.TemporaryDirectory(prefix="bench-p6-") as home:
        async with own_archive(stack.postgres, Path(home)) as archive:
            ours, floor = Ours(archive, batches), Floor(batches, Path(home) / "floor.parquet")
            with ingesting(stack) as acknowledged:
                measured = await rounds({"archiver": ours.measure, "write_table": floor.measure}, ROUNDS)
    return [judged(comparison, measured) for comparison in COMPARISONS], [
        f"{POINTS:,} points of {METRICS} metrics a round; in every one all of them were in the files afterwards.",
        (
            f"Meanwhile {acknowledged.value:,} points were acknowledged over HTTP by the system on the same machine; "
            f"its CPU-seconds, and those of the client that makes the bodies, are in both sides' figures."
        ),
    ]
