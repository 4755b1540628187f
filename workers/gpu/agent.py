"""The agent of one machine: registers it, takes orders, beats, and sees its runs through.

Stopping it (SIGTERM, kill -9 as well) ends no run: shims keep them, and the next agent takes them up again.
"""

import asyncio
import fcntl
import logging
import os
import platform
import signal
import socket
import sys
from pathlib import Path
from typing import IO, Final
from urllib.parse import unquote, urlsplit
from uuid import UUID

import msgspec
from nats.aio.client import Client as Nats

import tachograph
from events.accelerators import CPU
from events.beats import Beat, Order
from events.complaints import Complaints
from events.settings import SettingsError
from workers.gpu import accelerators, records
from workers.gpu.answers import is_locked_out, is_passing
from workers.gpu.commands import Commands
from workers.gpu.environment import base_environment
from workers.gpu.heartbeat import Heart
from workers.gpu.machine import Machine
from workers.gpu.records import Kill, RunDirectory, RunRecord, now_us
from workers.gpu.reporting import Calls
from workers.gpu.settings import Settings, from_environment
from workers.gpu.slots import SlotPool, visible_devices
from workers.gpu.supervisor import Supervisor

logger = logging.getLogger("tachograph.gpu")

STOP_SECONDS: Final = 2.0
AGAIN_SECONDS: Final = (1.0, 2.0, 5.0, 10.0)
CALLS_PER_SLOT: Final = 4  # reports, log lines, figures of the machine, and what is brought in or taken out


class Identity(msgspec.Struct, frozen=True):
    """`worker.json`: who the server says we are, so that we can beat for our runs while it is away."""

    id: str
    name: str
    url: str


class Agent:
    """The runs of one machine and what they share."""

    def __init__(self, settings: Settings, client: tachograph.Client, pool: SlotPool, nats: Nats) -> None:
        self._settings = settings
        self._client = client
        self._pool = pool
        self._nats = nats
        self.calls = Calls(8 + CALLS_PER_SLOT * len(pool.slots), settings.call_seconds)
        self._machine = Machine(
            self.calls,
            client,
            base_environment(os.environ, settings.prefix),
            os.environ,
            lambda ids: visible_devices([pool.slots[id_] for id_ in ids if id_ in pool.slots]),
            settings.volumes,
            settings.preparation_seconds,
            settings.stopping_seconds,
            settings.metrics_seconds,
        )
        self._heart = Heart(nats, self.beat)
        self._runs: dict[str, Supervisor] = {}
        self._identity: Identity | None = None
        self._draining = False
        self._tasks: asyncio.TaskGroup

    async def run(self, stopping: asyncio.Event) -> None:
        """Work until told to stop; the runs go on without us."""
        self._load_identity()
        work = asyncio.create_task(self._work(), name="work")
        stop = asyncio.create_task(stopping.wait(), name="stop")
        await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
        self._draining = True
        stop.cancel()
        work.cancel()
        await asyncio.wait({work}, timeout=STOP_SECONDS)
        if work.done() and not work.cancelled():
            work.result()
        await self._heart.once()
        logger.info("stopped; %d runs go on without this agent", len(self._runs))

    def beat(self) -> Beat | None:
        """Return what to say on HEARTBEATS, None before we know who we are."""
        if self._identity is None:
            return None
        return Beat(
            sender=self._identity.id,
            kind="worker",
            runs={UUID(id_): run.record.epoch for id_, run in self._runs.items() if run.record.epoch},
            slots=len(self._pool.slots),
            free_slots=self._pool.free,
            draining=self._draining,
        )

    # --- orders -----------------------------------------------------------------------------------------------

    async def start(self, order: Order) -> bool:
        """Take a run; False if it cannot be done now (no free slot, an older attempt not gone, no answer)."""
        run_id, command_id = str(order.run_id), str(order.command_id)
        if run_id not in self._runs:
            if self._draining or self._identity is None:
                return False
            try:
                run = await self.calls.once(self._client.run, run_id)
            except tachograph.Error as error:
                logger.warning("run %s: cannot be looked up: %s", run_id, error)
                return not (is_passing(error) or is_locked_out(error))
            if run["status"] not in {"queued", "starting"}:
                logger.info("run %s: is %s, the order to start it has no effect", run_id, run["status"])
                return True
            if run_id not in self._runs:  # the same order may have come twice, and the other been faster
                return self._take(order, self._identity.id, run)
        return self._runs[run_id].record.command_id == command_id

    def _take(self, order: Order, worker_id: str, run: tachograph.RunResource) -> bool:
        """Allot slots, write down that we mean to claim the run, and go about it; False without a free slot."""
        run_id, resources = str(order.run_id), run["resources"] or {}
        accelerator, count = resources.get("accelerator", CPU), resources.get("count", 1)
        if not self._pool.has(accelerator, count):
            logger.error("run %s: this machine will never have %d slots of %r", run_id, count, accelerator)
            return True
        slots = self._pool.allot(accelerator, count, run_id)
        if slots is None:
            logger.info("run %s: no free slot of %r now", run_id, accelerator)
            return False
        record = RunRecord(
            run_id=run_id,
            command_id=str(order.command_id),
            worker_id=worker_id,
            slots=tuple(slot.id for slot in slots),
            deadline_us=int(order.deadline.timestamp() * 1e6),
            ordered_epoch=order.epoch,
            protection=bool(run["protection"]),
        )
        directory = RunDirectory(self._settings.runs / run_id)
        try:
            directory.create()
            directory.save(record)
        except OSError:
            self._pool.release(run_id)
            raise
        self._supervise(record, directory)
        return True

    def kill(self, order: Order) -> None:
        """End a run, if it is here and not a later attempt than the order means."""
        supervisor = self._runs.get(str(order.run_id))
        if supervisor is not None and (order.epoch is None or supervisor.record.epoch <= order.epoch):
            cause = order.cause or "killed_by_user"
            supervisor.kill(Kill(cause, order.grace_seconds, now_us()))

    # --- runs -------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        async with asyncio.TaskGroup() as self._tasks:
            await self._adopt()
            self._tasks.create_task(self._heart.run(), name="heartbeat")
            await connect(self._nats, self._settings.nats_url)
            identity = await self._register()
            await Commands(self._nats, identity.id, self).run()

    async def _adopt(self) -> None:
        """Take up again what an earlier agent of this machine was at."""
        self._settings.runs.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in sorted(self._settings.runs.iterdir()):
            try:
                record = RunDirectory(path).load()
            except msgspec.DecodeError:
                logger.exception("%s cannot be read, its run is left alone", path / "run.json")
                continue
            if record is not None:
                self._pool.hold(record.slots, record.run_id)
                self._supervise(record, RunDirectory(path))
        await asyncio.to_thread(records.prune, self._settings.runs, self._settings.keep_runs)

    def _supervise(self, record: RunRecord, directory: RunDirectory) -> None:
        supervisor = Supervisor(self._machine, directory, record, changed=self._heart.changed, released=self._released)
        self._runs[record.run_id] = supervisor
        self._tasks.create_task(self._see_through(supervisor, directory), name=f"run-{record.run_id}")

    async def _see_through(self, supervisor: Supervisor, directory: RunDirectory) -> None:
        """See a run through; a fault of ours is said, and then we begin again from what is on disk."""
        run_id, failures = supervisor.record.run_id, 0
        while True:
            try:
                await supervisor.run()
                break
            except Exception:
                pause = AGAIN_SECONDS[min(failures, len(AGAIN_SECONDS) - 1)]
                failures += 1
                logger.exception("run %s: its supervision failed, again in %g s", run_id, pause)
            await asyncio.sleep(pause)
            supervisor = Supervisor(
                self._machine, directory, supervisor.record, changed=self._heart.changed, released=self._released
            )
            self._runs[run_id] = supervisor
        del self._runs[run_id]
        self._heart.changed()
        await asyncio.to_thread(records.prune, self._settings.runs, self._settings.keep_runs)

    def _released(self, run_id: str) -> None:
        self._pool.release(run_id)
        self._heart.changed()

    # --- who we are -------------------------------------------------------------------------------------------

    def _load_identity(self) -> None:
        known = records.read(self._settings.state / "worker.json", Identity)
        if known is not None and (known.name, known.url) == (self._settings.name, self._client.url):
            self._identity = known

    async def _register(self) -> Identity:
        worker = await self.calls.until_answered(
            self._client.register_worker,
            self._settings.name,
            host={"name": socket.gethostname(), "system": platform.platform(), "cpus": os.cpu_count()},
            slots=[{"id": slot.id, "kind": slot.kind} for slot in self._pool.slots.values()],
        )
        self._identity = Identity(worker["id"], self._settings.name, self._client.url)
        records.write_atomically(self._settings.state / "worker.json", msgspec.json.encode(self._identity))
        logger.info("worker %s (%s), slots: %s", worker["name"], worker["id"], ", ".join(self._pool.slots))
        self._heart.changed()
        return self._identity


