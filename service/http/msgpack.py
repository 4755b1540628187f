"""MessagePack on every route: bodies become JSON on the way in, answers MessagePack on the way out.

The bulk routes decode MessagePack themselves and are left alone; so are files, whatever they contain.
"""

from typing import Any, Final

import msgspec
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from events.cloudevents import finite

MEDIA_TYPES: Final = frozenset({b"application/msgpack", b"application/x-msgpack", b"application/vnd.msgpack"})
BULK: Final = ("/metrics", "/system-metrics", "/logs")
FILES: Final = ("/artifacts/", "/uploads/")
MAX_BODY_BYTES: Final = 256 << 10
NOT_MODIFIED: Final = 304  # has no body


def transcoded(app: ASGIApp) -> ASGIApp:
    """Speak MessagePack with those who ask for it."""

    async def middleware(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP or not _speaks(scope):
            await app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        sends = headers.get(b"content-type", b"").split(b";")[0].strip() in MEDIA_TYPES
        if sends and scope["method"] in {"POST", "PATCH", "PUT"} and not scope["path"].endswith(BULK):
            receive = await _json_body(scope, receive)
        if any(wanted.split(b";")[0].strip() in MEDIA_TYPES for wanted in headers.get(b"accept", b"").split(b",")):
            send = _Packing(send)
        await app(scope, receive, send)

    return middleware


def _speaks(scope: Scope) -> bool:
    """Whether MessagePack is sent or asked for, and what is sent or asked for is no file."""
    for _, value in scope["headers"]:
        if b"msgpack" in value:
            return not any(part in scope["path"] for part in FILES)
    return False


async def _json_body(scope: Scope, receive: Receive) -> Receive:
    """Return a `receive` that gives the body as JSON; one that cannot be read is passed on as it is."""
    chunks: list[bytes] = []
    size = 0
    more = True
    while more and size <= MAX_BODY_BYTES:
        message: Any = await receive()
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        more = message.get("more_body", False)
    body = b"".join(chunks)
    try:
        if size <= MAX_BODY_BYTES:  # a larger one is left for the route to refuse
            body = msgspec.json.encode(_finite(msgspec.msgpack.decode(body)))
    except (msgspec.MsgspecError, TypeError, UnicodeDecodeError):
        body = b"this is no MessagePack document that JSON can carry"
    kept = [pair for pair in scope["headers"] if pair[0] not in {b"content-type", b"content-length"}]
    scope["headers"] = [*kept, (b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    given = False

    async def replay() -> Any:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _finite(value: Any) -> Any:
    """Return the document with NaN and the infinities as JSON carries them; as they are, they would become null."""
    match value:
        case dict():
            return {key: _finite(below) for key, below in value.items()}
        case list():
            return [_finite(below) for below in value]
        case float():
            return finite(value)
        case _:
            return value


class _Packing:
    """A `send` that turns a JSON answer into MessagePack."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Any = None
        self._body: list[bytes] = []

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            kind = dict(message["headers"]).get(b"content-type", b"")
            if kind.startswith(b"application/json") and message["status"] != NOT_MODIFIED:
                self._start = message
                return
        elif message["type"] == "http.response.body" and self._start is not None:
            self._body.append(message["body"])
            if not message.get("more_body", False):
                await self._finish()
            return
        await self._send(message)

    async def _finish(self) -> None:
        body = msgspec.msgpack.encode(msgspec.json.decode(b"".join(self._body)))
        kept = [pair for pair in self._start["headers"] if pair[0] not in {b"content-type", b"content-length"}]
        self._start["headers"] = [
            *kept,
            (b"content-type", b"application/msgpack"),
            (b"content-length", b"%d" % len(body)),
        ]
        await self._send(self._start)
        await self._send({"type": "http.response.body", "body": body, "more_body": False})
