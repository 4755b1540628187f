"""A monitor under a clock that tests move, and who beats meanwhile."""

from nats.aio.client import Client

from events.beats import Beat
from tests.integration.fleet import Clock, Fleet
from workers.monitor import LATE_STEP_SECONDS, Monitor

UNRESPONSIVE, CRASHED = 15, 45
"""Seconds of silence after which a run of `Fleet.tracked` is called so."""


class Watch:
    """A monitor, its clock, and who beats meanwhile."""

    def __init__(self, fleet: Fleet, client: Client) -> None:
        self.clock = Clock()
        self.monitor = Monitor(fleet.ledger, client, clock=self.clock)
        self.beats: list[Beat] = []
        self.api_is_up = True
        self.nats_is_up = True

    def deafen(self) -> None:
        """Let no canary come through from now on."""
        self.nats_is_up = False
        hear, sender = self.monitor.hear, self.monitor.sender
        self.monitor._heartbeats._hear = lambda beat: (
            None if beat.sender == sender and not self.nats_is_up else hear(beat)
        )

    async def passes(self, seconds: float) -> None:
        """Let time pass in small steps, with beats at each."""
        end = self.clock.now + seconds
        while True:
            if self.api_is_up:
                self.monitor.hear(Beat(sender="api-0", kind="api"))
            if self.nats_is_up:
                self.monitor.hear(Beat(sender=self.monitor.sender, kind="canary"))
            for beat in self.beats:
                self.monitor.hear(beat)
            while await self.monitor.step():
                pass
            if self.clock.now >= end:
                return
            self.clock.now = min(end, self.clock.now + LATE_STEP_SECONDS / 2)
