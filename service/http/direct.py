"""Routes whose handlers are called directly: what the framework does around one costs as much as a small batch does.

Handlers that take nothing from the query, and answer JSON, can be called so. What they take and answer is declared
as everywhere; where a body is missing, and where something was raised, the framework is left to say so. A router of
such handlers has `middleware=[direct]` and `before_request=raise_again`.
Source: docs/decisions/0025-cost-of-a-run.md.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any, Final

import msgspec
from litestar import Request, Response
from litestar.types import ASGIApp, HTTPScope, Receive, Send

from service.http.requests import TypedRequest

RAISED: Final = "tachograph.raised"
"""Where a scope has what its handler raised, until the framework makes an answer of it."""

_json: Final = msgspec.json.Encoder()


def direct(app: ASGIApp) -> ASGIApp:
    """Call a route's handler with its path's parts, `service`, `request` and `data`, and send what it returns."""

    async def answer(scope: HTTPScope, receive: Receive, send: Send) -> None:
        handler: Any = scope["route_handler"]
        request = TypedRequest(scope, receive, send)
        takes = _takes(handler)
        arguments: dict[str, Any] = {**scope["path_params"], "service": scope["litestar_app"].state.service}
        if "request" in takes:
            arguments["request"] = request
        if "data" in takes:
            if await request.body():
                arguments["data"] = await request.json()
            elif takes["data"].is_required:
                await app(scope, receive, send)  # which says that it is missing
                return
        returned = await handler.fn(**arguments)
        status, headers = handler.status_code, {}
        if isinstance(returned, Response):
            status, headers, returned = returned.status_code or status, returned.headers, returned.content
        body = _json.encode(returned)
        fields = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        fields += [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": fields})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def middleware(scope: Any, receive: Receive, send: Send) -> None:
        try:
            await answer(scope, receive, send)
        except Exception as error:  # noqa: BLE001 (all of them; what makes an answer of it is within the middlewares)
            scope[RAISED] = error
            await app(scope, receive, send)

    return middleware


async def raise_again(request: Request[Any, Any, Any]) -> None:
    """Raise what the handler raised, where the framework is about to call it once more."""
    error = request.scope.pop(RAISED, None)  # type: ignore[typeddict-item]
    try:
        if error is not None:
            raise error
    finally:
        del error  # or it would be kept by its own traceback


@cache
def _takes(handler: Any) -> Mapping[str, Any]:
    """Return a handler's parameters by their names."""
    takes: Mapping[str, Any] = handler.parsed_fn_signature.parameters
    return takes
