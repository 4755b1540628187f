"""Errors as RFC 9457 `application/problem+json`: the one table from what went wrong to what the caller sees."""

import logging
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import asyncpg
import msgspec
from litestar import Request, Response
from litestar.exceptions import ClientException, HTTPException, ValidationException
from litestar.types import ExceptionHandlersMap

from events.commit import LOST_CONNECTION
from events.database import SETS_SECONDS
from events.errors import (
    Busy,
    CorruptHistory,
    Erased,
    Fenced,
    IdReused,
    LedgerError,
    NotFound,
    QuotaReached,
    Rejected,
    TooLarge,
    Unavailable,
    VersionConflict,
)
from events.heads import HeadRefused
from events.vocabulary import UnknownWord
from projections.charts.questions import ChartRefused
from projections.query.limits import QueryRefused
from projections.search.tokens import FilterError
from projections.storage.artifact_limits import QuotaExceeded
from projections.storage.objects import StoreFull
from projections.storage.upload_writer import UploadCut, WrongDigest
from service.access import Forbidden
from service.expected import expected
from service.http.requests import TypedRequest
from service.ingest.admission import RateLimited
from service.patterns import in_words
from service.places import given, place

log = logging.getLogger("tachograph.service")

CALLED: Final = {"start": "from", "end": "to", "form": "format", "filter_": "filter", "vocabulary_": "as"}
"""What callers call parameters whose names are taken in Python."""
MEDIA_TYPE: Final = "application/problem+json"


class Invalid(LedgerError):
    """The request says something impossible; `path` is the JSON path of it."""

    def __init__(self, detail: str, *, path: str = "$", limit: int | float | None = None) -> None:
        super().__init__(detail)
        self.path = path
        self.limit = limit


class Malformed(LedgerError):
    """The body cannot be read at all: it is cut off, or not what it is called."""


class Unsupported(LedgerError):
    """The body is of a kind that the route does not take; says which ones it does."""

    def __init__(self, what: str, *, accept: str = "", accept_encoding: str = "") -> None:
        super().__init__(f"this route does not take {what}")
        named = {"Accept-Post": accept, "Accept-Encoding": accept_encoding}
        self.headers = {name: value for name, value in named.items() if value}


class Gone(LedgerError):
    """The run was deleted; carries its tombstone, and says what is still possible."""

    def __init__(self, tombstone: Mapping[str, Any], *, asked: str, allowed: Sequence[str]) -> None:
        super().__init__("this run was deleted; what is left of it is in `tombstone`")
        self.tombstone = tombstone
        self.asked = asked
        self.allowed = tuple(allowed)


STATUS: Final[Mapping[type[LedgerError], HTTPStatus]] = {
    NotFound: HTTPStatus.NOT_FOUND,
    Fenced: HTTPStatus.CONFLICT,
    Erased: HTTPStatus.GONE,
    Rejected: HTTPStatus.CONFLICT,
    VersionConflict: HTTPStatus.CONFLICT,
    IdReused: HTTPStatus.CONFLICT,
    HeadRefused: HTTPStatus.UNPROCESSABLE_ENTITY,
    TooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    Busy: HTTPStatus.TOO_MANY_REQUESTS,
    Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    StoreFull: HTTPStatus.INSUFFICIENT_STORAGE,
    QuotaExceeded: HTTPStatus.INSUFFICIENT_STORAGE,
    UploadCut: HTTPStatus.BAD_REQUEST,
    WrongDigest: HTTPStatus.UNPROCESSABLE_ENTITY,
    CorruptHistory: HTTPStatus.INTERNAL_SERVER_ERROR,
    Forbidden: HTTPStatus.FORBIDDEN,
    Malformed: HTTPStatus.BAD_REQUEST,
    Unsupported: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
}


def problem(
    status: HTTPStatus, kind: str, detail: str, headers: Mapping[str, str] | None = None, **members: Any
) -> Response[bytes]:
    """Return a problem document as a response."""
    document = {
        "type": f"urn:tachograph:problem:{kind}",
        "title": status.phrase,
        "status": status.value,
        "detail": detail,
        **{name: value for name, value in members.items() if value is not None},
    }
    return Response(
        msgspec.json.encode(document), status_code=status.value, media_type=MEDIA_TYPE, headers=dict(headers or {})
    )


