"""What a chart's parameters ask: of each run, of which runs, and in which form."""

from datetime import UTC, datetime
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from litestar.params import QueryParameter

from events.errors import TooLarge
from projections.charts import questions
from projections.charts.questions import MAX_RUNS, ChartRefused, Question
from projections.charts.smoothing import parsed
from projections.runs import StoredRun, several
from projections.search import filters
from projections.search.fields import Column
from projections.search.statements import Query
from service.charts.answers import Shape
from service.charts.formats import MEDIA_TYPES, Format
from service.context import Http, Service
from service.paging import Size

Scale = Literal["linear", "log"]


class Asked(msgspec.Struct, frozen=True):
    """What is asked of each run, and how it is to be answered."""

    question: Question
    shape: Shape


def asked(
    request: Http,
    metric: Annotated[list[str], QueryParameter(description="may be repeated")],
    x: Annotated[
        str,
        QueryParameter(
            description="step, time (µs since the epoch), relative (s since the run began), or a metric's name"
        ),
    ] = "step",
    start: Annotated[int | float | None, QueryParameter(name="from", description="inclusive, in x's unit")] = None,
    end: Annotated[int | float | None, QueryParameter(name="to", description="inclusive, in x's unit")] = None,
    buckets: Annotated[int, QueryParameter(description="how many rows a curve has at most")] = 1_000,
    stage: str | None = None,
    xscale: Annotated[Scale, QueryParameter(description="log: buckets are equal on a logarithmic axis")] = "linear",
    yscale: Annotated[Scale, QueryParameter(description="log: buckets with values ≤ 0 are marked")] = "linear",
    smooth: Annotated[str | None, QueryParameter(description="ema:a, gaussian:σ or mean:h")] = None,
    after: Annotated[int, QueryParameter(description="only what arrived behind this ledger position")] = 0,
    form: Annotated[Format | None, QueryParameter(name="format", description="by default what `Accept` says")] = None,
) -> Asked:
    """Return what the parameters ask, unchecked."""
    question = Question(
        metrics=tuple(metric),
        axis=questions.axis(x, log=xscale == "log"),
        start=start,
        end=end,
        buckets=buckets,
        stage=stage,
        after=after,
    )
    if smooth is not None and after:
        raise ChartRefused("what is new has not all of its neighbours: ask for the whole chart instead", path="smooth")
    wanted = form or _accepted(request.headers.get("accept", ""))
    return Asked(question, Shape(wanted, yscale == "log", None if smooth is None else parsed(smooth)))


def _accepted(accept: str) -> Format:
    for one in accept.split(","):
        name = one.split(";")[0].strip().lower()
        for form, media_type in MEDIA_TYPES.items():
            if name == media_type:
                return form
    return "json"


class Selected(msgspec.Struct, frozen=True):
    """The runs of a chart; `more` says whether a filter matches others too, None where it was not asked."""

    project_id: UUID
    runs: list[StoredRun]
    more: bool | None = None


async def selected(
    request: Http,
    service: Service,
    project: str,
    runs: Annotated[
        list[str] | None, QueryParameter(description="ids of runs; may be repeated, and hold several with commas")
    ] = None,
    filter_: Annotated[
        str | None, QueryParameter(name="filter", description="instead of `runs`: the newest that match, as in lists")
    ] = None,
    limit: Size = 100,
) -> Selected:
    """Return the runs that are to be charted."""
    project_id = await service.project_id(request, project)
    if (runs is None) == (filter_ is None):
        raise ChartRefused("either `runs` or `filter` says which runs", path="runs")
    if runs is not None:
        return Selected(project_id, await several(service.pool, project_id, _run_ids(runs)))
    tree = filters.parse(filter_ or "")
    archived = None if Column("archived") in filters.fields(tree) else False
    query = Query(ledger_id=project_id, now=datetime.now(UTC), archived=archived, filter=tree)
    found = await service.listing.find(query, limit=limit + 1)
    return Selected(project_id, [one.stored for one in found[:limit]], len(found) > limit)


def _run_ids(texts: list[str]) -> list[UUID]:
    found = []
    for text in ",".join(texts).split(","):
        try:
            found.append(UUID(text.strip()))
        except ValueError:
            raise ChartRefused(f"{text[:60]!r} is no run's id", path="runs") from None
    run_ids = list(dict.fromkeys(found))
    if len(run_ids) > MAX_RUNS:
        raise TooLarge(f"{len(run_ids)} runs in one chart", limit=MAX_RUNS, path="runs")
    return run_ids
