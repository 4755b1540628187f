"""Routes whose handlers are called directly: what the framework does around one costs as much as a small batch does.

Handlers that take nothing from the query, and answer JSON, can be called so. What they take and answer is declared
as everywhere, and where a body is missing the framework is left to say so.
Source: docs/decisions/0025-cost-of-a-run.md.
"""

from typing import Any, Final

import msgspec
from litestar import Response
from litestar.types import ASGIApp, Receive, Send

from service.http.requests import TypedRequest

_json: Final = msgspec.json.Encoder()


def direct(app: ASGIApp) -> ASGIApp:
    """Call a route's handler with its path's parts, `service`, `request` and `data`, and send what it returns."""

    async def middleware(scope: Any, receive: Receive, send: Send) -> None:
        handler: Any = scope["route_handler"]
        request = TypedRequest(scope, receive, send)
        takes = handler.parsed_fn_signature.parameters
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

    return middleware
