"""Orders from the worker's COMMANDS subject, each at least once, perhaps late: redelivery is normal and harmless.

A message is acknowledged once what it asks for is written down, or is known to have no effect. A start that cannot be
met now is given back for a moment, until its time is up; then the scheduler has long decided again. How long that is,
the servers' clocks say (the deadline, less when the order was stored); it is counted by a clock of ours that nobody
steps, since a wall clock that is far ahead would find every order late.
"""

import asyncio
import logging
import time
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol
from uuid import UUID

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js import JetStreamContext

from events.beats import Order
from events.streams import COMMANDS, commands_consumer

logger = logging.getLogger(__name__)

FETCH_SECONDS: Final = 5.0
AGAIN_SECONDS: Final = 1.0
BACKOFF_SECONDS: Final = (0.2, 0.5, 1.0, 2.0, 5.0)
REMEMBERED_SECONDS: Final = 600.0

_order: Final = msgspec.json.Decoder(Order)


class Orders(Protocol):
    """What carries orders out."""

    async def start(self, order: Order) -> bool:
        """Take a run; False if it cannot be done now."""

    def kill(self, order: Order) -> None:
        """End a run, if it is here."""


class Commands:
    """Fetches orders and hands them on: kills at once, starts beside each other."""

    def __init__(self, nats: Client, worker_id: str, orders: Orders) -> None:
        self._nats = nats
        self._worker_id = worker_id
        self._orders = orders
        self._starts: set[asyncio.Task[None]] = set()
        self._up_at: dict[UUID, float] = {}

    async def run(self) -> None:
        """Take orders until cancelled; whatever happens to the connection or the stream, go on."""
        failures = 0
        try:
            while True:
                try:
                    subscription = await self._subscribe()
                    failures = 0
                    while True:
                        await self._fetch(subscription)
                except (NatsError, TimeoutError, OSError) as error:
                    pause = BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS) - 1)]
                    failures += 1
                    logger.warning(
                        "orders cannot be fetched, again in %g s: %s", pause, str(error) or type(error).__name__
                    )
                    await asyncio.sleep(pause)
        finally:
            for task in self._starts:
                task.cancel()

    async def _subscribe(self) -> JetStreamContext.PullSubscription:
        """Declare the consumer as it should be (also where one exists already) and bind to it."""
        jetstream = self._nats.jetstream(timeout=FETCH_SECONDS)
        declared = commands_consumer(self._worker_id)
        await jetstream.add_consumer(COMMANDS, declared)
        return await jetstream.pull_subscribe_bind(declared.durable_name or "", COMMANDS)

    async def _fetch(self, subscription: JetStreamContext.PullSubscription) -> None:
        try:
            messages = await subscription.fetch(16, timeout=FETCH_SECONDS)
        except TimeoutError:  # nothing came, or nobody is there: the latter must not go unnoticed
            if self._nats.is_connected:
                await subscription.consumer_info()
            return
        for message in messages:
            await self._take(message)

    async def _take(self, message: Msg) -> None:
        try:
            order = _order.decode(message.data)
        except msgspec.DecodeError:
            logger.exception("an order cannot be read and is dropped: %s", message.data[:500])
            await message.term()
            return
        match order.kind:
            case "kill":
                self._orders.kill(order)
                await message.ack()
            case "start":
                task = asyncio.create_task(self._start(order, message), name=f"start-{order.run_id}")
                self._starts.add(task)
                task.add_done_callback(self._starts.discard)

    def _left_seconds(self, order: Order, message: Msg) -> float:
        """Return how long an order to start is good for, counted from when it first came."""
        now = time.monotonic()
        up_at = self._up_at.get(order.command_id)
        if up_at is None:
            self._up_at = {command: at for command, at in self._up_at.items() if at > now - REMEMBERED_SECONDS}
            up_at = now + (order.deadline - message.metadata.timestamp).total_seconds()
            self._up_at[order.command_id] = up_at
        return up_at - now

    async def _start(self, order: Order, message: Msg) -> None:
        try:
            left = self._left_seconds(order, message)
            if left <= 0:
                logger.info("run %s: the order to start came too late and is dropped", order.run_id)
                await message.ack()
            elif await self._orders.start(_by_our_clock(order, left)):
                await message.ack()
            else:
                await message.nak(delay=AGAIN_SECONDS)
        except Exception:  # one order that cannot be met must not end the taking of orders
            logger.exception("run %s: the order to start failed; it will come again", order.run_id)


def _by_our_clock(order: Order, left_seconds: float) -> Order:
    """Return an order with its deadline as the wall clock of this machine will show it."""
    return msgspec.structs.replace(order, deadline=datetime.now(UTC) + timedelta(seconds=left_seconds))
