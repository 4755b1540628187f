"""The background roles in one process: what they share, and their start and stop."""

import asyncio
import logging
import signal
from collections.abc import Callable, Mapping
from typing import Final

from nats.aio.client import Client
from nats.aio.msg import Msg

from events import bus
from events.database import open_pool
from events.keys import Keyring
from events.ledger import Ledger
from events.settings import Settings
from workers.archiver import Archiver
from workers.elected import Elected
from workers.loop import Loop, Runner
from workers.monitor import Monitor
from workers.projector import Projector
from workers.relay import Relay
from workers.scheduler import Scheduler

log = logging.getLogger("tachograph.workers")

STOP_SECONDS: Final = 3.0

Build = Callable[[Ledger, Client, Settings], Loop]

ROLES: Final[Mapping[str, Build]] = {
    "relay": lambda ledger, nats, _: Relay(ledger, nats.jetstream()),
    "projector": lambda ledger, _nats, _: Projector(ledger),
    "archiver": lambda ledger, nats, settings: Archiver(ledger, settings.parquet, jetstream=nats.jetstream()),
    "scheduler": lambda ledger, nats, _: Scheduler(ledger, nats, nats.jetstream()),
    "monitor": lambda ledger, nats, _: Monitor(ledger, nats),
}


async def run_roles(names: list[str], settings: Settings) -> None:
    """Run the roles until SIGTERM or SIGINT."""
    pool = await open_pool(settings.database_url, name="-".join(names)[:40])
    nats = await bus.connect(settings.nats_url, name="roles")
    runners: list[Runner] = []

    ledger = Ledger(pool, Keyring.from_file(settings.master_key), nudge=bus.Nudges(nats))

    async def heard(_: Msg) -> None:
        for runner in runners:
            runner.nudge()

    await nats.subscribe(bus.nudge_subject("*"), cb=heard)
    runners += [Runner(Elected(ROLES[name](ledger, nats, settings), settings.database_url)) for name in names]
    tasks = [asyncio.create_task(runner.run(), name=runner.role.name) for runner in runners]
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    log.info("roles: %s", ", ".join(names))
    await stopping.wait()
    for runner in runners:
        runner.stop()
    _, late = await asyncio.wait(tasks, timeout=STOP_SECONDS)
    for task in late:
        task.cancel()
    await asyncio.gather(*late, return_exceptions=True)
    await ledger.drained()
    await nats.close()
    await asyncio.wait_for(pool.close(), STOP_SECONDS)
