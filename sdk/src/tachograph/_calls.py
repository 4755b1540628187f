"""The calls that `Client`'s methods are made of."""

import copy
import math
import uuid
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Final, Self, TypeVar, cast
from urllib.parse import quote, urlencode

import msgspec

from tachograph import _settings
from tachograph._encoding import plain
from tachograph._http import Pause, Transport, repeat, sleep
from tachograph._types import Json

T = TypeVar("T")


class Calls:
    """A connection to the service; safe for many threads, and after a fork."""

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout_seconds: float = 30.0,
        retry_seconds: float = 20.0,
        pause: Pause = sleep,
    ) -> None:
        self.access: Final = _settings.access(url, api_key)
        self.transport: Final = Transport(*self.access)
        self._timeout_seconds = timeout_seconds
        self._retry_seconds = retry_seconds
        self._pause: Pause = pause

    @property
    def url(self) -> str:
        """The service's address."""
        return self.access.url

    def persisting(self, pause: Pause) -> Self:
        """Return this connection with calls that are repeated until they succeed, fail for good, or `pause` raises.

        `pause` takes the seconds to wait, at most 5, and the error in passing that they follow.
        """
        other = copy.copy(self)
        vars(other).update(_retry_seconds=math.inf, _pause=pause)
        return other

    def __repr__(self) -> str:
        return f"Client({self.url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the idle connections."""
        self.transport.close()

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
        keyed: bool = True,
        retry_seconds: float | None = None,
    ) -> Any:
        """Call `path` (below `/api/v1`) and return the decoded answer, None where it is empty.

        `body` is anything JSON can hold (NaN by its name), or JSON encoded already; `query` values that are
        None are left out, sequences repeat their name. Pass an `idempotency_key` of
        your own where the same change may be asked for again by another process, and `keyed=False` where a
        repetition is to be told how things stand by then, rather than what was answered first.
        """
        headers = {"Accept": "application/json"}
        content = None
        if method != "GET" and keyed:
            headers["Idempotency-Key"] = idempotency_key or str(uuid.uuid4())
        if body is not None:
            headers["Content-Type"] = "application/json"
            content = body if isinstance(body, bytes) else msgspec.json.encode(plain(body, "body"))
        answer = self._exchanged(method, _target(path, query), content, headers, retry_seconds)
        return msgspec.json.decode(answer) if answer else None

    def _content(self, path: str, query: Mapping[str, Any], media_type: str) -> bytes:
        """Get what a route answers in some format."""
        return self._exchanged("GET", _target(path, query), None, {"Accept": media_type}, None)

    def _exchanged(
        self, method: str, target: str, content: bytes | None, headers: Mapping[str, str], retry_seconds: float | None
    ) -> bytes:
        return repeat(
            lambda timeout: self.transport.send(method, target, content, headers, timeout).content,
            for_seconds=self._retry_seconds if retry_seconds is None else retry_seconds,
            attempt_seconds=self._timeout_seconds,
            pause=self._pause,
        )

    def _ask(self, _kind: type[T], method: str, path: str, body: Any = None, **options: Any) -> T:
        """Call, and take the service's word for the answer's shape: a newer one may add to it."""
        return cast("T", self.request(method, path, body, **options))

    def _post(self, kind: type[T], path: str, **fields: Any) -> T:
        """Post the fields that are not None."""
        return self._ask(kind, "POST", path, without_none(fields))

    def _items(self, path: str, query: Mapping[str, Any]) -> Iterator[Any]:
        """Iterate over a list, reading page by page."""
        cursor = None
        while True:
            page = self.request("GET", path, query={**query, "cursor": cursor})
            yield from page["items"]
            cursor = page.get("next_cursor")
            if cursor is None:
                return


def _target(path: str, query: Mapping[str, Any] | None) -> str:
    given = without_none(query or {})
    return f"/api/v1{path}" + (f"?{urlencode(given, doseq=True)}" if given else "")


def route(*parts: str) -> str:
    """Return a route with its parts quoted."""
    return "/" + "/".join(quote(part, safe="") for part in parts)


def subject(run: str | None, project: str | None) -> str:
    """Return the route of a run or of a project."""
    if run is not None and project is None:
        return route("runs", run)
    if project is not None and run is None:
        return route("projects", project)
    raise TypeError("give either run= or project=")


def without_none(fields: Mapping[str, Any]) -> Json:
    """Return the fields that are not None."""
    return {name: value for name, value in fields.items() if value is not None}
