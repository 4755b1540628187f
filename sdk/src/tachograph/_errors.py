"""What can go wrong, as one tree.

```
Error
├── NotConfigured       no URL or no API key was found
├── ConnectionFailed    the service was not reached, or cut the call off; retrying is safe
├── RunFinished         a write to a run whose `finish()` was called
├── ImportFailed        an archive that cannot be imported: damaged, cut, or of a later format
└── Problem             the service refused: `status`, `detail`, `state`, `allowed`, `limit`, `errors`
    ├── Invalid             400, 422   the request itself is wrong; `errors` names the places
    ├── Unauthorized        401        unknown or revoked key, expired run token
    ├── Forbidden           403        a known key that may not do this
    ├── NotFound            404        never there, or not yours
    ├── Conflict            409        the state forbids it (`state`, `allowed`), or a stale epoch
    ├── Gone                410        deleted
    ├── TooLarge            413        past a size limit (`limit`)
    ├── TooManyRequests     429        retry after `retry_after` seconds
    └── ServerError         5xx        the service failed; retrying is safe

Stopped(KeyboardInterrupt)  raised in the main thread when the run is asked to stop
```
"""

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from tachograph._types import ImportJob


class Error(Exception):
    """Everything that this package raises on its own account."""


class NotConfigured(Error):
    """No service URL or no API key was given, set in the environment, or found in the credentials file."""


class ConnectionFailed(Error):
    """The service was not reached or cut the call off; whether it took effect is unknown, retrying is safe."""


class RunFinished(Error):
    """The run was finished by this process, and takes no more from it."""


class ImportFailed(Error):
    """The archive cannot be imported as a whole; `job` is the import, None where nothing was sent."""

    def __init__(self, why: str, job: "ImportJob | None" = None) -> None:
        self.job = job
        super().__init__(why)


class Problem(Error):
    """The service answered with an error (RFC 9457); `body` is the whole answer."""

    def __init__(self, status: int, body: dict[str, Any], retry_after: float | None = None) -> None:
        self.status = status
        self.body = body
        self.retry_after = retry_after
        super().__init__(self._sentence())

    @property
    def title(self) -> str:
        """The kind of problem, the same for every occurrence."""
        return str(self.body.get("title", f"HTTP {self.status}"))

    @property
    def detail(self) -> str:
        """What is wrong in this occurrence."""
        return str(self.body.get("detail", ""))

    @property
    def state(self) -> str | None:
        """The state that forbade the request, where it was one."""
        return self.body.get("state")

    @property
    def allowed(self) -> list[str]:
        """What is possible instead."""
        return list(self.body.get("allowed") or ())

    @property
    def limit(self) -> Any:
        """The limit that was passed, where it was one."""
        return self.body.get("limit")

    @property
    def errors(self) -> list[Any]:
        """The places of an invalid body."""
        return list(self.body.get("errors") or ())

    def _sentence(self) -> str:
        text = f"{self.title} ({self.status})"
        if self.detail:
            text += f": {self.detail}"
        if self.allowed:
            text += f" [possible: {', '.join(self.allowed)}]"
        return text


class Invalid(Problem):
    """The request itself is wrong; repeating it changes nothing."""


class Unauthorized(Problem):
    """The key is unknown or revoked, or the run token has expired."""


class Forbidden(Problem):
    """The key is known and may not do this."""


class NotFound(Problem):
    """It was never there, or belongs to somebody else."""


class Conflict(Problem):
    """The present state forbids it; `allowed` says what is possible instead."""


class Gone(Problem):
    """It was deleted."""


class TooLarge(Problem):
    """A size limit was passed; `limit` names it."""


class TooManyRequests(Problem):
    """A rate or a quota was passed; retry after `retry_after` seconds."""


class ServerError(Problem):
    """The service failed; whether it took effect is unknown, retrying is safe."""


class Stopped(KeyboardInterrupt):
    """The run was asked to stop: killed from outside, or its process was told to terminate.

    A `KeyboardInterrupt`, so that `except Exception` lets it through and training frameworks wrap up as they
    do on Ctrl-C.
    """


_BY_STATUS: dict[int, type[Problem]] = {
    400: Invalid,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    413: TooLarge,
    422: Invalid,
    429: TooManyRequests,
}


def problem(status: int, content: bytes, retry_after: float | None = None) -> Problem:
    """Build the error for an answer of 400 or above."""
    try:
        decoded = msgspec.json.decode(content)
    except msgspec.DecodeError:
        decoded = None
    text = " ".join(content[:500].decode("utf-8", "replace").split())
    body = decoded if isinstance(decoded, dict) else {"detail": f"not as a Tachograph service answers: {text[:200]}"}
    kind = _BY_STATUS.get(status, ServerError if status >= 500 else Problem)
    return kind(status, body, retry_after)