def _kind(error: Exception) -> str:
    name = type(error).__name__
    return "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("-")


def _refused(_: Request[Any, Any, Any], error: LedgerError) -> Response[bytes]:
    members: dict[str, Any] = {}
    headers: dict[str, str] = {}
    match error:
        case Gone():
            members = {"state": "deleted", "asked": error.asked, "allowed": error.allowed}
            return problem(HTTPStatus.GONE, "gone", str(error), tombstone=error.tombstone, **members)
        case Invalid() | QueryRefused() | ChartRefused():
            members = {"errors": [{"path": error.path, "message": str(error)}], "limit": error.limit}
            detail = f"{error.path}: {error}"
            return problem(HTTPStatus.UNPROCESSABLE_ENTITY, _kind(error), detail, **members)
        case FilterError():
            errors = [
                {"path": error.parameter, "message": str(error), "position": error.position, "expected": error.expected}
            ]
            return problem(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid", f"{error.parameter}: {error}", errors=errors)
        case UnknownWord():
            errors = [{"path": error.parameter, "message": str(error)}]
            return problem(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid", f"{error.parameter}: {error}", errors=errors)
        case QuotaReached():
            members = {"asked": error.asked, "state": error.state, "allowed": error.allowed, "limit": error.bound}
            members |= {"scope": error.scope, "accelerator": error.kind, "in_use": error.in_use}
        case Rejected():
            members = {"asked": error.asked or None, "save_first": getattr(error, "save_first", None)}
            if error.state:
                members |= {"state": error.state, "allowed": error.allowed}
        case TooLarge(path=str()):
            members = {"errors": [{"path": error.path, "message": str(error)}], "limit": error.limit}
        case TooLarge() | QuotaExceeded():
            members = {"limit": error.limit}
        case Unsupported():
            headers = error.headers
        case Busy():
            headers = {"Retry-After": str(round(error.retry_after_seconds))}
            members = {"limit": getattr(error, "limit", None)}
            if isinstance(error, RateLimited):
                headers |= error.headers
                members["violated-policies"] = [error.policy]
        case Unavailable():
            headers = {"Retry-After": "1"}
        case Forbidden():
            members = {"role": error.role, "needs": error.needs or None}
        case CorruptHistory():
            log.critical("corrupt history: %s", error)
        case _:
            pass
    status = next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
    return problem(status, _kind(error), str(error), headers, **members)


def _http(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    status = HTTPStatus(error.status_code)
    headers = {**(error.headers or {})}
    errors = limit = None
    detail = error.detail
    if status is HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, ValidationException) and isinstance(error.extra, list):
        errors = [_field(request, item) for item in error.extra]
        detail = "; ".join(f"{item['path']}: {item['message']}" for item in errors)
        status = HTTPStatus.UNPROCESSABLE_ENTITY
        limit = next((limit for item in errors if (limit := _limit(item["message"])) is not None), None)
    elif status is HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        limit = request.route_handler.resolve_request_max_body_size()
        detail = f"a body for this route has at most {limit} bytes"
    elif isinstance(error, ClientException) and status is HTTPStatus.BAD_REQUEST and error.__cause__:
        detail = detail if str(error.__cause__) in detail else f"{detail}: {error.__cause__}"
    return problem(status, status.name.lower().replace("_", "-"), detail, headers, errors=errors, limit=limit)


def _field(request: Request[Any, Any, Any], item: Any) -> dict[str, Any]:
    key, message = item.get("key") or "", item.get("message", "")
    message = "a JSON body is needed" if message == _NO_BODY else message
    taken, _, inner = key.partition(".")
    possible = _possible(request, taken, f"$.{inner}" if inner else "$", message)
    key = CALLED.get(key, key) if item.get("source") == "query" else key.removeprefix("data").lstrip(".")
    return _error(f"$.{key}" if key else "$", message, possible)


def _error(path: str, message: str, possible: Sequence[str]) -> dict[str, Any]:
    words = in_words(message)
    if not possible:
        return {"path": path, "message": words}
    return {"path": path, "message": f"{words}; possible: {', '.join(possible)}", "expected": possible}


def _possible(request: Request[Any, Any, Any], parameter: str, path: str, message: str) -> Sequence[str]:
    """Return what a parameter of the route's handler (`data` is its body), or of what it depends on, could say."""
    handler = request.route_handler
    depended = (one.parsed_fn_signature for one in handler.resolve_dependencies().values())
    known = (one.parameters.get(parameter) for one in (handler.parsed_fn_signature, *depended))
    annotation = next((one.annotation for one in known if one is not None), None)
    return [] if annotation is None else expected(annotation, path, message)


_NO_BODY: Final = str(KeyError("data"))  # as Litestar says that the handler's `data` is not there
_LIMIT: Final = re.compile(r"[<>]=? (-?\d+(?:\.\d+)?)$")


def _limit(message: str) -> int | float | None:
    """Return the bound that a validation message ends in."""
    found = _LIMIT.search(message)
    if found is None:
        return None
    return float(found[1]) if "." in found[1] else int(found[1])


def _invalid_body(request: Request[Any, Any, Any], error: msgspec.ValidationError) -> Response[bytes]:
    message = str(error)
    refused = message.partition(" - at ")[0]
    possible = _possible(request, "data", given(message), refused)
    wrong = _error(_place(request, message), refused, possible)
    detail = f"{wrong['path']}: {wrong['message']}"
    return problem(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid", detail, errors=[wrong], limit=_limit(wrong["message"]))


def _place(request: Request[Any, Any, Any], message: str) -> str:
    """Return the path of what was refused, with its keys where the body was read whole, as that of most routes."""
    data = request.route_handler.parsed_fn_signature.parameters.get("data")
    body = request.received if isinstance(request, TypedRequest) else b""
    if data is None or not body:
        return given(message)
    return place(data.annotation, body, message)


def _malformed_body(_: Request[Any, Any, Any], error: msgspec.DecodeError) -> Response[bytes]:
    return problem(HTTPStatus.BAD_REQUEST, "malformed", f"the body cannot be read: {error}")


def _away(_: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    log.warning("Postgres does not answer: %s", error)
    return problem(
        HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", "the database does not answer; try again", {"Retry-After": "1"}
    )


def _full(request: Request[Any, Any, Any], error: asyncpg.DiskFullError) -> Response[bytes]:
    log.error("Postgres' disk is full: %s", error)
    request.app.state.service.database_full.set()
    detail = "the database's disk is full, and nothing is recorded until there is room again; try again"
    return problem(HTTPStatus.SERVICE_UNAVAILABLE, "database-full", detail, {"Retry-After": "5"})


def _unexpected(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", "this is our fault; the log has the details")


def _taken(_: Request[Any, Any, Any], __: asyncpg.UniqueViolationError) -> Response[bytes]:
    return problem(HTTPStatus.CONFLICT, "taken", "the name or external id is taken")


def _took_too_long(_: Request[Any, Any, Any], __: asyncpg.QueryCanceledError) -> Response[bytes]:
    detail = f"this took over {SETS_SECONDS} s; narrow it down"
    return problem(HTTPStatus.UNPROCESSABLE_ENTITY, "too-slow", detail, limit=SETS_SECONDS)


def _cannot_be_stored(_: Request[Any, Any, Any], error: asyncpg.DataError) -> Response[bytes]:
    return problem(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid", f"a value cannot be stored: {error}")


def _too_deep(_: Request[Any, Any, Any], __: RecursionError) -> Response[bytes]:
    return problem(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid", "the body is nested too deeply")


def _beyond_64_bits(_: Request[Any, Any, Any], error: OverflowError) -> Response[bytes]:
    return problem(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid", f"a number has more than 64 bits: {error}")


HANDLERS: Final[ExceptionHandlersMap] = {
    LedgerError: _refused,
    HTTPException: _http,
    msgspec.ValidationError: _invalid_body,
    msgspec.DecodeError: _malformed_body,
    **dict.fromkeys(LOST_CONNECTION, _away),
    asyncpg.DiskFullError: _full,
    asyncpg.UniqueViolationError: _taken,
    asyncpg.QueryCanceledError: _took_too_long,
    asyncpg.DataError: _cannot_be_stored,
    RecursionError: _too_deep,
    OverflowError: _beyond_64_bits,
    Exception: _unexpected,
}
