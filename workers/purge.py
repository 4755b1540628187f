"""The purge: a deleted run's contents leave every store, and a receipt says what they gave up.

Every step may be repeated, so a purge that died half way is simply done again; what was found is remembered in
Postgres. The key goes first: from then on no payload can be read. Stores that others still copy into come last, once
those have passed the deletion. At the end the tables that held names, parameters and keys in clear are rewritten, for
all runs that are ready at once, since Postgres leaves deleted rows in its pages.

Source: docs/decisions/0010-erasure.md.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final
from uuid import UUID

import asyncpg
from nats.js import JetStreamContext

from events.commands import RecordPurge
from events.ledger import Ledger
from events.sql import load
from events.types import StoreReceipt
from projections.archive.stores import Store
from projections.execute import asked_by, execute
from projections.runs import NEVER_DELETED, StoredRun, unpurged
from projections.storage import artifacts
from projections.storage.objects import ObjectStore
from workers.crashpoints import crash_point
from workers.run_messages import erase_messages, find_messages

log = logging.getLogger("tachograph.archiver")

TABLES: Final = ("run", "run_facet", "artifact", "metric_summary", "alert_state", "alert_firing", "data_key")
"""What holds users' texts, or keys, in clear."""

PAGE_RUNS: Final = 100
RUNS_TOGETHER: Final = 1_000
"""How many runs at most wait for one rewrite."""
RUNS_AT_ONCE: Final = 8
"""How many are emptied at once: mostly that is waiting for stores to sync."""

REWRITE_SHARE: Final = 0.05
"""How much of the time the tables may be locked by rewriting: the next one waits accordingly."""

REWRITE_SECONDS: Final = 600.0
REWRITE: Final = "select projection.rewrite($1), extract(epoch from clock_timestamp() - statement_timestamp())::float8"
LOCK_SECONDS: Final = 1.0  # how long `projection.rewrite` waits for a table

LOOKS: Final = 3
"""How often messages are looked for before it is said that some are left."""


class MessagesLeftError(Exception):
    """Messages of a deleted run keep being there; whatever stores them must end first."""


Attempt = Callable[[UUID, Awaitable[int]], Awaitable[int]]
"""Does one run's work so that its failure holds up nobody else; says whether it is done."""


