"""The pool of connections to Postgres, with the session settings that our SQL relies on."""

from collections.abc import Mapping
from typing import Any, Final

import asyncpg

SEARCH_PATH = "projection, ledger"


async def _keep(_: Any) -> None:
    """Nothing of a session is ever changed, so there is nothing to reset when it goes back to the pool."""


LOOKUPS: Final[Mapping[str, str]] = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
}
"""Plans are generic and go by indexes: our statements take arrays, whose sizes a planner cannot know."""

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
