"""The first start: migrate the database, make the default organisation and its first API keys, recorded as events."""

import asyncio
import json
from collections.abc import Sequence
from typing import Final, NamedTuple
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
from events.types import Role
from projections import api_keys, tenancy
from projections.execute import asked_by, record
from service.commands.migrate import migrate
from service.keys import SHOWN, key_of

ORGANISATION: Final[UUID] = derived("organisation", "default")
ACTOR: Final = "system:bootstrap"
MAX_ACTIVE_RUNS: Final = 5


def main(arguments: Sequence[str]) -> int:
    """Bootstrap, and print the first keys as JSON; returns the exit status."""
    if arguments:
        raise SettingsError(f"bootstrap takes no arguments, not {arguments[0]!r}")
    keys = asyncio.run(bootstrap(from_environment()))
    print(json.dumps({name: key for name, key in keys._asdict().items() if key}))
    return 0


class FirstKeys(NamedTuple):
    """The first keys, each None once it was revoked: an admin's, and one for a GPU worker beside the service."""

    api_key: str | None
    worker_key: str | None


async def bootstrap(settings: Settings) -> FirstKeys:
    """Bring the database up to this release; returns the first API keys while they are in force."""
    if settings.owner_database_url is None:
        raise SettingsError("TACHOGRAPH_OWNER_DATABASE_URL is not set; migrations run as the owning role")
    await migrate(settings.owner_database_url)
    Signer.beside(settings.master_key)
    pool = await open_pool(settings.database_url, name="bootstrap", size=2)
    try:
        return await first_keys(pool, Keyring.from_file(settings.master_key))
    finally:
        await pool.close()


async def first_keys(pool: asyncpg.Pool, keyring: Keyring) -> FirstKeys:
    """Open the default organisation and issue its first keys, once."""
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
    return FirstKeys(await _first(ledger, "first key", Role.ADMIN), await _first(ledger, "first worker", Role.WORKER))


async def _first(ledger: Ledger, label: str, role: Role) -> str | None:
    """Return the first key of a role, issued once; None once it was revoked.

    The key follows from the master key, so a crash between its issue and its delivery loses nothing.
    """
    key, digest = key_of(ledger.keyring.derive(label))
    key_id = derived(label, digest.hex())
    issued = KeyIssued(key_id=key_id, label=label, prefix=key[:SHOWN], sha256=digest, role=role)
    known = await api_keys.get(ledger.pool, ORGANISATION, key_id)
    if known is not None:
        return key if known.revoked_at is None else None
    request = replace(asked_by(ACTOR), event_id=derived(key_id, "issued"), body=digest)
    await api_keys.issue(ledger, ORGANISATION, issued, request)
    return key
