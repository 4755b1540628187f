"""A task that never ends: what it raises is said, and it begins again."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

log = logging.getLogger("tachograph.supervised")

PAUSE_SECONDS: Final = 5.0


def supervised(name: str, work: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
    """Return a task that does the work until it is cancelled, whatever the work raises."""
    return asyncio.create_task(_again_and_again(name, work), name=name)


async def _again_and_again(name: str, work: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await work()
        except Exception:
            log.exception("%s failed; again in %g s", name, PAUSE_SECONDS)
        await asyncio.sleep(PAUSE_SECONDS)
