"""Signed heads, and verification: of a project's history, and of the organisation's own.

An organisation's ledger tells its plan, credits, API keys, workers, alert rules and webhooks.
"""

import asyncio
from datetime import UTC, datetime
from uuid import UUID

import msgspec
from litestar import Response, Router, get, post
from litestar.params import JSONBody

from events.heads import SignedHead, Signer
from projections.verification import Places, Report, audit
from service.access import READ, READ_ALL
from service.context import Http, Service


class Head(msgspec.Struct, frozen=True):
    """Where a project's ledger stands: the last position, the chain value (hex) after it, both signed.

    `public_key` (Ed25519, hex) is what the signature verifies with; keep it, and a head, outside this system.
    """

    project_id: UUID
    position: int
    chain: str
    public_key: str
    head: SignedHead


class OrganisationHead(msgspec.Struct, frozen=True):
    """Where the organisation's own ledger stands, as `Head` says it of a project's."""

    organisation_id: UUID
    position: int
    chain: str
    public_key: str
    head: SignedHead


class VerifyBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to verify against: a signed head that was kept elsewhere."""

    head: SignedHead | None = None


@get("/projects/{project:str}/audit", needs=READ)
async def audit_head(request: Http, service: Service, project: str) -> Head:
    """The head of a project's ledger, signed."""
    known = await service.project(request, project)
    head, public_key = await _signed(service, known.project_id)
    return Head(known.project_id, head.position, head.chain, public_key, head)


@get("/organisation/audit", needs=READ_ALL)
async def organisation_head(request: Http, service: Service) -> OrganisationHead:
    """The head of the organisation's own ledger, signed."""
    organisation_id = request.user.organisation_id
    head, public_key = await _signed(service, organisation_id)
    return OrganisationHead(organisation_id, head.position, head.chain, public_key, head)


@post("/projects/{project:str}/audit/verify", needs=READ, status_code=200)
async def verify_project(
    request: Http, service: Service, project: str, data: JSONBody[VerifyBody | None] = None
) -> Response[Report]:
    """Verify the whole history and what was made from it: verified, or the first thing that is bad and what differs."""
    known = await service.project(request, project)
    return Response(await _verified(service, known.project_id, data))


@post("/organisation/audit/verify", needs=READ_ALL, status_code=200)
async def verify_organisation(
    request: Http, service: Service, data: JSONBody[VerifyBody | None] = None
) -> Response[Report]:
    """Verify the organisation's own history: its plan, credits, API keys, workers, alert rules and webhooks."""
    return Response(await _verified(service, request.user.organisation_id, data))


async def _signed(service: Service, ledger_id: UUID) -> tuple[SignedHead, str]:
    """Return the head that a ledger has now, and the public key (hex) to its signature."""
    position, chain = await service.ledger.head(ledger_id)
    signer = await _signer(service)
    return signer.sign(ledger_id, position, chain, datetime.now(UTC)), signer.public_key.hex()


async def _verified(service: Service, ledger_id: UUID, data: VerifyBody | None) -> Report:
    """Raise `HeadRefused` for a head that is not this ledger's."""
    heads = [data.head] if data is not None and data.head is not None else []
    if heads:
        public_key = (await _signer(service)).public_key
        for head in heads:
            head.expect(ledger_id, public_key)
    places = Places(
        database_url=service.settings.database_url,
        archive=service.archive,
        jetstream=service.nats.jetstream() if service.nats is not None and service.nats.is_connected else None,
    )
    return await audit(service.ledger, ledger_id, places, heads=heads)


async def _signer(service: Service) -> Signer:
    return await asyncio.to_thread(Signer.beside, service.settings.master_key)


ROUTES = Router(
    path="",
    route_handlers=[audit_head, verify_project, organisation_head, verify_organisation],
    tags=["history"],
)
