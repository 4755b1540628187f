"""Charts: curves of one run, of several, or of groups of runs, as JSON, raw columns or Arrow. See docs/charts.md."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, Final

import msgspec
from litestar import Response, Router, get
from litestar.di import Provide
from litestar.openapi import ResponseSpec
from litestar.params import QueryParameter
from litestar.status_codes import HTTP_304_NOT_MODIFIED
from msgspec.structs import replace

from events.errors import TooLarge
from projections.charts import run_points
from projections.charts.groups import MAX_GROUPS, Group, grouped
from projections.charts.questions import ChartRefused, checked
from projections.charts.run_points import Newest
from projections.charts.series import Chart, GroupChart
from projections.runs import StoredRun
from projections.search import filters, listing
from projections.search.fields import Metric
from projections.search.tokens import FilterError
from service.access import READ, READ_OWN
from service.charts import caching
from service.charts.answers import ChartAnswer, GroupChartAnswer, of_groups, of_runs
from service.charts.formats import MEDIA_TYPES, encoded
from service.charts.requests import Asked, Selected, asked, selected
from service.context import Http, Service
from service.http import ranges
from service.openapi import described

CURVES: Final = described(answers=tuple(MEDIA_TYPES.values()))


def _answers(kind: type[msgspec.Struct]) -> dict[int, ResponseSpec]:
    unchanged = ResponseSpec(None, description="Nothing changed since the answer that `If-None-Match` names")
    return {200: ResponseSpec(kind, description="The curves", generate_examples=False), 304: unchanged}


@get("/runs/{run:str}/chart", needs=READ_OWN, responses=_answers(ChartAnswer), operation_class=CURVES)
async def chart(request: Http, service: Service, run: str, asked: Asked) -> Response[bytes]:
    """Curves with true extremes: every point where there are few, else min, max, first, last and mean per bucket."""
    stored = await service.run(request, run)
    return await _curves(request, service, [stored], asked)


@get(
    "/projects/{project:str}/chart",
    needs=READ,
    responses=_answers(ChartAnswer),
    operation_class=CURVES,
    dependencies={"selected": Provide(selected)},
)
async def chart_project(request: Http, service: Service, asked: Asked, selected: Selected) -> Response[bytes]:
    """Curves of several runs as of one position of the project's history, run by run: as asked for, or newest first."""
    if asked.question.after and selected.more is not None:
        detail = "what a filter finds may change, and then more is new than what arrived: name the runs instead"
        raise ChartRefused(detail, path="after")
    asked = replace(asked, shape=replace(asked.shape, more_runs=selected.more))
    return await _curves(request, service, selected.runs, asked)


async def _curves(request: Http, service: Service, runs: list[StoredRun], asked: Asked) -> Response[bytes]:
    question, shape = checked(asked.question, len(runs)), asked.shape

    def shown(chart: Chart) -> tuple[bytes, list[Newest]]:
        return encoded(shape.form, of_runs(shape, question, chart)), [one.newest for one in chart.runs]

    async def answer() -> tuple[bytes, list[Newest]]:
        return await service.charts.chart(runs, question, shown)

    return await _answered(request, service, runs, Asked(question, shape), answer)


@get(
    "/projects/{project:str}/chart/groups",
    needs=READ,
    responses=_answers(GroupChartAnswer),
    operation_class=CURVES,
    dependencies={"selected": Provide(selected)},
)
async def chart_groups_of_runs(
    request: Http,
    service: Service,
    asked: Asked,
    selected: Selected,
    group: Annotated[str, QueryParameter(description="a field of runs, as in lists")],
) -> Response[bytes]:
    """Groups of runs as one curve a metric: the mean of the runs, and the band from the lowest to the highest point."""
    if asked.question.after:
        raise ChartRefused("groups are answered whole", path="after")
    runs = selected.runs
    checked(replace(asked.question, buckets=1), len(runs))
    groups = await _groups(service, selected, group)
    question = checked(asked.question, len(groups))
    shape = replace(asked.shape, more_runs=selected.more)

    def shown(chart: GroupChart) -> tuple[bytes, list[Newest]]:
        return encoded(shape.form, of_groups(shape, question, chart)), chart.newest

    async def answer() -> tuple[bytes, list[Newest]]:
        return await service.charts.groups(runs, question, groups, shown)

    return await _answered(request, service, runs, Asked(question, shape), answer, groups)


async def _groups(service: Service, selected: Selected, group: str) -> list[Group]:
    try:
        by = filters.parse_field(group)
    except FilterError as error:
        error.parameter = "group"
        raise
    now = datetime.now(UTC)
    names = [by.name] if isinstance(by, Metric) else []
    metrics, called = await listing.besides(service.pool, selected.project_id, selected.runs, names)
    groups = grouped([listing.known(one, metrics, called, now) for one in selected.runs], by)
    if len(groups) > MAX_GROUPS:
        raise TooLarge(f"{group} has {len(groups)} values among these runs", limit=MAX_GROUPS, path="group")
    return groups


async def _answered(
    request: Http,
    service: Service,
    runs: list[StoredRun],
    asked: Asked,
    answer: Callable[[], Awaitable[tuple[bytes, list[Newest]]]],
    *more: object,
) -> Response[bytes]:
    """Return an answer, or that it is the one that the caller has."""
    media_type = MEDIA_TYPES[asked.shape.form]
    chosen = bool(more) or asked.shape.more_runs is not None  # by what may change about runs
    if asked.question.after:  # asked once
        content, _ = await answer()
        return Response(content, media_type=media_type, headers={"Cache-Control": "no-store"})

    def headers(newest: list[Newest]) -> dict[str, str]:
        tag = caching.tag(asked.question, asked.shape, runs, newest, *more)
        control = caching.REVALIDATED if chosen else caching.control(runs, newest)
        return {"ETag": f"W/{tag}", "Cache-Control": control, "Vary": "Accept"}

    known = request.headers.get("if-none-match")
    if known is not None:
        told = headers(await run_points.newest(service.pool, runs))
        if ranges.matches(known, told["ETag"].removeprefix("W/")):
            return Response(b"", status_code=HTTP_304_NOT_MODIFIED, headers=told, media_type=media_type)
    content, newest = await answer()
    return Response(content, media_type=media_type, headers=headers(newest))


ROUTES: Final = Router(
    path="",
    route_handlers=[chart, chart_project, chart_groups_of_runs],
    dependencies={"asked": Provide(asked, sync_to_thread=False)},
    tags=["telemetry"],
)
