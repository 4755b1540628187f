"""Admission control and rate limits: bytes of telemetry under way in this process, and a rate for each key.

    with service.admission.admitted(key, length) as admission: ...   # or Overloaded, RateLimited: 429 and Retry-After

Under overload a request is refused at once rather than queued: what is under way is bounded, and so is how long it
takes. Rates are token buckets: a key that was quiet for `WINDOW_SECONDS` may send a window's quota at once. Source:
draft-ietf-httpapi-ratelimit-headers-10.
"""

import math
import time
from collections.abc import Callable, Mapping
from typing import Final, Self

import msgspec

from events import settings
from events.errors import Busy

WINDOW_SECONDS: Final = 10
MAX_BYTES: Final = 64 << 20
MAX_REQUESTS: Final = 2_000
KNOWN_KEYS: Final = 10_000


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one API process takes: of each key in any `WINDOW_SECONDS`, and of all of them at a time."""

    requests: int = 100_000
    bytes: int = 4 << 30
    """Of bodies as they are sent."""
    bytes_under_way: int = MAX_BYTES
    requests_under_way: int = MAX_REQUESTS


def from_environment() -> Limits:
    """Return the limits that `TACHOGRAPH_INGEST_*` variables set. Raises `SettingsError` naming a wrong one."""
    return settings.numbers(Limits, "TACHOGRAPH_INGEST")


class Overloaded(Busy):
    """More telemetry is under way in this process than it holds at a time."""

    def __init__(self, what: str, limit: int) -> None:
        super().__init__(f"over {limit} {what} of telemetry are under way here; send it again in a moment")
        self.limit = limit


class RateLimited(Busy):
    """The key has sent its quota of one of the policies."""

    def __init__(self, policy: str, limit: int, wait_seconds: float, headers: Mapping[str, str]) -> None:
        super().__init__(f"this key has sent its {limit} {policy} of {WINDOW_SECONDS} s")
        self.policy = policy
        self.limit = limit
        self.headers = headers
        self.retry_after_seconds = max(1.0, math.ceil(wait_seconds))


class _Bucket(msgspec.Struct):
    """What is left of a key's quotas, at a time of the clock."""

    requests: float
    bytes: float
    at: float


class Admitted:
    """A body that was let in, and is counted until its `with` block ends."""

    def __init__(self, admission: "Admission", headers: Mapping[str, str], size: int) -> None:
        self._admission = admission
        self.headers = headers
        """What the answer says of the key's quotas."""
        self.bytes = size

    def __enter__(self) -> Self:
        self._admission.bytes_under_way += self.bytes
        self._admission.requests_under_way += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._admission.bytes_under_way -= self.bytes
        self._admission.requests_under_way -= 1

    def hold(self, size: int) -> None:
        """Say how much came of the body. Raises `Overloaded`."""
        self._admission.hold(self, size)


class Admission:
    """One API process's bounds on telemetry that comes in."""

    def __init__(self, limits: Limits, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}
        self.bytes_under_way = 0
        self.requests_under_way = 0
        self._policy = (
            f'"requests";q={limits.requests};w={WINDOW_SECONDS},'
            f' "bytes";q={limits.bytes};qu="content-bytes";w={WINDOW_SECONDS}'
        )

    def admitted(self, key: str, size: int) -> Admitted:
        """Let a body of `size` bytes in, for a `with` block. Raises `RateLimited` and `Overloaded`."""
        if self.requests_under_way >= self._limits.requests_under_way:
            raise Overloaded("requests", self._limits.requests_under_way)
        self._room(size)
        return Admitted(self, self._spend(key, size), size)

    def _room(self, size: int) -> None:
        if self.bytes_under_way and self.bytes_under_way + size > self._limits.bytes_under_way:
            raise Overloaded("bytes", self._limits.bytes_under_way)

    def hold(self, one: Admitted, size: int) -> None:
        """Count what came of a body instead of the body, where that is more. Raises `Overloaded`."""
        more = size - one.bytes
        if more > 0:
            self._room(more)
            self.bytes_under_way += more
            one.bytes = size

    def _spend(self, key: str, size: int) -> Mapping[str, str]:
        limits, now = self._limits, self._clock()
        bucket = self._buckets.get(key)
        if bucket is None:
            self._forget(now)
            bucket = self._buckets[key] = _Bucket(limits.requests, limits.bytes, now)
        share = (now - bucket.at) / WINDOW_SECONDS
        bucket.requests = min(limits.requests, bucket.requests + share * limits.requests)
        bucket.bytes = min(limits.bytes, bucket.bytes + share * limits.bytes)
        bucket.at = now
        if bucket.requests < 1:
            wait = (1 - bucket.requests) / limits.requests * WINDOW_SECONDS
            raise RateLimited("requests", limits.requests, wait, self._headers(bucket))
        if bucket.bytes < min(size, limits.bytes):  # a body over the quota itself waits for a full bucket
            wait = (min(size, limits.bytes) - bucket.bytes) / limits.bytes * WINDOW_SECONDS
            raise RateLimited("bytes", limits.bytes, wait, self._headers(bucket))
        bucket.requests -= 1
        bucket.bytes -= size
        return self._headers(bucket)

    def _headers(self, bucket: _Bucket) -> Mapping[str, str]:
        """Say what is left, and in how many seconds everything will be there again."""
        requests = _left("requests", bucket.requests, self._limits.requests)
        return {
            "RateLimit-Policy": self._policy,
            "RateLimit": f"{requests}, {_left('bytes', bucket.bytes, self._limits.bytes)}",
        }

    def _forget(self, now: float) -> None:
        """Drop the buckets that are full again, once there are many."""
        if len(self._buckets) >= KNOWN_KEYS:
            self._buckets = {key: one for key, one in self._buckets.items() if now - one.at < WINDOW_SECONDS}


def _left(name: str, rest: float, quota: int) -> str:
    """Say what is left of a quota, and in how many seconds it will be whole again."""
    return f'"{name}";r={max(0, int(rest))};t={math.ceil((quota - rest) / quota * WINDOW_SECONDS)}'
