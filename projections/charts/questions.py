"""What a chart can be asked, within bounds that an answer names. Pure.

question = checked(Question(metrics=("loss",), axis=STEP, buckets=500), runs=2)
"""

from math import isfinite
from typing import Final, Literal

import msgspec

from events.errors import LedgerError, TooLarge

MAX_METRICS: Final = 200
MAX_RUNS: Final = 1_000
MAX_BUCKETS: Final = 20_000
MAX_CURVES: Final = 5_000
"""The most of metrics × runs."""
MAX_CELLS: Final = 1_000_000
"""The most of metrics × runs × buckets."""

Kind = Literal["step", "time", "relative", "metric"]


class ChartRefused(LedgerError):
    """A question that cannot be answered; `path` is the parameter to blame."""

    def __init__(self, detail: str, *, path: str, limit: int | float | None = None) -> None:
        super().__init__(detail)
        self.path = path
        self.limit = limit


class Axis(msgspec.Struct, frozen=True):
    """What x is: the step, microseconds since the epoch, seconds since the run began, or another metric's value.

    If `log`, buckets are equal ranges of x's logarithm, and what is not above zero has no place.
    """

    kind: Kind
    metric: str = ""
    log: bool = False


STEP: Final = Axis("step")


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What a chart is to show of each of its runs.

    `start` and `end` are inclusive bounds in x's unit. Only what arrived behind the ledger position `after` counts.
    """

    metrics: tuple[str, ...]
    axis: Axis = STEP
    start: float | None = None
    end: float | None = None
    buckets: int = 1_000
    stage: str | None = None
    after: int = 0


def axis(x: str, *, log: bool = False) -> Axis:
    """Return what a text names: step, time, relative, or a metric, after `metric:` where its name is one of these."""
    if x in ("step", "time", "relative"):
        return Axis(x, log=log)  # type: ignore[arg-type]
    name = x.removeprefix("metric:")
    if not name:
        raise ChartRefused("x is step, time, relative or the name of a metric", path="x")
    return Axis("metric", name, log=log)


def checked(question: Question, runs: int) -> Question:
    """Return the question with each metric once. Raises `TooLarge` past a bound, and `ChartRefused`."""
    metrics = tuple(dict.fromkeys(question.metrics))
    if not metrics:
        raise ChartRefused("a chart has at least one metric", path="metric")
    if len(metrics) > MAX_METRICS:
        raise TooLarge(f"{len(metrics)} metrics in one chart", limit=MAX_METRICS, path="metric")
    if runs > MAX_RUNS:
        raise TooLarge(f"{runs} runs in one chart", limit=MAX_RUNS, path="runs")
    if question.buckets < 1:
        raise ChartRefused("a chart has at least one bucket", path="buckets", limit=1)
    if question.buckets > MAX_BUCKETS:
        raise TooLarge(f"{question.buckets} buckets in one curve", limit=MAX_BUCKETS, path="buckets")
    curves = len(metrics) * runs
    if curves > MAX_CURVES:
        detail = f"{len(metrics)} metrics × {runs} runs are {curves:,} curves, over {MAX_CURVES:,}"
        raise TooLarge(detail, limit=MAX_CURVES, path="metric")
    cells = curves * question.buckets
    if cells > MAX_CELLS:
        product = f"{len(metrics)} metrics × {runs} runs × {question.buckets} buckets are {cells:,}"
        raise TooLarge(f"{product}, over {MAX_CELLS:,}; ask for fewer buckets", limit=MAX_CELLS, path="buckets")
    for name, bound in (("from", question.start), ("to", question.end)):
        if bound is not None and not isfinite(bound):
            raise ChartRefused("a bound is a finite number", path=name)
    if question.start is not None and question.end is not None and question.start > question.end:
        raise ChartRefused(f"the range ends at {question.end:g}, before it begins at {question.start:g}", path="to")
    if question.after < 0:
        raise ChartRefused("a position is not below 0", path="after", limit=0)
    if question.after and question.axis.kind == "metric":
        detail = "what arrives later may give earlier points their x: ask for the whole chart instead"
        raise ChartRefused(detail, path="after")
    return msgspec.structs.replace(question, metrics=metrics)
