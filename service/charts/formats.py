"""Curves as bytes: JSON, raw little-endian columns, an Arrow IPC stream. docs/charts.md describes them. Pure.

Raw: 8 bytes `TGCHART1`, the header's length as uint64, the header (JSON, padded with spaces to 8 bytes), then each
curve's columns behind each other, 8 bytes a number, all little-endian.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from events.cloudevents import finite

Format = Literal["json", "raw", "arrow"]

MEDIA_TYPES: Final[Mapping[Format, str]] = {
    "json": "application/json",
    "raw": "application/vnd.tachograph.columns",
    "arrow": "application/vnd.apache.arrow.stream",
}
MAGIC: Final = b"TGCHART1"
EXACT: Final = 1 << 53
"""Integers up to here are float64 without loss."""

_TYPES: Final = {"i": pa.int64(), "f": pa.float64(), "b": pa.bool_()}


class Curve(msgspec.Struct, frozen=True):
    """What is said of a curve, for JSON, and its columns, all of one length."""

    about: Mapping[str, Any]
    columns: Mapping[str, NDArray[Any]]

    @property
    def rows(self) -> int:
        """How long the columns are."""
        return len(self.columns["x"])


class Curves(msgspec.Struct, frozen=True):
    """An answer: what is said of all of it, its curves, what tells them apart, and the columns' kinds of numbers."""

    about: Mapping[str, Any]
    curves: Sequence[Curve]
    labels: tuple[str, ...]
    kinds: Mapping[str, str]


def encoded(form: Format, curves: Curves) -> bytes:
    """Return an answer in a format."""
    return _ENCODED[form](curves)


def _json(answer: Curves) -> bytes:
    series = [
        {**one.about, **{name: _numbers(column) for name, column in one.columns.items() if _is_said(name, one)}}
        for one in answer.curves
    ]
    return msgspec.json.encode({"series": series, **answer.about})


def _is_said(name: str, one: Curve) -> bool:
    """Tell whether JSON has a column: where each element is one point, it begins where it ends."""
    return name != "x_first" or bool(one.about.get("sampled", True))


def _numbers(column: NDArray[Any]) -> list[Any]:
    """Return a column for JSON; only a column that has non-finite numbers is looked at one by one."""
    values: list[Any] = column.tolist()
    if column.dtype.kind != "f" or np.isfinite(column).all():
        return values
    return [finite(value) for value in values]


def _raw(answer: Curves) -> bytes:
    typed = [{name: _plain(column) for name, column in one.columns.items()} for one in answer.curves]

    def header(begin: int) -> bytes:
        described, offset = [], begin
        for one, columns in zip(answer.curves, typed, strict=True):
            types = ["int64" if column.dtype.kind == "i" else "float64" for column in columns.values()]
            layout = {"rows": one.rows, "offset": offset, "columns": list(columns), "types": types}
            described.append({**one.about, **layout})
            offset += 8 * one.rows * len(columns)
        return msgspec.json.encode({**answer.about, "series": described})

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


def _arrow(answer: Curves) -> bytes:
    """Return one record batch a curve; what is said of each curve is in the schema's metadata, `tachograph`."""
    said = {**answer.about, "series": [{**one.about, "rows": one.rows} for one in answer.curves]}
    fields = [pa.field(name, pa.string(), nullable=False) for name in answer.labels]
    fields += [pa.field(name, _TYPES[kind], nullable=False) for name, kind in answer.kinds.items()]
    schema = pa.schema(fields, metadata={"tachograph": msgspec.json.encode(said)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        for one in answer.curves:
            texts = [pa.repeat(pa.scalar(_text(one.about[name])), one.rows) for name in answer.labels]
            arrays = [pa.array(one.columns[name], _TYPES[kind]) for name, kind in answer.kinds.items()]
            writer.write_batch(pa.record_batch([*texts, *arrays], schema=schema))
    return bytes(sink.getvalue())


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


_ENCODED: Final[Mapping[Format, Callable[[Curves], bytes]]] = {"json": _json, "raw": _raw, "arrow": _arrow}
