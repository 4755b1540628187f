"""The scheduler: queued runs to workers with free slots, first come first served; kills to the workers they concern.

It keeps nothing that matters: what is queued, starting or to be killed stands in the projection. An order that is
not claimed by its deadline is given again, perhaps to another worker; the claim decides, not the order.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.js import JetStreamContext

from events.beats import Beat, Order, order_subject
from events.commands import ConfirmKill, FailStart, RunCommand
from events.errors import Rejected, VersionConflict
from events.ids import derived, uuid7
from events.ledger import Ledger
from events.organisation import Slot
from events.run import Run
from events.sql import load
from events.types import Cause, Failure, Mode, Resources, Status
from projections import runs, tenancy
from projections.execute import asked_by, execute
from projections.runs import StoredRun
from projections.tenancy import Worker

log = logging.getLogger("tachograph.scheduler")

ACTOR: Final = "system:scheduler"
CLAIM_SECONDS: Final = 20.0
START_SECONDS: Final = 900.0
WORKER_ALIVE_SECONDS: Final = 15.0
KILL_REPEAT_SECONDS: Final = 5.0
KILL_MARGIN_SECONDS: Final = 10.0

_beat: Final = msgspec.json.Decoder(Beat)


class Assignment(msgspec.Struct, frozen=True):
    """An order that is under way to a worker."""

    worker_id: UUID
    family: str
    slots: int
    until: float


Busy = Counter[tuple[UUID, str]]
"""Slots taken, by worker and family."""


class Scheduler:
    """Gives orders; see the module."""

    name = "scheduler"
    pause_seconds = 0.25

    def __init__(
        self,
        ledger: Ledger,
        nats: Client,
        jetstream: JetStreamContext,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._nats = nats
        self._jetstream = jetstream
        self._clock = clock
        self._beats: dict[str, tuple[Beat, float]] = {}
        self._assigned: dict[UUID, Assignment] = {}
        self._kills_said: dict[UUID, float] = {}
        self._subscription: Subscription | None = None

    async def start(self) -> None:
        """Begin to listen to the workers."""
        self._subscription = await self._nats.subscribe("tachograph.heartbeats.*", cb=self._hear)

    async def stop(self) -> None:
        """Stop listening."""
        if self._subscription is not None and not self._nats.is_closed:
            await self._subscription.unsubscribe()
            self._subscription = None

    async def _hear(self, message: Msg) -> None:
        try:
            self.hear(_beat.decode(message.data))
        except msgspec.DecodeError as error:
            log.error("a heartbeat on %s cannot be read: %s", message.subject, error)

    def hear(self, beat: Beat) -> None:
        """Take note of a worker that lives."""
        if beat.kind == "worker":
            self._beats[beat.sender] = (beat, self._clock())

    async def step(self) -> int:
        """Start what can be started, kill what is to be killed; returns how many orders and events that made."""
        return await self._start_queued() + await self._kill_requested() + await self._fail_overdue_starts()

    async def _start_queued(self) -> int:
        now = self._clock()
        pool = self._ledger.pool
        queued = [runs.stored_run(row) for row in await pool.fetch(load("projections.sql", "queued_runs"))]
        waiting = {stored.run_id for stored in queued}
        self._assigned = {
            run_id: assignment
            for run_id, assignment in self._assigned.items()
            if run_id in waiting and assignment.until > now
        }
        if not queued or len(self._assigned) == len(queued):
            return 0
        alive = {
            worker.worker_id: worker
            for worker in await tenancy.workers(pool)
            if (heard := self._beats.get(str(worker.worker_id)))
            and now - heard[1] < WORKER_ALIVE_SECONDS
            and not heard[0].draining
        }
        busy, active = await self._usage()
        limits = {org.organisation_id: org.max_active_runs for org in await tenancy.organisations(pool)}
        projects = {
            row["ledger_id"]: row["organisation_id"]
            for row in await pool.fetch("select ledger_id, organisation_id from ledger.ledger where kind = 'project'")
        }
        for run_id, assignment in self._assigned.items():
            busy[assignment.worker_id, assignment.family] += assignment.slots
            active[projects[next(stored.ledger_id for stored in queued if stored.run_id == run_id)]] += 1
        given = 0
        for stored in queued:
            organisation = projects[stored.ledger_id]
            if stored.run_id in self._assigned or active[organisation] >= limits.get(organisation, 0):
                continue
            needed = stored.run.resources or Resources()
            worker = _free_worker(alive, busy, organisation, needed)
            if worker is None:
                continue
            if not await self._order_start(stored, worker.worker_id):
                break
            family = _family(needed.accelerator)
            self._assigned[stored.run_id] = Assignment(worker.worker_id, family, needed.count, now + CLAIM_SECONDS)
            busy[worker.worker_id, family] += needed.count
            active[organisation] += 1
            given += 1
        return given

    async def _usage(self) -> tuple[Busy, Counter[UUID]]:
        """Return the slots taken by worker and family, and the active managed runs by organisation."""
        rows = await self._ledger.pool.fetch(load("projections.sql", "slots_taken"))
        busy: Busy = Counter()
        active: Counter[UUID] = Counter()
        for row in rows:
            run = runs.stored_run(row).run
            if run.worker is not None and (run.status is not Status.CRASHED or self._still_holds(run, row["run_id"])):
                busy.update((run.worker, _family(slot)) for slot in run.accelerators)
            if run.status is not Status.CRASHED:
                active[row["organisation_id"]] += 1
        return busy, active

    def _still_holds(self, run: Run, run_id: UUID) -> bool:
        """A crashed run holds its slots as long as its worker says so."""
        heard = self._beats.get(str(run.worker))
        return heard is not None and run_id in heard[0].runs

    async def _order_start(self, stored: StoredRun, worker_id: UUID) -> bool:
        order = Order(
            command_id=uuid7(),
            kind="start",
            ledger_id=stored.ledger_id,
            run_id=stored.run_id,
            deadline=datetime.now(UTC) + timedelta(seconds=CLAIM_SECONDS),
        )
        return await self._give(worker_id, order, str(order.command_id))

    async def _kill_requested(self) -> int:
        now = self._clock()
        rows = await self._ledger.pool.fetch(load("projections.sql", "kills_requested"))
        self._kills_said = {
            row["run_id"]: self._kills_said[row["run_id"]] for row in rows if row["run_id"] in self._kills_said
        }
        done = 0
        for row in rows:
            stored = runs.stored_run(row)
            kill = stored.run.kill
            if kill is None:
                continue
            margin = KILL_MARGIN_SECONDS
            if stored.run.mode is Mode.TRACKED:
                margin += 2 * stored.run.liveness.beat_seconds
            if row["waited_seconds"] > kill.grace_seconds + margin:
                done += await self._execute(stored, ConfirmKill())
            elif (
                stored.run.worker is not None and now - self._kills_said.get(stored.run_id, -1e9) > KILL_REPEAT_SECONDS
            ):
                done += await self._order_kill(stored, now)
        return done

    async def _fail_overdue_starts(self) -> int:
        """Fail the runs whose worker lives and yet does not get them started."""
        failed = 0
        for row in await self._ledger.pool.fetch(load("projections.sql", "overdue_starts"), START_SECONDS):
            message = f"its worker did not start it within {START_SECONDS:.0f} s"
            command = FailStart(cause=Cause.START_DEADLINE, error=Failure(type="StartDeadline", message=message))
            failed += await self._execute(runs.stored_run(row), command)
        return failed

    async def _order_kill(self, stored: StoredRun, now: float) -> int:
        kill, worker_id = stored.run.kill, stored.run.worker
        assert kill is not None
        assert worker_id is not None
        repeat = stored.run_id in self._kills_said
        order = Order(
            command_id=derived(stored.run_id, stored.run.epoch, "kill"),
            kind="kill",
            ledger_id=stored.ledger_id,
            run_id=stored.run_id,
            deadline=datetime.now(UTC) + timedelta(hours=1),
            grace_seconds=kill.grace_seconds,
            cause=kill.cause,
        )
        message_id = str(uuid7()) if repeat else str(order.command_id)
        if await self._give(worker_id, order, message_id):
            self._kills_said[stored.run_id] = now
            return 1
        return 0

    async def _execute(self, stored: StoredRun, command: RunCommand) -> int:
        try:
            await execute(self._ledger, stored.ledger_id, stored.run_id, command, asked_by(ACTOR))
        except (Rejected, VersionConflict) as refusal:
            log.info("run %s: %s", stored.run_id, refusal)
            return 0
        return 1

    async def _give(self, worker_id: UUID, order: Order, message_id: str) -> bool:
        """Publish an order; False when it is unknown whether it was stored (it is given again)."""
        try:
            await self._jetstream.publish(
                order_subject(worker_id), msgspec.json.encode(order), timeout=2, headers={"Nats-Msg-Id": message_id}
            )
        except (NatsError, TimeoutError, OSError) as error:
            log.warning("order %s for run %s: %s", order.kind, order.run_id, repr(error))
            return False
        log.info("order %s for run %s to worker %s", order.kind, order.run_id, worker_id)
        return True


def _family(slot_or_accelerator: str) -> str:
    """Return `cpu` or `gpu`: of a slot's id (`gpu:…`), or of what a run asks for (`cpu`, `gpu`, a model's name)."""
    return "cpu" if slot_or_accelerator.partition(":")[0] == "cpu" else "gpu"


def _serves(slot: Slot, accelerator: str) -> bool:
    """Say whether a slot is of the kind asked for: its own, a wider one (`cuda` of `cuda:h200`), or its family."""
    return accelerator == slot.kind or slot.kind.startswith(f"{accelerator}:") or accelerator == _family(slot.id)


def _free_worker(alive: dict[UUID, Worker], busy: Busy, organisation: UUID, needed: Resources) -> Worker | None:
    """Return the worker with the most free slots of the kind, or None."""

    def free(worker: Worker) -> int:
        fitting = sum(1 for slot in worker.slots if _serves(slot, needed.accelerator))
        return fitting - busy[worker.worker_id, _family(needed.accelerator)]

    fitting = [w for w in alive.values() if w.organisation_id == organisation and free(w) >= needed.count]
    return max(fitting, key=free, default=None)
