"""The protocol that every background role shares, and the one thing that runs it.

A role has `start`, `step` and `stop`. `step` does one bounded piece of work and returns how much it did; while
that is more than nothing it is called again, else the runner waits for a nudge or for `pause_seconds`. After a step
that was nudged or did something the next one begins at least `gather_seconds` later: what comes close together is done
together, and what comes alone is done at once.
Tests call `step` directly, so no test sleeps.
"""

import asyncio
import logging
import time
from datetime import UTC, datetime
from typing import Final, Protocol

import asyncpg
from nats.errors import Error as NatsError

from events import database
from events.bus import TransportRefused
from events.errors import Unavailable

log = logging.getLogger("tachograph.workers")

BACKOFF_SECONDS: Final = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
STEADY_SECONDS: Final = 30.0
"""Who failed again within this, and the pause before, has not been well in between, whatever steps it made."""
LONG_STEP_SECONDS: Final = 60.0
"""After this long a step is said to be under way still: it may be much work, or wait for something that hangs."""

AWAY: Final = (*database.AWAY, asyncpg.InsufficientResourcesError, NatsError, TransportRefused, Unavailable)
"""What others do to us: they say in a line what is wrong. Anything else is a fault of ours, and shows where it is."""


class Loop(Protocol):
    """A background role."""

    name: str
    pause_seconds: float
    gather_seconds: float

    async def start(self) -> None:
        """Get ready; may raise, and is then tried again."""

    async def step(self) -> int:
        """Do one bounded piece of work and return how much it was."""

    async def stop(self) -> None:
        """Let go of what `start` took."""


class Runner:
    """Runs one role until it is told to stop; an error is said, and the role started again after a pause."""

    def __init__(self, role: Loop) -> None:
        self.role = role
        self.failures = 0
        self.restarts = 0
        self.stepped_at: datetime | None = None
        self._last_error: str | None = None
        self._step_began: float | None = None
        self._strikes = 0
        self._well_until = 0.0
        self._nudged = asyncio.Event()
        self._stopping = asyncio.Event()

    @property
    def trouble(self) -> str | None:
        """What is wrong: the error after which no step went well yet, or a step that does not end."""
        if self._last_error is None and self._step_began is not None:
            seconds = time.monotonic() - self._step_began
            return f"one step has taken {seconds:.0f} s so far" if seconds > LONG_STEP_SECONDS else None
        return self._last_error

    def nudge(self) -> None:
        """There may be work."""
        self._nudged.set()

    def stop(self) -> None:
        """End after the step under way."""
        self._stopping.set()
        self._nudged.set()

    async def run(self) -> None:
        """Run the role until `stop`."""
        while not self._stopping.is_set():
            try:
                await self.role.start()
                try:
                    await self._steps()
                finally:
                    await self.role.stop()
            except Exception as error:
                self.restarts += 1
                self._last_error = f"{type(error).__name__}: {error}"
                pause = self._strike()
                log.error(
                    "%s failed (%d in a row); again in %.1f s: %s",
                    self.role.name,
                    self.failures,
                    pause,
                    self._last_error,
                    exc_info=None if isinstance(error, AWAY) else error,
                )
                await self._wait(pause, nudges=False)

    def _strike(self) -> float:
        """Count a failure, and return how long to pause after it."""
        now = time.monotonic()
        self._strikes = 1 if now > self._well_until else self._strikes + 1
        pause = BACKOFF_SECONDS[min(self._strikes, len(BACKOFF_SECONDS)) - 1]
        self._well_until = now + pause + STEADY_SECONDS
        self.failures = self._strikes
        return pause

    async def _steps(self) -> None:
        while not self._stopping.is_set():
            nudged = self._nudged.is_set()
            self._nudged.clear()
            began = self._step_began = time.monotonic()
            try:
                done = await self.role.step()
            finally:
                self._step_began = None
            if self.failures:
                log.info("%s works again, after it failed %d times in a row", self.role.name, self.failures)
            self.failures, self._last_error = 0, None
            self.stepped_at = datetime.now(UTC)
            if done or nudged:
                await self._wait(began + self.role.gather_seconds - time.monotonic(), nudges=False)
            if not done:
                await self._wait(self.role.pause_seconds, nudges=True)

    async def _wait(self, seconds: float, *, nudges: bool) -> None:
        event = self._nudged if nudges else self._stopping
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            return
