"""SQL over a project: one statement in, a table out."""

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Annotated, Any, Final

import msgspec
from litestar import Response, Router, post
from litestar.openapi import ResponseSpec
from litestar.params import JSONBody, QueryParameter

from projections.query.limits import Limits
from projections.query.results import Format
from service.access import READ
from service.context import Http, Service
from service.openapi import described

MEDIA_TYPES: Final[dict[Format, str]] = {
    "json": "application/json",
    "arrow": "application/vnd.apache.arrow.stream",
    "csv": "text/csv",
    "parquet": "application/vnd.apache.parquet",
    "spreadsheet": "text/csv",
}
CLOSED: Final = 499
"""What the figures count a request under whose caller has gone; nobody reads it."""
MAX_BODY_BYTES: Final = 8 * Limits().sql_bytes


class QueryBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One SELECT, WITH, EXPLAIN or DESCRIBE statement; `parameters` by name (`$name`) or in order (`?`, `$1`)."""

    sql: str
    parameters: dict[str, Any] | list[Any] | None = None


class Column(msgspec.Struct, frozen=True):
    """A column of an answer, and its type as DuckDB calls it."""

    name: str
    type: str


class Table(msgspec.Struct, frozen=True):
    """An answer as JSON: a value a column in each row."""

    columns: list[Column]
    rows: list[list[Any]]


@post(
    "/projects/{project:str}/query",
    needs=READ,
    status_code=200,
    responses={200: ResponseSpec(Table, description="The answer", generate_examples=False)},
    operation_class=described(answers=tuple(MEDIA_TYPES.values())),
)
async def query(
    request: Http,
    service: Service,
    project: str,
    data: JSONBody[QueryBody],
    form: Annotated[Format | None, QueryParameter(name="format", description="by default what `Accept` says")] = None,
) -> Response[bytes]:
    """Answer SQL (DuckDB's) over the project's views runs, metrics, logs, events, transitions, credits and artifacts.

    `DESCRIBE metrics` tells a view's columns; docs/sql.md has them all. Points and lines that are not archived yet
    count as well. The answer is whole or a refusal that names the limit: time, memory, rows, bytes, files.
    """
    known = await service.project(request, project)
    wanted = form or _accepted(request.headers.get("accept", ""))
    asked = service.queries.run(known.project_id, data.sql, data.parameters, form=wanted)
    content = await _unless_left(request, asked)
    if content is None:
        return Response(b"", status_code=CLOSED)
    return Response(content, media_type=MEDIA_TYPES[wanted])


def _accepted(accept: str) -> Format:
    """Return the first format that the header names; JSON where it names none of ours."""
    for one in accept.split(","):
        name = one.split(";")[0].strip().lower()
        for form, media_type in MEDIA_TYPES.items():
            if name == media_type.split(";")[0]:
                return form
    return "json"


async def _unless_left(request: Http, asked: Coroutine[Any, Any, bytes]) -> bytes | None:
    """Return what is asked for; None, and cancelled, when the caller goes away meanwhile."""
    answering = asyncio.ensure_future(asked)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return answering.result() if answering.done() else None
    finally:
        for one in (answering, leaving):
            one.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(answering, leaving, return_exceptions=True)


async def _left(request: Http) -> None:
    """Return when the connection has been closed by the other side."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


ROUTES: Final = Router(path="", route_handlers=[query], request_max_body_size=MAX_BODY_BYTES, tags=["query"])
