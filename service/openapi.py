"""What OpenAPI says beyond what signatures tell: bodies read by hand, other formats, errors, credentials, headers.

    @post(..., operation_class=described(takes={"application/json": LogsBody, ARROW: None}))
    document = complete(create_app(settings, openapi=CONFIG))

The document is generated into `schemas/openapi.json`, which is what the service answers with.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, get_type_hints

import msgspec
from litestar import Litestar
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import OpenAPIMediaType, Operation, Parameter, Reference, RequestBody, Schema
from litestar.openapi.spec.enums import OpenAPIFormat, OpenAPIType
from litestar.routes import HTTPRoute

from service import VERSION
from service.access import IDENTITY, Need, in_order, needed
from service.http.msgpack import FILES

JSON: Final = "application/json"
MSGPACK: Final = "application/msgpack"
"""What every JSON document may be sent as, and is answered as where `Accept` says so."""
BYTES: Final = "application/octet-stream"
SCHEMAS: Final = "#/components/schemas/"
METHODS: Final = frozenset({"get", "head", "put", "post", "patch", "delete"})
KEYLESS: Final = ("/metrics", "/system-metrics", "/logs", "/heartbeat", "/query", "/audit/verify", "/login", "/logout")
"""POST routes whose requests make no event, or whose bodies have a key of their own."""

CONFIG: Final = OpenAPIConfig(title="Tachograph", version=VERSION, use_handler_docstrings=True, path="/generated")

_structs: Final[set[type[msgspec.Struct]]] = set()
"""What `described` has named, and no signature does."""


class FieldError(msgspec.Struct, frozen=True):
    """What is wrong with one field or parameter, and where it can be listed, what is possible."""

    path: str
    message: str
    expected: list[str] | None = None
    position: int | None = None


class Problem(msgspec.Struct, frozen=True):
    """Why a request was refused (RFC 9457). What does not apply is left out; more members may be there."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[FieldError] | None = None
    limit: float | None = None
    state: str | None = None
    asked: str | None = None
    allowed: list[str] | None = None
    role: str | None = None
    needs: list[str] | None = None
    tombstone: dict[str, Any] | None = None


PROBLEM: Final = {
    "description": "Refused: `status`, `type` and `detail` say why, other members what is possible instead",
    "content": {one: {"schema": {"$ref": f"{SCHEMAS}Problem"}} for one in ("application/problem+json", MSGPACK)},
}
SECURITY: Final = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, or a run token"},
    "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "session": {"type": "apiKey", "in": "cookie", "name": "tachograph_session", "description": "What `/login` set"},
    "basic": {"type": "http", "scheme": "basic", "description": "User `api`, the key as password"},
}
IDEMPOTENCY_KEY: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Names the request: the same again is answered as it was the first time",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
}
POSITION: Final = {
    "Tachograph-Position": {
        "description": "The position in the ledger of the last event of this request",
        "schema": {"type": "integer"},
    }
}


def described(
    *,
    takes: Mapping[str, type[msgspec.Struct] | None] = {},
    query: type[msgspec.Struct] | None = None,
    answers: Sequence[str] = (),
    optional: bool = False,
) -> type[Operation]:
    """Return what describes a route whose signature does not say it all.

    `takes` has the media types of a body that the handler reads itself, None for bytes; `query` the parameters that it
    reads itself; `answers` are all media types of its answer, of which JSON alone has the schema of the signature. A
    body that is `optional` may be left out.
    """
    _structs.update(kind for kind in takes.values() if kind is not None)

    @dataclass
    class Described(Operation):
        def __post_init__(self) -> None:
            if takes:
                self.request_body = RequestBody(content=_contents(takes), required=True)
            if query is not None:
                self.parameters = [*(self.parameters or ()), *_parameters(query)]
            if optional and isinstance(self.request_body, RequestBody):
                self.request_body.required = False
            answer: Any = next((one for code, one in (self.responses or {}).items() if code < "300"), None)
            if answers and answer is not None:
                known = answer.content or {}
                answer.content = {one: known.get(one) or _BYTES if one == JSON else _BYTES for one in answers}

    return Described


