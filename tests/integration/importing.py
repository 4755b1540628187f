"""What tests of imports share: bringing an input into a world, and looking at what came."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

from events import codec
from projections import tenancy
from projections.storage.artifact_limits import Limits
from projections.storage.uploads import Uploads
from service.imports.importer import Importer
from service.imports.incoming import Incoming, Input
from service.imports.report import RunReport
from tests.integration.telemetry import World


async def bring(world: World, source: Input, progress: Callable[[int], None] = lambda _: None) -> list[RunReport]:
    """Import all that an input has, and return the reports."""
    project = await tenancy.project_by_id(world.pool, world.ledger_id)
    assert project is not None
    importer = Importer(world.ledger, Uploads(world.ledger, world.objects, Limits()), project)
    reports = []
    for incoming in source.runs():
        if isinstance(incoming, Incoming):
            reports.append(await importer.take(incoming, progress))
        else:
            reports.append(RunReport(original=incoming.original, name=incoming.name, why=incoming.why))
    return reports


async def points(world: World, run_id: UUID) -> dict[str, list[tuple[int, int, float]]]:
    """Return a run's points by metric, as they came: step, time, value."""
    found: dict[str, list[tuple[int, int, float]]] = {}
    for recorded in await world.ledger.read_telemetry(
        world.ledger_id, run_id, after=0, limit=10_000, types=[codec.METRICS]
    ):
        batch: Any = recorded.event()
        rows = list(zip(batch.steps().tolist(), batch.times().tolist(), batch.values().tolist(), strict=True))
        for name, count in zip(batch.names, batch.counts, strict=True):
            found.setdefault(name, []).extend(rows[:count])
            rows = rows[count:]
    return found
