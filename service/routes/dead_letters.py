"""Events that a background role cannot take: listed, explained, tried again, or given up by somebody's decision."""

from typing import Annotated

import msgspec
from litestar import Response, Router, get, post
from litestar.params import Parameter

from events import cloudevents
from events.errors import CorruptHistory, NotFound
from projections import dead_letters
from projections.dead_letters import DeadLetter
from service.access import ADMINISTER, READ
from service.context import Http, Service
from service.paging import Page, Size, opened, page, sealed
from service.problems import Invalid

STATES = ("held", "retry", "discarded", "resolved")
WAITING = "held,retry"

States = Annotated[str, Parameter(description="of held, retry, discarded, resolved, with commas between them")]


class _Place(msgspec.Struct):
    position: int
    reader: str


class Explained(msgspec.Struct, frozen=True):
    """A dead letter, what waits behind it, and the event itself where it can be read at all (JSON)."""

    letter: DeadLetter
    waiting_events: int
    event: dict[str, object] | None
    unreadable: str | None


@get("/projects/{project:str}/dead-letters", needs=READ)
async def list_dead_letters(
    request: Http, service: Service, project: str, states: States = WAITING, limit: Size = 100, cursor: str = ""
) -> Response[Page[DeadLetter]]:
    """A project's events that some reader stopped at, in order."""
    known = await service.project(request, project)
    wanted = [one.strip() for one in states.split(",")]
    if not set(wanted) <= set(STATES):
        raise Invalid(f"a state is one of {', '.join(STATES)}", path="states")
    place = opened(cursor, _Place) if cursor else _Place(0, "")
    after = (place.position, place.reader)
    found = await dead_letters.of_ledger(service.pool, known.project_id, wanted, after, limit + 1)
    return page(request, found, limit, lambda last: sealed(_Place(last.position, last.reader)))


@get("/projects/{project:str}/dead-letters/{reader:str}/{position:int}", needs=READ)
async def explain_dead_letter(
    request: Http, service: Service, project: str, reader: str, position: int
) -> Response[Explained]:
    """One of them, with the event and how much waits behind it."""
    known = await service.project(request, project)
    found = await dead_letters.of_ledger(service.pool, known.project_id, list(STATES), (position - 1, "\uffff"), 100)
    letter = next((one for one in found if (one.reader, one.position) == (reader, position)), None)
    if letter is None:
        raise NotFound(f"{reader} has no dead letter at position {position}")
    event, unreadable = None, None
    try:
        (recorded,) = await service.ledger.read(known.project_id, after=position - 1, up_to=position)
        event = cloudevents.document(recorded)
    except CorruptHistory as error:
        unreadable = str(error)
    head, _ = await service.ledger.head(known.project_id)
    waits = head - position if letter.state in WAITING.split(",") else 0
    return Response(Explained(letter, waits, event, unreadable))


@post("/projects/{project:str}/dead-letters/{reader:str}/{position:int}/retry", needs=ADMINISTER, status_code=200)
async def retry_dead_letter(request: Http, service: Service, project: str, reader: str, position: int) -> DeadLetter:
    """Try it again now, instead of when its turn comes."""
    return await _decide(request, service, project, reader, position, "retry")


@post("/projects/{project:str}/dead-letters/{reader:str}/{position:int}/discard", needs=ADMINISTER, status_code=200)
async def discard_dead_letter(request: Http, service: Service, project: str, reader: str, position: int) -> DeadLetter:
    """Let this reader go on without the event; the ledger keeps it, and the decision stays on record."""
    return await _decide(request, service, project, reader, position, "discarded")


async def _decide(
    request: Http, service: Service, project: str, reader: str, position: int, decision: str
) -> DeadLetter:
    known = await service.project(request, project)
    letter = await dead_letters.decide(service.pool, reader, known.project_id, position, decision, request.user.actor)
    if letter is None:
        raise NotFound(f"{reader} has no dead letter at position {position} that waits for a decision")
    service.tails.grown(known.project_id, telemetry=False)
    return letter


ROUTES = Router(
    path="",
    route_handlers=[list_dead_letters, explain_dead_letter, retry_dead_letter, discard_dead_letter],
    tags=["dead letters"],
)
