"""HTTP/1.1 whose answers leave in one piece; uvicorn writes head and body apart, which makes two packets of each."""

import asyncio
from typing import Any, Final, cast

from litestar.types import Receive
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

GATHERED_BYTES: Final = 32 << 10
"""What is written past this is sent at once, so that the transport below can say when it is full."""


class Gathering:
    """A transport that sends together what one turn of the event loop writes."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._parts: list[bytes] = []
        self._bytes = 0

    def write(self, data: bytes) -> None:
        """Send data before the event loop waits again."""
        if not self._parts:
            self._loop.call_soon(self.flush)
        self._parts.append(data)
        self._bytes += len(data)
        if self._bytes > GATHERED_BYTES:
            self.flush()

    def flush(self) -> None:
        """Send what was gathered."""
        if self._parts and not self._transport.is_closing():
            self._transport.write(b"".join(self._parts))
        self._parts.clear()
        self._bytes = 0

    def close(self) -> None:
        """Close once all is sent."""
        self.flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol, writing to a transport that gathers."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin with a connection."""
        super().connection_made(cast("asyncio.Transport", Gathering(transport, self.loop)))


def is_whole(receive: Receive) -> bool:
    """Whether the server has all of a request's body, so that nobody has to wait for it."""
    cycle = getattr(receive, "__self__", None)
    return isinstance(cycle, RequestResponseCycle) and not cycle.more_body
