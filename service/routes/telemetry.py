"""Metrics and logs on their way out: summaries and lines."""

import re
from typing import Any, Final

from litestar import Router, get

from projections import metrics
from projections.logs import LogPage
from service.access import READ_OWN
from service.context import Http, Service
from service.paging import Size, foreign

CURSOR: Final = re.compile(r"\d{1,18}:\d{1,9}")


@get("/runs/{run:str}/metrics", needs=READ_OWN)
async def list_metrics(request: Http, service: Service, run: str) -> dict[str, list[dict[str, Any]]]:
    """The run's metrics: count, first and last step, last value, extremes, and the best by the primary metric."""
    stored = await service.run(request, run)
    return {"metrics": await metrics.summaries(service.pool, stored)}


@get("/runs/{run:str}/logs", needs=READ_OWN)
async def read_logs(
    request: Http,
    service: Service,
    run: str,
    after: str | None = None,
    limit: Size = 1_000,
    tail: int | None = None,
    stream: str | None = None,
    search: str | None = None,
) -> LogPage:
    """Log lines in order: after a cursor, or the last `tail`; `stream` and `search` narrow them down."""
    stored = await service.run(request, run)
    if after is not None and not CURSOR.fullmatch(after):
        raise foreign("after")
    return await service.logs.read(stored, after=after, limit=limit, tail=tail, stream=stream, search=search)


ROUTES = Router(
    path="",
    route_handlers=[list_metrics, read_logs],
    tags=["telemetry"],
)
