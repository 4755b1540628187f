"""What charts are answered with: the documents as OpenAPI describes them, and the curves that become them."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType
from numpy.typing import NDArray

from projections.charts.buckets import Series
from projections.charts.groups import GroupSeries
from projections.charts.questions import Question
from projections.charts.series import Chart, GroupChart
from projections.charts.smoothing import Smoother, Smoothing
from service.charts.formats import Curve, Curves, Format

_SHARED: Final = {"x": "x", "x_first": "x_first", "min": "min", "max": "max"}
_COUNTS: Final = {"count": "count", "nan": "nan_count", "posinf": "posinf_count", "neginf": "neginf_count"}
_OF_RUNS: Final = {**_SHARED, "first": "first", "last": "last", "mean": "mean", **_COUNTS}
_OF_GROUPS: Final = {**_SHARED, "mean": "mean", "runs": "runs", **_COUNTS}
"""The columns of an answer in order, and what a series calls them."""


class ChartSeries(msgspec.Struct, frozen=True, kw_only=True):
    """A curve, one element a bucket that holds points; `sampled` is False where each element is one point.

    `x_first` is left out where it is `x`. `nonpositive` is there where y is logarithmic: whether a bucket holds a value
    that has no logarithm; `smoothed` where that is asked for. `known` is False where the run never logged the metric,
    null in answers to `after`; `left_out` counts points without a place on the x axis.
    """

    run: str
    metric: str
    known: bool | None
    sampled: bool
    points: int
    left_out: int
    x: list[float]
    x_first: list[float] | UnsetType = UNSET
    min: list[float | str]
    max: list[float | str]
    first: list[float | str]
    last: list[float | str]
    mean: list[float | str]
    count: list[int]
    nan: list[int]
    posinf: list[int]
    neginf: list[int]
    nonpositive: list[bool] | UnsetType = UNSET
    smoothed: list[float | str] | UnsetType = UNSET


class ChartAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The curves, run by run, in the order that was asked for; all up to `position` counts, and nothing behind it.

    `more_runs` says whether a filter matches more runs than are shown.
    """

    series: list[ChartSeries]
    position: int
    more_runs: bool | UnsetType = UNSET


class GroupChartSeries(msgspec.Struct, frozen=True, kw_only=True):
    """A curve of a group of `members` runs: the mean of their means, and exact extremes over all of their points.

    `runs` says how many of them have points in a bucket.
    """

    group: Any
    metric: str
    members: int
    points: int
    left_out: int
    x: list[float]
    x_first: list[float]
    min: list[float | str]
    max: list[float | str]
    mean: list[float | str]
    runs: list[int]
    count: list[int]
    nan: list[int]
    posinf: list[int]
    neginf: list[int]
    nonpositive: list[bool] | UnsetType = UNSET
    smoothed: list[float | str] | UnsetType = UNSET


class GroupChartAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The curves, group by group, the largest first; otherwise as `ChartAnswer`."""

    series: list[GroupChartSeries]
    position: int
    more_runs: bool | UnsetType = UNSET


class Shape(msgspec.Struct, frozen=True):
    """How an answer is wanted; `more_runs` is what it says besides."""

    form: Format = "json"
    log_y: bool = False
    smoothing: Smoothing | None = None
    more_runs: bool | None = None


def of_runs(shape: Shape, question: Question, chart: Chart) -> Curves:
    """Return the curves of a chart."""
    smoother = Smoother(shape.smoothing) if shape.smoothing else None

    def curves() -> Iterator[Curve]:
        for run in chart.runs:
            for one, known in zip(run.series, run.known, strict=True):
                about: dict[str, Any] = {
                    "run": str(run.run_id),
                    "metric": one.metric,
                    "known": known,
                    "sampled": one.sampled,
                }
                about |= {"points": one.points, "left_out": one.left_out}
                weight = one.count - one.nan_count - one.posinf_count - one.neginf_count
                yield Curve(about, _columns(one, _OF_RUNS, weight, shape, question, smoother))

    return _answer(shape, question, chart.position, list(curves()), ("run", "metric"), _OF_RUNS)


def of_groups(shape: Shape, question: Question, chart: GroupChart) -> Curves:
    """Return the curves of a chart of groups."""
    smoother = Smoother(shape.smoothing) if shape.smoothing else None

    def curves() -> Iterator[Curve]:
        for group in chart.groups:
            for one in group.series:
                about: dict[str, Any] = {
                    "group": group.group.value,
                    "metric": one.metric,
                    "members": len(group.group.runs),
                }
                about |= {"points": one.points, "left_out": one.left_out}
                scaled = one
                if question.axis.kind == "relative":
                    scaled = msgspec.structs.replace(one, x=one.x / 1e6, x_first=one.x_first / 1e6)
                yield Curve(about, _columns(scaled, _OF_GROUPS, one.runs, shape, question, smoother))

    return _answer(shape, question, chart.position, list(curves()), ("group", "metric"), _OF_GROUPS)


def _columns(
    one: Series | GroupSeries,
    names: Mapping[str, str],
    weight: NDArray[np.int64],
    shape: Shape,
    question: Question,
    smoother: Smoother | None,
) -> dict[str, NDArray[Any]]:
    columns: dict[str, NDArray[Any]] = {name: getattr(one, ours) for name, ours in names.items()}
    if shape.log_y:
        columns["nonpositive"] = one.min <= 0
    if smoother is not None:
        u = np.log10(one.x) if question.axis.log else one.x
        columns["smoothed"] = smoother.smooth(u, one.mean, weight)
    return columns


def _answer(
    shape: Shape,
    question: Question,
    position: int,
    curves: list[Curve],
    labels: tuple[str, ...],
    names: Mapping[str, str],
) -> Curves:
    x = "f" if question.axis.kind in ("relative", "metric") else "i"
    kinds = {name: x if name.startswith("x") else "i" if name in {*_COUNTS, "runs"} else "f" for name in names}
    kinds |= {"nonpositive": "b"} if shape.log_y else {}
    kinds |= {"smoothed": "f"} if shape.smoothing else {}
    about = {"position": position} | ({} if shape.more_runs is None else {"more_runs": shape.more_runs})
    return Curves(about, curves, labels, kinds)
