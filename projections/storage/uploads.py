"""Uploads: how a file becomes an artifact, in parts of `PART_BYTES`, each durable before the next is taken.

    upload = await uploads.open(stored, organisation_id, wanted, upload_id)     # room is reserved
    upload = await uploads.receive(upload, upload.received, body)               # may be cut, and go on later
    artifact, new = await uploads.finish(upload, actor)                         # hashed, compared, recorded

The event is recorded after the last byte is durable. What a death in between leaves is continued by the client, or
removed by the sweep.
"""

from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from msgspec.structs import replace

from events.commands import SaveArtifact
from events.commit import LOST_CONNECTION
from events.errors import Busy, Erased, LedgerError, NotFound, Rejected, TooLarge
from events.ids import derived, uuid7
from events.keys import DataKey
from events.ledger import Ledger
from events.sql import load
from events.types import Status
from projections.execute import Request, execute
from projections.runs import StoredRun
from projections.storage import artifacts
from projections.storage.artifact_limits import Limits, QuotaExceeded
from projections.storage.artifacts import PART_BYTES, Artifact
from projections.storage.objects import ObjectStore, StoreUnavailable
from projections.storage.upload_writer import Running, Upload, UploadCut, Wanted, Writer, WrongDigest, parts

TRANSFERS: Final = 32
"""Uploads and downloads that a process carries at once; each holds a few parts in memory."""

KEPT_DIGESTS: Final = 256


