"""Leader election: of each role one copy is active and any number stand by, by a Postgres advisory lock.

The lock is held on a connection of its own. It saves work; correctness never rests on it.
"""

from typing import Final

import asyncpg

from workers.loop import Loop

ANSWER_SECONDS: Final = 10.0


class Elected:
    """A role that works only while it holds its lock."""

    def __init__(self, role: Loop, database_url: str) -> None:
        self.name = role.name
        self.pause_seconds = role.pause_seconds
        self.gather_seconds = role.gather_seconds
        self.role = role
        self._database_url = database_url
        self._connection: asyncpg.Connection | None = None
        self._leading = False

    @property
    def leading(self) -> bool:
        """Whether this copy is the one that works."""
        return self._leading

    async def start(self) -> None:
        """Connect; whether we lead is seen in `step`."""
        self._connection = await asyncpg.connect(
            self._database_url,
            timeout=ANSWER_SECONDS,
            command_timeout=ANSWER_SECONDS,
            server_settings={"application_name": f"tachograph-lock-{self.name}"},
        )

    async def step(self) -> int:
        """Work if we lead, else try to; raises when the lock's connection is gone."""
        assert self._connection is not None
        if self._connection.is_closed():
            raise ConnectionError("the connection that holds the lock is gone")
        if not self._leading:
            if not await self._connection.fetchval(
                "select pg_try_advisory_lock(hashtext('tachograph.role'), hashtext($1))", self.name
            ):
                return 0
            await self.role.start()
            self._leading = True
        return await self.role.step()

    async def stop(self) -> None:
        """Let the lock go, after the role has let go of its own things."""
        try:
            if self._leading:
                self._leading = False
                await self.role.stop()
        finally:
            if self._connection is not None:
                await self._connection.close(timeout=2)
                self._connection = None
