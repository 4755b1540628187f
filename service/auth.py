"""Who asks: API keys, and run tokens for the programs of managed runs.

An API key is 256 random bits, known to us only as its SHA-256. A run token is signed, names its run, epoch and
expiry, and opens only the routes that a program needs for its own run.
"""

import base64
import hashlib
import hmac
import time
from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

import msgspec
from litestar.enums import ScopeType
from litestar.exceptions import NotAuthorizedException
from litestar.types import ASGIApp, Receive, Scope, Send

from events.errors import LedgerError
from projections import tenancy
from projections.runs import Reader
from service.http.requests import header

KEY_PREFIX: Final = "tg_"
TOKEN_PREFIX: Final = "tgr_"  # noqa: S105 (a prefix, not a secret)
TOKEN_SECONDS: Final = 30 * 86_400
TOKEN_PATHS: Final = ("/api/v1/runs/", "/api/v1/me")
"""What a run token may come near at all; which of its run's routes are a program's is said by each."""
CACHE_SECONDS: Final = 10.0
CACHED_KEYS: Final = 10_000


class Forbidden(LedgerError):
    """The caller is known, and may not do this."""


class Principal(msgspec.Struct, frozen=True):
    """Who asks, for which organisation; a run token is confined to its run and epoch."""

    actor: str
    organisation_id: UUID
    run_id: UUID | None = None
    epoch: int | None = None


class RunToken(msgspec.Struct, frozen=True, array_like=True):
    """What a run token says."""

    organisation_id: UUID
    run_id: UUID
    epoch: int
    expires: int


def key_of(secret: bytes) -> tuple[str, bytes]:
    """Return the API key made of 32 random bytes, and its SHA-256."""
    key = KEY_PREFIX + base64.urlsafe_b64encode(secret).decode().rstrip("=")
    return key, hashlib.sha256(key.encode()).digest()


class Keys:
    """Tells who a credential belongs to; found keys are remembered for ten seconds."""

    def __init__(self, reader: Reader, token_key: bytes) -> None:
        self._reader = reader
        self._token_key = token_key
        self._known: dict[bytes, tuple[Principal, float]] = {}

    async def principal(self, credential: str) -> Principal | None:
        """Return whose credential it is, or None."""
        if credential.startswith(TOKEN_PREFIX):
            return self._from_token(credential)
        digest = hashlib.sha256(credential.encode()).digest()
        known = self._known.get(digest)
        if known is not None and known[1] > time.monotonic():
            return known[0]
        key = await tenancy.api_key(self._reader, digest)
        if key is None:
            self._known.pop(digest, None)
            return None
        principal = Principal(actor=f"key:{key.key_id}", organisation_id=key.organisation_id)
        if len(self._known) >= CACHED_KEYS:
            self._known.clear()
        self._known[digest] = (principal, time.monotonic() + CACHE_SECONDS)
        return principal

    def run_token(self, organisation_id: UUID, run_id: UUID, epoch: int, since: float | None = None) -> str:
        """Return the token for the programs of one attempt of one run, which began at `since` (Unix seconds) or now."""
        token = RunToken(organisation_id, run_id, epoch, int(time.time() if since is None else since) + TOKEN_SECONDS)
        body = msgspec.msgpack.encode(token)
        return TOKEN_PREFIX + base64.urlsafe_b64encode(self._mac(body) + body).decode().rstrip("=")

    def _from_token(self, text: str) -> Principal | None:
        encoded = text.removeprefix(TOKEN_PREFIX)
        try:
            raw = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
            if not hmac.compare_digest(raw[:32], self._mac(raw[32:])):
                return None
            token = msgspec.msgpack.decode(raw[32:], type=RunToken)
        except (ValueError, msgspec.DecodeError):
            return None
        if token.expires < time.time():
            return None
        return Principal(f"run:{token.run_id}", token.organisation_id, token.run_id, token.epoch)

    def _mac(self, body: bytes) -> bytes:
        return hmac.digest(self._token_key, body, "sha256")


def credential(headers: Mapping[str, str | None]) -> str | None:
    """Return the credential that a request carries: Bearer, X-API-Key, or Basic with user `api`."""
    explicit = headers.get("x-api-key")
    if explicit:
        return explicit
    scheme, _, value = (headers.get("authorization") or "").partition(" ")
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


def authenticated(app: ASGIApp) -> ASGIApp:
    """Let nobody in without a credential that is known, but for routes that say `exclude_from_auth`."""

    async def middleware(scope: Scope, receive: Receive, send: Send) -> None:
        handler: Any = scope["route_handler"]
        if scope["type"] == ScopeType.HTTP and not handler.opt.get("exclude_from_auth"):
            scope["user"] = await _principal(scope)
            scope["auth"] = None
        await app(scope, receive, send)

    return middleware


async def _principal(scope: Scope) -> Principal:
    given = credential({name: header(scope, name.encode()) for name in ("x-api-key", "authorization")})
    if given is None:
        raise NotAuthorizedException("send an API key: Authorization: Bearer <key>, X-API-Key, or Basic api:<key>")
    keys: Keys = scope["litestar_app"].state.service.keys
    principal = await keys.principal(given)
    if principal is None:
        raise NotAuthorizedException("this API key or run token is unknown, expired or revoked")
    if principal.run_id is not None and not scope["path"].startswith(TOKEN_PATHS):
        raise Forbidden("a run token opens only its own run")
    return principal
