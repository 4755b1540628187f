"""API keys: made, listed, renamed, revoked. Each of these is an event in the organisation's ledger."""

from datetime import UTC, datetime
from uuid import UUID

import msgspec
from litestar import Response, Router, delete, get, patch, post
from litestar.params import JSONBody

from events.errors import NotFound, Rejected
from events.ledger import Appended
from events.organisation import KeyChanged, KeyRevoked
from projections import api_keys
from projections.api_keys import ApiKey
from service.access import ADMINISTER
from service.bodies import ChangedKey, NewKey
from service.context import Http, Service
from service.key_rules import check_new, to_come
from service.keys import new_key
from service.paging import Page, Size, linked, opened, sealed
from service.resources import KeyResource, key_resource


class IssuedKey(msgspec.Struct, frozen=True):
    """A new key with its secret: nobody is told it again, but who repeats the same request."""

    api_key: str
    key: KeyResource


class KeyEvent(msgspec.Struct, frozen=True):
    """What happened to a key, when, and who did it; `name` is what it was called from then on."""

    type: str
    at: datetime
    actor: str
    actor_name: str | None
    name: str | None


class KeyHistory(msgspec.Struct, frozen=True):
    """A key and what happened to it."""

    key: KeyResource
    history: list[KeyEvent]


class _Place(msgspec.Struct, frozen=True):
    issued_at: datetime
    key_id: UUID


@post("/keys", needs=ADMINISTER, status_code=201)
async def create_key(request: Http, data: JSONBody[NewKey], service: Service) -> Response[IssuedKey]:
    """Make an API key. Its secret is in the answer and nowhere else."""
    organisation_id = request.user.organisation_id
    asked = await service.asked(request, organisation_id)
    check_new(data, None if asked.named else datetime.now(UTC))  # a repetition may come when the key has expired
    projects = None
    if data.projects is not None:
        projects = [(await service.project(request, one)).project_id for one in data.projects]
    api_key, event = new_key(
        service.keyring,
        asked.event_id,
        label=data.name,
        role=data.role,
        projects=projects,
        expires_at=data.expires_at,
    )
    appended = await api_keys.issue(service.ledger, organisation_id, event, asked)
    key = await _key(request, service, event.key_id)
    return Response(IssuedKey(api_key, key_resource(key, None)), status_code=201, headers=_at(appended))


@get("/keys", needs=ADMINISTER)
async def list_keys(
    request: Http, service: Service, limit: Size = 100, cursor: str = ""
) -> Response[Page[KeyResource]]:
    """The organisation's keys, newest first, also those that were revoked."""
    place = opened(cursor, _Place) if cursor else None
    after = None if place is None else (place.issued_at, place.key_id)
    found = await api_keys.listed(service.pool, request.user.organisation_id, after, limit + 1)
    shown, last = [key_resource(one.key, one.used_at) for one in found[:limit]], found[limit - 1 : limit]
    more = len(found) > limit
    return linked(request, shown, sealed(_Place(last[0].key.issued_at, last[0].key.key_id)) if more else None)


@get("/keys/{key:uuid}", needs=ADMINISTER)
async def get_key(request: Http, service: Service, key: UUID) -> KeyHistory:
    """One key, and what happened to it: when and by whom it was made, renamed, revoked."""
    known = await _key(request, service, key)
    history = []
    for one in await service.ledger.read_stream(known.organisation_id, key):
        event = one.event()
        who = await service.actors.name(known.organisation_id, one.actor, one.recorded_at)
        history.append(KeyEvent(one.type, one.recorded_at, one.actor, who, getattr(event, "label", None)))
    return KeyHistory(key_resource(known, await api_keys.used_at(service.pool, key)), history)


@patch("/keys/{key:uuid}", needs=ADMINISTER)
async def change_key(request: Http, data: JSONBody[ChangedKey], service: Service, key: UUID) -> Response[KeyResource]:
    """Rename a key, or say until when it opens anything. What it opens does not change: make another one."""
    known = await _key(request, service, key)
    if known.revoked_at is not None:
        raise Rejected("this key was revoked", state="revoked", asked="change", allowed=("create",))
    expires_at = known.expires_at
    if data.expires_at is not msgspec.UNSET:
        expires_at = to_come(data.expires_at, datetime.now(UTC))
    event = KeyChanged(
        key_id=key,
        label=known.label if data.name is msgspec.UNSET else data.name,
        expires_at=None if expires_at is None else expires_at.astimezone(UTC),
    )
    return await _changed(request, service, known, event)


@delete("/keys/{key:uuid}", needs=ADMINISTER, status_code=200)
async def revoke_key(request: Http, service: Service, key: UUID) -> Response[KeyResource]:
    """Revoke a key for good, at once and everywhere; what follows events or exports with it is cut off."""
    known = await _key(request, service, key)
    if known.revoked_at is not None:
        return Response(key_resource(known, await api_keys.used_at(service.pool, key)))
    return await _changed(request, service, known, KeyRevoked(key_id=key))


async def _changed(
    request: Http, service: Service, known: ApiKey, event: KeyChanged | KeyRevoked
) -> Response[KeyResource]:
    asked = await service.asked(request, known.key_id)
    appended = await api_keys.change(service.ledger, known, event, asked)
    service.keys_changed()
    key = await _key(request, service, known.key_id)
    return Response(key_resource(key, await api_keys.used_at(service.pool, key.key_id)), headers=_at(appended))


async def _key(request: Http, service: Service, key_id: UUID) -> ApiKey:
    key = await api_keys.get(service.pool, request.user.organisation_id, key_id)
    if key is None:
        raise NotFound(f"there is no key {key_id}")
    return key


def _at(appended: Appended) -> dict[str, str]:
    return {"Tachograph-Position": str(appended.last)}


ROUTES = Router(
    path="",
    route_handlers=[create_key, list_keys, get_key, change_key, revoke_key],
    request_max_body_size=64 << 10,
    tags=["access"],
)
