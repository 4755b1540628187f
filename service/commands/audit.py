"""`python -m service verify --project P`: check that nothing recorded was changed, and that all made from it agrees.

`--organisation O` verifies an organisation's own: its plan, credits, API keys, workers, alert rules and webhooks.

Exit status: 0 verified, 1 something is bad (and named), 2 it could not be checked.
"""

import argparse
import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from uuid import UUID

import asyncpg
import msgspec
from nats.aio.client import Client
from nats.errors import Error as NatsError

from events import bus
from events.database import open_pool
from events.errors import NotFound
from events.heads import HeadRefused, SignedHead, Signer, read_heads
from events.keys import Keyring
from events.ledger import Ledger
from events.settings import Settings, from_environment
from projections.archive import stores
from projections.storage import stored_heads
from projections.storage.objects import ObjectStore
from projections.transport import SAMPLE_MESSAGES
from projections.verification import Places, Report, audit
from service.commands.bar import Bar

ADVICE: Final = "nothing was changed; docs/audit.md says what to do, under: When it is not verified"


def main(arguments: Sequence[str]) -> int:
    """Verify and print; returns the exit status."""
    options = _parser().parse_args(arguments)
    public_key = _public_key(options.public_key) if options.public_key else None
    heads = read_heads(options.head.read_bytes()) if options.head else []
    settings = from_environment()
    objects = ObjectStore.at(settings.object_store) if options.stored_heads else None
    with Bar() as bar:
        report = asyncio.run(
            verify_project(
                settings,
                heads,
                bar,
                project=options.project,
                organisation=options.organisation,
                public_key=public_key,
                whole=options.whole,
                stored=objects,
            )
        )
    if options.json:
        print(msgspec.json.encode(report).decode())
    else:
        print(_said(report))
    return 0 if report.verified else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m service verify", description="Verify a history.")
    whose = parser.add_mutually_exclusive_group(required=True)
    whose.add_argument("--project", help="id or name of the project whose history it is")
    whose.add_argument(
        "--organisation", help="… of the organisation: its plan, credits, keys, workers, rules, webhooks"
    )
    parser.add_argument("--head", type=Path, metavar="FILE", help="signed heads that were kept elsewhere, one a line")
    parser.add_argument("--stored-heads", action="store_true", help="also through the heads in the object store")
    parser.add_argument("--public-key", metavar="HEX", help="the key that signed them, where ours is not trusted")
    parser.add_argument("--whole", action="store_true", help="compare all of JetStream's copy, not only the newest")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    return parser


def _public_key(text: str) -> bytes:
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise HeadRefused("a public key is 64 hexadecimal digits")
    return key


async def verify_project(
    settings: Settings,
    heads: Sequence[SignedHead],
    bar: Bar,
    *,
    project: str | None = None,
    organisation: str | None = None,
    public_key: bytes | None = None,
    whole: bool = False,
    stored: ObjectStore | None = None,
) -> Report:
    """Audit a project, or else an organisation, given by id or name, also against heads that are `stored`.

    Raises `NotFound`, `HeadRefused`, and what Postgres and the object store raise.
    """
    pool = await open_pool(settings.database_url, name="verify", size=4)
    nats: Client | None = None
    try:
        ledger_id = await _find(pool, *(("project", project) if project else ("organisation", organisation or "")))
        trusted = public_key or Signer.beside(settings.master_key).public_key
        if stored is not None:
            found = await stored_heads.read(stored, ledger_id)
            if not found:
                raise HeadRefused(f"there is no head of this ledger in {stored.name}")
            heads = [*heads, *found]
        for head in heads:
            head.expect(ledger_id, trusted)
        nats = await _connected(settings.nats_url)
        places = Places(
            database_url=settings.database_url,
            archive=stores.opened(settings),
            jetstream=None if nats is None else nats.jetstream(),
            sample=None if whole else SAMPLE_MESSAGES,
        )
        ledger = Ledger(pool, Keyring.from_file(settings.master_key))
        return await audit(ledger, ledger_id, places, heads=heads, progress=bar.show)
    finally:
        if nats is not None:
            await nats.close()
        await pool.close()


async def _connected(url: str) -> Client | None:
    try:
        return await bus.connect(url, name="verify", wait=False)
    except (NatsError, OSError, TimeoutError):
        return None  # the report says that no message was compared


async def find_project(pool: asyncpg.Pool, project: str) -> UUID:
    """Return the ledger of a project, given by id or name, whatever its organisation. Raises `NotFound`."""
    return await _find(pool, "project", project)


async def find_organisation(pool: asyncpg.Pool, organisation: str) -> UUID:
    """Return an organisation, given by id or name. Raises `NotFound`."""
    return await _find(pool, "organisation", organisation)


async def _find(pool: asyncpg.Pool, kind: str, given: str) -> UUID:
    try:
        return UUID(given)
    except ValueError:
        found = await pool.fetch(f"select {kind}_id as id from {kind} where name = $1", given)  # noqa: S608 (our own names)
    if not found:
        raise NotFound(f"there is no {kind} {given!r}")
    if len(found) > 1:
        raise NotFound(
            f"{len(found)} have the name {given!r}; give an id: {', '.join(str(row['id']) for row in found)}"
        )
    ledger_id: UUID = found[0]["id"]
    return ledger_id


def _said(report: Report) -> str:
    compared = (
        f"{report.checked} events ({report.erased} erased, {report.archived} archived), {report.files} files,"
        f" {report.rows} rows, {'no' if report.messages is None else report.messages} messages of JetStream"
    )
    if report.first_bad is None:
        through = "" if report.head is None else f", through the head signed at {report.head}"
        return f"verified up to position {report.position}{through}: {compared}"
    where = f"position {report.first_bad.position}: {report.first_bad.reason}"
    return f"NOT VERIFIED: {where}\nchecked before that: {compared}\n{ADVICE}"
