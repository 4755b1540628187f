"""Points in the order of a file: by metric, step, arrival; and where a file's row groups end. Pure."""

from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from projections.archive.parquet import METRICS_SCHEMA, ROW_GROUP_ROWS

COLUMNS: Final = ("metric", "step", "time_us", "value", "stage", "position")


class SortedPoints(msgspec.Struct, frozen=True, kw_only=True):
    """n points in the order of a file: by metric, step, arrival.

    `metric` and `stage` are int32[n], indices into `metrics` (in order) and `stages`, a stage of -1 being none; `step`,
    `time_us` and `position` are int64[n], `value` float64[n].
    """

    metrics: Sequence[str]
    stages: Sequence[str]
    metric: NDArray[np.int32]
    step: NDArray[np.int64]
    time_us: NDArray[np.int64]
    value: NDArray[np.float64]
    stage: NDArray[np.int32]
    position: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.metric)

    def part(self, begin: int, end: int) -> "SortedPoints":
        """Return the points from one index up to another, without copying them."""
        return msgspec.structs.replace(self, **{name: getattr(self, name)[begin:end] for name in COLUMNS})

    def taken(self, order: NDArray[np.intp]) -> "SortedPoints":
        """Return the points at some indices, in that order."""
        return msgspec.structs.replace(self, **{name: getattr(self, name)[order] for name in COLUMNS})

    def table(self, schema: pa.Schema = METRICS_SCHEMA) -> pa.Table:
        """Return the points as the files have them; the dictionary names no other metrics than theirs."""
        first, last = (int(self.metric[0]), int(self.metric[-1])) if len(self) else (0, -1)
        names = pa.array(self.metrics[first : last + 1], pa.string())
        metric = (self.metric - first).astype(schema.field("metric").type.index_type.to_pandas_dtype())
        columns = [
            pa.DictionaryArray.from_arrays(metric, names),
            pa.array(self.step),
            pa.array(self.time_us),
            pa.array(self.value),
            self._stage(schema.field("stage").type),
            pa.array(self.position),
        ]
        return pa.Table.from_arrays(columns, schema=schema)

    def _stage(self, kind: pa.DataType) -> pa.Array:
        if not self.stages:
            return pa.nulls(len(self), kind)
        indices = pa.array(self.stage, kind.index_type, mask=self.stage < 0)
        return pa.DictionaryArray.from_arrays(indices, pa.array(self.stages, pa.string()))

    def file_schema(self) -> pa.Schema:
        """Return the schema of tables of which pyarrow writes a file with these names in the least time.

        To the byte it is the file of `METRICS_SCHEMA`: but statistics of a dictionary cost a look at each index, which
        is a hash where it has 32 bits, and an empty dictionary costs more than none.
        """
        types = {"metric": _index_of(self.metrics), "stage": _index_of(self.stages) if self.stages else pa.string()}
        return pa.schema([field.with_type(types.get(field.name, field.type)) for field in METRICS_SCHEMA])


def _index_of(names: Sequence[str]) -> pa.DataType:
    index = next(kind for kind in (pa.int8(), pa.int16(), pa.int32()) if len(names) < 1 << kind.bit_width - 1)
    return pa.dictionary(index, pa.string())


def together(parts: Sequence[SortedPoints]) -> SortedPoints:
    """Return parts behind each other."""
    if len(parts) == 1:
        return parts[0]
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in COLUMNS}
    return msgspec.structs.replace(parts[0], **columns)


def group_end(begin: int, length: int, start: Callable[[int], int]) -> int:
    """Return where the row group that begins here ends: with a metric, so that the next one is read without it.

    A group that would be less than a quarter full that way takes as much of the next metric as there is room for.
    `start` gives where the metric of a point begins.
    """
    end = begin + ROW_GROUP_ROWS
    if end >= length:
        return length
    metric = start(end)
    return metric if metric - begin >= ROW_GROUP_ROWS // 4 else end
