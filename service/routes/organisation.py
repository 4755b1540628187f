"""The organisation: what it is called."""

from uuid import UUID

import msgspec
from litestar import Response, Router, get, patch
from litestar.params import JSONBody

from events.organisation import OrganisationChanged
from projections import tenancy
from projections.changes import change_organisation
from projections.tenancy import Organisation
from service.access import ADMINISTER, READ
from service.bodies import ChangedOrganisation
from service.context import Http, Service


class OrganisationResource(msgspec.Struct, frozen=True):
    """A tenant; its plan is at `/organisation/plan`."""

    id: UUID
    name: str
    plan: str
    version: int


@get("/organisation", needs=READ)
async def get_organisation(request: Http, service: Service) -> OrganisationResource:
    """The caller's organisation."""
    return _resource(await tenancy.organisation(service.pool, request.user.organisation_id))


@patch("/organisation", needs=ADMINISTER)
async def rename_organisation(
    request: Http, data: JSONBody[ChangedOrganisation], service: Service
) -> Response[OrganisationResource]:
    """Rename the organisation."""
    organisation_id = request.user.organisation_id
    asked = await service.asked(request, organisation_id)
    event = OrganisationChanged(name=data.name)
    changed, position = await change_organisation(service.ledger, organisation_id, event, asked)
    return Response(_resource(changed), headers={"Tachograph-Position": str(position)})


def _resource(organisation: Organisation) -> OrganisationResource:
    return OrganisationResource(
        organisation.organisation_id, organisation.name, organisation.plan, organisation.version
    )


ROUTES = Router(
    path="",
    route_handlers=[get_organisation, rename_organisation],
    request_max_body_size=64 << 10,
    tags=["access"],
)
