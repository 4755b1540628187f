"""`python -m service`: the API. `python -m service bootstrap`: migrations and the first key. `… schemas [--check]`,
`… verify --project P`, `… rebuild NAME | --all`, `… replay --project P`, `… export --project P`, `… import PATH`."""

import asyncio
import json
import logging
import sys
from types import FrameType

import asyncpg
import uvicorn
from litestar import Litestar

import tachograph
from events.database import wait_until_there
from events.errors import LedgerError
from events.settings import Settings, SettingsError, from_environment
from service.app import create_app
from service.commands import audit, export, importing, rebuild, replay, schemas
from service.commands.bootstrap import bootstrap
from service.commands.migrate import MigrationError
from service.http.transport import Protocol

USAGE = """usage: python -m service [bootstrap | schemas [--check] | verify --project P … | rebuild {NAME | --all} …
                          | replay --project P … | export --project P … | import PATH …]"""


class Server(uvicorn.Server):
    """A server that tells its event streams to say good-bye as soon as it is asked to stop."""

    def __init__(self, config: uvicorn.Config, app: Litestar) -> None:
        super().__init__(config)
        self._app = app

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Wake the streams, then stop as uvicorn does."""
        service = getattr(self._app.state, "service", None)
        if service is not None:
            service.stopping.set()
            service.tails.wake_all()
        super().handle_exit(sig, frame)


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT."""
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
        timeout_graceful_shutdown=3,
        timeout_keep_alive=75,
        backlog=2048,
    )
    Server(config, app).run()
    return 0


def main(arguments: list[str]) -> int:
    """Run what the command line names; returns the exit status."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        match arguments:
            case []:
                return serve(from_environment())
            case ["bootstrap"]:
                key = asyncio.run(bootstrap(from_environment()))
                print(json.dumps({"api_key": key} if key else {}))
                return 0
            case ["schemas"]:
                return schemas.write()
            case ["schemas", "--check"]:
                return schemas.check()
            case ["verify", *options]:
                return audit.main(options)
            case ["rebuild", *options]:
                return rebuild.main(options)
            case ["replay", *options]:
                return replay.main(options)
            case ["export", *options]:
                return export.main(options)
            case ["import", *options]:
                return importing.main(options)
            case _:
                print(USAGE, file=sys.stderr)
                return 2
    except (SettingsError, MigrationError, LedgerError, OSError, asyncpg.PostgresError, tachograph.Error) as error:
        print(f"tachograph: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
