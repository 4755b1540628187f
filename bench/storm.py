"""Many HTTP clients in one thread: each sends its next request when the last one was answered, at next to no cost.

    async with storm(stack.url, 64) as clients:
        await asyncio.gather(*(client.send(requests) for client in clients))

Requests are ready bytes; of an answer only its status and its length are looked at, so that a server is measured
rather than the client.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

from bench.client import RefusedError

END: Final = b"\r\n\r\n"
LENGTH: Final = b"content-length: "


def request(
    url: str, api_key: str, method: str, path: str, body: bytes = b"", media_type: str = "application/json"
) -> bytes:
    """Return a request as it is sent; `path` below the URL."""
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nAuthorization: Bearer {api_key}\r\n"
        f"Content-Type: {media_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class StormClient(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._transport: asyncio.WriteTransport | None = None
        self._answer: asyncio.Future[bytes] | None = None
        self._read = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what to write to."""
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Wake who waits once an answer is whole."""
        self._read += data
        head = self._read.find(END)
        if head < 0:
            return
        length = self._read.find(LENGTH, 0, head + 2)
        body = int(self._read[length + len(LENGTH) : self._read.find(b"\r", length)]) if length >= 0 else 0
        end = head + len(END) + body
        if len(self._read) >= end and self._answer is not None:
            answer = bytes(self._read[:end])
            del self._read[:end]
            self._answer.set_result(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail who waits."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionError("the server closed the connection"))

    async def ask(self, one: bytes) -> bytes:
        """Send a request and return the body of its answer. Raises `RefusedError`."""
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(one)
        answer = await self._answer
        if not answer.startswith(b"HTTP/1.1 20"):
            raise RefusedError(answer[:500].decode(errors="replace"))
        return answer[answer.find(END) + len(END) :]

    async def send(self, requests: Iterable[bytes]) -> bytes:
        """Send one after the other, and return the body of the last answer. Raises `RefusedError`."""
        answer = b""
        for one in requests:
            answer = await self.ask(one)
        return answer

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()


@asynccontextmanager
async def storm(url: str, clients: int) -> AsyncIterator[list[StormClient]]:
    """Open connections to a server, and close them again."""
    parts = urlsplit(url)
    loop = asyncio.get_running_loop()
    assert parts.hostname is not None
    assert parts.port is not None
    opened = [(await loop.create_connection(StormClient, parts.hostname, parts.port))[1] for _ in range(clients)]
    try:
        yield opened
    finally:
        for client in opened:
            client.close()
