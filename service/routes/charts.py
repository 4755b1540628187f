"""Charts: curves of one run, or of several runs of a project, as JSON, raw columns or Arrow. See docs/charts.md."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import msgspec
from litestar import Response, Router, get
from litestar.di import Provide
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import OpenAPIMediaType, Operation, Schema
from litestar.openapi.spec.enums import OpenAPIFormat, OpenAPIType
from litestar.params import QueryParameter
from litestar.status_codes import HTTP_304_NOT_MODIFIED

from projections import chart_questions, run_points
from projections.chart_questions import ChartRefused, Question, checked
from projections.charts import Chart
from projections.run_points import Newest
from projections.runs import StoredRun, several
from service import chart_caching as caching
from service import ranges
from service.chart_formats import MEDIA_TYPES, ChartAnswer, Format, Shape, encoded
from service.context import Http, Service

Scale = Literal["linear", "log"]


class Asked(msgspec.Struct, frozen=True):
    """What is asked of each run, and how it is to be answered."""

    question: Question
    log_y: bool
    form: Format | None

    def shape(self, request: Http) -> Shape:
        """Return the form that is wanted: what `format` says, else what `Accept` does."""
        return Shape(self.form or _accepted(request.headers.get("accept", "")), self.log_y)


def _accepted(accept: str) -> Format:
    for one in accept.split(","):
        name = one.split(";")[0].strip().lower()
        for form, media_type in MEDIA_TYPES.items():
            if name == media_type:
                return form
    return "json"


def asked(
    metric: Annotated[list[str], QueryParameter(description="may be repeated")],
    x: Annotated[
        str,
        QueryParameter(
            description="step, time (µs since the epoch), relative (s since the run began), or a metric's name"
        ),
    ] = "step",
    start: Annotated[float | None, QueryParameter(name="from", description="inclusive, in x's unit")] = None,
    end: Annotated[float | None, QueryParameter(name="to", description="inclusive, in x's unit")] = None,
    buckets: Annotated[int, QueryParameter(description="how many rows a curve has at most")] = 1_000,
    stage: str | None = None,
    xscale: Annotated[Scale, QueryParameter(description="log: buckets are equal on a logarithmic axis")] = "linear",
    yscale: Annotated[Scale, QueryParameter(description="log: buckets with values ≤ 0 are marked")] = "linear",
    after: Annotated[int, QueryParameter(description="only what arrived behind this ledger position")] = 0,
    form: Annotated[Format | None, QueryParameter(name="format", description="by default what `Accept` says")] = None,
) -> Asked:
    """Return what the parameters ask, unchecked."""
    question = Question(
        metrics=tuple(metric),
        axis=chart_questions.axis(x, log=xscale == "log"),
        start=start,
        end=end,
        buckets=buckets,
        stage=stage,
        after=after,
    )
    return Asked(question, yscale == "log", form)


@dataclass
class ChartOperation(Operation):
    """Adds the other formats to what OpenAPI says of an answer."""

    def __post_init__(self) -> None:
        """Offer each media type."""
        answer: Any = (self.responses or {}).get("200")
        if answer is not None:
            for media_type in list(MEDIA_TYPES.values())[1:]:
                answer.content[media_type] = OpenAPIMediaType(
                    schema=Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.BINARY)
                )


ANSWERS: Final = {200: ResponseSpec(ChartAnswer, description="The curves", generate_examples=False)}


@get("/runs/{run:str}/chart", responses=ANSWERS, operation_class=ChartOperation)
async def chart(request: Http, service: Service, run: str, asked: Asked) -> Response[bytes]:
    """Curves with true extremes: every point where there are few, else min, max, first, last and mean per bucket."""
    stored = await service.run(request, run, program=True)
    return await _answered(request, service, [stored], asked)


@get("/projects/{project:str}/chart", responses=ANSWERS, operation_class=ChartOperation)
async def chart_project(
    request: Http,
    service: Service,
    project: str,
    asked: Asked,
    runs: Annotated[
        list[str], QueryParameter(description="ids of runs; may be repeated, and hold several with commas")
    ],
) -> Response[bytes]:
    """Curves of several runs as of one position of the project's history, run by run in the order asked for."""
    project_id = await service.project_id(request, project)
    run_ids = _run_ids(runs)
    checked(asked.question, len(run_ids))
    return await _answered(request, service, await several(service.pool, project_id, run_ids), asked)


def _run_ids(texts: list[str]) -> list[UUID]:
    found = []
    for text in ",".join(texts).split(","):
        try:
            found.append(UUID(text.strip()))
        except ValueError:
            raise ChartRefused(f"{text[:60]!r} is no run's id", path="runs") from None
    return list(dict.fromkeys(found))


async def _answered(request: Http, service: Service, runs: list[StoredRun], asked: Asked) -> Response[bytes]:
    question = checked(asked.question, len(runs))
    shape = asked.shape(request)
    if question.after:  # asked once
        content = await service.charts.chart(runs, question, partial(encoded, shape, question))
        return Response(content, media_type=MEDIA_TYPES[shape.form], headers={"Cache-Control": "no-store"})
    known = request.headers.get("if-none-match")
    if known is not None:
        newest = await run_points.newest(service.pool, runs)
        if ranges.matches(known, caching.tag(question, shape, runs, newest)):
            headers = _headers(question, shape, runs, newest)
            return Response(b"", status_code=HTTP_304_NOT_MODIFIED, headers=headers, media_type=MEDIA_TYPES[shape.form])

    def shown(chart: Chart) -> tuple[bytes, list[Newest]]:
        return encoded(shape, question, chart), [one.newest for one in chart.runs]

    content, newest = await service.charts.chart(runs, question, shown)
    return Response(content, media_type=MEDIA_TYPES[shape.form], headers=_headers(question, shape, runs, newest))


def _headers(question: Question, shape: Shape, runs: list[StoredRun], newest: list[Newest]) -> dict[str, str]:
    return {
        "ETag": f"W/{caching.tag(question, shape, runs, newest)}",
        "Cache-Control": caching.control(runs, newest),
        "Vary": "Accept",
    }


ROUTES: Final = Router(
    path="",
    route_handlers=[chart, chart_project],
    dependencies={"asked": Provide(asked, sync_to_thread=False)},
    tags=["telemetry"],
)