class Purge:
    """Erases deleted runs."""

    def __init__(
        self,
        ledger: Ledger,
        store: Store,
        objects: ObjectStore,
        jetstream: JetStreamContext | None,
        actor: str,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._store = store
        self._objects = objects
        self._jetstream = jetstream
        self._actor = actor
        self._clock = clock
        self._rewrite_at = 0.0
        self._empty: dict[UUID, StoredRun] = {}  # they wait for the tables to be rewritten
        self._after = NEVER_DELETED

    async def start(self) -> None:
        """Begin with the run that was deleted first."""
        self._empty.clear()
        self._after = NEVER_DELETED
        await self._forget()

    async def step(self, attempt: Attempt, may_try: Callable[[UUID], bool]) -> int:
        """Empty the next deleted runs; when all have had their turn, rewrite the tables: then they are purged.

        One rewrite serves as many as there are, since the next has to wait in proportion to the time that it took.
        Returns how many runs were brought forward.
        """
        if len(self._empty) < RUNS_TOGETHER:
            page, following = await unpurged(self._ledger.pool, self._after, PAGE_RUNS)
            self._after = following or NEVER_DELETED
            turn = [one for one in page if one.run_id not in self._empty and may_try(one.run_id)]
            emptied = await _several(attempt, self.empty, turn)
            self._empty |= {stored.run_id: stored for stored in emptied}
            if following is not None:
                return len(emptied)
        if not self._empty or not await self.rewrite():
            return 0
        purged = await _several(attempt, self.finish, [*self._empty.values()])
        self._empty.clear()
        await self._forget()
        return len(purged)

    async def empty(self, stored: StoredRun) -> bool:
        """Erase what a deleted run has in every store.

        False where a reader still lags behind its deletion, or somebody may still be storing a part of an upload.
        """
        ledger_id, run_id = stored.ledger_id, stored.run_id
        pool = self._ledger.pool
        behind = await pool.fetchval(
            load("projections.sql", "still_reading"), ledger_id, stored.position, self._jetstream is not None
        )
        await pool.execute(load("projections.sql", "note_erased"), ledger_id, run_id)
        self._ledger.keyring.forget(run_id)
        crash_point("purge.after_erase")
        found = await asyncio.to_thread(self._store.measure_run, ledger_id, run_id)
        await self._note(stored, "parquet", *found)
        await asyncio.to_thread(self._store.remove_run, ledger_id, run_id)
        crash_point("purge.after_files")
        if await pool.fetchval(load("projections.sql", "close_uploads"), ledger_id, run_id):
            return False
        content = artifacts.run_prefix(ledger_id, run_id)
        await self._note(stored, "artifacts", *await self._objects.measure(content))
        await self._objects.remove(content)
        crash_point("purge.after_artifacts")
        if behind:
            return False
        if self._jetstream is not None:
            await self._erase_messages(self._jetstream, stored)
        return True

    async def rewrite(self) -> bool:
        """Rewrite the tables that rows were erased from; False where that must wait, for its turn or for a lock."""
        if self._clock() < self._rewrite_at:
            return False
        took = 0.0  # as Postgres says: an answer that an outage held up locked nobody out meanwhile
        try:
            for table in TABLES:
                took += await self._ledger.pool.fetchval(REWRITE, table, column=1, timeout=REWRITE_SECONDS)
                crash_point(f"purge.after_rewrite_{table}")
        except asyncpg.LockNotAvailableError:
            log.info("a table is in use for long; it is rewritten later")
            took += LOCK_SECONDS
            return False
        finally:
            self._rewrite_at = self._clock() + took / REWRITE_SHARE
        return True

    async def finish(self, stored: StoredRun) -> bool:
        """Record the receipt of a run that is empty, after a rewrite."""
        found = await self._ledger.pool.fetch(load("projections.sql", "read_found"), stored.ledger_id, stored.run_id)
        receipt = {row["store"]: StoreReceipt(row["objects"], row["bytes"]) for row in found}
        await execute(
            self._ledger, stored.ledger_id, stored.run_id, RecordPurge(receipt=receipt), asked_by(self._actor)
        )
        crash_point("purge.after_receipt")
        log.info("run %s: purged, %s", stored.run_id, receipt)
        return True

    async def _forget(self) -> None:
        """Forget what was found of runs whose receipt is an event; a death may have come in between."""
        await self._ledger.pool.execute(load("projections.sql", "forget_found"))

    async def _note(self, stored: StoredRun, store: str, objects: int, size: int) -> None:
        await self._ledger.pool.execute(
            load("projections.sql", "note_found"), stored.ledger_id, stored.run_id, store, objects, size
        )

    async def _erase_messages(self, jetstream: JetStreamContext, stored: StoredRun) -> None:
        """Overwrite the run's messages one by one: purging a subject would leave their bytes in the files.

        That it was deleted, and why, stays for subscribers who have yet to hear it. Raises `MessagesLeftError` when
        there are still some after `LOOKS` looks.
        """
        for _ in range(LOOKS):
            found = await find_messages(jetstream, stored.ledger_id, stored.run_id)
            every = [message for messages in found.values() for message in messages]
            await self._note(stored, "jetstream", len(every), sum(message.bytes for message in every))
            if not every:
                return
            await erase_messages(jetstream, found)
        raise MessagesLeftError(f"run {stored.run_id} still has messages after {LOOKS} looks")


async def _several(
    attempt: Attempt, work: Callable[[StoredRun], Awaitable[bool]], turn: Sequence[StoredRun]
) -> list[StoredRun]:
    """Do the work of some runs, several at once; returns those for which it is done."""
    done: list[StoredRun] = []
    for start in range(0, len(turn), RUNS_AT_ONCE):
        some = turn[start : start + RUNS_AT_ONCE]
        each = await asyncio.gather(*(attempt(stored.run_id, work(stored)) for stored in some))
        done += [stored for stored, is_done in zip(some, each, strict=True) if is_done]
    return done
