"""`python -m service keys list | create NAME --role R | revoke ID`: API keys, by way of the database.

This is the way back in for who has lost the last admin's key; everybody else asks the service (docs/access.md).
Each change is an event of `system:operator` in the organisation's ledger.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import msgspec

from events.database import open_pool
from events.errors import NotFound, Rejected
from events.keys import Keyring
from events.ledger import Ledger
from events.organisation import KeyRevoked
from events.settings import Settings, from_environment
from events.types import Role
from projections import api_keys, tenancy
from projections.execute import asked_by
from service.bodies import NewKey
from service.commands.audit import find_organisation
from service.key_rules import check_new
from service.keys import new_key
from service.problems import Invalid
from service.resources import KeyResource, key_resource

ACTOR: Final = "system:operator"
PAGE: Final = 1_000


class Created(msgspec.Struct, frozen=True):
    """A new key with its secret."""

    api_key: str
    key: KeyResource


def main(arguments: Sequence[str]) -> int:
    """Do what the command line says, and print the keys that it is about; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m service keys", description="API keys, by way of the database.")
    parser.add_argument("--organisation", default="default", help="id or name")
    parser.add_argument("--json", action="store_true", help="print JSON: a key a line, with its secret where it is new")
    what = parser.add_subparsers(dest="what", required=True)
    what.add_parser("list", help="all keys, newest first")
    create = what.add_parser("create", help="make a key; its secret is printed once")
    create.add_argument("name")
    create.add_argument("--role", required=True, choices=[*Role])
    create.add_argument("--project", action="append", help="confine it to this project, by id or name; repeatable")
    create.add_argument("--expires", metavar="TIME", help="until when it opens anything (RFC 3339)")
    revoke = what.add_parser("revoke", help="end a key for good, at once")
    revoke.add_argument("key", type=UUID)
    options = parser.parse_args(arguments)
    return asyncio.run(_do(from_environment(), options))


async def _do(settings: Settings, options: argparse.Namespace) -> int:
    pool = await open_pool(settings.database_url, name="keys", size=1)
    try:
        ledger = Ledger(pool, Keyring.from_file(settings.master_key))
        organisation_id = await find_organisation(pool, options.organisation)
        match options.what:
            case "create":
                await _create(ledger, organisation_id, options)
            case "revoke":
                await _revoke(ledger, organisation_id, options)
            case _:
                await _list(ledger, organisation_id, options)
        await ledger.drained()
    finally:
        await pool.close()
    return 0


async def _create(ledger: Ledger, organisation_id: UUID, options: argparse.Namespace) -> None:
    given = {"name": options.name, "role": options.role, "projects": options.project, "expires_at": options.expires}
    request = asked_by(ACTOR)
    try:
        wanted = msgspec.convert(given, NewKey)
        check_new(wanted, request.occurred_at)
    except (msgspec.ValidationError, Invalid) as error:
        raise Rejected(str(error)) from None
    projects = None
    if wanted.projects is not None:
        found = [(name, await tenancy.project(ledger.pool, organisation_id, name)) for name in wanted.projects]
        if unknown := [name for name, project in found if project is None]:
            raise NotFound(f"there is no project {unknown[0]!r}")
        projects = [project.project_id for _, project in found if project is not None]
    api_key, event = new_key(
        ledger.keyring,
        request.event_id,
        label=wanted.name,
        role=wanted.role,
        projects=projects,
        expires_at=wanted.expires_at,
    )
    await api_keys.issue(ledger, organisation_id, event, request)
    key = await _known(ledger, organisation_id, event.key_id)
    if options.json:
        print(msgspec.json.encode(Created(api_key, key)).decode())
    else:
        print(api_key)
        print(f"this is shown once; {_line(key)}", file=sys.stderr)


async def _revoke(ledger: Ledger, organisation_id: UUID, options: argparse.Namespace) -> None:
    key = await api_keys.get(ledger.pool, organisation_id, options.key)
    if key is None:
        raise NotFound(f"there is no key {options.key}")
    if key.revoked_at is not None:
        raise Rejected(f"this key was revoked at {key.revoked_at:%FT%TZ}")
    await api_keys.change(ledger, key, KeyRevoked(key_id=key.key_id), asked_by(ACTOR))
    _show(await _known(ledger, organisation_id, key.key_id), as_json=options.json)


async def _list(ledger: Ledger, organisation_id: UUID, options: argparse.Namespace) -> None:
    after = None
    while page := await api_keys.listed(ledger.pool, organisation_id, after, PAGE):
        for one in page:
            _show(key_resource(one.key, one.used_at), as_json=options.json)
        after = (page[-1].key.issued_at, page[-1].key.key_id)


async def _known(ledger: Ledger, organisation_id: UUID, key_id: UUID) -> KeyResource:
    key = await api_keys.get(ledger.pool, organisation_id, key_id)
    assert key is not None
    return key_resource(key, await api_keys.used_at(ledger.pool, key_id))


def _show(key: KeyResource, *, as_json: bool) -> None:
    print(msgspec.json.encode(key).decode() if as_json else _line(key))


def _line(key: KeyResource) -> str:
    ends = key.revoked_at or key.expires_at
    end = "" if ends is None else f", {'revoked' if key.revoked_at else _verb(ends)} {ends:%FT%TZ}"
    where = "" if key.projects is None else f" of {len(key.projects)} projects"
    used = "never used" if key.last_used_at is None else f"last used {key.last_used_at:%FT%H:%MZ}"
    return f"{key.id}  {key.prefix}…  {key.role}{where}  {key.name!r}, {used}{end}"


def _verb(expires_at: datetime) -> str:
    return "expires" if expires_at > datetime.now(UTC) else "expired"
