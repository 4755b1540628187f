"""What a client says while it connects again and again: each thing once a minute at most, and when it is over."""

import logging
import time
from collections.abc import Callable
from typing import Final

AGAIN_SECONDS: Final = 60.0


class Complaints:
    """The callbacks of a NATS client that write to a log."""

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._said: dict[str, float] = {}

    async def error(self, error: Exception) -> None:
        """Say what is wrong, unless that was said a moment ago."""
        text, now = str(error) or type(error).__name__, self._clock()
        self._said = {known: at for known, at in self._said.items() if now - at < AGAIN_SECONDS}
        if text not in self._said:
            self._said[text] = now
            self._log.warning("NATS: %s", text)

    async def reconnected(self) -> None:
        """Say that it is connected again."""
        self._said.clear()
        self._log.info("NATS: connected again")
