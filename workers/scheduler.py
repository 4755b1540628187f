"""The scheduler: queued runs to workers with free slots, by priority and then first come; kills to those they concern.

It keeps nothing that matters: what is queued, starting, held or to be killed stands in the projection. An order that is
not claimed by its deadline is given again, perhaps to another worker; the claim decides, not the order.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final
from uuid import UUID

import asyncpg
import msgspec
from nats.aio.client import Client
from nats.js import JetStreamContext

from events.beats import Beat
from events.commands import ConfirmKill, FailStart, KillRun, ReleaseRun, RunCommand
from events.errors import Rejected, VersionConflict
from events.ledger import Ledger
from events.settings import DEFAULT_START_SECONDS
from events.sql import load
from events.transitions import ACTIVE
from events.types import Cause, Failure, Mode, Resources, Status
from projections import queue, runs, tenancy
from projections.execute import asked_by, execute
from projections.runs import StoredRun
from projections.tenancy import Worker
from workers import retries
from workers.balances import Balances
from workers.heartbeats import Heartbeats
from workers.orders import CLAIM_SECONDS, Orders
from workers.placement import Bound, Host, Placement, Queued, Reason, Wait, bounds_of

log = logging.getLogger("tachograph.scheduler")

ACTOR: Final = "system:scheduler"
WORKER_ALIVE_SECONDS: Final = 15.0
KILL_MARGIN_SECONDS: Final = 10.0
LOOKED_AT: Final = 1_000
"""How many runs of each organisation's queue are looked at in a step; the others are behind these."""
MANY_RUNS: Final = 100
REST_SECONDS: Final = 1.0
"""After a look at `MANY_RUNS` or more, how long before the next where no worker and nothing that is held changed."""

_ORDERED: Final = Wait(Reason.ORDERED)


class Assignment(msgspec.Struct, frozen=True):
    """An order that is under way to a worker, for the attempt after this epoch."""

    worker_id: UUID
    epoch: int
    until: float


