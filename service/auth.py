"""Who asks, and whether it may: every request but those of open routes passes here, before its handler."""

import base64
from typing import Any, Final

from litestar.enums import ScopeType
from litestar.exceptions import NotAuthorizedException
from litestar.types import ASGIApp, Receive, Scope, Send

from service.access import PROGRAM, Forbidden, Need, in_order, needed
from service.http.requests import header
from service.keys import Keys, Principal

COOKIE: Final = "tachograph_session"
SAFE: Final = frozenset({"GET", "HEAD"})
"""What changes nothing, and so may be asked for by any page."""


def credential(explicit: str | None, authorization: str | None) -> str | None:
    """Return the credential that a request carries: X-API-Key, Bearer, or Basic with user `api`."""
    if explicit:
        return explicit
    scheme, _, value = (authorization or "").partition(" ")
    match scheme.lower():
        case "bearer":
            return value.strip() or None
        case "basic":
            try:
                user, _, password = base64.b64decode(value, validate=True).decode().partition(":")
            except ValueError:
                return None
            return password if user == "api" else None
        case _:
            return None


def session_of(cookies: str | None) -> str | None:
    """Return the session that a request's cookies name."""
    for one in (cookies or "").split(";"):
        name, _, value = one.strip().partition("=")
        if name == COOKIE:
            return value
    return None


def check_same_origin(scope: Scope) -> None:
    """Refuse a change that a page of somebody else's asks a browser for. Raises `Forbidden`."""
    site = header(scope, b"sec-fetch-site")
    if site is not None:
        same = site == "same-origin"
    else:  # an older browser
        same = (header(scope, b"origin") or "").partition("://")[2] == header(scope, b"host")
    if not same:
        raise Forbidden("with a session's cookie, only pages of this service change anything; else send an API key")


def authenticated(app: ASGIApp) -> ASGIApp:
    """Let nobody in without a credential that is known and that opens the route."""

    async def middleware(scope: Scope, receive: Receive, send: Send) -> None:
        need = needed(scope["route_handler"]) if scope["type"] == ScopeType.HTTP else None
        if need is not None:
            scope["user"] = principal = await _principal(scope)
            scope["auth"] = None
            if principal.role not in need.roles or (need.whole and principal.projects is not None):
                raise _forbidden(principal, need)
        await app(scope, receive, send)

    return middleware


async def _principal(scope: Any) -> Principal:
    keys: Keys = scope["litestar_app"].state.service.keys
    given = credential(header(scope, b"x-api-key"), header(scope, b"authorization"))
    if given is not None:
        principal = await keys.principal(given)
    elif session := session_of(header(scope, b"cookie")):
        if scope["method"] not in SAFE:
            check_same_origin(scope)
        principal = await keys.of_session(session)
    else:
        raise NotAuthorizedException("send an API key: Authorization: Bearer <key>, X-API-Key, or Basic api:<key>")
    if principal is None:
        raise NotAuthorizedException("this API key, session or run token is unknown, expired or revoked")
    return principal


def _forbidden(principal: Principal, need: Need) -> Forbidden:
    if principal.role == PROGRAM:
        detail = "a run token opens only its own run, and only what a program needs"
    elif principal.role not in need.roles:
        detail = f"this key has the role {principal.role}; this takes the role {' or '.join(in_order(need.roles))}"
    else:
        detail = "this key is confined to projects; this is the whole organisation's"
    return Forbidden(detail, role=principal.role, needs=need)
