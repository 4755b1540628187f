"""The least that could be done: a bare INSERT, an append's rows without a ledger, bodies without HTTP and a ledger."""

import asyncio
import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import count
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from events import codec
from events.commit import GroupCommit, Prepared, Verdict
from events.ids import uuid7
from events.keys import Keyring
from events.ledger import GATE_OPEN, Ledger
from events.sql import load
from service.ingest import bodies, metric_tables
from service.ingest.arrow import READERS

SEALED_BYTES: Final = 28
"""Nonce and tag: what sealing adds to a payload."""

INSERT: Final = "insert into bare (stream, payload) values ($1, $2)"


class Inserts:
    """One row and its commit, over a connection for each writer."""

    def __init__(self, connections: list[asyncpg.Connection], payload_bytes: int) -> None:
        self._connections = connections
        self._payload = os.urandom(payload_bytes + SEALED_BYTES)

    async def open(self) -> None:
        """Create the table."""
        await self._connections[0].execute(
            "create table bare (id bigint generated always as identity primary key, stream uuid, payload bytea)"
        )

    async def insert(self, writer: int) -> None:
        """Insert a row."""
        await self._connections[writer].fetch(INSERT, uuid4(), self._payload)


class Rows:
    """The rows of batches, by the ledger's own queue and over one connection: a group is one statement and its commit.

    No id is derived, nothing is sealed, hashed, judged or chained, so that its ledger is none. What stands here is what
    a process reaches that writes these rows and takes turns with Postgres.
    """

    def __init__(self, connection: PoolConnectionProxy, payload_bytes: int) -> None:
        self._connection = connection
        self._ledger_id = uuid7()
        self._stream = uuid7()
        self._seqs = count(1)
        self._moment = datetime.now(UTC)
        self._digest, self._salt = os.urandom(32), os.urandom(16)
        self._payload = os.urandom(payload_bytes + SEALED_BYTES)
        self._commits = GroupCommit(self._ledger_id, self._write)

    async def open(self, ledger: Ledger) -> None:
        """Open a ledger for the rows."""
        await ledger.open(self._ledger_id, uuid7(), "project")

    async def insert(self, writer: int) -> None:
        """Have the rows of one batch written."""
        seq = next(self._seqs)
        await self._commits.submit(_prepared(self._stream, seq, self._event(uuid4(), seq), len(self._payload)))

    def _event(self, event_id: UUID, seq: int) -> tuple[Any, ...]:
        metadata = (event_id, self._stream, None, codec.METRICS, 1, "key:bench", None, event_id, None, 1, "sdk", seq, 0)
        return (*metadata, self._moment, self._digest, self._digest, self._salt, self._salt, self._payload)

    async def _write(self, ledger_id: UUID, group: Sequence[Prepared]) -> list[Verdict]:
        await self._connection.fetch(load("bench", "rows"), ledger_id, [row for one in group for row in one.events])
        return [Verdict(0, 0, self._moment)] * len(group)


class Bodies:
    """Bodies of metrics, read and sealed in this process, and committed by COPY with those that came meanwhile.

    There is no HTTP, no chain, no key that makes a repetition harmless, no copy in JetStream, and nobody who reads it.
    What stands here is what no process is faster than that decodes, encrypts and commits.
    """

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._ledger_id = uuid7()
        self._key, _ = Keyring(os.urandom(32)).new()
        self._seqs = count(1)
        self._commits = GroupCommit(self._ledger_id, self._write)

    async def open(self) -> None:
        """Create the table; sealed bytes are not compressed once more."""
        await self._connection.execute("create table public.bare_body (id uuid primary key, payload bytea not null)")
        await self._connection.execute("alter table public.bare_body alter payload set storage external")

    async def ingest(self, media_type: str, loads: Sequence[Iterable[bytes]]) -> None:
        """Take bodies by several clients, each the next when the last one was committed."""
        await asyncio.gather(*(self._send(media_type, load) for load in loads))

    async def forget(self) -> None:
        """Empty the table."""
        await self._connection.execute("truncate bare_body")

    async def _send(self, media_type: str, load: Iterable[bytes]) -> None:
        for raw in load:
            received_us = codec.microseconds(datetime.now(UTC))
            seq = next(self._seqs)
            if media_type in READERS:
                query = {"epoch": "1", "seq": str(seq)}
                batch = metric_tables.metrics(raw, media_type, query, received_us)
            else:
                batch = bodies.metrics(raw, media_type, received_us)
            for payload in batch.payloads:
                event_id = uuid4()
                row = (event_id, self._key.seal(payload, event_id))
                await self._commits.submit(_prepared(event_id, seq, row, len(payload)))

    async def _write(self, ledger_id: UUID, group: Sequence[Prepared]) -> list[Verdict]:
        rows = [row for one in group for row in one.events]
        await self._connection.copy_records_to_table("bare_body", schema_name="public", records=rows)
        return [Verdict(0, 0, datetime.now(UTC))] * len(group)


def _prepared(stream: UUID, seq: int, row: tuple[Any, ...], size: int) -> Prepared:
    """Return a row as the ledger's queue takes it."""
    return Prepared(
        stream=stream,
        first_id=row[0],
        expected=None,
        epoch=1,
        gate=GATE_OPEN,
        wrapped_key=None,
        source="sdk",
        seq=seq,
        events=[row],
        inline={},
        size=size,
    )
