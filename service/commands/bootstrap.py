"""The first start: migrate the database, make the default organisation and the first API key, recorded as events."""

import asyncio
import json
from collections.abc import Sequence
from typing import Final
from uuid import UUID

import asyncpg
from msgspec.structs import replace

from events.database import open_pool
from events.heads import Signer
from events.ids import derived
from events.keys import Keyring
from events.ledger import Ledger
from events.organisation import KeyIssued, OrganisationCreated
from events.settings import Settings, SettingsError, from_environment
from projections import api_keys, tenancy
from projections.execute import asked_by, record
from service.commands.migrate import migrate
from service.keys import SHOWN, key_of

ORGANISATION: Final[UUID] = derived("organisation", "default")
ACTOR: Final = "system:bootstrap"
MAX_ACTIVE_RUNS: Final = 5


def main(arguments: Sequence[str]) -> int:
    """Bootstrap, and print the first key as JSON; returns the exit status."""
    if arguments:
        raise SettingsError(f"bootstrap takes no arguments, not {arguments[0]!r}")
    key = asyncio.run(bootstrap(from_environment()))
    print(json.dumps({"api_key": key} if key else {}))
    return 0


async def bootstrap(settings: Settings) -> str | None:
    """Bring the database up to this release; returns the first API key while it is in force."""
    if settings.owner_database_url is None:
        raise SettingsError("TACHOGRAPH_OWNER_DATABASE_URL is not set; migrations run as the owning role")
    await migrate(settings.owner_database_url)
    Signer.beside(settings.master_key)
    pool = await open_pool(settings.database_url, name="bootstrap", size=2)
    try:
        return await first_key(pool, Keyring.from_file(settings.master_key))
    finally:
        await pool.close()


async def first_key(pool: asyncpg.Pool, keyring: Keyring) -> str | None:
    """Open the default organisation and issue its first key, once; returns the key, or None once it was revoked.

    The key follows from the master key, so a crash between its issue and its delivery loses nothing.
    """
    ledger = Ledger(pool, keyring)
    await ledger.open(ORGANISATION, ORGANISATION, "organisation")
    organisations = await tenancy.organisations(pool)
    if not organisations:
        created = OrganisationCreated(name="default", max_active_runs=MAX_ACTIVE_RUNS)
        await record(
            ledger,
            ledger_id=ORGANISATION,
            stream=ORGANISATION,
            expected_version=0,
            events=[created],
            inline=tenancy.organisation_row(version=1, name=created.name, max_active_runs=created.max_active_runs),
            request=replace(asked_by(ACTOR), event_id=derived(ORGANISATION, "created")),
        )
    key, digest = key_of(keyring.derive("first key"))
    issued = KeyIssued(key_id=derived("first key", digest.hex()), label="first key", prefix=key[:SHOWN], sha256=digest)
    known = await pool.fetchrow("select revoked_at from api_key where key_id = $1", issued.key_id)
    if known is not None:
        return key if known["revoked_at"] is None else None
    request = replace(asked_by(ACTOR), event_id=derived(issued.key_id, "issued"), body=digest)
    await api_keys.issue(ledger, ORGANISATION, issued, request)
    return key
