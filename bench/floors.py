"""The least that an append could be: a bare INSERT, and the rows of an append without what makes them a ledger."""

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import count
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from events import codec
from events.commit import GroupCommit, Prepared, Verdict
from events.ids import uuid7
from events.ledger import GATE_OPEN, Ledger
from events.sql import load

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
        await self._commits.submit(
            Prepared(
                stream=self._stream,
                expected=None,
                epoch=1,
                gate=GATE_OPEN,
                wrapped_key=None,
                source="sdk",
                seq=seq,
                events=[self._event(uuid4(), seq)],
                inline={},
                size=len(self._payload),
            )
        )

    def _event(self, event_id: UUID, seq: int) -> tuple[Any, ...]:
        metadata = (event_id, self._stream, None, codec.METRICS, 1, "key:bench", None, event_id, None, 1, "sdk", seq, 0)
        return (*metadata, self._moment, self._digest, self._digest, self._salt, self._salt, self._payload)

    async def _write(self, ledger_id: UUID, group: Sequence[Prepared]) -> list[Verdict]:
        await self._connection.fetch(load("bench", "rows"), ledger_id, [row for one in group for row in one.events])
        return [Verdict(0, 0, self._moment)] * len(group)
