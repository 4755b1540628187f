"""The API as a process: uvicorn, on our protocol, until it is told to stop."""

import asyncio
import socket
from types import FrameType

import uvicorn
from litestar import Litestar

from events import garbage
from events.database import wait_until_there
from events.keys import Keyring
from events.settings import Settings
from projections.archive import stores
from projections.storage.objects import ObjectStore
from service.app import create_app
from service.http.transport import Protocol


class Server(uvicorn.Server):
    """A server that tells its event streams to say good-bye as soon as it is asked to stop."""

    def __init__(self, config: uvicorn.Config, app: Litestar) -> None:
        super().__init__(config)
        self._app = app

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start as uvicorn does, then let the collector pass over all that was loaded for it."""
        await super().startup(sockets)
        garbage.set_aside()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Wake the streams, then stop as uvicorn does."""
        service = getattr(self._app.state, "service", None)
        if service is not None:
            service.stopping.set()
            service.tails.wake_all()
        super().handle_exit(sig, frame)


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT. Raises `SettingsError`."""
    _check(settings)
    settings.parquet.mkdir(parents=True, exist_ok=True)
    asyncio.run(wait_until_there(settings.database_url))
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=Protocol,
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,  # nothing here asks from where a request came
        timeout_graceful_shutdown=3,
        timeout_keep_alive=75,
        backlog=2048,
    )
    Server(config, app).run()
    return 0


def _check(settings: Settings) -> None:
    """Find what cannot be used before the server starts, which would tell it with a traceback of its own."""
    Keyring.from_file(settings.master_key)
    ObjectStore.at(settings.object_store)
    stores.opened(settings)
