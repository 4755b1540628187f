"""API keys: what is known of each, and how they are issued, changed and revoked.

Rows are an inline projection of the organisation's ledger, in which each key is a stream. An organisation always keeps
one key of the role admin that never expires: its last one is neither revoked nor given an end.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg
import msgspec
from msgspec.structs import asdict, replace

from events.commit import InlineRow
from events.errors import CorruptHistory, Rejected
from events.ledger import Appended, Ledger
from events.organisation import KeyChanged, KeyIssued, KeyRevoked
from events.sql import load
from events.types import Role
from projections.execute import Request, record
from projections.runs import PENDING, Reader
from projections.tenancy import Rows

LAST: Final = "TQ003"
"""The SQL state by which `check_admin` refuses."""
CHANNEL: Final = "tachograph_key"
"""Where Postgres notifies of keys that were changed or revoked."""


class LastAdmin(Rejected):
    """It is the organisation's last key of the role admin that never expires: make another one first."""


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """An API key. `projects` are those that it is confined to; without, it is for all of the organisation."""

    key_id: UUID
    organisation_id: UUID
    version: int
    label: str
    prefix: str
    sha256: bytes
    role: Role
    projects: frozenset[UUID] | None
    issued_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class Listed(msgspec.Struct, frozen=True):
    """A key, and when it was last used, to about a minute."""

    key: ApiKey
    used_at: datetime | None


def issued(organisation_id: UUID, event: KeyIssued, at: datetime = PENDING) -> ApiKey:
    """Return a key as it is issued; its time is that of the append, where none is given."""
    return ApiKey(
        key_id=event.key_id,
        organisation_id=organisation_id,
        version=1,
        label=event.label,
        prefix=event.prefix,
        sha256=event.sha256,
        role=event.role,
        projects=None if event.projects is None else frozenset(event.projects),
        issued_at=at,
        expires_at=event.expires_at,
        revoked_at=None,
    )


def evolve(key: ApiKey | None, event: KeyChanged | KeyRevoked, at: datetime = PENDING) -> ApiKey:
    """Return the key after an event. Raises `CorruptHistory`."""
    if key is None:
        raise CorruptHistory(f"key {event.key_id} is issued before it is changed")
    if isinstance(event, KeyRevoked):
        return replace(key, version=key.version + 1, revoked_at=at)
    return replace(key, version=key.version + 1, label=event.label, expires_at=event.expires_at)


def row(key: ApiKey) -> Rows:
    """Return the row of a key."""
    times = {name: "infinity" for name in ("issued_at", "revoked_at") if getattr(key, name) is PENDING}
    projects = None if key.projects is None else sorted(key.projects)
    columns = asdict(key) | {"projects": projects} | times
    return {"projection.project_key": [InlineRow(0, msgspec.Raw(msgspec.json.encode(columns)))]}


async def issue(ledger: Ledger, organisation_id: UUID, event: KeyIssued, request: Request) -> Appended:
    """Record a new key; the same named request again is the same key."""
    return await record(
        ledger,
        ledger_id=organisation_id,
        stream=event.key_id,
        expected_version=0,
        events=[event],
        inline=row(issued(organisation_id, event)),
        request=request,
    )


async def change(ledger: Ledger, key: ApiKey, event: KeyChanged | KeyRevoked, request: Request) -> Appended:
    """Record a change of a key, or its end. Raises `LastAdmin`, and `VersionConflict` if somebody else was faster."""
    guard = {"projection.check_admin": [InlineRow(0, msgspec.Raw(b"{}"))]}
    try:
        return await record(
            ledger,
            ledger_id=key.organisation_id,
            stream=key.key_id,
            expected_version=key.version,
            events=[event],
            inline={**row(evolve(key, event)), **guard},
            request=request,
        )
    except asyncpg.PostgresError as error:
        if error.sqlstate != LAST:
            raise
        asked = "revoke" if isinstance(event, KeyRevoked) else "expire"
        raise LastAdmin(
            "this is the last key of the role admin that never expires; make another one first",
            state="in force",
            asked=asked,
            allowed=("create", "rename"),
        ) from None


async def get(reader: Reader, organisation_id: UUID, key_id: UUID) -> ApiKey | None:
    """Return an organisation's key."""
    found = await reader.fetchrow(
        "select * from api_key where organisation_id = $1 and key_id = $2", organisation_id, key_id
    )
    return None if found is None else as_key(found)


async def in_force(reader: Reader, sha256: bytes) -> ApiKey | None:
    """Return the key with this hash, unless it was revoked or has expired."""
    found = await reader.fetchrow(
        "select * from api_key where sha256 = $1 and revoked_at is null"
        " and (expires_at is null or expires_at > clock_timestamp())",
        sha256,
    )
    return None if found is None else as_key(found)


async def listed(
    reader: Reader, organisation_id: UUID, after: tuple[datetime, UUID] | None, limit: int
) -> list[Listed]:
    """Return an organisation's keys, newest first, after one of them."""
    issued_at, key_id = after or (PENDING, UUID(int=(1 << 128) - 1))
    rows = await reader.fetch(load("projections.sql", "list_keys"), organisation_id, issued_at, key_id, limit)
    return [Listed(as_key(one), one["used_at"]) for one in rows]


async def used_at(reader: Reader, key_id: UUID) -> datetime | None:
    """Return when a key was last used, to about a minute."""
    at: datetime | None = await reader.fetchval("select used_at from operation.key_use where key_id = $1", key_id)
    return at


async def note_uses(reader: Reader, uses: Mapping[UUID, datetime]) -> None:
    """Say when keys were used."""
    await reader.execute(load("projections.sql", "note_key_uses"), list(uses), list(uses.values()))


async def labels(ledger: Ledger, organisation_id: UUID, key_id: UUID) -> list[tuple[datetime, str]]:
    """Return what a key has been called since when, in order."""
    events = [(one.recorded_at, one.event()) for one in await ledger.read_stream(organisation_id, key_id)]
    return [(at, event.label) for at, event in events if not isinstance(event, KeyRevoked)]


def as_key(found: Mapping[str, Any]) -> ApiKey:
    """Return a row as the key that it is."""
    columns = {name: found[name] for name in ApiKey.__struct_fields__}
    projects = columns["projects"]
    return ApiKey(
        **columns | {"role": Role(columns["role"]), "projects": None if projects is None else frozenset(projects)}
    )
