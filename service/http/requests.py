"""Requests whose JSON bodies are decoded as what their route declares, and as nothing that could be meant; headers."""

from typing import Any

import msgspec
from litestar import Request
from litestar.types import Scope


class TypedRequest(Request[Any, Any, Any]):
    """A request that decodes its body strictly: `"1"` is no number, `1` no string.

    Left alone, the framework decodes to plain values first and then converts whatever can be converted.
    """

    async def json(self) -> Any:
        """Return the body as the type of the route's `data`. Raises msgspec's errors, which name the JSON path."""
        declared = self.route_handler.parsed_data_field
        return msgspec.json.decode(await self.body(), type=Any if declared is None else declared.annotation)


def header(scope: Scope, name: bytes) -> str | None:
    """Return what a header (by its name in lower case) says first, without reading the others."""
    for key, value in scope["headers"]:
        if key == name:
            return value.decode("latin-1")
    return None
