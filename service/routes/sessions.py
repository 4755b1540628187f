"""Sessions of browsers: an API key is exchanged for a cookie that no script reads and no other site sends."""

import secrets
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import msgspec
from litestar import Response, Router, post
from litestar.exceptions import NotAuthorizedException
from litestar.params import JSONBody
from msgspec import Meta

from projections import sessions
from service.access import IDENTITY, NOTHING
from service.auth import COOKIE, check_same_origin
from service.context import Http, Service
from service.http.requests import header
from service.keys import SESSION_PREFIX, SESSION_SECONDS, digest_of
from service.recipes import Body

_ATTRIBUTES: Final = "Path=/; HttpOnly; SameSite=Strict"


class Login(Body, frozen=True):
    """The API key that a session is to stand for."""

    api_key: Annotated[str, Meta(min_length=1, max_length=250)]


class Session(msgspec.Struct, frozen=True):
    """A session has begun, and lasts until then; its secret is in the cookie alone."""

    expires_at: datetime


@post("/login", needs=NOTHING, status_code=200)
async def login(request: Http, data: JSONBody[Login], service: Service) -> Response[Session]:
    """Exchange an API key for a session: a cookie, good for twelve hours and no longer than the key."""
    origin = header(request.scope, b"origin")
    if origin is not None or header(request.scope, b"sec-fetch-site") is not None:
        check_same_origin(request.scope)
    principal = await service.keys.principal(data.api_key)
    if principal is None or principal.key_id is None:
        raise NotAuthorizedException("this API key is unknown, expired or revoked")
    secret = SESSION_PREFIX + secrets.token_urlsafe(32)
    expires_at = datetime.now(UTC) + timedelta(seconds=SESSION_SECONDS)
    await sessions.begin(service.pool, digest_of(secret), principal.key_id, expires_at)
    secure = "; Secure" if (origin or "").startswith("https:") else ""
    cookie = f"{COOKIE}={secret}; Max-Age={SESSION_SECONDS}; {_ATTRIBUTES}{secure}"
    return Response(Session(expires_at), headers={"Set-Cookie": cookie, "Cache-Control": "no-store"})


@post("/logout", needs=IDENTITY, status_code=204)
async def logout(request: Http, service: Service) -> Response[None]:
    """End the session, in every replica; a request with a key instead ends nothing."""
    user = request.user
    if user.session and user.key is not None:
        await sessions.end(service.pool, user.key)
        service.keys_changed()
    return Response(None, headers={"Set-Cookie": f"{COOKIE}=; Max-Age=0; {_ATTRIBUTES}"})


ROUTES = Router(path="", route_handlers=[login, logout], request_max_body_size=4 << 10, tags=["access"])
