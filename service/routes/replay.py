"""A history told again as newline-delimited JSON, telemetry from Parquet included."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Final
from uuid import UUID

import msgspec
from litestar import Router, get
from litestar.params import Parameter, QueryParameter
from litestar.response import Stream

from events.errors import LedgerError
from projections.archive.restore import Restorer
from projections.replay import Replay
from service.access import READ
from service.commands import timeline
from service.commands.replay import resolve, types_of
from service.context import Http, Service
from service.http.downloads import check_key, enter, patience
from service.http.endings import at_end
from service.keys import Principal
from service.openapi import described

MEDIA_TYPE: Final = "application/x-ndjson"
CHUNK_BYTES: Final = 64 << 10
WINDOW_ROWS: Final = 500_000
CACHE_BYTES: Final = 32 << 20
"""What each replay may hold of files, and of the one that it is in."""

_LINES: Final = described(answers=(MEDIA_TYPE,))
_json: Final = msgspec.json.Encoder()

From = Annotated[str | None, QueryParameter(name="from", description="first position, or a time (RFC 3339)")]
Until = Annotated[str | None, Parameter(description="last position, or a time (RFC 3339)")]
Types = Annotated[str | None, Parameter(description="event types, with commas between them")]


@get("/runs/{run:str}/replay", needs=READ, operation_class=_LINES)
async def replay_run(
    request: Http,
    service: Service,
    run: str,
    start: From = None,
    after: int | None = None,
    until: Until = None,
    types: Types = None,
) -> Stream:
    """A run's whole history, metrics and logs included: CloudEvents, one a line, with the `state` after each change.

    The last line is `{"end": {"position", "told", "restored", "erased"}}`; where it is missing, go on with `after`.
    """
    stored = await service.run(request, run, deleted=True)
    return await _stream(request, service, stored.ledger_id, stored.run_id, start, after, until, types)


@get("/projects/{project:str}/replay", needs=READ, operation_class=_LINES)
async def replay_project(
    request: Http,
    service: Service,
    project: str,
    start: From = None,
    after: int | None = None,
    until: Until = None,
    types: Types = None,
) -> Stream:
    """A project's whole history; see the same of a run."""
    known = await service.project(request, project)
    return await _stream(request, service, known.project_id, None, start, after, until, types)


async def _stream(
    request: Http,
    service: Service,
    ledger_id: UUID,
    run_id: UUID | None,
    start: str | None,
    after: int | None,
    until: str | None,
    types: str | None,
) -> Stream:
    wanted = await resolve(
        service.ledger, ledger_id, run_id, start=start, after=after, until=until, types=types_of(types)
    )
    restorer = Restorer(service.archive, window_rows=WINDOW_ROWS, cache_bytes=CACHE_BYTES)
    replay = Replay(service.ledger, restorer, wanted)
    leave = enter(service, request.user.actor)
    chunks = _chunks(service, request.user, replay)
    at_end(request.scope, chunks, leave)
    return Stream(chunks, media_type=MEDIA_TYPE)


async def _chunks(service: Service, principal: Principal, replay: Replay) -> AsyncGenerator[bytes]:
    """Yield lines, many at a time; an error in mid-stream is the last line."""
    lines = bytearray()
    try:
        async with aclosing(replay.steps()) as steps:
            async for step in steps:
                lines += timeline.as_json(step)
                if len(lines) >= CHUNK_BYTES:
                    with patience(f"its replay at position {replay.position}"):
                        yield bytes(lines)
                    lines.clear()
                    if service.stopping.is_set():
                        return
                    await check_key(service, principal)
        end = {"position": replay.position, "told": replay.told, "restored": replay.restored, "erased": replay.erased}
        yield bytes(lines) + _json.encode({"end": end}) + b"\n"
    except LedgerError as error:
        problem = {"title": type(error).__name__, "detail": str(error), "position": replay.position}
        yield bytes(lines) + _json.encode({"problem": problem}) + b"\n"


ROUTES = Router(path="", route_handlers=[replay_run, replay_project], tags=["history"])
"""Where a history is told again."""
