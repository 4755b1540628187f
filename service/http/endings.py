"""What is done once a request has ended, however it did: all was sent, the client has gone, or the answer broke.

A generator that nobody reads on is closed when the garbage collector comes by; its place is wanted before.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from typing import Any, Final

ENDING: Final = "tachograph.ending"
"""Where a request's scope keeps this."""


def at_end(scope: Any, chunks: AsyncGenerator[Any], leave: Callable[[], None]) -> None:
    """Close what a request is answered with once it ends, whether that has begun or not, and then call `leave`."""
    ending: AsyncExitStack = scope.setdefault(ENDING, AsyncExitStack())
    ending.callback(leave)
    ending.push_async_callback(chunks.aclose)


async def end(scope: Any) -> None:
    """Do what is to be done."""
    ending: AsyncExitStack | None = scope.get(ENDING)
    if ending is not None:
        await ending.aclose()
