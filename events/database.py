"""The pool of connections to Postgres, with the session settings that our SQL relies on."""

from typing import Any

import asyncpg

SEARCH_PATH = "projection, ledger"


async def _keep(_: Any) -> None:
    """Nothing of a session is ever changed, so there is nothing to reset when it goes back to the pool."""


async def open_pool(url: str, *, name: str, size: int = 8, search_path: str = SEARCH_PATH) -> asyncpg.Pool:
    """Open a pool of at most `size` connections; `name` is what Postgres shows of them.

    Plans are generic and index-only by setting: our statements take arrays, whose sizes a planner cannot know.
    """
    pool = await asyncpg.create_pool(
        url,
        min_size=1,
        max_size=size,
        reset=_keep,
        command_timeout=60,
        server_settings={
            "application_name": f"tachograph-{name}",
            "search_path": search_path,
            "plan_cache_mode": "force_generic_plan",
            "jit": "off",
            "enable_seqscan": "off",
            "enable_hashjoin": "off",
            "enable_mergejoin": "off",
            "idle_in_transaction_session_timeout": "30s",
        },
    )
    assert pool is not None
    return pool
