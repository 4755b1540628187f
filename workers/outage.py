"""Backoff for a role whose object store does not answer: tried again soon, then less often, and logged each time."""

import logging
from collections.abc import Callable
from typing import Final

log = logging.getLogger("tachograph.archiver")

PAUSE_SECONDS: Final = (1.0, 2.0, 5.0, 15.0)


class Outage:
    """Whether the store may be asked, after what was heard of it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failures = 0
        self._until = 0.0

    @property
    def is_over(self) -> bool:
        """Tell whether it may be tried again."""
        return self._clock() >= self._until

    def note(self, error: Exception) -> None:
        """Take notice that it is away."""
        pause = PAUSE_SECONDS[min(self._failures, len(PAUSE_SECONDS) - 1)]
        self._failures += 1
        self._until = self._clock() + pause
        log.warning("%s (%d in a row); again in %.0f s", error, self._failures, pause)

    def ended(self) -> None:
        """Take notice that it is there."""
        self._failures = 0
