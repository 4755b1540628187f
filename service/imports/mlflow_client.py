"""MLflow's REST API, as far as reading goes: retried while the server is away, bounded, page after page.

    client = Client("http://mlflow:5000")
    for page in client.pages("POST", "runs/search", RunsPage, {"experiment_ids": ["0"]}): ...

Credentials are those that MLflow's own client takes: MLFLOW_TRACKING_USERNAME and _PASSWORD, or MLFLOW_TRACKING_TOKEN.
Source: https://mlflow.org/docs/latest/rest-api.html
"""

import os
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal, TypeVar
from urllib.parse import quote, urlsplit

import msgspec
import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    MaxRetryError,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    ReadTimeoutError,
    SSLError,
)
from urllib3.util import Retry, Timeout, make_headers

from events.errors import LedgerError
from service.imports.files import CHUNK_BYTES
from service.imports.incoming import Unreadable, said

MAX_ANSWER_BYTES: Final = 64 << 20
MAX_REASON_BYTES: Final = 10_000
RETRIES: Final = 6
BACKOFF_SECONDS: Final = 0.25
_TIMEOUT: Final = Timeout(connect=10, read=120)
_AWAY: Final = (429, 502, 503, 504)
_UNKNOWN: Final = (401, 403)
_CREDENTIALS: Final = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
_AGAIN: Final = "the same command goes on"

Method = Literal["GET", "POST"]


class Page(msgspec.Struct):
    """A part of a list; `next_page_token` is empty on the last."""

    next_page_token: str = ""


T = TypeVar("T")
P = TypeVar("P", bound=Page)


class Unreachable(LedgerError):
    """The server is away, or lets us in no more; the same import goes on later."""


class Client:
    """A connection to a server. Raises `Unreadable` where the URL is none, or has credentials in it."""

    def __init__(self, url: str, environment: Mapping[str, str] = os.environ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
            raise Unreadable(f"{url} is no address of a server: http://host:port, perhaps with a path")
        if "@" in parts.netloc:
            raise Unreadable(f"credentials have no place in a URL; {_CREDENTIALS}")
        self.host: Final = parts.netloc
        self._base = url.rstrip("/")
        away = Retry(
            RETRIES,
            redirect=False,
            status_forcelist=_AWAY,
            allowed_methods=None,  # what we POST are questions
            backoff_factor=BACKOFF_SECONDS,
            raise_on_status=False,
        )
        self._pool = urllib3.PoolManager(retries=away, timeout=_TIMEOUT, headers=_credentials(environment))

    def ask(self, method: Method, path: str, kind: type[T], document: Mapping[str, Any]) -> T:
        """Return the answer to a question below /api/2.0/mlflow.

        Raises `Unreadable` where it refuses the question or answers something else, `Unreachable` where it is away.
        """
        fields = {"json": document} if method == "POST" else {"fields": document}
        response = self._request(method, f"/api/2.0/mlflow/{path}", **fields)
        try:
            data = response.read(MAX_ANSWER_BYTES + 1)
        except HTTPError as error:
            raise Unreachable(f"MLflow at {self._base} broke off its answer to {path}; {_AGAIN}") from error
        finally:
            response.release_conn()
        if len(data) > MAX_ANSWER_BYTES:
            response.close()
            raise Unreadable(f"the answer to {path} has over {MAX_ANSWER_BYTES} bytes")
        try:
            return msgspec.json.decode(data, type=kind, strict=False)
        except msgspec.MsgspecError as error:
            raise Unreadable(f"{path} answers what MLflow does not: {said(error)}") from error

    def pages(self, method: Method, path: str, kind: type[P], document: Mapping[str, Any]) -> Iterator[P]:
        """Yield the pages of a list. Raises what `ask` raises."""
        page = self.ask(method, path, kind, document)
        yield page
        while token := page.next_page_token:
            page = self.ask(method, path, kind, {**document, "page_token": token})
            if page.next_page_token == token:
                raise Unreadable(f"{path} has the same page behind a page")
            yield page

    def proxied(self, path: str) -> Iterator[bytes]:
        """Yield the content of an artifact that the server passes on. Raises what `ask` raises."""
        response = self._request("GET", f"/api/2.0/mlflow-artifacts/artifacts/{quote(path)}")
        try:
            yield from response.stream(CHUNK_BYTES)
        except HTTPError as error:
            raise Unreachable(f"MLflow at {self._base} broke off artifact {path!r}; {_AGAIN}") from error
        finally:
            response.close()

    def close(self) -> None:
        """Close what is open."""
        self._pool.clear()

    def _request(self, method: Method, path: str, **content: Any) -> urllib3.BaseHTTPResponse:
        try:
            response = self._pool.request(method, self._base + path, preload_content=False, **content)
        except HTTPError as error:
            raise Unreachable(f"MLflow is not reached at {self._base}: {_why(error)}") from error
        if response.status == 200:
            return response
        try:
            reason = said(ValueError(response.read(MAX_REASON_BYTES).decode(errors="replace")))
        except HTTPError:
            reason = ""
        finally:
            response.close()
        answer = f"{self._base}{path} answers {response.status}: {reason}"
        if response.status in _UNKNOWN:
            raise Unreachable(f"{answer}; {_CREDENTIALS}")
        raise Unreachable(f"{answer}; {_AGAIN}") if response.status in _AWAY else Unreadable(answer)


def _why(error: HTTPError) -> str:
    """Return in a few words why nobody answers, and what to look at."""
    cause: object = error.reason if isinstance(error, MaxRetryError) and error.reason else error
    match cause:
        case NameResolutionError():
            return "its name leads to no address; check it"
        case NewConnectionError():
            met = cause.__cause__
            what = met.strerror if isinstance(met, OSError) else said(cause)
            return f"{what}; check host and port, and that the server runs"
        case ConnectTimeoutError():
            return f"it does not answer within {_TIMEOUT.connect_timeout} s; check host, port and firewalls"
        case ReadTimeoutError():
            return f"it says nothing for {_TIMEOUT.read_timeout} s; {_AGAIN}"
        case SSLError():
            return f"TLS fails; check https, port and certificates ({said(cause)})"
        case ProtocolError():
            return f"it cuts connections off; check that this is its port, and http or https as it speaks; {_AGAIN}"
        case _:
            return said(error)


def _credentials(environment: Mapping[str, str]) -> dict[str, str]:
    if token := environment.get("MLFLOW_TRACKING_TOKEN"):
        return {"Authorization": f"Bearer {token}"}
    if name := environment.get("MLFLOW_TRACKING_USERNAME"):
        return make_headers(basic_auth=f"{name}:{environment.get('MLFLOW_TRACKING_PASSWORD', '')}")
    return {}
