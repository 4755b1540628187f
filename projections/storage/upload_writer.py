"""Who writes the parts of an upload: one request at a time, each part durable before the next is taken.

The lease outlasts any write to the store. A purge, a sweep or another writer waits for its end, so that nothing is
written behind their backs, whatever died meanwhile.
"""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from typing import Final
from uuid import UUID

import msgspec

from events.errors import Busy, Erased, LedgerError, NotFound, Rejected, TooLarge
from events.ids import uuid7
from events.keys import DataKey
from events.ledger import Ledger
from events.sql import load
from events.types import Status
from projections.storage import artifacts
from projections.storage.artifacts import PART_BYTES
from projections.storage.objects import OPERATION_SECONDS, ObjectStore

HOLD_SECONDS: Final = OPERATION_SECONDS + 20.0
RENEW_SECONDS: Final = 15.0
"""A lease older than this is renewed before the next write, which then ends before the lease does."""

SILENT_SECONDS: Final = 60.0
"""How long a client may send nothing."""


class UploadCut(LedgerError):
    """The body ended before what was announced, or stood still; what is durable of it stays for a resumed upload."""


class WrongDigest(LedgerError):
    """What came has another SHA-256 than its sender said."""


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What an upload is to become; `sha256` is what its content must have, in hexadecimal, if the caller said so."""

    name: str
    kind: str
    bytes: int
    media_type: str = "application/octet-stream"
    caption: str = ""
    sha256: str | None = None


class Running:
    """A SHA-256 under way, over the first `bytes` of an upload."""

    def __init__(self) -> None:
        self.bytes = 0
        self._sha256 = hashlib.sha256()

    async def update(self, part: bytes) -> None:
        """Take the next part; one that was cut off in between no longer says how far it is."""
        before, self.bytes = self.bytes, -1
        await asyncio.to_thread(self._sha256.update, part)
        self.bytes = before + len(part)

    def hexdigest(self) -> str:
        """Return the digest of what came so far."""
        return self._sha256.hexdigest()


class Upload(msgspec.Struct, frozen=True, kw_only=True):
    """An upload under way: `received` bytes of it are durable."""

    upload_id: UUID
    ledger_id: UUID
    run_id: UUID
    received: int
    wanted: Wanted


class Writer:
    """Writes the parts of one upload, which nobody else does meanwhile."""

    def __init__(self, ledger: Ledger, objects: ObjectStore, upload: Upload, key: DataKey) -> None:
        self._pool = ledger.pool
        self._objects = objects
        self._upload = upload
        self._key = key
        self._holder = uuid7()
        self._held_at = 0.0
        self.durable = 0

    async def hold(self, before: int, now: int) -> None:
        """Say that `now` bytes are durable instead of `before`, and hold the upload for a while."""
        upload_id = self._upload.upload_id
        at = time.monotonic()
        held = await self._pool.fetchval(
            load("projections.sql", "hold_upload"), upload_id, self._holder, before, now, HOLD_SECONDS
        )
        if held is None:
            await self._refuse(before)
        self.durable, self._held_at = now, at

    async def write(self, part: bytes, running: Running | None) -> None:
        """Make the next part durable."""
        if time.monotonic() - self._held_at > RENEW_SECONDS:
            await self.hold(self.durable, self.durable)
        upload = self._upload
        number = self.durable // PART_BYTES
        sealed = await asyncio.to_thread(self._sealed, part, number)
        await self._objects.put(artifacts.part_path(upload.ledger_id, upload.run_id, upload.upload_id, number), sealed)
        await self.hold(self.durable, self.durable + len(part))
        if running is not None:
            await running.update(part)

    def _sealed(self, part: bytes, number: int) -> bytes:
        return artifacts.seal(self._key, self._upload.upload_id, number, part)

    async def release(self) -> None:
        """Let others write."""
        await self._pool.execute(load("projections.sql", "release_upload"), self._upload.upload_id, self._holder)

    async def _refuse(self, offset: int) -> None:
        """Say why the upload cannot be held."""
        row = await self._pool.fetchrow(
            "select u.received, u.removing, r.status from operation.upload u"
            " left join run r on r.ledger_id = u.ledger_id and r.run_id = u.run_id where u.upload_id = $1",
            self._upload.upload_id,
        )
        if row is not None and row["status"] == Status.DELETED:
            raise Erased("the run was deleted", state=Status.DELETED)
        if row is None or row["removing"]:
            raise NotFound("there is no such upload, or it is over")
        if row["received"] != offset:
            raise Rejected(
                f"{row['received']} bytes of this upload are durable; go on from there, not from {offset}",
                asked="continue an upload",
            )
        raise Busy("another request is writing to this upload, or died doing so; try again in a minute")


async def parts(body: AsyncIterator[bytes], wanted: int) -> AsyncIterator[bytes]:
    """Yield a body cut into parts; the last, shorter one only where it completes what is wanted."""
    buffer = bytearray()
    while True:
        try:
            async with asyncio.timeout(SILENT_SECONDS):
                chunk = await anext(body, None)
        except TimeoutError:
            raise UploadCut(f"nothing came for {SILENT_SECONDS:g} s") from None
        if chunk is None:
            break
        buffer += chunk
        if len(buffer) > wanted:
            raise TooLarge("more came than the upload was announced to have", limit=wanted)
        while len(buffer) >= PART_BYTES:
            yield bytes(buffer[:PART_BYTES])
            del buffer[:PART_BYTES]
            wanted -= PART_BYTES
    if buffer and len(buffer) == wanted:
        yield bytes(buffer)
