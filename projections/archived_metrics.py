"""Metric summaries from Parquet as well: the same projection for a rebuild, which comes after the payloads have gone.

A restored batch keeps the order of arrival where steps repeat. That is all that a summary asks of an order, so it comes
out the same, bit for bit.
"""

from collections.abc import Sequence
from uuid import UUID

from msgspec.structs import replace

from events import codec
from events.ledger import Fact
from events.telemetry import MetricColumns
from projections.apply import Connection
from projections.archive.restore import WINDOW_ROWS, Restorer
from projections.archive.stores import Store
from projections.metrics import Metrics


class ArchivedMetrics(Metrics):
    """`Metrics`, with the files of `store` for the batches that Postgres does not have any more."""

    def __init__(self, store: Store, *, window_rows: int = WINDOW_ROWS) -> None:
        self._restorer = Restorer(store, window_rows=window_rows)

    async def columns(
        self, connection: Connection, ledger_id: UUID, batches: Sequence[Fact]
    ) -> list[tuple[UUID, MetricColumns]]:
        """Return the points of batches with their runs, run by run, each run's as they arrived.

        Raises `TelemetryMovedError` for a batch that is neither in Postgres nor in a file of the manifest.
        """
        whole = []
        for recorded in sorted(batches, key=lambda one: one.stream):  # so that each file is opened once a page
            if recorded.payload is not None:
                whole.append(recorded)
                continue
            batch = await self._restorer.batch(connection, ledger_id, recorded)
            if batch is not None:
                whole.append(replace(recorded, payload=codec.encode_batch(batch, recorded.schema_version)))
        return await super().columns(connection, ledger_id, whole)
