"""Which organisations have used up their credits, looked up at most once a second."""

from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from projections import billing
from projections.runs import Reader

LOOK_SECONDS: Final = 1.0


class Balances:
    """Remembers what it found last; times are of a monotonic clock."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._found: set[UUID] = set()
        self._until = float("-inf")

    async def exhausted(self, now: float) -> set[UUID]:
        """Return the organisations whose balance is zero or below."""
        if now >= self._until:
            self._found = await billing.exhausted(self._reader, datetime.now(UTC))
            self._until = now + LOOK_SECONDS
        return self._found
