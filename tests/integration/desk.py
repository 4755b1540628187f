"""A scheduler under a clock that tests move, and the orders that it gives."""

from uuid import UUID

import msgspec
from nats.aio.client import Client

from events import bus
from events.beats import Order, order_subject
from tests.integration.fleet import Clock, Fleet, worker_beat
from workers.scheduler import Scheduler


class Desk:
    """A scheduler, its clock, and the orders that it gave."""

    def __init__(self, fleet: Fleet, client: Client) -> None:
        self.clock = Clock()
        self.scheduler = Scheduler(fleet.ledger, client, client.jetstream(), clock=self.clock)
        self._jetstream = client.jetstream()
        self._read = 0

    def hear(self, *workers: UUID, runs: dict[UUID, int] | None = None, draining: bool = False) -> None:
        for worker in workers:
            self.scheduler.hear(worker_beat(worker, runs, draining=draining))

    async def orders(self) -> list[tuple[UUID, Order]]:
        """Step until nothing is left to do, and return the orders given since the last time, with their workers."""
        while await self.scheduler.step():
            pass
        last = (await self._jetstream.stream_info("COMMANDS")).state.last_seq
        messages = [await self._jetstream.get_msg("COMMANDS", seq) for seq in range(self._read + 1, last + 1)]
        self._read = last
        found = []
        for message in messages:
            order = msgspec.json.decode(message.data or b"", type=Order)
            worker = UUID(str(message.subject).rpartition(".")[2])
            assert message.subject == order_subject(worker)
            found.append((worker, order))
        return found


async def opened_desk(fleet: Fleet, client: Client) -> Desk:
    """Open a desk where orders can be given."""
    await bus.ensure_streams(client.jetstream())
    return Desk(fleet, client)


def starts(orders: list[tuple[UUID, Order]]) -> list[tuple[UUID, UUID]]:
    return [(worker, order.run_id) for worker, order in orders if order.kind == "start"]
