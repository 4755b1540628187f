"""The composition root: everything that an API process consists of, put together in one place."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from functools import partial
from typing import Final
from uuid import UUID

from litestar import Litestar, Router
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig
from nats.aio.msg import Msg

from events import bus
from events.database import SETS, open_pool
from events.keys import Keyring
from events.settings import Settings
from events.supervised import supervised
from projections.archive.stores import keep_tidy
from service.auth import authenticated
from service.context import Service
from service.http.msgpack import transcoded
from service.http.options import options
from service.http.requests import TypedRequest
from service.http.shortcut import shorten
from service.http.stopping import told
from service.keys import listen
from service.observability import counted
from service.problems import HANDLERS
from service.routes import (
    alerts,
    artifacts,
    attempts,
    audit,
    billing,
    charts,
    dead_letters,
    exports,
    history,
    imports,
    ingest,
    keys,
    listing,
    organisation,
    projects,
    query,
    quotas,
    replay,
    runs,
    schemas,
    sessions,
    sweeps,
    system,
    telemetry,
    uploads,
    usage,
    workers,
    workflows,
)

log = logging.getLogger("tachograph.service")


RESOURCES: Final = (
    system.ROUTES,
    projects.ROUTES,
    sweeps.ROUTES,
    workflows.ROUTES,
    runs.ROUTES,
    listing.ROUTES,
    attempts.ROUTES,
    ingest.ROUTES,
    telemetry.ROUTES,
    charts.ROUTES,
    history.ROUTES,
    audit.ROUTES,
    replay.ROUTES,
    exports.ROUTES,
    imports.ROUTES,
    dead_letters.ROUTES,
    alerts.ROUTES,
    quotas.ROUTES,
    keys.ROUTES,
    organisation.ROUTES,
    sessions.ROUTES,
    billing.ROUTES,
    usage.ROUTES,
    query.ROUTES,
    artifacts.ROUTES,
    uploads.ROUTES,
    workers.ROUTES,
)
"""What stands below /api/v1."""


def create_app(settings: Settings, *, openapi: OpenAPIConfig | None = None) -> Litestar:
    """Return the application; it connects when it starts, and serves without NATS until NATS is there.

    With `openapi` it can be described, which who only serves does not pay for.
    """

    def provide_service() -> Service:
        service: Service = app.state.service
        return service

    app = Litestar(
        route_handlers=[system.ROOT, schemas.ROUTES, Router(path="/api/v1", route_handlers=RESOURCES)],
        dependencies={"service": Provide(provide_service, sync_to_thread=False)},
        exception_handlers=HANDLERS,
        request_class=TypedRequest,
        middleware=[counted, told, options, transcoded, authenticated],
        lifespan=[partial(_running, settings=settings)],
        openapi_config=openapi,
        logging_config=None,
    )
    shorten(app)
    return app


@contextlib.asynccontextmanager
async def _running(app: Litestar, settings: Settings) -> AsyncIterator[None]:
    """Open what the process holds, and its background tasks; at the end close it in reverse."""
    pool = await open_pool(settings.database_url, name="service", size=12)
    sets = await open_pool(settings.database_url, name="service-lists", size=4, planning=SETS)
    service = app.state.service = Service(settings, pool, sets, Keyring.from_file(settings.master_key))
    background = [
        supervised("transport", lambda: _transport(service)),
        supervised("imports", service.imports.run),
        supervised("keys", lambda: listen(service.keys, settings.database_url, service.keys_changed)),
        supervised("tidying", lambda: keep_tidy(pool, service.archive)),
    ]
    try:
        yield
    finally:
        service.stopping.set()
        await service.tails.close()
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        await service.queries.close()
        await service.ledger.drained()
        service.analytics.close()
        await sets.close()
        await pool.close()


async def _transport(service: Service) -> None:
    """Connect to NATS, hear the nudges of other processes, send ours and the beats of tracked runs."""
    service.nats = nats = await bus.connect(service.settings.nats_url, name="service", echo=False)
    service.tails.publish = bus.Nudges(nats)

    async def heard(message: Msg) -> None:
        with contextlib.suppress(ValueError):
            service.tails.wake(UUID(message.subject.rpartition(".")[2]))

    try:
        await nats.subscribe(bus.nudge_subject("*"), cb=heard)
        await service.beats.run(nats)
    finally:
        service.nats = service.tails.publish = None
        await nats.close()
