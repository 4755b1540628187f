"""Deliveries to webhooks: those that are due are sent, signed, tried again with growing pauses, and given up.

Each webhook has a courier while something is due, so that one whose receiver hangs holds up its own deliveries
alone, and no alert. Couriers are few: who was slow goes to the end of the queue.
"""

import asyncio
import logging
import random
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final
from uuid import UUID

import msgspec

from events import cloudevents
from events.commit import LOST_CONNECTION
from events.database import as_struct
from events.ledger import Ledger
from events.sql import load
from projections import firings, subscriptions
from projections.subscriptions import Delivery, Subscription
from workers.crashpoints import crash_point
from workers.webhooks import Answer, post, printable

log = logging.getLogger("tachograph.alerter")

COURIERS: Final = 16
DELIVERIES_AT_ONCE: Final = 4
"""Of one webhook."""
SLOW_SECONDS: Final = 1.0
"""A courier whose deliveries took longer lets others go before it takes the next."""
MAX_WAITING: Final = 10_000
"""How many deliveries of a webhook may wait; past that the oldest fail."""
ATTEMPTS: Final = 10
BACKOFF_SECONDS: Final = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1_800.0, 3_600.0, 7_200.0)


class Deliveries:
    """What the alerter has decided to send; it lies in Postgres until it is delivered or failed."""

    def __init__(self, ledger: Ledger, *, allow_private: bool) -> None:
        self._ledger = ledger
        self._allow_private = allow_private
        self._couriers: dict[UUID, asyncio.Task[None]] = {}
        self._served: dict[UUID, float] = {}
        self._threads = ThreadPoolExecutor(COURIERS * DELIVERIES_AT_ONCE, thread_name_prefix="delivery")

    async def step(self) -> int:
        """Have couriers set out for webhooks that are due; returns how many did. Raises what stopped one before."""
        ended = [hook_id for hook_id, courier in self._couriers.items() if courier.done()]
        for courier in [self._couriers.pop(hook_id) for hook_id in ended]:
            courier.result()
        rows = await self._ledger.pool.fetch(load("projections.sql", "webhooks_due"), list(self._couriers))
        due = sorted((row["webhook_id"] for row in rows), key=lambda hook_id: self._served.get(hook_id, 0.0))
        begun = due[: COURIERS - len(self._couriers)]
        for hook_id in begun:
            self._couriers[hook_id] = asyncio.create_task(self._serve(hook_id), name=f"courier-{hook_id}")
        known = {*due, *self._couriers}
        self._served = {hook_id: at for hook_id, at in self._served.items() if hook_id in known}
        return len(begun)

    async def idle(self) -> int:
        """Wait until no courier is under way; returns how many were."""
        if self._couriers:
            await asyncio.wait(self._couriers.values())
        return len(self._couriers)

    async def stop(self) -> None:
        """Break off; what was under way is sent again."""
        couriers, self._couriers = self._couriers, {}
        for courier in couriers.values():
            courier.cancel()
        await asyncio.gather(*couriers.values(), return_exceptions=True)

    async def _serve(self, hook_id: UUID) -> None:
        """Send a webhook what is due, some at the same time, until nothing is or it was slow."""
        pool = self._ledger.pool
        while rows := await pool.fetch(load("projections.sql", "deliveries_due"), hook_id, DELIVERIES_AT_ONCE):
            began = time.monotonic()
            await asyncio.gather(*(self._deliver(as_struct(Delivery, row)) for row in rows))
            await pool.execute(load("projections.sql", "trim_deliveries"), [hook_id], subscriptions.MAX_DELIVERIES)
            self._served[hook_id] = time.monotonic()
            if self._served[hook_id] - began > SLOW_SECONDS:
                return

    async def _deliver(self, delivery: Delivery) -> None:
        hook = await subscriptions.get(self._ledger.pool, delivery.webhook_id)
        if hook is None or hook.removed_at is not None:
            answer, state = Answer(None, "the webhook was removed"), "failed"
        else:
            answer = await self._attempt(hook, delivery)
            more = delivery.attempts + 1 < ATTEMPTS
            state = "delivered" if answer.delivered else "pending" if more else "failed"
        crash_point("alerter.after_delivery")
        pause = BACKOFF_SECONDS[min(delivery.attempts, len(BACKOFF_SECONDS) - 1)] * random.uniform(0.5, 1.5)  # noqa: S311
        await self._ledger.pool.execute(
            load("projections.sql", "end_delivery"),
            delivery.delivery_id,
            state,
            answer.status,
            answer.error,
            pause,
        )

    async def _attempt(self, hook: Subscription, delivery: Delivery) -> Answer:
        """Send once. One that cannot be sent at all has failed like any other, and holds up none of the others."""
        try:
            return await self._send(hook, delivery)
        except LOST_CONNECTION:
            raise
        except Exception as error:
            log.exception("delivery %s cannot be sent", delivery.delivery_id)
            return Answer(None, printable(f"cannot be sent: {type(error).__name__}: {error}"))

    async def _send(self, hook: Subscription, delivery: Delivery) -> Answer:
        request = partial(
            post,
            hook.webhook().url,
            await self._body(delivery),
            secret(self._ledger, hook.subscription_id),
            {"Tachograph-Delivery": str(delivery.delivery_id)},
            allow_private=self._allow_private,
        )
        return await asyncio.get_running_loop().run_in_executor(self._threads, request)

    async def _body(self, delivery: Delivery) -> bytes:
        """Return the event as it stands in the ledger now; an alert with its value, unless its run was deleted."""
        if delivery.position == 0:
            return msgspec.json.encode({"specversion": "1.0", "id": str(delivery.delivery_id), "type": delivery.type})
        position = delivery.position
        (recorded,) = await self._ledger.read(delivery.ledger_id, after=position - 1, up_to=position)
        document = cloudevents.document(recorded)
        firing = await firings.get(self._ledger.pool, recorded.stream) if recorded.type == "alert.fired" else None
        if firing is not None:
            document["data"].update(metric=firing.metric, value=firing.value)
        return msgspec.json.encode(document)


def secret(ledger: Ledger, webhook_id: UUID) -> bytes:
    """Return what a webhook's deliveries are signed with; it is derived, and stored nowhere."""
    return ledger.keyring.derive(f"webhook.{webhook_id}").hex().encode()
