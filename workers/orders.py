"""Orders to GPU workers, over JetStream: start a run, end one. They may arrive twice, late, or not at all."""

import logging
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import msgspec
from nats.errors import Error as NatsError
from nats.js import JetStreamContext

from events.beats import Order, order_subject
from events.ids import derived, uuid7
from projections.runs import StoredRun

log = logging.getLogger("tachograph.scheduler")

CLAIM_SECONDS: Final = 20.0
KILL_REPEAT_SECONDS: Final = 5.0
KILL_GRACE_SECONDS: Final = 10.0
"""For the process of a run that has ended already."""


class Orders:
    """Gives orders, and a kill again every few seconds as long as it is due."""

    def __init__(self, jetstream: JetStreamContext, clock: Callable[[], float]) -> None:
        self._jetstream = jetstream
        self._clock = clock
        self._kills_said: dict[UUID, float] = {}

    async def start(self, stored: StoredRun, worker_id: UUID) -> bool:
        """Order a start; False when it is unknown whether the order was stored."""
        order = Order(
            command_id=uuid7(),
            kind="start",
            ledger_id=stored.ledger_id,
            run_id=stored.run_id,
            deadline=datetime.now(UTC) + timedelta(seconds=CLAIM_SECONDS),
            epoch=stored.run.epoch,
        )
        return await self._give(worker_id, order, str(order.command_id))

    async def kill(self, stored: StoredRun, worker_id: UUID) -> int:
        """Order a kill unless that was done a moment ago; returns how many orders that made."""
        now = self._clock()
        repeat = stored.run_id in self._kills_said
        if repeat and now - self._kills_said[stored.run_id] <= KILL_REPEAT_SECONDS:
            return 0
        kill = stored.run.kill
        order = Order(
            command_id=derived(stored.run_id, stored.run.epoch, "kill"),
            kind="kill",
            ledger_id=stored.ledger_id,
            run_id=stored.run_id,
            deadline=datetime.now(UTC) + timedelta(hours=1),
            epoch=stored.run.epoch,
            grace_seconds=kill.grace_seconds if kill else KILL_GRACE_SECONDS,
            cause=kill.cause if kill else stored.run.cause,
        )
        message_id = str(uuid7()) if repeat else str(order.command_id)
        if not await self._give(worker_id, order, message_id):
            return 0
        self._kills_said[stored.run_id] = now
        return 1

    def forget_kills_but(self, due: Collection[UUID]) -> None:
        """Forget the kills that are not due any more."""
        self._kills_said = {run_id: at for run_id, at in self._kills_said.items() if run_id in due}

    async def _give(self, worker_id: UUID, order: Order, message_id: str) -> bool:
        """Publish an order; False when it is unknown whether it was stored (it is given again)."""
        try:
            await self._jetstream.publish(
                order_subject(worker_id), msgspec.json.encode(order), timeout=2, headers={"Nats-Msg-Id": message_id}
            )
        except (NatsError, TimeoutError, OSError) as error:
            log.warning("order %s for run %s: %s", order.kind, order.run_id, str(error) or repr(error))
            return False
        log.info("order %s for run %s to worker %s", order.kind, order.run_id, worker_id)
        return True
