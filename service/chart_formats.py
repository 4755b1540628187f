"""Charts as bytes: JSON, raw little-endian columns, an Arrow IPC stream. docs/charts.md describes them. Pure.

Raw: 8 bytes `TGCHART1`, the header's length as uint64, the header (JSON, padded with spaces to 8 bytes), then each
series' columns behind each other, 8 bytes a number, all little-endian.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Literal

import msgspec
import numpy as np
import pyarrow as pa
from msgspec import UNSET, UnsetType
from numpy.typing import NDArray

from events.cloudevents import finite
from projections.buckets import Series
from projections.chart_questions import Question
from projections.charts import Chart, RunCurves

Format = Literal["json", "raw", "arrow"]

MEDIA_TYPES: Final[Mapping[Format, str]] = {
    "json": "application/json",
    "raw": "application/vnd.tachograph.columns",
    "arrow": "application/vnd.apache.arrow.stream",
}
MAGIC: Final = b"TGCHART1"
EXACT: Final = 1 << 53
"""Integers up to here are float64 without loss."""

COLUMNS: Final[Mapping[str, str]] = {
    "x": "x",
    "x_first": "x_first",
    "min": "min",
    "max": "max",
    "first": "first",
    "last": "last",
    "mean": "mean",
    "count": "count",
    "nan": "nan_count",
    "posinf": "posinf_count",
    "neginf": "neginf_count",
}
"""The columns of an answer in order, and what a series calls them."""


class ChartSeries(msgspec.Struct, frozen=True, kw_only=True):
    """A curve, one element a bucket that holds points; `sampled` is False where each element is one point.

    `x_first` is left out where it is `x`. `nonpositive` is there where y is logarithmic: whether a bucket holds a value
    that has no logarithm. `known` is False where the run never logged the metric, null in answers to `after`;
    `left_out` counts points without a place on the x axis.
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


class ChartAnswer(msgspec.Struct, frozen=True):
    """The curves, run by run, in the order that was asked for; all up to `position` counts, and nothing behind it."""

    series: list[ChartSeries]
    position: int


class Shape(msgspec.Struct, frozen=True):
    """How an answer is wanted."""

    form: Format = "json"
    log_y: bool = False


def encoded(shape: Shape, question: Question, chart: Chart) -> bytes:
    """Return a chart in a format."""
    return _ENCODED[shape.form](shape, question, chart)


def _series(chart: Chart) -> Iterator[tuple[RunCurves, Series, bool | None]]:
    for run in chart.runs:
        for one, known in zip(run.series, run.known, strict=True):
            yield run, one, known


def _columns(one: Series, shape: Shape) -> dict[str, NDArray[Any]]:
    columns = {name: getattr(one, ours) for name, ours in COLUMNS.items()}
    if shape.log_y:
        columns["nonpositive"] = one.min <= 0
    return columns


def _json(shape: Shape, _: Question, chart: Chart) -> bytes:
    answer = [_document(shape, *one) for one in _series(chart)]
    return msgspec.json.encode(ChartAnswer(answer, chart.position))


def _document(shape: Shape, run: RunCurves, one: Series, known: bool | None) -> ChartSeries:  # noqa: FBT001
    return ChartSeries(
        run=str(run.run_id),
        metric=one.metric,
        known=known,
        sampled=one.sampled,
        points=one.points,
        left_out=one.left_out,
        x=one.x.tolist(),
        x_first=one.x_first.tolist() if one.sampled else UNSET,
        min=_numbers(one.min),
        max=_numbers(one.max),
        first=_numbers(one.first),
        last=_numbers(one.last),
        mean=_numbers(one.mean),
        count=one.count.tolist(),
        nan=one.nan_count.tolist(),
        posinf=one.posinf_count.tolist(),
        neginf=one.neginf_count.tolist(),
        nonpositive=(one.min <= 0).tolist() if shape.log_y else UNSET,
    )


