"""A cache of the states that this process saw last, so that a command need not read first: a hint, never the truth.

Whoever decides on a cached state appends with its version, and the ledger refuses a version that is no longer current.
"""

from collections import OrderedDict
from typing import Any, Final
from uuid import UUID

MAX_STREAMS: Final = 4_096
MAX_BYTES: Final = 16 << 20


class Recent:
    """States by stream, of which the least recently used go first; bounded in number and in encoded bytes."""

    def __init__(self) -> None:
        self._states: OrderedDict[UUID, tuple[Any, int]] = OrderedDict()
        self._bytes = 0

    def get(self, stream: UUID) -> Any | None:
        """Return what was kept of a stream, if it is still here."""
        found = self._states.get(stream)
        if found is None:
            return None
        self._states.move_to_end(stream)
        return found[0]

    def keep(self, stream: UUID, state: Any, size: int) -> None:
        """Keep a stream's state, which has about `size` bytes when encoded."""
        self.forget(stream)
        self._states[stream] = (state, size)
        self._bytes += size
        while self._bytes > MAX_BYTES or len(self._states) > MAX_STREAMS:
            self._bytes -= self._states.popitem(last=False)[1][1]

    def forget(self, stream: UUID) -> None:
        """Drop what was kept of a stream."""
        self._bytes -= self._states.pop(stream, (None, 0))[1]
