"""P4: an append to the ledger, whole, against the least that could be done, and against a library for it.

Ours is one process with one ledger, on the event loop that the service has: chain, encryption and run state in the
append's transaction. A telemetry append is a batch of ten points; a lifecycle append is a command on a run that this
process changed before: decided on its state, recorded, and the run's row written. No role works on the database
meanwhile. One floor is an INSERT and its commit, of a row as large as our sealed payload, by the same driver, with a
connection for each writer. The other is one process and one connection as ours is, which writes an append's rows by
the same queue and does nothing else. The library is `eventsourcing` with its PostgreSQL recorder, and a thread and a
connection for each writer.

What a lone append is held against depends on how long a flush takes. So it is measured twice: with the disk's own
flush, and with one that takes a millisecond longer, as on a volume at the other end of a network. There every
commit, whoever's, waits before it flushes (`commit_delay`).
"""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import Final
from uuid import uuid4

import asyncpg
from eventsourcing.persistence import StoredEvent
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore

from bench import corpus
from bench.database import own_database
from bench.floors import SEALED_BYTES, Inserts, Rows
from bench.harness import Comparison, Contestant, Result, Sample, Stopwatch, Void, judged, repeated, rounds
from events import codec
from events.commands import AttachRun, CreateRun, EditRun
from events.database import open_pool
from events.ids import derived, uuid7
from events.keys import Keyring
from events.ledger import Draft, Ledger, Proposal
from events.run_events import RunCreated
from events.types import Mode
from events.verification import verify
from projections.execute import asked_by, execute
from stack.postgres import Postgres

SECONDS: Final = 0.5
WRITERS: Final = 16
RUNS: Final = 64
ACTOR: Final = "key:bench"
PAYLOAD: Final = codec.encode(corpus.batch(metrics=10, first_step=0, points=1))

SLOW: Final = ", flush + 1 ms"
FLUSHES: Final[Mapping[str, Mapping[str, int]]] = {"": {}, SLOW: {"commit_delay": 1_000, "commit_siblings": 0}}
"""The settings of each flush, by what a contestant's name ends in; `commit_delay` is in microseconds."""

KINDS: Final = ("telemetry", "lifecycle")
INSERT: Final = "INSERT + COMMIT"
ROWS: Final = "rows alone"
LIBRARY: Final = "eventsourcing"


def _comparisons(n: int, against: str, goal: float | None, flush: str = "") -> tuple[Comparison, Comparison]:
    """Hold both kinds of append, by `n` writers, against the same."""
    writers = "1 writer" if n == 1 else f"{n} coalesced writers"
    telemetry, lifecycle = (
        Comparison(
            what=f"{kind} append, {writers}",
            ours=f"{kind} {n}{flush}",
            against=f"{against} {n}{flush}",
            unit="events",
            goal=goal,
        )
        for kind in KINDS
    )
    return telemetry, lifecycle


COMPARISONS: Final = (
    *_comparisons(1, INSERT, None),
    *_comparisons(1, INSERT, 0.6, SLOW),
    *_comparisons(1, LIBRARY, 1.0),
    *_comparisons(WRITERS, INSERT, 0.4),
    *_comparisons(WRITERS, ROWS, None),
    *_comparisons(WRITERS, LIBRARY, 3.0),
    Comparison(
        what=f"{ROWS}, {WRITERS} coalesced writers",
        ours=f"{ROWS} {WRITERS}",
        against=f"{INSERT} {WRITERS}",
        unit="events",
        goal=None,
    ),
)
"""The goals' source: docs/decisions/0030."""