class Scheduler:
    """Gives orders; see the module."""

    name = "scheduler"
    pause_seconds = 0.25
    gather_seconds = 0.2

    def __init__(
        self,
        ledger: Ledger,
        nats: Client,
        jetstream: JetStreamContext,
        *,
        clock: Callable[[], float] = time.monotonic,
        start_seconds: float = DEFAULT_START_SECONDS,
    ) -> None:
        self._ledger = ledger
        self._start_seconds = start_seconds
        self._nats = nats
        self._clock = clock
        self._orders = Orders(jetstream, clock)
        self._balances = Balances(ledger.pool)
        self._beats: dict[UUID, tuple[Beat, float]] = {}
        self._assigned: dict[UUID, Assignment] = {}
        self._needs: dict[UUID, tuple[int, StoredRun]] = {}
        self._said: dict[UUID, Wait] = {}
        self._ended: dict[UUID, float] = {}
        self._supply: tuple[Sequence[Host], Sequence[asyncpg.Record]] = ((), ())
        self._rest_until = 0.0
        self._heartbeats = Heartbeats(nats, self.hear)

    async def start(self) -> None:
        """Begin to listen to the workers."""
        await queue.forget(self._ledger.pool)
        self._said.clear()
        self._rest_until = 0.0
        await self._heartbeats.start()

    async def stop(self) -> None:
        """Stop listening."""
        await self._heartbeats.stop()

    def hear(self, beat: Beat) -> None:
        """Take note of a worker that lives."""
        if beat.kind == "worker":
            self._beats[UUID(beat.sender)] = (beat, self._clock())

    async def step(self) -> int:
        """Start, kill, fail, release and retry what is due; returns how many orders and events that made."""
        pool = self._ledger.pool
        workers = {worker.worker_id: worker for worker in await tenancy.workers(pool)}
        self._beats = {worker: heard for worker, heard in self._beats.items() if worker in workers}
        holders = {run_id: worker_id for worker_id, (beat, _) in self._beats.items() for run_id in beat.runs}
        due = await pool.fetchrow(load("projections.sql", "scheduler_due"), self._start_seconds, list(holders))
        if not due["ended"]:
            self._ended = {}
        if not due["kills"]:
            self._orders.forget_kills_but(())
        if not due["waiting"]:
            await self._forget_queue()
        done = await self._release(workers) if due["ended"] else 0
        done += await self._start_queued(workers) if due["waiting"] else 0
        done += await self._end_unpaid()
        done += await self._kill(holders) if due["kills"] else 0
        done += await self._fail_overdue_starts() if due["overdue"] else 0
        return done + (await retries.follow(self._ledger, ACTOR) if due["retry_due"] else 0)

    # --- starts -----------------------------------------------------------------------------------------------

    async def _start_queued(self, workers: Mapping[UUID, Worker]) -> int:
        now = self._clock()
        hosts = [
            Host(w.worker_id, w.organisation_id, Counter(slot.kind for slot in w.slots), self._takes(w))
            for w in workers.values()
            if w.lost_at is None
        ]
        if now < self._rest_until and (hosts, await self._held()) == self._supply:
            return 0
        waiting = await self._waiting()
        self._supply = hosts, await self._held() if waiting else ()
        self._assigned = {
            run_id: assignment
            for run_id, assignment in self._assigned.items()
            if run_id in waiting and assignment.until > now and assignment.epoch == waiting[run_id][1].run.epoch
        }
        placement = await self._placement(waiting) if waiting else None
        waits: dict[UUID, Wait] = {}
        given = 0
        for run_id, (queued, stored) in waiting.items():
            assert placement is not None
            if run_id in self._assigned:
                waits[run_id] = _ORDERED
                continue
            placed = placement.place(queued)
            if isinstance(placed, Wait):
                waits[run_id] = placed
                continue
            worker_id, _ = placed
            if not await self._orders.start(stored, worker_id):
                break
            self._assigned[run_id] = Assignment(worker_id, stored.run.epoch, now + CLAIM_SECONDS)
            waits[run_id] = _ORDERED
            given += 1
        await self._say(waits)
        self._rest_until = now + REST_SECONDS if MANY_RUNS <= len(waits) == len(waiting) else 0.0
        return given

    async def _forget_queue(self) -> None:
        """Take note that no run waits."""
        self._assigned, self._needs, self._rest_until = {}, {}, 0.0
        await self._say({})

    async def _waiting(self) -> dict[UUID, tuple[Queued, StoredRun]]:
        """Return the queues in order, reading only the runs that changed."""
        pool = self._ledger.pool
        rows = await pool.fetch(load("projections.sql", "waiting_runs"), LOOKED_AT)
        known = {row["run_id"] for row in rows if self._needs.get(row["run_id"], (0,))[0] == row["version"]}
        stale = [row["run_id"] for row in rows if row["run_id"] not in known]
        self._needs = {run_id: self._needs[run_id] for run_id in known}
        if stale:
            for row in await pool.fetch(load("projections.sql", "runs_by_id"), stale):
                self._needs[row["run_id"]] = (row["version"], runs.stored_run(row))
        found = {}
        for row in rows:
            if row["run_id"] in self._needs:
                _, stored = self._needs[row["run_id"]]
                needed = stored.run.resources or Resources()
                found[row["run_id"]] = (
                    Queued(stored.run_id, stored.ledger_id, row["organisation_id"], needed),
                    stored,
                )
        return found

    async def _held(self) -> Sequence[asyncpg.Record]:
        """Return the runs that hold slots, or may still hold them."""
        rows: Sequence[asyncpg.Record] = await self._ledger.pool.fetch(load("projections.sql", "slots_held"))
        return rows

    async def _placement(self, waiting: Mapping[UUID, tuple[Queued, StoredRun]]) -> Placement:
        """Return what is in use now, orders under way included."""
        pool = self._ledger.pool
        hosts, held = self._supply
        bounds: dict[UUID, list[Bound]] = {}
        for org in await tenancy.organisations(pool):
            bounds[org.organisation_id] = [
                *bounds_of("plan", org.organisation_id, org.plan_limits),
                *bounds_of("organisation", org.organisation_id, org.limits),
            ]
        projects = {queued.ledger_id for queued, _ in waiting.values()}
        for project in await tenancy.projects_by_id(pool, projects):
            bounds[project.project_id] = bounds_of("project", project.project_id, project.limits)
        exhausted = await self._balances.exhausted(self._clock())
        placement = Placement(hosts, bounds, exhausted)
        for row in held:
            placement.takes_up(row["organisation_id"], row["ledger_id"], row["held"], row["worker_id"])
        for run_id, assignment in self._assigned.items():
            queued, _ = waiting[run_id]
            kinds = placement.guess(assignment.worker_id, queued.organisation_id, queued.needed)
            placement.takes_up(queued.organisation_id, queued.ledger_id, kinds, assignment.worker_id)
        return placement

    def _takes(self, worker: Worker) -> bool:
        heard = self._beats.get(worker.worker_id)
        if heard is None or worker.drained_at is not None:
            return False
        return self._clock() - heard[1] < WORKER_ALIVE_SECONDS and not heard[0].draining

    async def _say(self, waits: Mapping[UUID, Wait]) -> None:
        """Write down why runs wait where that changed."""
        changed = {run_id: wait for run_id, wait in waits.items() if self._said.get(run_id) != wait}
        gone = [run_id for run_id in self._said if run_id not in waits]
        if changed or gone:
            await queue.say(self._ledger.pool, changed, gone)
            self._said = dict(waits)

    # --- ends -------------------------------------------------------------------------------------------------

    async def _release(self, workers: Mapping[UUID, Worker]) -> int:
        """Free what ended attempts may still have held, once their worker says so or is declared lost."""
        now = self._clock()
        rows = await self._ledger.pool.fetch(load("projections.sql", "ended_holders"))
        self._ended = {row["run_id"]: self._ended.get(row["run_id"], now) for row in rows}
        released = 0
        for row in rows:
            worker = workers.get(row["worker_id"])
            beat, at = self._beats.get(row["worker_id"], (None, 0.0))
            lost = worker is None or worker.lost_at is not None
            gone = beat is not None and at >= self._ended[row["run_id"]] and row["run_id"] not in beat.runs
            if lost or gone:
                stored = runs.stored_run(row)
                released += await self._execute(stored, ReleaseRun(epoch=stored.run.epoch, worker_lost=lost))
        return released

    async def _end_unpaid(self) -> int:
        """Ask for the end of what costs, where the credits are used up and the plan says so."""
        exhausted = await self._balances.exhausted(self._clock())
        if not exhausted:
            return 0
        plans = await tenancy.organisations(self._ledger.pool)
        strict = [one.organisation_id for one in plans if one.kill_when_exhausted and one.organisation_id in exhausted]
        command = KillRun(cause=Cause.CREDITS_EXHAUSTED, reason="the organisation's credits are used up")
        rows = await self._ledger.pool.fetch(load("projections.sql", "accruing_runs"), strict)
        return sum([await self._execute(runs.stored_run(row), command) for row in rows])

    async def _kill(self, holders: Mapping[UUID, UUID]) -> int:
        """Order the ends that are due, of deleted runs by who says to hold them; confirm those that nobody confirms."""
        rows = await self._ledger.pool.fetch(load("projections.sql", "kills_due"), list(holders))
        self._orders.forget_kills_but({row["run_id"] for row in rows})
        done = 0
        for row in rows:
            stored = runs.stored_run(row)
            run = stored.run
            worker = holders.get(stored.run_id) if run.status is Status.DELETED else run.worker
            margin = KILL_MARGIN_SECONDS
            if run.mode is Mode.TRACKED:
                margin += 2 * run.liveness.beat_seconds
            if run.status in ACTIVE and run.kill and row["waited_seconds"] > run.kill.grace_seconds + margin:
                done += await self._execute(stored, ConfirmKill())
            elif worker is not None and (run.status in ACTIVE or self._lists(worker, stored.run_id)):
                done += await self._orders.kill(stored, worker)
        return done

    def _lists(self, worker_id: UUID, run_id: UUID) -> bool:
        heard = self._beats.get(worker_id)
        return heard is not None and run_id in heard[0].runs

    async def _fail_overdue_starts(self) -> int:
        """Fail the runs whose worker lives and yet does not get them started."""
        failed = 0
        for row in await self._ledger.pool.fetch(load("projections.sql", "overdue_starts"), self._start_seconds):
            message = f"its worker did not start it within {self._start_seconds:g} s (TACHOGRAPH_START_SECONDS)"
            command = FailStart(cause=Cause.START_DEADLINE, error=Failure(type="StartDeadline", message=message))
            failed += await self._execute(runs.stored_run(row), command)
        return failed

    async def _execute(self, stored: StoredRun, command: RunCommand) -> int:
        try:
            await execute(self._ledger, stored.ledger_id, stored.run_id, command, asked_by(ACTOR))
        except (Rejected, VersionConflict) as refusal:
            log.info("run %s: %s", stored.run_id, refusal)
            return 0
        return 1