async def connect(nats: Nats, url: str) -> None:
    """Connect to NATS however long that takes, and stay connected; user and password may stand in the URL."""
    parts = urlsplit(url)
    complaints = Complaints(logger)
    await nats.connect(
        f"{parts.scheme}://{parts.hostname}:{parts.port or 4222}",
        user=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        name="tachograph-gpu-worker",
        error_cb=complaints.error,
        reconnected_cb=complaints.reconnected,
        connect_timeout=2,
        ping_interval=5,
        max_outstanding_pings=2,
        reconnect_time_wait=1,
        max_reconnect_attempts=-1,
    )


async def work(settings: Settings, client: tachograph.Client) -> Calls:
    """Run the agent until SIGTERM or SIGINT; returns the calls that may still be under way."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    slots = accelerators.slots_of(accelerators.probe(), settings.visible_devices, settings.cpu_slots)
    nats = Nats()
    agent = Agent(settings, client, SlotPool(slots), nats)
    try:
        await agent.run(stopping)
    finally:
        agent.calls.close()
        try:
            async with asyncio.timeout(STOP_SECONDS / 4):
                await nats.close()
        except TimeoutError:
            logger.warning("NATS did not close in time")
    return agent.calls


def main() -> int:
    """Run the worker of this machine; returns the exit status."""
    if not logging.getLogger().handlers:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        settings = from_environment()
        client = tachograph.Client(timeout_seconds=settings.call_seconds, retry_seconds=settings.call_seconds)
        lock = take_lock(settings.state)
    except (SettingsError, tachograph.NotConfigured) as error:
        sys.stderr.write(f"tachograph: {error}\n")
        return 2
    with lock:
        calls = asyncio.run(work(settings, client))
        if calls.pending:
            # A call that hangs would hold the interpreter up; everything that matters is on disk.
            logging.shutdown()
            os._exit(0)
    return 0


def take_lock(state: Path) -> IO[bytes]:
    """Be the only agent on this state; raises `SettingsError` if there is another."""
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = (state / "agent.lock").open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise SettingsError(f"another worker runs on {state}; give this one a TACHOGRAPH_HOME of its own") from error
    return lock


if __name__ == "__main__":
    sys.exit(main())
