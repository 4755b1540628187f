"""How much a SQL query may take: limits told by the environment, and what a query is refused with."""

from typing import Final

import msgspec

from events import settings
from events.errors import Busy, LedgerError

MIB: Final = 1 << 20


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The most that one query takes, and how many run at once.

    `seconds` count from the first look at the statement to the last byte of the answer; `memory_bytes` is DuckDB's,
    without a file to spill into; `read_bytes` and `read_rows` are what is handed over from Postgres.
    """

    seconds: int = 30
    memory_bytes: int = 512 * MIB
    threads: int = 2
    rows: int = 1_000_000
    bytes: int = 64 * MIB
    sql_bytes: int = 64 << 10
    files: int = 20_000
    read_rows: int = 500_000
    read_bytes: int = 128 * MIB
    at_once: int = 4
    project_at_once: int = 2


def from_environment() -> Limits:
    """Read `TACHOGRAPH_QUERY_SECONDS`, `…_QUERY_MEMORY_BYTES` and so on. Raises `SettingsError`."""
    return settings.numbers(Limits, "TACHOGRAPH_QUERY")


class QueryRefused(LedgerError):
    """A query is none that is answered, failed, or passed a bound; `path` is the part of the body that is to blame."""

    def __init__(self, detail: str, *, path: str = "$.sql", limit: int | None = None) -> None:
        super().__init__(detail)
        self.path = path
        self.limit = limit


class QueryTooSlow(QueryRefused):
    """The time was up, and the query was stopped."""


class QueryTooHungry(QueryRefused):
    """The memory was used up, and the query was stopped."""


class TooManyQueries(Busy):
    """As many queries are under way as the process, or the project, may have; wait for one to end."""

    def __init__(self, detail: str, *, limit: int) -> None:
        super().__init__(detail)
        self.limit = limit