class Uploads:
    """Takes uploads of any number of clients of one process."""

    def __init__(self, ledger: Ledger, objects: ObjectStore, limits: Limits) -> None:
        self._ledger = ledger
        self._objects = objects
        self.limits = limits
        self._transfers = 0
        self._running: OrderedDict[UUID, Running] = OrderedDict()

    @asynccontextmanager
    async def transfer(self) -> AsyncIterator[None]:
        """Be one of the transfers that this process carries. Raises `Busy` where these are enough."""
        if self._transfers >= TRANSFERS:
            raise Busy(f"this process carries {TRANSFERS} uploads and downloads already")
        self._transfers += 1
        try:
            yield
        finally:
            self._transfers -= 1

    async def save(
        self, stored: StoredRun, organisation_id: UUID, wanted: Wanted, body: AsyncIterator[bytes], actor: str
    ) -> tuple[Artifact, bool]:
        """Take a whole file in one go, and record it; what was cut or refused leaves nothing behind.

        Raises what `open`, `receive` and `finish` raise.
        """
        self._objects.check_writable()  # who tries again and again would fill the run's room with uploads
        upload = await self.open(stored, organisation_id, wanted, uuid7())
        try:
            upload = await self._receive_whole(upload, body)
        except Exception:
            with suppress(LedgerError, TimeoutError, *LOST_CONNECTION):  # then the sweep does it
                await self.discard(upload)
            raise
        return await self.finish(upload, actor)

    async def open(self, stored: StoredRun, organisation_id: UUID, wanted: Wanted, upload_id: UUID) -> Upload:
        """Reserve room for an upload; the same id with the same wish again is the same upload.

        Raises `TooLarge`, `QuotaExceeded`, `Erased` for a deleted run, `Rejected` where the id meant something else.
        """
        if wanted.bytes > self.limits.artifact_bytes:
            limit = self.limits.artifact_bytes
            raise TooLarge(f"an artifact of {wanted.bytes} bytes, over {limit}", limit=limit)
        known = await self.find(stored, upload_id)
        if known is not None:
            if known.wanted != wanted:
                raise Rejected("this upload was opened for something else", asked="open an upload")
            return known
        key = await self._key(stored.ledger_id, stored.run_id)
        limits = self.limits
        async with self._ledger.pool.acquire() as connection, connection.transaction():
            await connection.execute(
                "select pg_advisory_xact_lock(hashtext('tachograph.quota'), hashtext($1))", str(organisation_id)
            )
            row = await connection.fetchrow(
                load("projections.sql", "reserve_upload"),
                upload_id,
                stored.ledger_id,
                stored.run_id,
                organisation_id,
                wanted.bytes,
                key.seal(msgspec.msgpack.encode(wanted), upload_id),
                limits.run_artifacts,
                limits.run_uploads,
                limits.project_bytes,
                limits.organisation_bytes,
            )
        if row is None:
            raise NotFound("there is no such run")
        if not row["made"]:
            raise _refusal(row, wanted.bytes, limits)
        return Upload(upload_id=upload_id, ledger_id=stored.ledger_id, run_id=stored.run_id, received=0, wanted=wanted)

    async def find(self, stored: StoredRun, upload_id: UUID) -> Upload | None:
        """Return an upload of a run that is under way."""
        row = await self._ledger.pool.fetchrow(
            load("projections.sql", "read_upload"), stored.ledger_id, stored.run_id, upload_id
        )
        if row is None:
            return None
        key = await self._key(stored.ledger_id, stored.run_id)
        wanted = msgspec.msgpack.decode(key.unseal(row["description"], upload_id.bytes), type=Wanted)
        return Upload(
            upload_id=upload_id,
            ledger_id=stored.ledger_id,
            run_id=stored.run_id,
            received=row["received"],
            wanted=wanted,
        )

    async def receive(self, upload: Upload, offset: int, body: AsyncIterator[bytes]) -> Upload:
        """Take the bytes that follow `offset`; returns the upload with what is durable of it now.

        Only whole parts, and the last one, become durable: a rest is left out, to be sent again. Raises `UploadCut`,
        `Busy` while another request writes to this upload, `Rejected` for another offset than is durable, `TooLarge`
        where more comes than was announced, `Erased`, and what the store raises.
        """
        writer = Writer(self._ledger, self._objects, upload, await self._key(upload.ledger_id, upload.run_id))
        await writer.hold(offset, offset)
        kept = self._running.pop(upload.upload_id, None) or Running()
        running = kept if kept.bytes == offset else None
        try:
            async for part in parts(body, upload.wanted.bytes - offset):
                await writer.write(part, running)
        except (StoreUnavailable, TimeoutError):
            raise  # a write may still be under way: the lease ends by itself, after that
        except Exception:
            await writer.release()
            raise
        finally:
            if running is not None:
                self._keep(upload.upload_id, running)
        await writer.release()
        return replace(upload, received=writer.durable)

    async def _receive_whole(self, upload: Upload, body: AsyncIterator[bytes]) -> Upload:
        whole = await self.receive(upload, 0, body)
        if whole.received != whole.wanted.bytes:
            raise UploadCut(f"the body has not the {whole.wanted.bytes} bytes that were announced")
        return whole

    async def finish(self, upload: Upload, actor: str) -> tuple[Artifact, bool]:
        """Record a whole upload as an artifact; returns that, and whether it is new.

        The same content and description under the same name is what is there already. Content that the run has under
        another name is stored once. Raises `WrongDigest`, and what `execute` raises.
        """
        wanted = upload.wanted
        sha256 = await self._sha256(upload)
        if wanted.sha256 not in {None, sha256}:
            await self.discard(upload)
            raise WrongDigest(f"the SHA-256 of what came is {sha256}, not {wanted.sha256}")
        writer = Writer(self._ledger, self._objects, upload, await self._key(upload.ledger_id, upload.run_id))
        await writer.hold(wanted.bytes, wanted.bytes)
        pool = self._ledger.pool
        last = await artifacts.by_name(pool, upload.ledger_id, upload.run_id, wanted.name)
        if last is not None and _same(last, wanted, sha256):
            await writer.release()
            await self.discard(upload)
            return last, False
        known = await artifacts.by_content(pool, upload.ledger_id, upload.run_id, sha256, wanted.bytes)
        artifact = await self._record(upload, sha256, known, last, actor)
        await writer.release()
        if artifact.blob_id == upload.upload_id:
            await pool.execute(load("projections.sql", "forget_upload"), upload.upload_id)
        else:
            await self.discard(upload)
        return artifact, True

    async def discard(self, upload: Upload) -> None:
        """Remove an upload and its parts; where somebody writes to it, or the store is away, the sweep does."""
        self._running.pop(upload.upload_id, None)
        pool = self._ledger.pool
        if await pool.fetchval(load("projections.sql", "condemn_upload"), upload.upload_id, None) is None:
            return
        try:
            await self._objects.remove(artifacts.blob_prefix(upload.ledger_id, upload.run_id, upload.upload_id))
        except StoreUnavailable:
            return
        await pool.execute(load("projections.sql", "forget_upload"), upload.upload_id)

    async def _record(
        self, upload: Upload, sha256: str, known: Artifact | None, last: Artifact | None, actor: str
    ) -> Artifact:
        """Record the event; the same wish on top of the same version is the same event, whoever comes first."""
        wanted = upload.wanted
        wish = (wanted.name, wanted.kind, wanted.media_type, wanted.caption, sha256)
        event_id = derived(upload.run_id, "artifact", *wish, None if last is None else last.artifact_id)
        command = SaveArtifact(
            name=wanted.name,
            kind=wanted.kind,
            bytes=wanted.bytes,
            sha256=sha256,
            media_type=wanted.media_type,
            caption=wanted.caption,
            artifact=derived(event_id, "id"),
            blob=upload.upload_id if known is None else known.blob_id,
            part_bytes=PART_BYTES if known is None else known.part_bytes,
        )
        request = Request(
            actor=actor,
            event_id=event_id,
            body=msgspec.msgpack.encode(wish),
            named=True,
            occurred_at=datetime.now(UTC),
        )
        await execute(self._ledger, upload.ledger_id, upload.run_id, command, request)
        artifact = await self._ledger.pool.fetchrow(
            "select * from artifact where ledger_id = $1 and artifact_id = $2", upload.ledger_id, command.artifact
        )
        if artifact is None:
            raise Erased("the run was deleted", state=Status.DELETED)
        return Artifact(**artifact)

    async def _sha256(self, upload: Upload) -> str:
        """Return the SHA-256 of all that is durable: as it came, or, where others took a part of it, read back."""
        running = self._running.pop(upload.upload_id, None)
        if running is None or running.bytes != upload.wanted.bytes:
            running = Running()
            for number in range(-(-upload.wanted.bytes // PART_BYTES)):
                part = await artifacts.read_part(
                    self._ledger, self._objects, upload.ledger_id, upload.run_id, upload.upload_id, number
                )
                await running.update(part)
        return running.hexdigest()

    def _keep(self, upload_id: UUID, running: Running) -> None:
        self._running[upload_id] = running
        if len(self._running) > KEPT_DIGESTS:
            self._running.popitem(last=False)

    async def _key(self, ledger_id: UUID, run_id: UUID) -> DataKey:
        key = await self._ledger.key(ledger_id, run_id)
        if key is None:
            raise Erased("the run was deleted", state=Status.DELETED)
        return key


def _same(artifact: Artifact, wanted: Wanted, sha256: str) -> bool:
    described = (artifact.kind, artifact.media_type, artifact.caption, artifact.sha256)
    return described == (wanted.kind, wanted.media_type, wanted.caption, sha256)


def _refusal(row: Any, size: int, limits: Limits) -> LedgerError:
    """Return why there was no room."""
    if row["status"] == Status.DELETED:
        return Erased("the run was deleted", state=Status.DELETED)
    if row["artifacts"] >= limits.run_artifacts:
        return QuotaExceeded(f"a run has at most {limits.run_artifacts} artifacts", limit=limits.run_artifacts)
    if row["uploads"] >= limits.run_uploads:
        return QuotaExceeded(f"a run has at most {limits.run_uploads} unfinished uploads", limit=limits.run_uploads)
    whose, taken, limit = "project", row["project_bytes"], limits.project_bytes
    if taken + size <= limit:
        whose, taken, limit = "organisation", row["organisation_bytes"], limits.organisation_bytes
    return QuotaExceeded(
        f"{size} bytes more than the {taken} that the {whose} has in artifacts are over its {limit}", limit=limit
    )
