"""Heads leave the database: every ledger's chain value, signed and appended to a file of its own on a schedule.

`<home>/heads/<ledger>.jsonl` holds one signed head a line, oldest first; `verify --head` takes the file as it is. The
object store gets each as an object of its own, which nothing writes over (`verify --stored-heads`). Keep either where
an administrator of the database has no hands. While the store is away heads go on into the file; afterwards it gets
the newest again.

A ledger that no longer leads through the last head that was written is not signed again: that is said, and stays so.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from uuid import UUID

import msgspec

from events.heads import HeadRefused, SignedHead, Signer, check_heads, read_heads
from events.ledger import Ledger
from events.settings import seconds
from projections.storage import stored_heads
from projections.storage.objects import ObjectStore, StoreFull, StoreUnavailable

log = logging.getLogger("tachograph.workers.heads")

EXPORT_SECONDS: Final = 60.0
_TAIL_BYTES: Final = 4_096
"""More than a line has."""


def every_seconds() -> float:
    """Return how often heads are exported: `TACHOGRAPH_HEADS_SECONDS`. Raises `SettingsError`."""
    return seconds("TACHOGRAPH_HEADS_SECONDS", EXPORT_SECONDS)


class Heads:
    """The background role: signs and appends the head of each ledger that has grown."""

    name = "heads"
    gather_seconds = 1.0

    def __init__(
        self,
        ledger: Ledger,
        master_key: Path,
        directory: Path,
        objects: ObjectStore | None = None,
        *,
        seconds: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._ledger = ledger
        self._master_key = master_key
        self._directory = directory
        self._objects = objects
        self._seconds = every_seconds() if seconds is None else seconds
        self.pause_seconds = self._seconds
        self._clock = clock
        self._now = now
        self._signer: Signer | None = None
        self._last: dict[UUID, SignedHead] = {}
        self._stored: dict[UUID, int] = {}
        self._next = 0.0

    async def start(self) -> None:
        """Make sure of the key and the directory."""
        self._signer = await asyncio.to_thread(Signer.beside, self._master_key)
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._last.clear()
        self._stored.clear()
        self._next = 0.0

    async def step(self) -> int:
        """Export the heads that moved, once in a period, however often nudges come; returns 0: there is time."""
        if self._clock() < self._next:
            return 0
        self._next = self._clock() + self._seconds
        for row in await self._ledger.pool.fetch("select ledger_id from ledger.head where position > 0"):
            await self._export(row["ledger_id"])
        await self._store()
        return 0

    async def stop(self) -> None:
        """Nothing is held."""

    def file(self, ledger_id: UUID) -> Path:
        """Return where a ledger's heads are written."""
        return self._directory / f"{ledger_id}.jsonl"

    async def _export(self, ledger_id: UUID) -> None:
        assert self._signer is not None
        path = self.file(ledger_id)
        last = self._last.get(ledger_id) or await asyncio.to_thread(_last_head, path)
        position, chain = await self._ledger.head(ledger_id)
        if last is not None:
            self._last[ledger_id] = last
            bad = await check_heads(self._ledger, [last])
            if bad is not None:
                log.critical("ledger %s: not signed; position %d: %s", ledger_id, bad.position, bad.reason)
                return
            if last.position == position and last.key_id == self._signer.key_id:
                return
        head = self._signer.sign(ledger_id, position, chain, self._now())
        await asyncio.to_thread(_append, path, msgspec.json.encode(head) + b"\n")
        self._last[ledger_id] = head

    async def _store(self) -> None:
        """Put the last head of each ledger into the object store, unless it is there; give up if that is away."""
        if self._objects is None:
            return
        for ledger_id, head in self._last.items():
            if self._stored.get(ledger_id) == head.position:
                continue
            try:
                await stored_heads.put(self._objects, head)
            except (StoreUnavailable, StoreFull) as error:
                log.warning("heads are in their files only: %s", error)
                return
            self._stored[ledger_id] = head.position


def _last_head(path: Path) -> SignedHead | None:
    """Return the last whole line's head. Raises `HeadRefused` where that is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            lines = file.read().split(b"\n")[:-1]  # what has no newline behind it was torn off by a crash
    except FileNotFoundError:
        return None
    if not lines:
        return None
    try:
        return read_heads(lines[-1])[0]
    except HeadRefused as error:
        raise HeadRefused(f"{path}: {error}") from None


def _append(path: Path, line: bytes) -> None:
    """Append a line durably, over whatever a crash left without its end."""
    created = not path.exists()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL_BYTES))
        tail = file.read()
        file.seek(size - (len(tail) - (tail.rfind(b"\n") + 1)))
        file.truncate()
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
    if created:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
