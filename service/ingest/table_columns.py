"""Columns of tables that come from anywhere, as numpy arrays and texts; what does not fit is refused by its column.

text      a string, or a dictionary of strings     integer  an integer of any width
number    a float, or an integer that it equals    time     an integer of microseconds, or a timestamp
"""

from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from events.errors import TooLarge
from service.ingest import batches
from service.problems import Invalid

Kind = Literal["text", "integer", "number", "time"]
Indices = NDArray[np.int64]

_WANTED: Final[dict[Kind, str]] = {
    "text": "a string or a dictionary of strings",
    "integer": "an integer",
    "number": "a float or an integer",
    "time": "an integer of microseconds or a timestamp",
}


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """What a table of `what` has: its columns, the first of which names it in refusals, and rows, a `row` each."""

    what: str
    row: str
    max_rows: int
    columns: tuple[tuple[str, Kind], ...]
    required: tuple[str, ...]

    @property
    def texts(self) -> Sequence[str]:
        """The names of the columns of texts."""
        return [name for name, kind in self.columns if kind == "text"]

    def check_schema(self, schema: pa.Schema) -> None:
        """Refuse a table by the name of the column that is missing, unknown, there twice, or of a wrong type."""
        kinds = dict(self.columns)
        for name in schema.names:
            if name not in kinds:
                raise Invalid(f"there is no column {name!r} in a table of {self.what}: {', '.join(kinds)}", path=name)
            if schema.names.count(name) > 1:
                raise Invalid(f"the column {name!r} is there twice", path=name)
        for name in self.required:
            if name not in schema.names:
                raise Invalid(f"the column {name!r} is missing", path=name)
        for field in schema:
            wanted = kinds[field.name]
            if not _fits(wanted, field.type):
                raise Invalid(f"the column {field.name!r} is {field.type}, not {_WANTED[wanted]}", path=field.name)

    def check_rows(self, rows: int) -> None:
        """Refuse a table of no rows, or of too many."""
        batches.check_count(rows, self.row, self.max_rows, self.columns[0][0])


def _fits(kind: Kind, given: pa.DataType) -> bool:
    if kind == "text":
        text = given.value_type if pa.types.is_dictionary(given) else given
        return any(of(text) for of in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))
    wider = {"number": pa.types.is_floating, "time": pa.types.is_timestamp}.get(kind)
    return bool(pa.types.is_integer(given) or (wider is not None and wider(given)))


def texts(column: pa.Array, name: str) -> tuple[Indices, list[str | None]]:
    """Return a column of texts as int64[n] indices into its different values; the last of them is null."""
    if not pa.types.is_dictionary(column.type):
        _check_views(column, name)
        column = column.dictionary_encode()
    values = column.dictionary
    if len(values) > batches.MAX_POINTS:
        raise Invalid(
            f"the dictionary of {name!r} has {len(values)} values, over {batches.MAX_POINTS}",
            path=name,
            limit=batches.MAX_POINTS,
        )
    _check_views(values, name)
    index = column.indices
    if index.null_count:
        index = index.cast(pa.int64()).fill_null(len(values))
    return index.to_numpy().astype(np.int64, copy=False), [*values.to_pylist(), None]


def _check_views(column: pa.Array, name: str) -> None:
    """Refuse views that show the same bytes so often that together they are more than a body may hold."""
    if not pa.types.is_string_view(column.type) or not len(column):
        return
    views = np.frombuffer(column.buffers()[1], "<i4").reshape(-1, 4)  # the first of four is the length
    lengths = views[column.offset : column.offset + len(column), 0].astype(np.int64)
    check_bytes(int(lengths[column.is_valid().to_numpy(zero_copy_only=False)].sum()), name)


def check_bytes(size: int, name: str) -> None:
    """Refuse texts that are more than a body may hold."""
    limit = batches.MAX_BODY_BYTES
    if size > limit:
        raise TooLarge(f"the column {name!r} holds {size} bytes, over {limit}", limit=limit)


def integers(column: pa.Array, name: str) -> NDArray[np.int64]:
    """Return a column of integers, int64[n]; refuses nulls, and what has more than 63 bits."""
    found = _numpy(column, name)
    if found.dtype == np.uint64 and int(found.max()) >= 1 << 63:
        raise Invalid(f"the column {name!r} has an integer of more than 63 bits", path=name, limit=(1 << 63) - 1)
    return found.astype(np.int64, copy=False)


def numbers(column: pa.Array, name: str) -> NDArray[np.float64]:
    """Return a column of numbers, float64[n]; refuses nulls, and an integer that no float64 equals."""
    found = _numpy(column, name, " (a missing value is NaN)")
    if found.dtype.kind in "iu":
        beyond = (found > batches.EXACT) | (found < -batches.EXACT if found.dtype.kind == "i" else False)
        batches.check_exact(found[beyond].tolist(), name)
    return found.astype(np.float64, copy=False)


def times(column: pa.Array, name: str) -> NDArray[np.int64]:
    """Return a column of times in microseconds, int64[n]; refuses nulls, and parts of a microsecond."""
    if pa.types.is_timestamp(column.type):
        try:
            column = column.cast(pa.timestamp("us", column.type.tz)).cast(pa.int64())
        except pa.ArrowInvalid as error:
            raise Invalid(f"the column {name!r} holds no whole microseconds: {error}", path=name) from error
    return integers(column, name)


def _numpy(column: pa.Array, name: str, hint: str = "") -> NDArray[Any]:
    if column.null_count:
        raise Invalid(f"the column {name!r} has {column.null_count} nulls{hint}", path=name)
    array: NDArray[Any] = column.to_numpy()
    return array
