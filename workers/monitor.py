"""The monitor: silence becomes unresponsive, then crashed; a voice that returns becomes responsive, or recovered.

Only receipt times count, taken from a monotonic clock. Whenever we ourselves were away (a start, a lost connection
to NATS, a step that came late, API processes that fell silent), every grace period begins afresh: our outage is
nobody's crash. When many fall silent at once, nothing is declared until canaries say that beats get through.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import msgspec
from nats.aio.client import Client
from nats.errors import Error as NatsError

from events.beats import Beat, beat_subject
from events.commands import MarkCrashed, MarkResponsive, MarkUnresponsive, RequeueRun, RunCommand
from events.errors import Rejected, VersionConflict
from events.ids import uuid7
from events.ledger import Ledger
from events.run import Run
from events.sql import load
from events.transitions import ACTIVE
from events.types import Cause, Mode, Status
from projections import incidents, runs
from projections.execute import asked_by, execute
from workers.heartbeats import Heartbeats
from workers.lost_workers import LostWorkers
from workers.mass_silence import Canary, MassSilence

log = logging.getLogger("tachograph.monitor")

ACTOR: Final = "system:monitor"
LATE_STEP_SECONDS: Final = 5.0
REFRESH_SECONDS: Final = 1.0
AT_ONCE: Final = 32
"""How many declarations are under way at a time; they share commits."""


class Watched(msgspec.Struct):
    """A run that should be beating, at the version that was read; seen since, and heard (by its epoch) at."""

    ledger_id: UUID
    run: Run
    since: float
    epoch: int = 0
    heard: float = 0.0


class Monitor:
    """Watches the beats of all active runs."""

    name = "monitor"
    pause_seconds = 0.25
    gather_seconds = 0.25

    def __init__(self, ledger: Ledger, nats: Client, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._ledger = ledger
        self._nats = nats
        self._clock = clock
        self.sender = f"monitor-{uuid7()}"
        self._watched: dict[UUID, Watched] = {}
        self._unknown: dict[tuple[UUID, int, str], float] = {}
        self._workers = LostWorkers(ledger, ACTOR, clock)
        self._api, self._over_nats = Canary(), Canary()
        self._mass = MassSilence()
        self._stepped = self._fresh_since = clock()
        self._refreshed = -math.inf
        self._reconnects = -1
        self._heartbeats = Heartbeats(nats, self.hear)

    async def start(self) -> None:
        """Begin to listen, with fresh grace for everybody."""
        self._watched.clear()
        self._refreshed = -math.inf
        self._mass = MassSilence()
        self._fresh_since = self._stepped = self._clock()
        await incidents.close(self._ledger.pool, incidents.MASS_SILENCE, "the monitor began anew")
        await self._heartbeats.start()

    async def stop(self) -> None:
        """Stop listening."""
        await self._heartbeats.stop()

    # --- what is heard ----------------------------------------------------------------------------------------

    def hear(self, beat: Beat) -> None:
        """Take a beat's runs as alive now. For a managed run only its worker's beats count."""
        now = self._clock()
        match beat.kind:
            case "api":
                self._api.sings(now)
            case "canary":
                if beat.sender == self.sender:
                    self._over_nats.sings(now)
            case "worker":
                self._workers.hear(UUID(beat.sender))
        for run_id, epoch in beat.runs.items():
            watched = self._watched.get(run_id)
            if watched is None:
                self._unknown[run_id, epoch, beat.sender] = now
            else:
                self._alive(watched, epoch, beat.sender, now)

    def _alive(self, watched: Watched, epoch: int, sender: str, at: float) -> None:
        if watched.run.mode is Mode.MANAGED and sender != str(watched.run.worker):
            return
        if epoch >= watched.epoch:
            watched.epoch, watched.heard = epoch, at

    # --- what follows from it ---------------------------------------------------------------------------------

    async def step(self) -> int:
        """Compare every active run's silence with its periods; returns how many events that led to."""
        now = self._clock()
        reconnects = self._nats.stats["reconnects"]
        if now - self._stepped > LATE_STEP_SECONDS or reconnects != self._reconnects or not self._nats.is_connected:
            self._fresh_since = now
            self._reconnects = reconnects
        self._stepped = now
        await self._sing()
        if now - self._refreshed >= REFRESH_SECONDS or self._unknown:
            await self._refresh(now)
        unknown, self._unknown = self._unknown, {}
        changed = await self._recover(unknown)
        silences = self._silences(now)
        await self._hold(now, silences)
        commands = [
            (run_id, self._watched[run_id].ledger_id, command)
            for run_id, silence in silences.items()
            if (command := self._verdict(self._watched[run_id], silence, now)) is not None
        ]
        changed += await self._execute(commands)
        needed = {watched.run.worker for watched in self._watched.values()}
        held = self._mass.since is not None or not self._over_nats.works(now)
        return changed + await self._workers.step(self._fresh_since, needed, held=held)

    async def _sing(self) -> None:
        """Send a beat to ourselves, to see that they get through; one that waited for a connection would not say so."""
        if not self._nats.is_connected:
            return
        beat = Beat(sender=self.sender, kind="canary")
        try:
            await self._nats.publish(beat_subject(self.sender), msgspec.json.encode(beat))
        except (NatsError, OSError) as error:
            log.warning("a canary was not sent: %s", error)

    def _silences(self, now: float) -> dict[UUID, float]:
        """Return for how long each run has been silent that is so for its first period at least, or is marked so."""
        managed = self._fresh_since
        tracked = max(managed, self._api.since)
        found = {}
        for run_id, watched in self._watched.items():  # one pass over all there are, four times a second
            run = watched.run
            last = max(watched.since, managed if run.mode is Mode.MANAGED else tracked)
            if watched.heard > last and watched.epoch >= run.epoch:
                last = watched.heard
            if run.unresponsive or now - last >= run.liveness.unresponsive_seconds:
                found[run_id] = now - last
        return found

    async def _hold(self, now: float, silences: dict[UUID, float]) -> None:
        """Begin a hold when many are silent at once, end it when they are not any more."""
        silent = sum(
            silence >= self._watched[run_id].run.liveness.unresponsive_seconds for run_id, silence in silences.items()
        )
        if not self._mass.look(now, silent, len(self._watched)):
            return
        if self._mass.since is not None:
            log.error("%d of %d runs are silent: held until the canaries worked", silent, len(self._watched))
            await incidents.open_(self._ledger.pool, incidents.MASS_SILENCE, silent=silent, watched=len(self._watched))
        else:
            log.warning("the mass silence is over: %d of %d runs are silent", silent, len(self._watched))
            outcome = f"{silent} of {len(self._watched)} runs that are still watched are silent"
            await incidents.close(self._ledger.pool, incidents.MASS_SILENCE, outcome)

    def _verdict(self, watched: Watched, silence: float, now: float) -> RunCommand | None:
        run, periods = watched.run, watched.run.liveness
        tracked = run.mode is Mode.TRACKED
        if tracked and not self._api.works(now):
            return None  # their beats come through the API, and it is the API that is silent
        if silence < periods.unresponsive_seconds:
            if run.unresponsive and watched.epoch >= run.epoch and now - watched.heard < periods.unresponsive_seconds:
                return MarkResponsive(epoch=run.epoch, silence_seconds=round(silence, 3))
            return None
        ways = (self._over_nats, self._api) if tracked else (self._over_nats,)
        if self._mass.holds(now, periods.crashed_seconds, *ways):
            return None
        heard = watched.epoch >= run.epoch and watched.heard
        last = datetime.now(UTC) - timedelta(seconds=now - heard) if heard else None
        if silence < periods.crashed_seconds:
            if run.unresponsive:
                return None
            return MarkUnresponsive(epoch=run.epoch, last_heartbeat_at=last, silence_seconds=round(silence, 3))
        if run.status is Status.STARTING and run.kill is None:
            return RequeueRun(epoch=run.epoch, reason=f"its worker has been silent for {silence:.0f} s")
        cause = Cause.HEARTBEAT_LOST if tracked else Cause.WORKER_LOST
        return MarkCrashed(epoch=run.epoch, cause=cause, last_heartbeat_at=last, silence_seconds=round(silence, 3))

    async def _refresh(self, now: float) -> None:
        """Bring `_watched` up to the projection, reading only the runs whose version moved."""
        pool = self._ledger.pool
        rows = await pool.fetch(load("projections.sql", "active_versions"), sorted(ACTIVE))
        versions = {row["run_id"]: row["version"] for row in rows}
        for run_id in self._watched.keys() - versions.keys():
            del self._watched[run_id]
        stale = [
            run_id
            for run_id, version in versions.items()
            if (watched := self._watched.get(run_id)) is None or watched.run.version != version
        ]
        for row in await pool.fetch(load("projections.sql", "runs_by_id"), stale) if stale else ():
            stored = runs.stored_run(row)
            if stored.run.status in ACTIVE:
                self._watch(stored.run_id, stored.ledger_id, stored.run, now)
        self._refreshed = now

    def _watch(self, run_id: UUID, ledger_id: UUID, run: Run, now: float) -> None:
        """Take a run's new state; another epoch has its grace afresh."""
        known = self._watched.get(run_id)
        if known is None:
            self._watched[run_id] = Watched(ledger_id, run, now)
            return
        if known.run.epoch != run.epoch:
            known.since = now
        known.run = run

    async def _recover(self, unknown: dict[tuple[UUID, int, str], float]) -> int:
        """Let runs that crashed come back; beats that came before a run was watched count from when they came."""
        strange = []
        for (run_id, epoch, sender), at in unknown.items():
            watched = self._watched.get(run_id)
            if watched is None:
                strange.append((run_id, epoch, sender))
            else:
                self._alive(watched, epoch, sender, at)
        if not strange:
            return 0
        rows = await self._ledger.pool.fetch(
            load("projections.sql", "runs_by_id"), list({run_id for run_id, _, _ in strange})
        )
        found = {row["run_id"]: runs.stored_run(row) for row in rows if row["status"] == Status.CRASHED}
        commands = {}
        for run_id, epoch, sender in strange:
            stored = found.get(run_id)
            if stored is None or stored.run.epoch != epoch:
                continue
            if stored.run.mode is Mode.MANAGED and sender != str(stored.run.worker):
                continue
            ended = stored.run.ended_at
            silence = (datetime.now(UTC) - ended).total_seconds() if ended else 0.0
            commands[run_id] = (
                run_id,
                stored.ledger_id,
                MarkResponsive(epoch=epoch, silence_seconds=round(max(silence, 0.0), 3)),
            )
        return await self._execute(list(commands.values()))

    async def _execute(self, commands: Sequence[tuple[UUID, UUID, RunCommand]]) -> int:
        """Carry commands out, some at a time; returns how many led to something."""
        done = 0
        for start in range(0, len(commands), AT_ONCE):
            done += sum(await asyncio.gather(*(self._one(*command) for command in commands[start : start + AT_ONCE])))
        return done

    async def _one(self, run_id: UUID, ledger_id: UUID, command: RunCommand) -> int:
        try:
            outcome = await execute(self._ledger, ledger_id, run_id, command, asked_by(ACTOR))
        except (Rejected, VersionConflict) as refusal:
            log.info("run %s: %s", run_id, refusal)
            return 0
        log.info("run %s: %s after %s", run_id, outcome.run.status, type(command).__name__)
        if outcome.run.status in ACTIVE:
            self._watch(run_id, ledger_id, outcome.run, self._clock())
        else:
            self._watched.pop(run_id, None)
        return 1
