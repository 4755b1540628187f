"""A circuit breaker for a store that may be away: who finds it so spares the others the wait.

The pause is as long as it took to find out; then one caller at a time asks again, while the others are refused at once.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from events.errors import Unavailable

LEAST_AWAY_SECONDS: Final = 1.0


class Circuit:
    """Opens when the store is found away, for as long as it took to find that; then one at a time asks it again.

    All others are refused at once meanwhile, with what was found. For threads and tasks alike.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failure: Unavailable | None = None
        self._until = 0.0
        self._is_asked = False

    @property
    def is_open(self) -> bool:
        """Tell whether the store was away when it was last asked."""
        return self._failure is not None

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Ask the store something, which raises an `Unavailable` where it is away; so does this, without asking."""
        tries = self._enter()
        began = time.monotonic()
        try:
            yield
        except Unavailable as error:
            now = time.monotonic()
            self._failure, self._until = error, now + max(now - began, LEAST_AWAY_SECONDS)
            raise
        except Exception:  # such as that something is not there
            self.close()
            raise
        else:
            self.close()
        finally:
            if tries:
                self._is_asked = False

    def check(self) -> None:
        """Raise what `asking` would raise without asking; it asks nothing either."""
        failure = self._failure
        if failure is not None and (self._is_asked or time.monotonic() < self._until):
            raise type(failure)(str(failure))

    def close(self) -> None:
        """Take notice that the store answers."""
        self._failure = None

    def _enter(self) -> bool:
        """Return whether this is who asks an absent store again."""
        with self._lock:
            if self._failure is None:
                return False
            self.check()
            self._is_asked = True
            return True
