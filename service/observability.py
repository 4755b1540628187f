"""The process's figures for Prometheus: requests, appended events, points, connections."""

import time
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from projections.health import SILENT_SECONDS, Heard
from projections.incidents import Incident
from service.http.endings import end

if TYPE_CHECKING:
    from service.context import Service

REGISTRY: Final = CollectorRegistry()
REQUESTS: Final = Counter(
    "tachograph_http_requests", "Requests by method, route and status", ["method", "route", "status"], registry=REGISTRY
)
SECONDS: Final = Histogram(
    "tachograph_http_request_seconds",
    "Seconds to the first byte of the answer, by method and route",
    ["method", "route"],
    registry=REGISTRY,
)
CONNECTIONS: Final = Gauge("tachograph_postgres_connections", "Connections in the pool", ["state"], registry=REGISTRY)
NATS: Final = Gauge("tachograph_nats_connected", "Whether NATS is connected", registry=REGISTRY)
STREAMS: Final = Gauge("tachograph_sse_clients", "Open event streams", registry=REGISTRY)
FEEDS: Final = Gauge("tachograph_sse_feeds", "Ledgers that are read for open event streams", registry=REGISTRY)
ROLE_UP: Final = Gauge("tachograph_role_up", "Copies of a role that spoke lately", ["role"], registry=REGISTRY)
ROLE_FAILURES: Final = Gauge(
    "tachograph_role_failures", "Failures in a row, of the worst copy of a role", ["role"], registry=REGISTRY
)
ROLE_RESTARTS: Final = Gauge(
    "tachograph_role_restarts", "How often the copies of a role were started again", ["role"], registry=REGISTRY
)
LAG: Final = Gauge("tachograph_reader_lag_events", "Events that a reader has not passed", ["reader"], registry=REGISTRY)
HELD: Final = Gauge("tachograph_liveness_held_runs", "Silent runs whose crash is held", registry=REGISTRY)
LETTERS: Final = Gauge("tachograph_dead_letters", "Events that a reader cannot take", ["reader"], registry=REGISTRY)


def roles_told(copies: Sequence[Heard], lags: Mapping[str, int], letters: Mapping[str, int]) -> None:
    """Take what the roles last said of themselves, how far they are, and what they cannot take."""
    for gauge in (ROLE_UP, ROLE_FAILURES, ROLE_RESTARTS, LAG, LETTERS):
        gauge.clear()
    for one in copies:
        alive = one.silence_seconds < SILENT_SECONDS
        ROLE_UP.labels(one.role).inc(alive)
        if alive:
            ROLE_RESTARTS.labels(one.role).inc(one.restarts)
            known = max((copy.failures for copy in copies if copy.role == one.role), default=0)
            ROLE_FAILURES.labels(one.role).set(known)
    for reader, events in lags.items():
        LAG.labels(reader).set(events)
    for reader, waiting in letters.items():
        LETTERS.labels(reader).set(waiting)


def incidents_told(latest: Sequence[Incident]) -> None:
    """Take what operators should look at."""
    HELD.set(sum(one.silent for one in latest if one.closed_at is None))


def exposition(service: "Service") -> bytes:
    """Return all figures in Prometheus' text format."""
    pool = service.pool
    CONNECTIONS.labels("idle").set(pool.get_idle_size())
    CONNECTIONS.labels("open").set(pool.get_size())
    NATS.set(service.nats is not None and service.nats.is_connected)
    STREAMS.set(service.tails.followers)
    FEEDS.set(service.tails.feeds)
    return generate_latest(REGISTRY)


def _template(scope: Scope) -> str:
    """Return the route's path as it is declared."""
    handler: Any = scope.get("route_handler")
    return min(handler.paths) if handler else "unknown"


@cache
def _requests(method: str, route: str, status: int) -> Counter:
    return REQUESTS.labels(method, route, str(status))


@cache
def _seconds(method: str, route: str) -> Histogram:
    return SECONDS.labels(method, route)


def counted(app: ASGIApp) -> ASGIApp:
    """Count every request by its route's template, so that ids make no series; the outermost, which sees its end."""

    async def middleware(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await app(scope, receive, send)
            return
        began = time.perf_counter()
        method = scope["method"]

        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = _template(scope)
                _requests(method, route, message["status"]).inc()
                _seconds(method, route).observe(time.perf_counter() - began)
            await send(message)

        try:
            await app(scope, receive, counting)
        finally:
            await end(scope)

    return middleware
