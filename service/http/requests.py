"""Requests whose JSON bodies are decoded as what their route declares, and as nothing that could be meant; headers."""

from collections.abc import Callable
from functools import cache
from typing import Any

import msgspec
from litestar import Request
from litestar.exceptions import ClientException
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from litestar.types import Empty, Receive, Scope


class TypedRequest(Request[Any, Any, Any]):
    """A request that decodes its body strictly: `"1"` is no number, `1` no string.

    Left alone, the framework decodes to plain values first and then converts whatever can be converted.
    """

    async def body(self) -> bytes:
        """Return the body. Raises `RequestEntityTooLarge` past the route's limit, and what `read` raises."""
        state = self._connection_state
        if state.body is Empty:
            announced = header(self.scope, b"content-length") or ""
            self._check_size(int(announced) if announced.isdecimal() else 0)
            state.body = await read(self.receive, self._check_size)
        body: bytes = state.body
        return body

    @property
    def received(self) -> bytes:
        """The body, if it was read whole; else nothing."""
        body = self._connection_state.body
        return b"" if body is Empty else body

    async def json(self) -> Any:
        """Return the body as the type of the route's `data`. Raises msgspec's errors, which name the JSON path."""
        declared = self.route_handler.parsed_data_field
        return _decoder(Any if declared is None else declared.annotation).decode(await self.body())

    def _check_size(self, size: int) -> None:
        limit = self.route_handler.resolve_request_max_body_size()
        if limit is not None and size > limit:
            raise RequestEntityTooLarge


@cache
def _decoder(annotation: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(annotation)


def header(scope: Scope, name: bytes) -> str | None:
    """Return what a header (by its name in lower case) says first, without reading the others."""
    for key, value in scope["headers"]:
        if key == name:
            return value.decode("latin-1")
    return None


async def read(receive: Receive, check_size: Callable[[int], None]) -> bytes:
    """Return a body as the server hands it over; the framework's way costs as much as decoding a small one.

    `check_size` hears how many bytes have come, and raises where they are too many. Raises `ClientException` where
    the client is gone before all have.
    """
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientException("the connection was closed before the body was whole")
        chunks.append(message["body"])
        size += len(chunks[-1])
        check_size(size)
        if not message["more_body"]:
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)
