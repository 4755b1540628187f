"""Long answers: each takes one of few places, and a client that does not read loses its own."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Final

from litestar.response import Stream

from events.errors import Busy
from service.access import Forbidden
from service.artifact_names import disposition
from service.context import Http, Service
from service.http.endings import at_end
from service.keys import Principal

log = logging.getLogger("tachograph.service")

MAX_DOWNLOADS: Final = 8
MAX_PER_KEY: Final = 2
STALL_SECONDS: Final = 60.0
"""How long a client may take for one chunk; then it is cut off, so that it holds no place for ever."""


class TooManyDownloads(Busy):
    """As many replays and exports are under way as this process, or this key, may have; wait for one to end."""

    limit = MAX_DOWNLOADS


def enter(service: Service, actor: str) -> Callable[[], None]:
    """Take a place, and return what gives it back. Raises `TooManyDownloads`."""
    places = service.downloads
    if len(places) >= MAX_DOWNLOADS or list(places.values()).count(actor) >= MAX_PER_KEY:
        raise TooManyDownloads(f"at most {MAX_DOWNLOADS} replays and exports at once, and {MAX_PER_KEY} of one key")
    place = object()
    places[place] = actor

    def leave() -> None:
        places.pop(place, None)

    return leave


async def check_key(service: Service, principal: Principal) -> None:
    """Break an answer off whose key opens nothing any more. Raises `Forbidden`."""
    if not await service.keys.still(principal):
        raise Forbidden("the key was revoked, or has expired")


@contextmanager
def patience(where: str) -> Iterator[None]:
    """Cut this task off if a client takes longer than `STALL_SECONDS` for the chunk that is yielded in here."""
    task = asyncio.current_task()
    assert task is not None
    stalled = asyncio.get_running_loop().call_later(STALL_SECONDS, _cut, task, where)
    try:
        yield
    finally:
        stalled.cancel()


def _cut(task: "asyncio.Task[object]", where: str) -> None:
    log.warning("a client has not read %s for %g s; it is cut off", where, STALL_SECONDS)
    task.cancel()


def download(request: Http, service: Service, chunks: AsyncGenerator[bytes], media_type: str, name: str) -> Stream:
    """Answer with a file as it is made. What fails on the way breaks the connection: half a file never looks whole."""
    leave = enter(service, request.user.actor)
    paced = _paced(service, request.user, chunks, name)
    at_end(request.scope, paced, leave)
    headers = {"Content-Disposition": disposition(name), "Cache-Control": "private, no-store"}
    return Stream(paced, media_type=media_type, headers=headers)


async def _paced(
    service: Service, principal: Principal, chunks: AsyncGenerator[bytes], name: str
) -> AsyncGenerator[bytes]:
    async with aclosing(chunks):
        async for chunk in chunks:
            if service.stopping.is_set():
                raise Busy("the service is stopping")
            await check_key(service, principal)
            with patience(name):
                yield chunk
