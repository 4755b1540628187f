"""When many runs fall silent at once it is our fault more often than theirs: nothing is declared until we know. Pure.

Canaries tell: beats that this monitor sends to itself over NATS, and the beats of API processes. Once they have worked
for a run's whole period while it stayed silent, it is declared after all.
"""

import math
from typing import Final

MANY: Final = 5
GAP_SECONDS: Final = 4.0
"""Canaries sing once a second; after a longer gap they have to begin again."""


class Canary:
    """One way that beats take: when it last worked, and since when without a gap."""

    def __init__(self) -> None:
        self.heard = self.since = -math.inf

    def sings(self, now: float) -> None:
        """Take note of a beat."""
        if now - self.heard > GAP_SECONDS:
            self.since = now
        self.heard = now

    def works(self, now: float) -> bool:
        """Whether it worked a moment ago."""
        return now - self.heard <= GAP_SECONDS


class MassSilence:
    """Whether declarations are held, and since when."""

    def __init__(self) -> None:
        self.since: float | None = None

    def look(self, now: float, silent: int, watched: int) -> bool:
        """Take the numbers of a step; returns whether that began or ended a hold."""
        mass = silent >= MANY and 2 * silent > watched
        if mass == (self.since is not None):
            return False
        self.since = now if mass else None
        return True

    def holds(self, now: float, period_seconds: float, *ways: Canary) -> bool:
        """Whether a run must not be declared yet: its beats come by these ways, and its period is this long."""
        if self.since is None:
            return False
        if not all(way.works(now) for way in ways):
            return True
        return now - max(self.since, *(way.since for way in ways)) < period_seconds
