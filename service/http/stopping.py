"""What a request is answered that is still under way when the process has waited long enough for its end.

The server cancels it then, and would call that an internal error. It is none, and nobody should be woken for it: the
same request may be sent again, and is answered by whoever serves next.
"""

import asyncio
import logging
from http import HTTPStatus
from typing import Any, Final

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Send

from service.problems import problem

log = logging.getLogger("tachograph.service")

DETAIL: Final = "the service is stopping, and whether this was done is unknown; send the same request again"


def told(app: ASGIApp) -> ASGIApp:
    """Answer what is cut off by a stop with 503, unless its answer has begun."""

    async def middleware(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await app(scope, receive, send)
            return
        begun = False

        async def noted(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await app(scope, receive, noted)
        except asyncio.CancelledError:
            log.warning("%s %s is cut off: the service stops", scope["method"], scope["path"])
            if not begun:
                answer = problem(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", DETAIL, {"Retry-After": "1"})
                fields = {"Content-Type": answer.media_type or "", "Content-Length": str(len(answer.content))}
                headers = [(name.lower().encode(), value.encode()) for name, value in (fields | answer.headers).items()]
                await send({"type": "http.response.start", "status": answer.status_code or 503, "headers": headers})
                await send({"type": "http.response.body", "body": answer.content, "more_body": False})

    return middleware
