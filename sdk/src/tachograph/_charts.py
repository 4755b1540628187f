"""Charts as columns: of one run, of several, of groups of runs, and of what is new.

What is said of many runs comes as raw numbers (`application/vnd.tachograph.columns`), and becomes `array.array`s, which
NumPy and pyarrow take without copying: `numpy.asarray(series["mean"])`.
"""

import sys
import time
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypedDict, Unpack, cast

import msgspec

from tachograph._calls import Calls, route
from tachograph._encoding import numbers
from tachograph._errors import Error
from tachograph._types import FINAL, Chart, ChartSeries, GroupChart, Json

if TYPE_CHECKING:
    import pyarrow as pa

RAW: Final = "application/vnd.tachograph.columns"
ARROW: Final = "application/vnd.apache.arrow.stream"
MAGIC: Final = b"TGCHART1"
COUNTS: Final = frozenset({"count", "nan", "posinf", "neginf", "runs"})


class Asked(TypedDict, total=False):
    """What else a chart is asked; docs/charts.md describes it. `start` and `stop` are bounds of x, both included."""

    x: str
    start: float | None
    stop: float | None
    buckets: int | None
    stage: str | None
    xscale: str | None
    yscale: str | None
    smooth: str | None


class Charts(Calls):
    """The chart routes as methods."""

    def chart(
        self,
        run: str,
        metric: str | Sequence[str],
        *,
        x: str = "step",
        start: float | None = None,
        stop: float | None = None,
        buckets: int | None = None,
        stage: str | None = None,
    ) -> list[ChartSeries]:
        """Return one curve a metric in at most `buckets` buckets; `x` is `step`, `time`, `relative` or a metric."""
        query = _query(metric, {"x": x, "start": start, "stop": stop, "buckets": buckets, "stage": stage})
        found: list[ChartSeries] = self.request("GET", route("runs", run, "chart"), query=query)["series"]
        for series in found:
            series["min"], series["max"] = numbers(series["min"]), numbers(series["max"])
            series["first"], series["last"] = numbers(series["first"]), numbers(series["last"])
            series["mean"] = numbers(series["mean"])
        return found

    def charts(
        self,
        project: str,
        metric: str | Sequence[str],
        *,
        runs: Sequence[str] | None = None,
        filter: str | None = None,  # noqa: A002 (as the route calls it)
        limit: int | None = None,
        after: int | None = None,
        **asked: Unpack[Asked],
    ) -> Chart:
        """Return the curves of several runs as of one `position`: those of `runs`, or the newest that match a filter.

        With `after`, a position, only of what arrived behind it (see `stream_charts`).
        """
        query = _query(metric, asked) | {"runs": _joined(runs), "filter": filter, "limit": limit, "after": after}
        return cast("Chart", self._columns(route("projects", project, "chart"), query))

    def group_charts(
        self,
        project: str,
        metric: str | Sequence[str],
        *,
        group: str,
        runs: Sequence[str] | None = None,
        filter: str | None = None,  # noqa: A002
        limit: int | None = None,
        **asked: Unpack[Asked],
    ) -> GroupChart:
        """Return one curve for each value of a field such as `config.lr`: the runs' mean, and the band of all points.

        The largest group comes first; a value of None is of runs without the field.
        """
        query = _query(metric, asked) | {"group": group, "runs": _joined(runs), "filter": filter, "limit": limit}
        return cast("GroupChart", self._columns(route("projects", project, "chart", "groups"), query))

    def chart_table(
        self,
        project: str,
        metric: str | Sequence[str],
        *,
        group: str | None = None,
        runs: Sequence[str] | None = None,
        filter: str | None = None,  # noqa: A002
        limit: int | None = None,
        **asked: Unpack[Asked],
    ) -> "pa.Table":
        """Return what `charts` does, or with `group` what `group_charts` does, as one table; needs pyarrow.

        Columns `run` or `group`, `metric`, and those of the curves. What is said of each curve is in the schema's
        metadata `tachograph`, as JSON.
        """
        from pyarrow import ipc  # noqa: PLC0415 (no dependency of this package)

        query = _query(metric, asked) | {"group": group, "runs": _joined(runs), "filter": filter, "limit": limit}
        path = route("projects", project, "chart", *([] if group is None else ["groups"]))
        return ipc.open_stream(self._content(path, query, ARROW)).read_all()

    def stream_charts(
        self,
        project: str,
        metric: str | Sequence[str],
        *,
        runs: Sequence[str],
        poll_seconds: float = 1.0,
        **asked: Unpack[Asked],
    ) -> Iterator[Chart]:
        """Yield the curves of runs, then of what arrived since whenever something did, until all have ended.

        Each chart's `position` is where the next one begins, so that every point is in exactly one of them; late and
        repeated steps come too. Not for `smooth` nor for a metric as `x`, which take what is older into account.
        """
        after: int | None = None
        going = list(runs)
        while True:
            while going and self._status(going[0]) in FINAL:
                del going[0]
            chart = self.charts(project, metric, runs=runs, after=after, **asked)
            if after is None or any(series["points"] for series in chart["series"]):
                yield chart
            after = chart["position"]
            if not going:
                return
            time.sleep(poll_seconds)

    def _status(self, run: str) -> str:
        return str(self.request("GET", route("runs", run))["status"])

    def _columns(self, path: str, query: Mapping[str, Any]) -> Json:
        return columns(self._content(path, query, RAW), integral=query["x"] in {None, "step", "time"})


def columns(content: bytes, *, integral: bool) -> Json:
    """Return a raw answer with an array for each column: of integers where it counts, and for x where `integral`."""
    if content[:8] != MAGIC:
        raise Error("the service answered a chart with something else than columns")
    length = int.from_bytes(content[8:16], "little")
    answer: Json = msgspec.json.decode(content[16 : 16 + length])
    whole = COUNTS | {"x", "x_first"} if integral else COUNTS
    for series in answer["series"]:
        at, size = series.pop("offset"), 8 * series.pop("rows")
        for name, kind in zip(series.pop("columns"), series.pop("types"), strict=True):
            column = array("q" if kind == "int64" else "d", content[at : at + size])
            if sys.byteorder == "big":
                column.byteswap()
            series[name] = array("q", map(int, column)) if name in whole else column
            at += size
    return answer


def _query(metric: str | Sequence[str], asked: Mapping[str, Any]) -> Json:
    names = {"start": "from", "stop": "to"}
    return {"metric": metric, "x": None} | {names.get(name, name): value for name, value in asked.items()}


def _joined(runs: Sequence[str] | None) -> str | None:
    return None if runs is None else ",".join(runs)
