"""Artifacts: files that runs keep. What is known of them is an inline projection; the object store has their content.

A blob is one stored content, cut into parts, each sealed under its run's key: destroying the key destroys it in every
copy and backup of the store. A blob belongs to one run, and lies under the run's prefix by a random id, so that what a
run has can be removed, counted and proved gone, and no path tells about contents.

Source: docs/decisions/0013-artifacts.md.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Final, Literal, TypeAlias
from uuid import UUID

import asyncpg
import msgspec

from events.database import as_struct
from events.errors import CorruptHistory, Erased
from events.ids import derived
from events.keys import DataKey
from events.ledger import Ledger
from events.sql import load
from projections.runs import Reader
from projections.storage.objects import ObjectStore, StoreUnavailable

PART_BYTES: Final = 4 << 20
ROOT: Final = "artifacts/"

Kind: TypeAlias = Literal["model", "dataset", "image", "table", "code", "file"]


class Artifact(msgspec.Struct, frozen=True, kw_only=True):
    """A saved file of a run; the same name saved again is another artifact. `sha256` is hexadecimal."""

    ledger_id: UUID
    artifact_id: UUID
    run_id: UUID
    position: int
    name: str
    kind: str
    bytes: int
    sha256: str
    media_type: str
    caption: str
    blob_id: UUID
    part_bytes: int
    saved_at: datetime


def run_prefix(ledger_id: UUID, run_id: UUID) -> str:
    """Return below what all content of a run lies."""
    return f"{ROOT}ledger={ledger_id}/run={run_id}/"


def blob_prefix(ledger_id: UUID, run_id: UUID, blob_id: UUID) -> str:
    """Return below what the parts of a blob lie."""
    return f"{run_prefix(ledger_id, run_id)}{blob_id}/"


def part_path(ledger_id: UUID, run_id: UUID, blob_id: UUID, number: int) -> str:
    """Return where a part of a blob lies; parts are numbered from 0."""
    return f"{blob_prefix(ledger_id, run_id, blob_id)}{number:06d}"


def seal(key: DataKey, blob_id: UUID, number: int, part: bytes) -> bytes:
    """Return a part as it is stored: bound to its place, so that no other can stand there."""
    return key.seal(part, derived(blob_id, number))


async def by_id(reader: Reader, organisation_id: UUID, artifact_id: UUID) -> Artifact | None:
    """Return an artifact of any run of an organisation."""
    return _artifact(await reader.fetchrow(load("projections.sql", "artifact"), organisation_id, artifact_id))


async def by_name(reader: Reader, ledger_id: UUID, run_id: UUID, name: str) -> Artifact | None:
    """Return the newest artifact of a run that has the name."""
    return _artifact(await reader.fetchrow(load("projections.sql", "artifact_by_name"), ledger_id, run_id, name))


async def by_blob(reader: Reader, ledger_id: UUID, run_id: UUID, blob_id: UUID) -> Artifact | None:
    """Return the artifact that a blob was stored for."""
    return _artifact(await reader.fetchrow(load("projections.sql", "artifact_by_blob"), ledger_id, run_id, blob_id))


async def by_content(reader: Reader, ledger_id: UUID, run_id: UUID, sha256: str, size: int) -> Artifact | None:
    """Return an artifact of a run that has this content."""
    row = await reader.fetchrow(load("projections.sql", "artifact_by_content"), ledger_id, run_id, sha256, size)
    return _artifact(row)


async def listed(
    reader: Reader,
    ledger_id: UUID,
    run_id: UUID,
    *,
    kind: Kind | None,
    prefix: str,
    versions: bool,
    after: tuple[str, int] | None,
    limit: int,
) -> list[Artifact]:
    """Return a run's artifacts by name, all `versions` of each or the newest, after the key (name, position)."""
    name, position = after or ("", -1 << 62)
    rows = await reader.fetch(
        load("projections.sql", "list_artifacts"), ledger_id, run_id, kind, prefix, versions, name, -position, limit
    )
    return [as_struct(Artifact, row) for row in rows]


def _artifact(row: asyncpg.Record | None) -> Artifact | None:
    return None if row is None else as_struct(Artifact, row)


async def content(
    ledger: Ledger, objects: ObjectStore, artifact: Artifact, first: int, last: int
) -> AsyncIterator[bytes]:
    """Yield an artifact's bytes from `first` up to and with `last`, a part at a time.

    Raises `Erased` once its run's key is gone, `CorruptHistory` where a part is missing or was altered, and what the
    store raises.
    """
    part_bytes = artifact.part_bytes
    for number in range(first // part_bytes, last // part_bytes + 1):
        part = await read_part(ledger, objects, artifact.ledger_id, artifact.run_id, artifact.blob_id, number)
        start = number * part_bytes
        expected = min(part_bytes, artifact.bytes - start)
        if len(part) != expected:
            raise CorruptHistory(
                f"part {number} of artifact {artifact.artifact_id} has {len(part)}, not {expected} bytes"
            )
        yield part[max(0, first - start) : last + 1 - start]


async def read_part(
    ledger: Ledger, objects: ObjectStore, ledger_id: UUID, run_id: UUID, blob_id: UUID, number: int
) -> bytes:
    """Return a part's bytes. Raises as `content` does."""
    key = await ledger.key(ledger_id, run_id)
    if key is None:
        raise Erased("the run was deleted")
    path = part_path(ledger_id, run_id, blob_id, number)
    try:
        sealed = await objects.get(path)
    except FileNotFoundError:
        raise CorruptHistory(f"part {number} of blob {blob_id} of run {run_id} is missing") from None
    try:
        return await asyncio.to_thread(key.unseal, sealed, derived(blob_id, number).bytes)
    except CorruptHistory:
        if (size := await objects.size(path)) != len(sealed):
            raise StoreUnavailable(f"the object store gave {len(sealed)} of {size} bytes of {path}") from None
        raise CorruptHistory(f"part {number} of blob {blob_id} of run {run_id} was altered") from None