class Ours:
    """A ledger with runs under way, and the count of what it acknowledged."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._ledger_id = uuid7()
        self._runs = [uuid7() for _ in range(RUNS)]
        self._numbers = count(1)
        self.acknowledged = 0

    async def open(self) -> None:
        """Open the ledger and start its runs."""
        await self._ledger.open(self._ledger_id, uuid7(), "project")
        for run_id in self._runs:
            created = RunCreated(name=f"run {run_id}", session_id="bench", mode=Mode.TRACKED, config={"lr": 0.1})
            for command in (CreateRun(created=created), AttachRun(pid=1)):
                await execute(self._ledger, self._ledger_id, run_id, command, asked_by(ACTOR))
                self.acknowledged += 1

    async def telemetry(self, writer: int) -> None:
        """Append a batch of ten points, as the route for metrics does."""
        seq = next(self._numbers)
        run_id = self._runs[writer]
        await self._ledger.append(
            Proposal(
                ledger_id=self._ledger_id,
                stream=run_id,
                event_id=derived(run_id, 1, "sdk", seq),
                actor=ACTOR,
                occurred_at=datetime.now(UTC),
                drafts=[Draft(type=codec.METRICS, payload=PAYLOAD)],
                request=b"bench",
                epoch=1,
                source="sdk",
                seq=seq,
            )
        )
        self.acknowledged += 1

    async def lifecycle(self, writer: int) -> None:
        """Decide on a new summary, append it, and write the run's state; the state is read where others changed it."""
        number = next(self._numbers)
        run_id = self._runs[writer + WRITERS * (number % (RUNS // WRITERS))]
        command = EditRun(summary={"best": number / 7, "epoch": number})
        await execute(self._ledger, self._ledger_id, run_id, command, asked_by(ACTOR))
        self.acknowledged += 1

    async def check(self) -> int:
        """Return how many events there are. Raises `Void` if one is missing or bad."""
        verification = await verify(self._ledger, self._ledger_id)
        if not verification.verified or verification.checked != self.acknowledged:
            raise Void(f"{self.acknowledged} appends were acknowledged, and the ledger says {verification}")
        return verification.checked


class Library:
    """`eventsourcing`, in threads."""

    def __init__(self, database: str, sockets: Path) -> None:
        self._state = os.urandom(len(PAYLOAD) + SEALED_BYTES)
        self._datastore = PostgresDatastore(
            database, str(sockets), 5432, "postgres", "", pool_size=WRITERS, max_waiting=WRITERS
        )
        self._recorder = PostgresApplicationRecorder(self._datastore)
        self._recorder.create_table()
        self._threads = ThreadPoolExecutor(WRITERS)

    async def measure(self, writers: int) -> Sample:
        """Let threads insert events of streams of their own for a time."""
        watch = Stopwatch()
        loop = asyncio.get_running_loop()
        work = [loop.run_in_executor(self._threads, self._write, watch) for _ in range(writers)]
        return watch.sample(sum(await asyncio.gather(*work)))

    def _write(self, watch: Stopwatch) -> int:
        stream = uuid4()
        version = 0
        while watch.seconds < SECONDS:
            self._recorder.insert_events([StoredEvent(stream, version, "bench:Happened", self._state)])
            version += 1
        return version

    def close(self) -> None:
        """End the threads and close the connections."""
        self._threads.shutdown()
        self._datastore.close()


@asynccontextmanager
async def contestants(
    postgres: Postgres, database: str, flush: str
) -> AsyncIterator[tuple[dict[str, Contestant], Ours]]:
    """Let who is compared into a database; `flush` is what their names end in."""
    pool = await open_pool(postgres.url(database=database), name="bench")
    ledger = Ledger(pool, Keyring(os.urandom(32)))
    ours = Ours(ledger)
    await ours.open()
    connections = [await asyncpg.connect(postgres.url("postgres", database)) for _ in range(WRITERS)]
    inserts = Inserts(connections, len(PAYLOAD))
    await inserts.open()
    held = await pool.acquire()
    rows = Rows(held, len(PAYLOAD))
    await rows.open(ledger)
    library = Library(database, postgres.sockets)
    everybody: dict[str, Contestant] = {}
    for n in (1, WRITERS):
        for name, once in (
            (INSERT, inserts.insert),
            (ROWS, rows.insert),
            ("telemetry", ours.telemetry),
            ("lifecycle", ours.lifecycle),
        ):
            everybody[f"{name} {n}{flush}"] = partial(repeated, once, seconds=SECONDS, writers=n)
        everybody[f"{LIBRARY} {n}{flush}"] = partial(library.measure, n)
    compared = {name for one in COMPARISONS for name in (one.ours, one.against)}
    try:
        yield {name: contestant for name, contestant in everybody.items() if name in compared}, ours
    finally:
        library.close()
        for connection in connections:
            await connection.close()
        await pool.release(held)
        await pool.close()


async def run(postgres: Postgres) -> tuple[list[Result], list[str]]:
    """Measure with either flush, and check that nothing acknowledged is missing."""
    passes = []
    checked = 0
    for flush, settings in FLUSHES.items():
        async with (
            own_database(postgres, settings) as database,
            contestants(postgres, database, flush) as (everybody, ours),
        ):
            passes.append(await rounds(everybody))
            checked += await ours.check()
    measured = [quick | slow for quick, slow in zip(*passes, strict=True)]
    notes = [f"Afterwards all {checked:,} acknowledged events were there, and their ledgers verified."]
    return [judged(comparison, measured) for comparison in COMPARISONS], notes