def _numbers(column: NDArray[np.float64]) -> list[float | str]:
    """Return a column for JSON; only a column that has non-finite numbers is looked at one by one."""
    values: list[float | str] = column.tolist()
    if np.isfinite(column).all():
        return values
    return [finite(value) for value in column.tolist()]


class _RawSeries(msgspec.Struct, frozen=True, kw_only=True):
    """A series in the header: its columns, each `rows` numbers of its type, begin `offset` bytes into the answer."""

    run: str
    metric: str
    known: bool | None
    sampled: bool
    points: int
    left_out: int
    rows: int
    offset: int
    columns: list[str]
    types: list[str]


def _raw(shape: Shape, _: Question, chart: Chart) -> bytes:
    found = [(run, one, known, _columns(one, shape)) for run, one, known in _series(chart)]
    typed = [{name: _plain(column) for name, column in columns.items()} for *_, columns in found]

    def header(begin: int) -> bytes:
        described, offset = [], begin
        for (run, one, known, _), columns in zip(found, typed, strict=True):
            described.append(
                _RawSeries(
                    run=str(run.run_id),
                    metric=one.metric,
                    known=known,
                    sampled=one.sampled,
                    points=one.points,
                    left_out=one.left_out,
                    rows=len(one.x),
                    offset=offset,
                    columns=list(columns),
                    types=["int64" if column.dtype.kind == "i" else "float64" for column in columns.values()],
                )
            )
            offset += 8 * len(one.x) * len(columns)
        return msgspec.json.encode({"position": chart.position, "series": described})

    text, begin = b"", 0
    while len(text := header(begin)) > begin - 16:  # offsets are in the header, whose length moves them
        begin = -(-(len(text) + 32) // 8) * 8
    text = text.ljust(begin - 16)
    body = [column.tobytes() for columns in typed for column in columns.values()]
    return b"".join([MAGIC, len(text).to_bytes(8, "little"), text, *body])


def _plain(column: NDArray[Any]) -> NDArray[Any]:
    """Return a column as float64, or int64 where that would lose something."""
    if column.dtype.kind == "i" and len(column) and max(-int(column.min()), int(column.max())) > EXACT:
        return column.astype("<i8")
    return column.astype("<f8")


def _arrow(shape: Shape, question: Question, chart: Chart) -> bytes:
    """Return one record batch a curve; what is said of each curve is in the schema's metadata, `tachograph`."""
    x = pa.float64() if question.axis.kind in ("relative", "metric") else pa.int64()
    types = {"x": x, "x_first": x, **dict.fromkeys(("min", "max", "first", "last", "mean"), pa.float64())}
    types |= dict.fromkeys(("count", "nan", "posinf", "neginf"), pa.int64())
    types |= {"nonpositive": pa.bool_()} if shape.log_y else {}
    about = [
        {
            "run": str(run.run_id),
            "metric": one.metric,
            "known": known,
            "sampled": one.sampled,
            "points": one.points,
            "left_out": one.left_out,
            "rows": len(one.x),
        }
        for run, one, known in _series(chart)
    ]
    said = {"tachograph": msgspec.json.encode({"position": chart.position, "series": about})}
    fields = [("run", pa.string()), ("metric", pa.string()), *types.items()]
    schema = pa.schema([pa.field(*one, nullable=False) for one in fields], metadata=said)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        for run, one, _ in _series(chart):
            columns = _columns(one, shape)
            names = [pa.repeat(pa.scalar(text), len(one.x)) for text in (str(run.run_id), one.metric)]
            arrays = [pa.array(columns[name], kind) for name, kind in types.items()]
            writer.write_batch(pa.record_batch([*names, *arrays], schema=schema))
    return bytes(sink.getvalue())


_ENCODED: Final[Mapping[Format, Callable[[Shape, Question, Chart], bytes]]] = {
    "json": _json,
    "raw": _raw,
    "arrow": _arrow,
}
