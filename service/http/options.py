"""What every path answers to OPTIONS: all of its methods. The framework's own handlers know those of one function."""

from litestar.enums import ScopeType
from litestar.response.base import ASGIResponse
from litestar.status_codes import HTTP_204_NO_CONTENT
from litestar.types import ASGIApp, Receive, Scope, Send


def options(app: ASGIApp) -> ASGIApp:
    """Answer OPTIONS with the methods of the path, and let everything else through."""

    async def middleware(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP or scope["method"] != "OPTIONS":
            await app(scope, receive, send)
            return
        routes = (route for route in scope["litestar_app"].routes if route.path_format == scope["path_template"])
        methods = sorted({method for route in routes for method in getattr(route, "methods", ())})
        answer = ASGIResponse(status_code=HTTP_204_NO_CONTENT, headers={"allow": ", ".join(methods)})
        await answer(scope, receive, send)

    return middleware
