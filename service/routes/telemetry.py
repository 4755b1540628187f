"""Metrics and logs on their way out: charts, summaries and lines."""

import math
import re
from typing import Annotated, Any, Final, Literal

import msgspec
import numpy as np
from litestar import Router, get
from litestar.params import QueryParameter
from numpy.typing import NDArray

from events.cloudevents import finite
from projections import buckets as buckets_
from projections import metrics
from projections.logs import LogPage
from service.context import Http, Service
from service.paging import Size
from service.problems import Invalid

CURSOR: Final = re.compile(r"\d{1,18}:\d{1,9}")


@get("/runs/{run:str}/metrics")
async def list_metrics(request: Http, service: Service, run: str) -> dict[str, list[dict[str, Any]]]:
    """The run's metrics: count, first and last step, last value, extremes, and the best by the primary metric."""
    stored = await service.run(request, run, program=True)
    return {"metrics": await metrics.summaries(service.pool, stored)}


class ChartSeries(msgspec.Struct, frozen=True, kw_only=True):
    """A curve, one element a bucket; `sampled` is False where each element is one point."""

    metric: str
    sampled: bool
    points: int
    x: list[float]
    min: list[float | str]
    max: list[float | str]
    first: list[float | str]
    last: list[float | str]
    count: list[int]
    nan: list[int]
    posinf: list[int]
    neginf: list[int]


class ChartAnswer(msgspec.Struct, frozen=True):
    """The curves in the order that was asked for."""

    series: list[ChartSeries]


@get("/runs/{run:str}/chart")
async def chart(
    request: Http,
    service: Service,
    run: str,
    metric: list[str],
    x: Literal["step", "time", "relative"] = "step",
    start: Annotated[float | None, QueryParameter(name="from")] = None,
    end: Annotated[float | None, QueryParameter(name="to")] = None,
    buckets: int = 1_000,
    stage: str | None = None,
) -> ChartAnswer:
    """Curves with true extremes: every point where there are few, else min, max, first and last per bucket.

    x is the step, microseconds since the epoch, or seconds since the run started; `from` and `to` are inclusive.
    """
    for name, bound in (("from", start), ("to", end)):
        if bound is not None and not math.isfinite(bound):
            raise Invalid("a bound is a finite number", path=name)
    stored = await service.run(request, run, program=True)
    found = await service.charts.chart(stored, metric, x=x, start=start, end=end, buckets=buckets, stage=stage)
    return ChartAnswer([_chart_series(one) for one in found])


def _chart_series(one: buckets_.Series) -> ChartSeries:
    return ChartSeries(
        metric=one.metric,
        sampled=one.sampled,
        points=one.points,
        x=one.x.tolist(),
        min=_numbers(one.min),
        max=_numbers(one.max),
        first=_numbers(one.first),
        last=_numbers(one.last),
        count=one.count.tolist(),
        nan=one.nan_count.tolist(),
        posinf=one.posinf_count.tolist(),
        neginf=one.neginf_count.tolist(),
    )


def _numbers(column: NDArray[np.float64]) -> list[float | str]:
    """Return a column for JSON; only a column that has non-finite numbers is looked at one by one."""
    values: list[float | str] = column.tolist()
    if np.isfinite(column).all():
        return values
    return [finite(value) for value in column.tolist()]


@get("/runs/{run:str}/logs")
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
    stored = await service.run(request, run, program=True)
    if after is not None and not CURSOR.fullmatch(after):
        raise Invalid("this is no cursor that we gave", path="after")
    return await service.logs.read(stored, after=after, limit=limit, tail=tail, stream=stream, search=search)


ROUTES = Router(
    path="",
    route_handlers=[list_metrics, chart, read_logs],
    tags=["telemetry"],
)
