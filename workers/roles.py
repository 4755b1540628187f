"""The background roles in one process: what they share, and their start and stop."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import asyncpg
from nats.aio.client import Client
from nats.aio.msg import Msg

from events import bus, garbage
from events.commit import LOST_CONNECTION
from events.database import open_pool, wait_until_there
from events.keys import Keyring
from events.ledger import Ledger
from events.settings import Settings
from events.supervised import supervised
from projections import health
from projections.archive import stores
from projections.health import Said
from projections.storage.objects import ObjectStore
from workers.alerter import Alerter
from workers.archiver import Archiver
from workers.elected import Elected
from workers.heads import Heads
from workers.loop import Loop, Runner
from workers.monitor import Monitor
from workers.projector import Projector
from workers.relay import Relay
from workers.scheduler import Scheduler
from workers.sweeper import Sweeper

log = logging.getLogger("tachograph.workers")

STOP_SECONDS: Final = 3.0
BEAT_SECONDS: Final = 2.0
CONNECTIONS: Final = 4
"""Each holds its plans and catalogues, some 7 MB after a while; nobody who has one waits for another."""

Build = Callable[[Ledger, Client, Settings], Loop]

ROLES: Final[Mapping[str, Build]] = {
    "relay": lambda ledger, nats, settings: Relay(ledger, nats.jetstream(), monitor_url=settings.nats_monitor_url),
    "projector": lambda ledger, _nats, _: Projector(ledger),
    "archiver": lambda ledger, nats, settings: Archiver(
        ledger, stores.opened(settings), ObjectStore.at(settings.object_store), jetstream=nats.jetstream()
    ),
    "scheduler": lambda ledger, nats, settings: Scheduler(
        ledger, nats, nats.jetstream(), start_seconds=settings.start_seconds
    ),
    "sweeper": lambda ledger, _nats, _: Sweeper(ledger),
    "alerter": lambda ledger, _nats, settings: Alerter(ledger, allow_private=settings.webhook_allow_private),
    "monitor": lambda ledger, nats, _: Monitor(ledger, nats),
    "heads": lambda ledger, _nats, settings: Heads(
        ledger, settings.master_key, settings.home / "heads", ObjectStore.at(settings.object_store)
    ),
}

READ_TELEMETRY: Final = frozenset({"relay", "projector"})
"""Who is nudged by telemetry too. The archiver and the alerter look at it in their own time, twice a second."""


async def run_roles(names: list[str], settings: Settings) -> None:
    """Run the roles until SIGTERM or SIGINT."""
    await wait_until_there(settings.database_url)
    pool = await open_pool(settings.database_url, name="-".join(names)[:40], size=CONNECTIONS)
    nats = Client()
    runners: list[Runner] = []
    instance = f"{socket.gethostname()}:{os.getpid()}"

    ledger = Ledger(pool, Keyring.from_file(settings.master_key), nudge=bus.Nudges(nats))

    async def heard(message: Msg) -> None:
        for runner in runners:
            if message.data != bus.BY_TELEMETRY or runner.role.name in READ_TELEMETRY:
                runner.nudge()

    async def listen() -> None:
        await bus.join(nats, settings.nats_url, name="roles")
        await nats.subscribe(bus.nudge_subject("*"), cb=heard)
        await asyncio.Event().wait()

    listening = supervised("listening", listen)  # whoever needs no NATS works before it is there
    await asyncio.sleep(0)  # from here on it can be asked for what it will not do yet
    elected = [Elected(ROLES[name](ledger, nats, settings), settings.database_url) for name in names]
    runners += [Runner(role) for role in elected]
    saying = supervised("saying", lambda: _say_how_we_are(pool, instance, list(zip(elected, runners, strict=True))))
    tidying = supervised("tidying", lambda: stores.keep_tidy(pool, stores.opened(settings)))
    tasks = [asyncio.create_task(runner.run(), name=runner.role.name) for runner in runners]
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    garbage.set_aside()
    log.info("roles: %s", ", ".join(names))
    await stopping.wait()
    beside = (listening, saying, tidying)
    for task in beside:
        task.cancel()
    await asyncio.gather(*beside, return_exceptions=True)
    for runner in runners:
        runner.stop()
    _, late = await asyncio.wait(tasks, timeout=STOP_SECONDS)
    for task in late:
        task.cancel()
    await asyncio.gather(*late, return_exceptions=True)
    await ledger.drained()
    with contextlib.suppress(*LOST_CONNECTION, TimeoutError):
        await health.forget(pool, instance)
    await nats.close()
    await asyncio.wait_for(pool.close(), STOP_SECONDS)


async def _say_how_we_are(
    pool: asyncpg.Pool, instance: str, roles: Sequence[tuple[Elected, Runner]], seconds: float = BEAT_SECONDS
) -> None:
    """Write each role's state every few seconds, where the service shows it; without Postgres nobody listens."""
    while True:
        said = [
            Said(
                role=role.name,
                instance=instance,
                leads=role.leading,
                failures=runner.failures,
                restarts=runner.restarts,
                last_error=runner.trouble,
                stepped_at=runner.stepped_at,
            )
            for role, runner in roles
        ]
        try:
            await health.say(pool, said)
        except (*LOST_CONNECTION, asyncpg.InsufficientResourcesError, TimeoutError) as error:
            log.debug("nobody hears how the roles are: %r", error)
        await asyncio.sleep(seconds)
