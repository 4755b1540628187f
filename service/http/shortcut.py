"""A fast path to the routes that are called directly: found by the shape of their path, before the framework's router.

The router, and what the framework puts around it, cost a small batch of telemetry a tenth of its time. The middlewares
are the same on either way, and so is every answer. What this needs of Litestar's insides is tested in
`test_framework_insides`. Source: docs/decisions/0033-cost-of-a-batch.md.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec
from litestar import Litestar
from litestar.enums import ScopeType
from litestar.routes import HTTPRoute
from litestar.types import ASGIApp, ExceptionHandlersMap, Receive, Send
from litestar.utils.scope.state import ScopeState

from service.http.direct import direct
from service.http.requests import header

SHAPE: Final = re.compile(r"/api/v1/([a-z]+)/\{([a-z]+)\}(?:/([a-z/-]+))?")
"""Paths that have a shortcut: below one thing of one kind."""
HOST: Final = re.compile(r"[A-Za-z0-9.:\[\]_-]*")
"""Hosts that are fine; of others the framework has an opinion of its own."""
_ROOT: Final = ["", "api", "v1"]

Key = tuple[str, str, str]
"""A method, a kind, and what stands behind the thing's name."""


class Shortcut(msgspec.Struct, frozen=True):
    """A route with all of its middlewares, and what the framework says of it in a request's scope."""

    app: ASGIApp
    handler: Any
    template: str
    parameter: str
    exception_handlers: ExceptionHandlersMap


def shorten(app: Litestar) -> None:
    """Have requests to routes that are called directly find these first; the others go to the framework's router."""
    known = dict(shortcuts(app))
    errors: Any = app.asgi_handler  # makes answers of what is raised below it
    router: ASGIApp = errors.app

    async def route(scope: Any, receive: Receive, send: Send) -> None:
        found = _find(known, scope) if scope["type"] == ScopeType.HTTP else None
        if found is None:
            await router(scope, receive, send)
            return
        shortcut, name = found
        scope["path_params"] = {shortcut.parameter: name}
        scope["path_template"] = shortcut.template
        scope["route_handler"] = shortcut.handler
        ScopeState.from_scope(scope).exception_handlers = shortcut.exception_handlers
        await shortcut.app(scope, receive, send)

    errors.app = route


def _find(shortcuts: Mapping[Key, Shortcut], scope: Any) -> tuple[Shortcut, str] | None:
    """Return the way to a request's route, and the name of the thing that it is about."""
    parts = scope["path"].split("/", 5)
    if len(parts) < 5 or parts[:3] != _ROOT or not parts[4]:
        return None
    shortcut = shortcuts.get((scope["method"], parts[3], parts[5] if len(parts) == 6 else ""))
    if shortcut is None or scope.get("root_path") or not HOST.fullmatch(header(scope, b"host") or ""):
        return None
    return shortcut, parts[4]


def shortcuts(app: Litestar) -> Iterator[tuple[Key, Shortcut]]:
    """Yield the way to each route that is called directly, as far as its path has that shape."""
    for route in app.routes:
        shape = SHAPE.fullmatch(route.path_format)
        if shape is None or not isinstance(route, HTTPRoute):
            continue
        kind, parameter, rest = shape.groups(default="")
        for handler in route.route_handlers:
            if direct not in handler.resolve_middleware():
                continue
            for method in handler.http_methods - {"OPTIONS"}:
                stack, routed, _, _, template = app.asgi_router.handle_routing(
                    f"/api/v1/{kind}/x/{rest}".rstrip("/"), method
                )
                yield (
                    (method, kind, rest),
                    Shortcut(stack, routed, template, parameter, routed.resolve_exception_handlers()),
                )
