"""Charts of one or several runs of a project: their points as of one position of the ledger, as series of buckets."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

import duckdb
import msgspec

from events.errors import CorruptHistory
from events.ledger import Ledger
from projections.analytics import Analytics
from projections.charts import reading, run_points, sources
from projections.charts.buckets import Series
from projections.charts.groups import Band, Group, GroupSeries
from projections.charts.point_files import Unreadable
from projections.charts.questions import ChartRefused, Question
from projections.charts.run_points import Newest, RunPoints
from projections.metrics import metrics_of
from projections.runs import StoredRun

Answer = TypeVar("Answer")


class RunCurves(msgspec.Struct, frozen=True):
    """One run's series, in the order of the question's metrics, and whether the run has each metric at all.

    An answer to what is new does not tell that: None.
    """

    run_id: UUID
    newest: Newest
    series: list[Series]
    known: Sequence[bool | None]


class Chart(msgspec.Struct, frozen=True):
    """What a question came to: everything up to the ledger position `position` counts, and nothing behind it."""

    position: int
    runs: list[RunCurves]


class GroupCurves(msgspec.Struct, frozen=True):
    """One group's series, in the order of the question's metrics."""

    group: Group
    series: list[GroupSeries]


class GroupChart(msgspec.Struct, frozen=True):
    """As `Chart`, of groups; `newest` is of each run."""

    position: int
    newest: list[Newest]
    groups: list[GroupCurves]


class Charts:
    """Answers charts."""

    def __init__(self, ledger: Ledger, analytics: Analytics) -> None:
        self._ledger = ledger
        self._analytics = analytics

    async def chart(self, runs: Sequence[StoredRun], question: Question, shown: Callable[[Chart], Answer]) -> Answer:
        """Return what `shown`, off the event loop, makes of the chart of runs of one ledger, in their order.

        The question is a `checked` one. Raises `ChartRefused`, `Erased`, `NotFound`, `Busy`, `TooLarge`, and
        `CorruptHistory`.
        """
        position, points = await self._read(runs, question)

        def drawn(series: list[list[Series]], known: Sequence[Sequence[bool | None]]) -> Answer:
            curves = [
                RunCurves(one.stored.run_id, one.newest, own, has)
                for one, own, has in zip(points, series, known, strict=True)
            ]
            return shown(Chart(position, curves))

        def at_once() -> tuple[list[list[Series]], Answer | None]:
            """Draw the chart, unless Postgres is to be asked which of its metrics there are."""
            series = sources.curves(self._analytics, question, points)
            if question.after:
                return series, drawn(series, [[None] * len(question.metrics)] * len(runs))
            return series, None if _without_points(points, series) else drawn(series, _known(points, series, {}))

        series, answer = await self._blocking(runs, question, at_once)
        if answer is None:
            unsure = _without_points(points, series)
            summaries = await metrics_of(self._ledger.pool, unsure[0].ledger_id, unsure, list(question.metrics))
            answer = await self._analytics.run(drawn, series, _known(points, series, summaries))
        return answer

    async def groups(
        self,
        runs: Sequence[StoredRun],
        question: Question,
        groups: Sequence[Group],
        shown: Callable[[GroupChart], Answer],
    ) -> Answer:
        """Return what `shown`, off the event loop, makes of groups of these runs. Raises as `chart` does."""
        position, points = await self._read(runs, question)

        def pooled() -> Answer:
            bands = [[Band(metric) for metric in question.metrics] for _ in groups]
            for index, series in enumerate(sources.pooled(self._analytics, question, points)):
                for own, group in zip(bands, groups, strict=True):
                    if index in group.runs:
                        for band, one in zip(own, series, strict=True):
                            band.add(one)
            curves = [
                GroupCurves(group, [band.series() for band in own]) for group, own in zip(groups, bands, strict=True)
            ]
            return shown(GroupChart(position, [one.newest for one in points], curves))

        return await self._blocking(runs, question, pooled)

    async def _read(self, runs: Sequence[StoredRun], question: Question) -> tuple[int, list[RunPoints]]:
        wanted = partial(reading.wanted, question)
        position, points = await run_points.read(self._ledger, runs, wanted, after=question.after)
        if question.after > position:
            detail = f"position {question.after} lies behind the ledger's end, {position}"
            raise ChartRefused(detail, path="after", limit=position)
        return position, points

    async def _blocking(
        self, runs: Sequence[StoredRun], question: Question, work: Callable[..., Answer], *arguments: Any
    ) -> Answer:
        try:
            return await self._analytics.run(work, *arguments)
        except (duckdb.IOException, Unreadable, FileNotFoundError) as error:
            await self._read(runs, question)  # says if a run was deleted meanwhile
            raise CorruptHistory(f"a Parquet file of a chart cannot be read: {error}") from error


def _without_points(points: Sequence[RunPoints], series: Sequence[Sequence[Series]]) -> list[StoredRun]:
    return [run.stored for run, own in zip(points, series, strict=True) if not all(one.points for one in own)]


def _known(
    points: Sequence[RunPoints], series: Sequence[Sequence[Series]], summaries: Mapping[UUID, Mapping[str, Any]]
) -> list[list[bool]]:
    """Return by run and metric whether there is a point of it, whatever its x and stage.

    What is archived was summarised before, so that the summaries, of runs that have no point of a metric, and the
    tail's names are all that there are.
    """
    return [
        [one.points > 0 or one.metric in run.names or one.metric in summaries.get(run.stored.run_id, {}) for one in own]
        for run, own in zip(points, series, strict=True)
    ]
