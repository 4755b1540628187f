"""GPU workers that have been silent for too long are declared lost; one that is heard again is back.

A worker is declared only after all its runs were: those have periods of their own. What its ended runs may still have
held is free from then on.
"""

import logging
from collections.abc import Callable, Collection
from typing import Final
from uuid import UUID

from events.errors import VersionConflict
from events.ledger import Ledger
from events.organisation import WorkerLost, WorkerReturned
from projections import tenancy
from projections.execute import asked_by, record
from projections.tenancy import Worker

log = logging.getLogger("tachograph.monitor")

LOST_SECONDS: Final = 60.0
BACK_SECONDS: Final = 5.0


class LostWorkers:
    """Watches the beats of workers."""

    def __init__(self, ledger: Ledger, actor: str, clock: Callable[[], float]) -> None:
        self._ledger = ledger
        self._actor = actor
        self._clock = clock
        self._heard: dict[UUID, float] = {}
        self._seen: dict[UUID, float] = {}

    def hear(self, worker_id: UUID) -> None:
        """Take a worker as alive now."""
        self._heard[worker_id] = self._clock()

    async def step(self, fresh_since: float, needed: Collection[UUID | None], *, held: bool) -> int:
        """Declare who was lost and who is back; `needed` are the workers of runs that nobody has declared yet."""
        now = self._clock()
        workers = {worker.worker_id: worker for worker in await tenancy.workers(self._ledger.pool)}
        self._heard = {worker_id: at for worker_id, at in self._heard.items() if worker_id in workers}
        self._seen = {worker_id: self._seen.get(worker_id, now) for worker_id in workers}
        changed = 0
        for worker_id, worker in workers.items():
            heard = self._heard.get(worker_id)
            if worker.lost_at is None:
                silence = now - max(heard or 0.0, fresh_since, self._seen[worker_id])
                if silence > LOST_SECONDS and not held and worker_id not in needed:
                    changed += await self._record(worker, WorkerLost(worker=worker_id), lost=True)
            elif heard is not None and now - heard < BACK_SECONDS:
                changed += await self._record(worker, WorkerReturned(worker=worker_id), lost=False)
        return changed

    async def _record(self, worker: Worker, event: WorkerLost | WorkerReturned, *, lost: bool) -> int:
        try:
            await record(
                self._ledger,
                ledger_id=worker.organisation_id,
                stream=worker.worker_id,
                expected_version=worker.version,
                events=[event],
                inline=tenancy.worker_standing(worker.worker_id, version=worker.version + 1, lost=lost),
                request=asked_by(self._actor),
            )
        except VersionConflict:
            return 0  # it registered meanwhile
        log.warning("worker %s is %s", worker.name, "lost" if lost else "back")
        return 1
