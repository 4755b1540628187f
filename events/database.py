"""The pool of connections to Postgres, with the session settings that our SQL relies on."""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from itertools import chain, repeat
from pathlib import Path
from typing import Any, Final, TypeVar

import asyncpg
import msgspec

from events.settings import SettingsError

log = logging.getLogger("tachograph.database")


def _in_a_line(record: logging.LogRecord) -> bool:
    """Have asyncpg's pool say in a line why it cannot connect: the traceback is all its own."""
    if record.exc_info and record.exc_info[1] is not None:
        record.msg, record.exc_info = f"{record.msg}: {record.exc_info[1]!r}", None
    return True


logging.getLogger("asyncpg.pool").addFilter(_in_a_line)

MIGRATIONS: Final = Path(__file__).resolve().parent.parent / "schemas" / "sql"
SEARCH_PATH = "projection, ledger"

CONNECT_SECONDS: Final = 5.0
PAUSE_SECONDS: Final = (0.1, 0.2, 0.5, 1.0, 2.0)
AWAY: Final = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
)
"""Postgres is not there, or not yet. Anything else is a mistake that waiting does not mend."""


async def _keep(_: Any) -> None:
    """Nothing of a session is ever changed, so there is nothing to reset when it goes back to the pool."""


async def _sends_sealed_events(connection: asyncpg.Connection) -> None:
    """Have the bytes of `events.wire` sent as they are; an older database lacks the type, and can be read."""
    with suppress(ValueError):
        await connection.set_builtin_type_codec("sealed_event", schema="ledger", codec_name="bytea", format="binary")


async def wait_until_there(url: str) -> None:
    """Return once Postgres takes connections and has this release's schema: parts may be started in any order.

    A newer schema will do. Raises `SettingsError` for a URL, a role or a database that is wrong.
    """
    for pause in chain(PAUSE_SECONDS, repeat(PAUSE_SECONDS[-1])):
        try:
            connection = await asyncpg.connect(url, timeout=CONNECT_SECONDS)
            try:
                lacks = await _lacks(connection)
            finally:
                await connection.close(timeout=CONNECT_SECONDS)
        except AWAY as error:
            log.warning("waiting for Postgres: %r", error)
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise SettingsError(f"TACHOGRAPH_DATABASE_URL: {error}") from error
        else:
            if lacks is None:
                return
            log.warning("waiting for `python -m service bootstrap`: the database lacks migration %s", lacks)
        await asyncio.sleep(pause)


async def _lacks(connection: asyncpg.Connection) -> str | None:
    """Return the first migration of this release that the database has not seen, or None."""
    try:
        known = {row["name"] for row in await connection.fetch("select name from public.migration")}
    except (asyncpg.UndefinedTableError, asyncpg.InsufficientPrivilegeError):  # as old databases are
        known = set()
    names = sorted(file.stem for file in MIGRATIONS.glob("[0-9]*.sql"))
    return next((name for name in names if name not in known), None)


LOOKUPS: Final[Mapping[str, str]] = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
}
"""Plans are generic and go by indexes: our statements take arrays, whose sizes a planner cannot know. A bitmap would be
made of all that follows a position, only to keep one page of it.
"""

SETS_SECONDS: Final = 10
SETS: Final[Mapping[str, str]] = {
    "plan_cache_mode": "force_custom_plan",
    "enable_seqscan": "off",
    "enable_nestloop": "off",
    "max_parallel_workers_per_gather": "0",
    "work_mem": "32MB",
    "statement_timeout": f"{SETS_SECONDS}s",
}
"""Plans join sets of any size, for searches; each statement is planned for its values, and bounded in time."""


async def open_pool(
    url: str,
    *,
    name: str,
    size: int = 8,
    search_path: str = SEARCH_PATH,
    planning: Mapping[str, str] = LOOKUPS,
) -> asyncpg.Pool:
    """Open a pool of at most `size` connections; `name` is what Postgres shows of them."""
    pool = await asyncpg.create_pool(
        url,
        min_size=1,
        max_size=size,
        init=_sends_sealed_events,
        reset=_keep,
        command_timeout=60,
        server_settings={
            "application_name": f"tachograph-{name}",
            "search_path": search_path,
            "jit": "off",
            **planning,
            "idle_in_transaction_session_timeout": "30s",
        },
    )
    assert pool is not None
    return pool


S = TypeVar("S", bound=msgspec.Struct)


def as_struct(kind: type[S], row: Mapping[str, Any]) -> S:
    """Return a row as a Struct with its columns' names; columns of a schema newer than this release are left out."""
    return kind(**{name: row[name] for name in kind.__struct_fields__})
