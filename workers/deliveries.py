"""Deliveries to webhooks: those that are due are sent, signed, tried again with growing pauses, and given up."""

import asyncio
import random
from typing import Final
from uuid import UUID

import msgspec

from events import cloudevents
from events.database import as_struct
from events.ledger import Ledger
from events.sql import load
from projections import firings, subscriptions
from projections.subscriptions import Delivery, Subscription
from workers.crashpoints import crash_point
from workers.webhooks import Answer, post

DELIVERIES_AT_ONCE: Final = 8
ATTEMPTS: Final = 10
BACKOFF_SECONDS: Final = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1_800.0, 3_600.0, 7_200.0)


class Deliveries:
    """What the alerter has decided to send; it lies in Postgres until it is delivered or failed."""

    def __init__(self, ledger: Ledger, *, allow_private: bool) -> None:
        self._ledger = ledger
        self._allow_private = allow_private

    async def step(self) -> int:
        """Send some of those that are due, at the same time; returns how many."""
        rows = await self._ledger.pool.fetch(
            "select * from operation.delivery where state = 'pending' and next_at <= clock_timestamp()"
            " order by next_at limit $1",
            DELIVERIES_AT_ONCE,
        )
        await asyncio.gather(*(self._deliver(as_struct(Delivery, row)) for row in rows))
        if rows:
            touched = list({row["webhook_id"] for row in rows})
            await self._ledger.pool.execute(
                load("projections.sql", "trim_deliveries"), touched, subscriptions.MAX_DELIVERIES
            )
        return len(rows)

    async def _deliver(self, delivery: Delivery) -> None:
        hook = await subscriptions.get(self._ledger.pool, delivery.webhook_id)
        if hook is None or hook.removed_at is not None:
            answer, state = Answer(None, "the webhook was removed"), "failed"
        else:
            answer = await self._send(hook, delivery)
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

    async def _send(self, hook: Subscription, delivery: Delivery) -> Answer:
        return await asyncio.to_thread(
            post,
            hook.webhook().url,
            await self._body(delivery),
            secret(self._ledger, hook.subscription_id),
            {"Tachograph-Delivery": str(delivery.delivery_id)},
            allow_private=self._allow_private,
        )

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
