"""One DuckDB for the process: reads our Parquet files and nothing else, on a bounded number of threads."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import duckdb

from projections.archive.stores import Store

Result = TypeVar("Result")

THREADS: Final = 4
QUERIES: Final = 4
MEMORY_BYTES: Final = 1 << 30


class Analytics:
    """A DuckDB that may read what is held of `store`; `run` takes blocking work off the event loop."""

    def __init__(
        self, store: Store, *, threads: int = THREADS, queries: int = QUERIES, memory_bytes: int = MEMORY_BYTES
    ) -> None:
        self.store = store
        self._connection = duckdb.connect(config={"threads": threads, "memory_limit": f"{memory_bytes >> 20}MiB"})
        directory = str(store.readable.resolve()).replace("'", "''")
        for setting in (
            f"set allowed_directories = ['{directory}/']",
            "set temp_directory = ''",
            "set enable_external_file_cache = false",  # what is deleted must not linger in memory
            "set autoinstall_known_extensions = false",
            "set autoload_known_extensions = false",
            "set enable_external_access = false",
            "set lock_configuration = true",
        ):
            self._connection.execute(setting)
        self._threads = ThreadPoolExecutor(queries, thread_name_prefix="analytics")

    async def run(self, work: Callable[..., Result], *arguments: Any) -> Result:
        """Run blocking work on one of our threads; at most `queries` at a time, the rest wait."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    def query(self, sql: str, **parameters: Any) -> duckdb.DuckDBPyRelation:
        """Return a query that has not yet run, on a cursor of its own. For use inside `run`."""
        return self._connection.cursor().sql(sql, params=parameters)

    def close(self) -> None:
        """End the threads and the database."""
        self._threads.shutdown(cancel_futures=True)
        self._connection.close()
