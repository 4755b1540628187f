"""Metric summaries from Parquet as well: the same projection for a rebuild, which comes after the payloads have gone.

A file's points are sorted by (metric, step) and keep the order of arrival where steps repeat. That is all that a
summary asks of an order, so it comes out the same, bit for bit.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from events.ledger import Recorded
from events.telemetry import MetricColumns
from projections import manifest
from projections.apply import Connection, TelemetryMovedError
from projections.metrics import Metrics

_COLUMNS: Final = ("metric", "step", "time_us", "value", "position")


class ArchivedMetrics(Metrics):
    """`Metrics`, with the files below `root` for the batches that Postgres does not have any more."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._opened: tuple[str, pa.Table] | None = None

    async def columns(
        self, connection: Connection, ledger_id: UUID, batches: Sequence[Recorded]
    ) -> list[tuple[UUID, MetricColumns]]:
        """Return the points of batches with their runs; of a run, what was archived first, as it arrived.

        Raises `TelemetryMovedError` for a batch that is neither in Postgres nor in a file of the manifest.
        """
        gone = [recorded for recorded in batches if recorded.payload is None]
        there = [recorded for recorded in batches if recorded.payload is not None]
        rows = await connection.fetch(
            "select s.run_id, s.path, g.position from unnest($2::uuid[], $3::bigint[]) g(stream, position)"
            " join projection.segment s on s.ledger_id = $1 and s.run_id = g.stream and s.kind = $4"
            " and g.position between s.first_position and s.last_position order by g.position",
            ledger_id,
            [recorded.stream for recorded in gone],
            [recorded.position for recorded in gone],
            manifest.METRICS,
        )
        filed = {row["position"] for row in rows}
        lost = [recorded for recorded in gone if recorded.position not in filed]
        await super().columns(connection, ledger_id, lost)  # raises unless their runs were deleted
        files: dict[tuple[UUID, str], list[int]] = {}
        for row in rows:
            files.setdefault((row["run_id"], row["path"]), []).append(row["position"])
        found = []
        for (run_id, path), positions in files.items():
            batch = await asyncio.to_thread(self._read, path, positions)
            if batch is not None:
                found.append((run_id, batch))
        return found + await super().columns(connection, ledger_id, there)

    def _read(self, path: str, positions: Sequence[int]) -> MetricColumns | None:
        """Return the points of some positions of a file as one batch; the last file that was read is kept."""
        if self._opened is None or self._opened[0] != path:
            try:
                self._opened = (path, pq.read_table(self._root / path, columns=list(_COLUMNS)))
            except FileNotFoundError:
                raise TelemetryMovedError(f"position {positions[0]} is in {path}, which is missing") from None
        table = self._opened[1]
        table = table.filter(pc.is_in(table["position"], pa.array(positions, pa.int64())))
        if not table.num_rows:
            return None
        metric = table["metric"].cast(pa.string()).combine_chunks()
        runs = pc.run_end_encode(metric)
        ends = np.asarray(runs.run_ends, np.int64)
        return MetricColumns(
            names=tuple(runs.values.to_pylist()),
            counts=tuple(np.diff(ends, prepend=0).tolist()),
            step=_bytes(table, "step", "<i8"),
            value=_bytes(table, "value", "<f8"),
            time_us=_bytes(table, "time_us", "<i8"),
        )


def _bytes(table: pa.Table, name: str, kind: str) -> bytes:
    return np.asarray(table[name].combine_chunks()).astype(kind).tobytes()
