"""What we rely on inside Litestar and uvicorn, beyond what they document.

Both ways to an answer being the same (`test_http_shortcuts`) says nothing if the shorter way is no longer taken. A test
that fails here after an upgrade names the module to look at, and what it needs of the framework.
"""

import asyncio
import socket
from typing import Any

import pytest
import uvicorn
from litestar import Litestar
from litestar.routes import HTTPRoute
from litestar.types import Receive, Scope, Send

from events.settings import from_environment
from service.app import create_app
from service.http import shortcut
from service.http.direct import direct
from service.http.transport import Protocol, is_whole
from tests.api import SECONDS


def routed(app: Litestar) -> dict[tuple[str, str], Any]:
    """Return the handlers of the application by method and path."""
    return {
        (method, route.path_format): handler
        for route in app.routes
        if isinstance(route, HTTPRoute)
        for handler in route.route_handlers
        for method in handler.http_methods - {"OPTIONS"}
    }


@pytest.mark.filterwarnings("ignore::litestar.exceptions.LitestarDeprecationWarning")
def test_service_http_shortcut_finds_every_route_that_is_called_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TACHOGRAPH_DATABASE_URL", "postgresql://nowhere/none")
    monkeypatch.setenv("TACHOGRAPH_NATS_URL", "nats://nowhere:4222")
    app = create_app(from_environment())
    by_path = {
        where: handler
        for where, handler in routed(app).items()
        if direct in handler.resolve_middleware() and shortcut.SHAPE.fullmatch(where[1])
    }
    assert ("POST", "/api/v1/runs/{run}/metrics") in by_path
    found = {(key[0], short.template): short.handler for key, short in shortcut.shortcuts(app)}
    assert found == by_path, "Litestar's router (`asgi_router.handle_routing`) no longer says what a shortcut needs"
    assert app.asgi_handler.app.__module__ == shortcut.__name__, "the shortcut does not stand before Litestar's router"


async def test_service_http_transport_sees_whether_uvicorn_has_the_whole_body() -> None:
    seen: list[bool] = []
    asked = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(is_whole(receive))
        asked.set()
        while (await receive()).get("more_body"):
            pass
        seen.append(is_whole(receive))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, http=Protocol, lifespan="off", log_config=None))
    serving = asyncio.create_task(server.serve([listener]))
    reader, writer = await asyncio.open_connection(*listener.getsockname())
    try:
        head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n"
        writer.write(head + b"body")
        await reader.readuntil(b"\r\n\r\n")
        assert seen == [True, True], "uvicorn's RequestResponseCycle no longer tells in `more_body` what has come"
        asked.clear()
        writer.write(head + b"bo")
        await asyncio.wait_for(asked.wait(), SECONDS)
        writer.write(b"dy")
        await reader.readuntil(b"\r\n\r\n")
        assert seen[2:] == [False, True], "uvicorn's RequestResponseCycle says that a body has come that has not"
    finally:
        writer.close()
        server.should_exit = True
        await serving
