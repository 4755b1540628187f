"""The monitor: silence becomes unresponsive, then crashed; a voice that returns becomes responsive, or recovered.

Only receipt times count, taken from a monotonic clock. Whenever we ourselves were away (a start, a lost connection
to NATS, a step that came late, API processes that fell silent), every grace period begins afresh: our outage is
nobody's crash.
"""

import logging
import math
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from events.beats import Beat
from events.commands import MarkCrashed, MarkResponsive, MarkUnresponsive, RequeueRun, RunCommand
from events.errors import Rejected, VersionConflict
from events.ledger import Ledger
from events.run import ACTIVE, Run
from events.sql import load
from events.types import Cause, Mode, Status
from projections import runs
from projections.execute import asked_by, execute

log = logging.getLogger("tachograph.monitor")

ACTOR: Final = "system:monitor"
LATE_STEP_SECONDS: Final = 5.0
API_SILENT_SECONDS: Final = 4.0
"""API processes beat once a second, with or without runs; without their beats we know nothing of tracked runs."""

_beat: Final = msgspec.json.Decoder(Beat)


class Watched(msgspec.Struct):
    """A run that should be beating, at the version that was read."""

    ledger_id: UUID
    version: int
    run: Run
    since: float


class Monitor:
    """Watches the beats of all active runs."""

    name = "monitor"
    pause_seconds = 0.5

    def __init__(self, ledger: Ledger, nats: Client, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._ledger = ledger
        self._nats = nats
        self._clock = clock
        self._heard: dict[UUID, tuple[int, float]] = {}
        self._watched: dict[UUID, Watched] = {}
        self._returned: set[tuple[UUID, int, str]] = set()
        self._stepped = clock()
        self._fresh_since = clock()
        self._api_heard = self._api_since = -math.inf
        self._reconnects = -1
        self._subscription: Subscription | None = None

    async def start(self) -> None:
        """Begin to listen, with fresh grace for everybody."""
        self._watched.clear()
        self._fresh_since = self._stepped = self._clock()
        self._subscription = await self._nats.subscribe("tachograph.heartbeats.*", cb=self._hear)

    async def stop(self) -> None:
        """Stop listening."""
        if self._subscription is not None and not self._nats.is_closed:
            await self._subscription.unsubscribe()
            self._subscription = None

    async def _hear(self, message: Msg) -> None:
        try:
            beat = _beat.decode(message.data)
        except msgspec.DecodeError as error:
            log.error("a heartbeat on %s cannot be read: %s", message.subject, error)
            return
        self.hear(beat)

    def hear(self, beat: Beat) -> None:
        """Take a beat's runs as alive now. For a managed run only its worker's beats count."""
        now = self._clock()
        if beat.kind == "api":
            if now - self._api_heard > API_SILENT_SECONDS:
                self._api_since = now
            self._api_heard = now
        for run_id, epoch in beat.runs.items():
            watched = self._watched.get(run_id)
            if watched is None:
                self._returned.add((run_id, epoch, beat.sender))
                continue
            if watched.run.mode is Mode.MANAGED and beat.sender != str(watched.run.worker):
                continue
            if epoch >= self._heard.get(run_id, (0, 0.0))[0]:
                self._heard[run_id] = (epoch, now)

    async def step(self) -> int:
        """Compare every active run's silence with its periods; returns how many events that led to."""
        now = self._clock()
        reconnects = self._nats.stats["reconnects"]
        if now - self._stepped > LATE_STEP_SECONDS or reconnects != self._reconnects or not self._nats.is_connected:
            self._fresh_since = now
            self._reconnects = reconnects
        self._stepped = now
        await self._refresh(now)
        changed = 0
        for run_id, watched in list(self._watched.items()):
            command = self._verdict(run_id, watched, now)
            if command is not None:
                changed += await self._execute(watched.ledger_id, run_id, command)
        returned, self._returned = self._returned, set()
        for run_id, epoch, sender in returned:
            changed += await self._recover(run_id, epoch, sender)
        return changed

    def _verdict(self, run_id: UUID, watched: Watched, now: float) -> RunCommand | None:
        run = watched.run
        if run.mode is Mode.TRACKED and now - self._api_heard > API_SILENT_SECONDS:
            return None  # their beats come through the API, and it is the API that is silent
        epoch, at = self._heard.get(run_id, (0, 0.0))
        heard = at if epoch == run.epoch else 0.0
        fresh = self._fresh_since if run.mode is Mode.MANAGED else max(self._fresh_since, self._api_since)
        silence = now - max(heard, watched.since, fresh)
        if silence < run.liveness.unresponsive_seconds:
            if run.unresponsive and now - heard < run.liveness.unresponsive_seconds:
                return MarkResponsive(epoch=run.epoch, silence_seconds=round(silence, 3))
            return None
        last = datetime.now(UTC) - timedelta(seconds=now - heard) if heard else None
        if silence < run.liveness.crashed_seconds:
            if run.unresponsive:
                return None
            return MarkUnresponsive(epoch=run.epoch, last_heartbeat_at=last, silence_seconds=round(silence, 3))
        if run.status is Status.STARTING and run.kill is None:
            return RequeueRun(epoch=run.epoch, reason=f"its worker has been silent for {silence:.0f} s")
        cause = Cause.WORKER_LOST if run.mode is Mode.MANAGED else Cause.HEARTBEAT_LOST
        return MarkCrashed(epoch=run.epoch, cause=cause, last_heartbeat_at=last, silence_seconds=round(silence, 3))

    async def _refresh(self, now: float) -> None:
        """Bring `_watched` up to the projection, reading only the runs whose version moved."""
        pool = self._ledger.pool
        versions = {
            row["run_id"]: row["version"]
            for row in await pool.fetch(load("projections.sql", "active_versions"), sorted(ACTIVE))
        }
        for run_id in self._watched.keys() - versions.keys():
            del self._watched[run_id]
            self._heard.pop(run_id, None)
        stale = [
            run_id
            for run_id, version in versions.items()
            if run_id not in self._watched or self._watched[run_id].version != version
        ]
        if not stale:
            return
        for row in await pool.fetch(load("projections.sql", "runs_by_id"), stale):
            stored = runs.stored_run(row)
            known = self._watched.get(stored.run_id)
            same = known is not None and known.run.epoch == stored.run.epoch
            since = known.since if known is not None and same else now
            self._watched[stored.run_id] = Watched(stored.ledger_id, stored.run.version, stored.run, since)

    async def _recover(self, run_id: UUID, epoch: int, sender: str) -> int:
        stored = await runs.get(self._ledger.pool, run_id)
        if stored is None or stored.run.status is not Status.CRASHED or stored.run.epoch != epoch:
            return 0
        if stored.run.mode is Mode.MANAGED and sender != str(stored.run.worker):
            return 0
        ended = stored.run.ended_at
        silence = (datetime.now(UTC) - ended).total_seconds() if ended else 0.0
        command = MarkResponsive(epoch=epoch, silence_seconds=round(silence, 3))
        return await self._execute(stored.ledger_id, run_id, command)

    async def _execute(self, ledger_id: UUID, run_id: UUID, command: RunCommand) -> int:
        try:
            outcome = await execute(self._ledger, ledger_id, run_id, command, asked_by(ACTOR))
        except (Rejected, VersionConflict) as refusal:
            log.info("run %s: %s", run_id, refusal)
            return 0
        log.info("run %s: %s after %s", run_id, outcome.run.status, type(command).__name__)
        return 1
