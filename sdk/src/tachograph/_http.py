"""One HTTP call at a time, and the rule for repeating it."""

import contextlib
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple, Protocol, TypeVar

import urllib3
from urllib3.exceptions import HTTPError, LocationParseError

from tachograph._errors import ConnectionFailed, Error, NotConfigured, Problem, problem

T = TypeVar("T")

Pause = Callable[[float, Error], None]
"""Waits some seconds after an attempt that failed in passing; what it raises ends the call."""

USER_AGENT: Final = "tachograph-python/0.1"
TRANSIENT: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses after which the same request may succeed later."""

CONNECT_SECONDS: Final = 5.0


class Readable(Protocol):
    """A body that is read as it is sent."""

    def read(self, size: int = -1, /) -> bytes: ...


class Response(NamedTuple):
    """An answer below 400."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class Streamed:
    """An answer below 300 whose content is read as it comes."""

    def __init__(self, answer: urllib3.BaseHTTPResponse, what: str) -> None:
        self.status = answer.status
        self.headers: Mapping[str, str] = answer.headers
        self._answer = answer
        self._what = what

    def chunks(self, size: int) -> Iterator[bytes]:
        """Yield the content as it comes, at most `size` at a time; raises `ConnectionFailed` when it is cut."""
        try:
            while chunk := self._answer.read1(size):
                yield chunk
        except (HTTPError, OSError) as error:
            raise ConnectionFailed(f"{self._what}: {error}") from error


class Transport:
    """Keep-alive connections to one service; safe for many threads, and after a fork.

    Every call is one attempt. It raises `ConnectionFailed`, or the `Problem` that the service answered.
    """

    def __init__(self, url: str, key: str, *, connections: int = 8) -> None:
        try:
            parsed = urllib3.util.parse_url(url)
        except LocationParseError as error:
            raise NotConfigured(f"{url!r} is not a URL") from error
        if parsed.scheme not in {"http", "https"} or not parsed.host:
            raise NotConfigured(f"{url!r} is not an http or https URL")
        self.url = url.rstrip("/")
        self._prefix = (parsed.path or "").rstrip("/")
        self._connections = connections
        self._headers = {"Authorization": f"Bearer {key}", "User-Agent": USER_AGENT}
        self._pid = 0
        self._pool = self._opened()

    def send(
        self,
        method: str,
        path: str,
        content: bytes | Readable | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float = 30.0,
    ) -> Response:
        """Make the call and read the whole answer."""
        answer = self._call(method, path, content, headers, timeout_seconds, preload=True)
        return Response(answer.status, answer.headers, answer.data)

    def lines(self, path: str, headers: Mapping[str, str], silence_seconds: float) -> Iterator[str]:
        """Yield the lines of an endless answer; raises `ConnectionFailed` after silence or when it is cut."""
        answer = self._call("GET", path, None, headers, silence_seconds, preload=False)
        rest = b""
        try:
            while chunk := answer.read1():
                *whole, rest = (rest + chunk).split(b"\n")
                for line in whole:
                    yield line.rstrip(b"\r").decode("utf-8", "replace")
        except (HTTPError, OSError) as error:
            raise ConnectionFailed(f"GET {self.url}: {error}") from error
        finally:
            answer.close()

    @contextlib.contextmanager
    def stream(self, path: str, headers: Mapping[str, str], timeout_seconds: float) -> Iterator[Streamed]:
        """Get what may be large."""
        answer = self._call("GET", path, None, headers, timeout_seconds, preload=False)
        try:
            yield Streamed(answer, f"GET {self.url}{path}")
        finally:
            answer.close()

    def close(self) -> None:
        """Close the idle connections; a later call opens others."""
        self._pool.close()
        self._pid = 0

    def _call(
        self,
        method: str,
        path: str,
        content: bytes | Readable | None,
        headers: Mapping[str, str] | None,
        timeout_seconds: float,
        *,
        preload: bool,
    ) -> urllib3.BaseHTTPResponse:
        if self._pid != os.getpid():
            self._pool = self._opened()
        timeout = urllib3.Timeout(connect=min(CONNECT_SECONDS, timeout_seconds), read=timeout_seconds)
        try:
            answer = self._pool.urlopen(
                method,
                self._prefix + path,
                body=content,  # type: ignore[arg-type]
                headers={**self._headers, **(headers or {})},
                timeout=timeout,
                retries=False,
                redirect=False,
                preload_content=preload,
            )
            if answer.status >= 300:
                raise problem(answer.status, answer.data, _retry_after(answer.headers))
        except (HTTPError, OSError) as error:
            raise ConnectionFailed(f"{method} {self.url}{path}: {error}") from error
        return answer

    def _opened(self) -> urllib3.HTTPConnectionPool:
        # Sockets inherited over a fork belong to the parent: a child that used them would mix both streams.
        self._pid = os.getpid()
        return urllib3.connection_from_url(self.url, maxsize=self._connections, block=False)


def transient(error: Error) -> bool:
    """Whether the same request may succeed later."""
    return isinstance(error, ConnectionFailed) or (isinstance(error, Problem) and error.status in TRANSIENT)


def backoff(attempt: int, error: Error | None = None, *, first: float = 0.2, most: float = 30.0) -> float:
    """Return how many seconds to wait before attempt `attempt` + 1, with jitter (attempts count from 1)."""
    wait = min(most, first * 2.0 ** min(attempt - 1, 16))
    asked = error.retry_after if isinstance(error, Problem) else None
    return min(most, max(asked or 0.0, wait * random.uniform(0.5, 1.0)))  # noqa: S311 (no secret)


def sleep(seconds: float, _error: Error) -> None:
    """Wait, whatever went wrong."""
    time.sleep(seconds)


def repeat(
    call: Callable[[float], T],
    *,
    for_seconds: float,
    attempt_seconds: float,
    pause: Pause = sleep,
    mark: Callable[[], int] = lambda: 0,
) -> T:
    """Make the call until it succeeds, fails for good, or `for_seconds` have passed.

    `call` takes the timeout of its attempt, and must be safe to repeat. `mark` says how far the call is: the time
    begins anew after an attempt that got further than those before. Raises what the last attempt raised, or what
    `pause` does.
    """
    deadline, furthest = time.monotonic() + for_seconds, mark()
    attempt = 0
    while True:
        attempt += 1
        try:
            return call(max(0.1, min(attempt_seconds, deadline - time.monotonic())))
        except Error as error:
            failed = error
            if mark() > furthest:
                deadline, furthest, attempt = time.monotonic() + for_seconds, mark(), 1
            wait = backoff(attempt, error, most=5.0)
            if not transient(error) or time.monotonic() + wait >= deadline:
                raise
        pause(wait, failed)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    value = headers.get("Retry-After", "")
    return float(value) if value.isdecimal() else None
