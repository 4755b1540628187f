"""P5: a million events replayed and folded into the state of their runs, and verified, against reading them raw.

The floor is an ordered SELECT by the same driver, whose rows are thrown away: of the events whole, and beside it of
those columns alone that a replay reads. The ledger holds the interleaved histories of many runs, recorded through the
ledger. What the replay comes to must be the live rows, byte by byte.
"""

import asyncio
import os
import random
from datetime import UTC, datetime
from functools import partial
from typing import Final
from uuid import UUID

import asyncpg

from bench.database import own_database
from bench.harness import Comparison, Contestant, Result, Sample, Stopwatch, Void, judged, rounds
from events.database import open_pool
from events.ids import uuid7
from events.keys import Keyring
from events.ledger import Ledger, Proposal
from events.run import NO_RUN, Run
from events.run_events import (
    RunCreated,
    RunEvent,
    RunNotesSet,
    RunProgressReported,
    RunStarted,
    RunSummaryUpdated,
    RunTagsChanged,
)
from events.types import Mode
from events.verification import verify
from projections import runs
from projections.execute import draft, gate
from projections.inline import Runs, refold
from stack.postgres import Postgres

EVENTS: Final = 1_000_000
RUNS: Final = 2_000
EVENTS_A_PROPOSAL: Final = 10
WRITERS: Final = 64
ROUNDS: Final = 5
FLOOR_ROWS: Final = 5_000
ACTOR: Final = "key:bench"
SEED: Final = 20_240_601

WHOLE: Final = """
select e.*, p.salt, p.ciphertext from ledger.event e join ledger.payload p using (ledger_id, position)
where e.ledger_id = $1 order by e.position
"""

FACTS: Final = """
select e.position, e.stream, e.version, e.type, e.schema_version, e.actor, e.cause, e.epoch, e.recorded_at, e.event_id,
       p.ciphertext
from ledger.event e join ledger.payload p using (ledger_id, position)
where e.ledger_id = $1 order by e.position
"""

COMPARISONS: Final = (
    Comparison(what="replay and fold", ours="replay", against="SELECT of events", unit="events", goal=0.5),
    Comparison(what="verify", ours="verify", against="SELECT of events", unit="events", goal=0.5),
    Comparison(what="replay and fold", ours="replay", against="SELECT of its columns", unit="events", goal=None),
)


class Corpus:
    """A ledger of interleaved histories, and the ways to go through it."""

    def __init__(self, pool: asyncpg.Pool, reader: asyncpg.Connection) -> None:
        self.ledger = Ledger(pool, Keyring(os.urandom(32)))
        self.ledger_id = uuid7()
        self._reader = reader
        self._random = random.Random(SEED)
        self._states = dict.fromkeys((uuid7() for _ in range(RUNS)), NO_RUN)

    async def record(self) -> None:
        """Record the histories: each run's next events, run after run, again and again."""
        await self.ledger.open(self.ledger_id, uuid7(), "project")
        waiting = iter([run_id for _ in range(EVENTS // RUNS // EVENTS_A_PROPOSAL) for run_id in self._states])

        async def write() -> None:
            for run_id in waiting:
                await self._append(run_id)

        await asyncio.gather(*(write() for _ in range(WRITERS)))

    async def _append(self, run_id: UUID) -> None:
        before = self._states[run_id]
        events = [self._event(run_id, before.version + index) for index in range(EVENTS_A_PROPOSAL)]
        after, state, inline = runs.inline_rows(run_id, before, events, ACTOR)
        appended = await self.ledger.append(
            Proposal(
                ledger_id=self.ledger_id,
                stream=run_id,
                event_id=uuid7(),
                actor=ACTOR,
                occurred_at=datetime.now(UTC),
                drafts=[draft(event) for event in events],
                request=b"bench",
                expected_version=before.version,
                epoch=after.epoch,
                gate=gate(after),
                inline=inline,
                state=state,
            )
        )
        self._states[run_id] = runs.settled(after, appended.recorded_at)

    def _event(self, run_id: UUID, version: int) -> RunEvent:
        if version == 0:
            return RunCreated(name=f"run {run_id}", session_id="bench", mode=Mode.TRACKED, config={"lr": 0.1})
        if version == 1:
            return RunStarted(epoch=1, pid=1)
        if version % EVENTS_A_PROPOSAL == 0:
            return RunProgressReported(epoch=1, done=float(version), total=500.0, unit="steps")
        match self._random.randrange(8):
            case 0:
                return RunTagsChanged(tags=(f"tag {version}",))
            case 1 | 2:
                return RunNotesSet(notes=f"after {version} steps it looks well")
            case _:
                return RunSummaryUpdated(patch={"loss": self._random.random(), "epoch": version})

    async def read(self, statement: str) -> Sample:
        """Read all rows in order, and nothing more."""
        watch = Stopwatch()
        found = 0
        async with self._reader.transaction(readonly=True):
            cursor = await self._reader.cursor(statement, self.ledger_id)
            while rows := await cursor.fetch(FLOOR_ROWS):
                found += len(rows)
        if found != EVENTS:
            raise Void(f"{EVENTS} events were recorded, and {found} were read")
        return watch.sample(found)

    async def replay(self) -> Sample:
        """Fold the whole ledger as a rebuild does, and compare with the live rows."""
        watch = Stopwatch()
        states: dict[UUID, Run] = {}
        async for page in self.ledger.pages_of_facts(self.ledger_id, types=Runs.types):
            refold(states, page)
        sample = watch.sample(EVENTS)
        for row in await self._reader.fetch("select * from projection.run where ledger_id = $1", self.ledger_id):
            if runs.run_row(row["run_id"], states.pop(row["run_id"])) != runs.run_row(*_live(row)):
                raise Void(f"run {row['run_id']} was folded to another state than the live one")
        if states:
            raise Void(f"{len(states)} runs were folded that are not live")
        return sample

    async def verify(self) -> Sample:
        """Verify the whole ledger."""
        watch = Stopwatch()
        verification = await verify(self.ledger, self.ledger_id)
        if not verification.verified or verification.checked != EVENTS:
            raise Void(f"{EVENTS} events were recorded, and the ledger says {verification}")
        return watch.sample(EVENTS)


def _live(row: asyncpg.Record) -> tuple[UUID, Run]:
    stored = runs.stored_run(row)
    return stored.run_id, stored.run


async def run(postgres: Postgres) -> tuple[list[Result], list[str]]:
    """Record, measure, and check that the fold is the live state."""
    async with (
        own_database(postgres) as database,
        await open_pool(postgres.url(database=database), name="bench") as pool,
    ):
        reader = await asyncpg.connect(postgres.url(database=database))
        corpus = Corpus(pool, reader)
        await corpus.record()
        contestants: dict[str, Contestant] = {
            "SELECT of events": partial(corpus.read, WHOLE),
            "replay": corpus.replay,
            "verify": corpus.verify,
            "SELECT of its columns": partial(corpus.read, FACTS),
        }
        measured = await rounds(contestants, number=ROUNDS)
        await reader.close()
        await pool.close()
    notes = [f"{EVENTS:,} events of {RUNS:,} runs; in every round the fold was the live run state, byte by byte."]
    return [judged(comparison, measured) for comparison in COMPARISONS], notes