def complete(app: Litestar) -> dict[str, Any]:
    """Return an application's OpenAPI document with what holds for all of its routes."""
    document = app.openapi_schema.to_schema()
    schemas = document["components"]["schemas"]
    _, known = msgspec.json.schema_components([Problem, *sorted(_structs, key=str)], ref_template=SCHEMAS + "{name}")
    for name, schema in known.items():
        if schemas.setdefault(name, schema) is not schema:
            raise ValueError(f"two schemas are called {name}")
    for schema in schemas.values():
        schema.pop("default", None)  # a field's, put here when the field comes before any other use of its type
    document["components"] |= {"securitySchemes": SECURITY, "responses": {"Problem": PROBLEM}}
    document["security"] = [{name: []} for name in SECURITY]
    needs = dict(_needs(app))
    for path, operations in document["paths"].items():
        for method in METHODS & operations.keys():
            _complete(operations[method], path, method, needs[path, method])
    return document


def _complete(operation: dict[str, Any], path: str, method: str, need: Need | None) -> None:
    operation["summary"], _, more = operation.pop("description").rstrip(".").partition(".\n\n")
    if more:
        operation["description"] = more + "."
    responses = operation["responses"]
    responses.pop("400", None)  # the framework's, in a form that ours do not have
    if "204" in responses:
        responses["204"].pop("content", None)
    if need is None:
        operation["security"] = []
    else:
        operation["x-roles"] = in_order(need.roles)
        responses["401"] = _problem("The credential is missing, unknown, expired or revoked")
        if need.roles < IDENTITY.roles or need.whole:
            whole = ", of a key that is not confined to projects" if need.whole else ""
            responses["403"] = _problem(f"This takes the role {' or '.join(in_order(need.roles))}{whole}")
    if "{" in path:
        responses["404"] = _problem("It is not there, or not the caller's to see")
    if method == "post" and not path.endswith(KEYLESS):
        operation.setdefault("parameters", []).append(IDEMPOTENCY_KEY)
        for code in responses.keys() & {"200", "201", "202"}:
            responses[code]["headers"] = POSITION
    for said in (operation.get("requestBody", {}), *responses.values()):
        content = said.get("content", {})
        if JSON in content and not any(part in path for part in FILES):
            content[MSGPACK] = content[JSON]
    responses["default"] = {"$ref": "#/components/responses/Problem"}


def _needs(app: Litestar) -> Iterator[tuple[tuple[str, str], Need | None]]:
    """Yield what each path and method was declared to need."""
    for route in app.routes:
        if isinstance(route, HTTPRoute) and not route.path_format.startswith(str(CONFIG.path)):
            for handler in route.route_handlers:
                for method in handler.http_methods - {"OPTIONS"}:
                    yield (route.path_format, method.lower()), needed(handler)


def _problem(description: str) -> dict[str, Any]:
    return {**PROBLEM, "description": description}


_BYTES: Final = OpenAPIMediaType(schema=Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.BINARY))


def _contents(takes: Mapping[str, type[msgspec.Struct] | None]) -> dict[str, OpenAPIMediaType]:
    return {
        media_type: _BYTES if kind is None else OpenAPIMediaType(schema=Reference(ref=SCHEMAS + kind.__name__))
        for media_type, kind in takes.items()
    }


def _parameters(query: type[msgspec.Struct]) -> Iterator[Parameter]:
    """Yield the fields of a Struct as parameters of a query."""
    for name, kind in get_type_hints(query).items():
        schema = Schema(type=OpenAPIType.INTEGER if kind is int else OpenAPIType.STRING)
        yield Parameter(name, "query", schema=schema, description="Of a body that is a table")
