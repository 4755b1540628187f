"""A migrated database of a benchmark's own, which no role of the running system works on."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from service.commands.migrate import migrate
from stack.postgres import Postgres

NAME: Final = "bench"


@asynccontextmanager
async def own_database(postgres: Postgres, settings: Mapping[str, int] = {}) -> AsyncIterator[str]:
    """Give the database's name; it is dropped afterwards, whoever is still connected.

    `settings` are what the server's are for whoever connects to it, superuser or not.
    """
    superuser = await asyncpg.connect(postgres.url("postgres"))
    try:
        await superuser.execute(f"create database {NAME} owner tachograph_owner")
        try:
            await migrate(postgres.url("tachograph_owner", NAME))
            for setting, value in settings.items():
                await superuser.execute(f"alter database {NAME} set {setting} = {value}")
            yield NAME
        finally:
            await superuser.execute(f"drop database {NAME} with (force)")
    finally:
        await superuser.close()
