"""What happened: events of runs and projects, as pages and as a live stream."""

from collections.abc import Sequence
from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import Router, get
from litestar.params import Parameter
from litestar.response import ServerSentEvent

from events import cloudevents
from service.access import READ
from service.commands.replay import types_of
from service.context import Http, Service
from service.http.endings import at_end
from service.openapi import described
from service.paging import Size
from service.problems import Invalid
from service.stream import Wanted, follow


class EventPage(msgspec.Struct, frozen=True):
    """Events in order as CloudEvents; `next` is the position to go on from, None at the end.

    `actor_names` is what the key that each event's `actor` names was called then; None of what is no key.
    """

    events: list[dict[str, Any]]
    next: int | None
    actor_names: list[str | None]


_STREAM = described(answers=("text/event-stream",))
Types = Annotated[str | None, Parameter(description="event types, with commas between them")]


def _check_position(after: int, head: int, path: str = "after") -> None:
    if not 0 <= after <= head:
        raise Invalid(f"position {after} lies beyond the ledger's head, {head}", path=path, limit=head)


async def _page(
    request: Http,
    service: Service,
    ledger_id: UUID,
    stream: UUID | None,
    after: int,
    limit: int,
    types: Sequence[str] | None,
) -> EventPage:
    is_one = 0 <= after < 1 << 63  # what is no position at all is refused with the others beyond the head
    found = await service.ledger.read(ledger_id, after=after, limit=limit, types=types, stream=stream) if is_one else []
    head, _ = await service.ledger.head(ledger_id)
    _check_position(after, head)
    following = found[-1].position if found and found[-1].position < head else None
    organisation_id = request.user.organisation_id
    names = [await service.actors.name(organisation_id, one.actor, one.recorded_at) for one in found]
    return EventPage([cloudevents.document(recorded) for recorded in found], following, names)


@get("/projects/{project:str}/events", needs=READ)
async def project_events(
    request: Http, service: Service, project: str, after: int = 0, limit: Size = 100, types: Types = None
) -> EventPage:
    """A project's history."""
    known = await service.project(request, project)
    return await _page(request, service, known.project_id, None, after, limit, types_of(types))


@get("/runs/{run:str}/events", needs=READ)
async def run_events(
    request: Http, service: Service, run: str, after: int = 0, limit: Size = 100, types: Types = None
) -> EventPage:
    """A run's history; of a deleted run the events without their data."""
    stored = await service.run(request, run, deleted=True)
    return await _page(request, service, stored.ledger_id, stored.run_id, after, limit, types_of(types))


async def _start(request: Http, service: Service, ledger_id: UUID, after: int | None) -> int:
    """Return the position to stream from: `Last-Event-ID`, `after`, or now."""
    given = request.headers.get("last-event-id")
    head, _ = await service.ledger.head(ledger_id)
    if given is not None and not (given.isdecimal() and len(given) < 20):
        raise Invalid("this is the position of an event: a number of at most 19 digits", path="Last-Event-ID")
    start = int(given) if given is not None else head if after is None else after
    _check_position(start, head, "after" if given is None else "Last-Event-ID")
    return start


def _follow(request: Http, service: Service, wanted: Wanted, after: int) -> ServerSentEvent:
    leave = service.tails.enter(request.user.actor)
    events = follow(service, wanted, after)
    at_end(request.scope, events, leave)
    return ServerSentEvent(events)


@get("/projects/{project:str}/stream", needs=READ, operation_class=_STREAM)
async def project_stream(
    request: Http, service: Service, project: str, after: int | None = None, types: Types = None
) -> ServerSentEvent:
    """A project's events as they happen (Server-Sent Events; the id is the position)."""
    known = await service.project(request, project)
    start = await _start(request, service, known.project_id, after)
    return _follow(request, service, Wanted(known.project_id, None, types_of(types), request.user), start)


@get("/runs/{run:str}/stream", needs=READ, operation_class=_STREAM)
async def run_stream(
    request: Http, service: Service, run: str, after: int | None = None, types: Types = None
) -> ServerSentEvent:
    """A run's events as they happen, telemetry too (Server-Sent Events; the id is the position)."""
    stored = await service.run(request, run)
    start = await _start(request, service, stored.ledger_id, after)
    return _follow(request, service, Wanted(stored.ledger_id, stored.run_id, types_of(types), request.user), start)


ROUTES = Router(
    path="",
    route_handlers=[
        project_events,
        run_events,
        project_stream,
        run_stream,
    ],
    tags=["history"],
)
