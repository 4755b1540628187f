"""What a few runs should be, and a whole service to hold them against: for the tests that do things in any order."""

import asyncio
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from nats.aio.client import Client

from events import bus
from events.beats import Beat
from events.database import open_pool
from events.keys import Keyring
from events.ledger import Ledger
from events.settings import Settings
from service.app import create_app
from service.commands.bootstrap import bootstrap
from tests import servers
from tests.integration.fleet import Clock, worker_beat
from tests.servers import Database, NatsServer, PostgresServer
from workers.monitor import LATE_STEP_SECONDS, Monitor
from workers.scheduler import Scheduler

QUOTA = 2
MAX_RUNS = 9
PROJECTS = 2


class Model:
    """What one run should be."""

    def __init__(self, run_id: str, mode: str, project: str) -> None:
        self.id = run_id
        self.mode = mode
        self.project = project
        self.status = "queued"
        self.former = ""
        self.epoch = 0
        self.kill = False
        self.holds = False

    def killed(self) -> None:
        """It was ended without its process's word."""
        self.status = "killed"
        self.epoch += self.epoch > 0


class World:
    """A service with its database, a worker, a monitor and a scheduler."""

    def __init__(self, postgres: PostgresServer, nats: NatsServer, home: Path) -> None:
        self._postgres, self._nats_url, self._home = postgres, nats.url("roles"), home

    async def open(self) -> None:
        self.database: Database = await servers.create_database(self._postgres)
        key = self._home / "master.key"
        key.write_bytes(b"m" * 32)
        known = Settings(
            home=self._home,
            host="127.0.0.1",
            port=1,
            database_url=self.database.url,
            owner_database_url=self.database.owner_url,
            nats_url="nats://127.0.0.1:1",  # the test carries the beats itself, when it wants
            master_key=key,
            parquet=self._home / "parquet",
            archive_cache=self._home / "archive-cache",
            archive_cache_bytes=1 << 30,
            object_store=str(self._home / "objects"),
        )
        api_key = (await bootstrap(known)).api_key
        self.app = create_app(known)
        self._up, self._done = asyncio.Event(), asyncio.Event()
        self._serving = asyncio.create_task(self._serve())
        await self._up.wait()
        self.service = self.app.state.service
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(app=self.app),
            base_url="http://test/api/v1",
            headers={"Authorization": f"Bearer {api_key}"},
        )
        self.clock = Clock()
        self.nats: Client = await bus.connect(self._nats_url, name="test")
        await bus.ensure_streams(self.nats.jetstream())
        self.pool = await open_pool(self.database.url, name="roles")
        self.ledger = Ledger(self.pool, Keyring.from_file(key))
        self.monitor = Monitor(self.ledger, self.nats, clock=self.clock)
        self.scheduler = Scheduler(self.ledger, self.nats, self.nats.jetstream(), clock=self.clock)
        await self.monitor.start()
        slots = [{"id": f"cpu:{index}", "kind": "cpu"} for index in range(MAX_RUNS)]
        self.worker = (await self.post("/workers", name="w", slots=slots)).json()["id"]
        self.projects = [(await self.post("/projects", name=f"p{n}")).json()["id"] for n in range(PROJECTS)]
        plan = {"plan": "p", "plan_limits": {"max_active_runs": QUOTA}}
        assert (await self.http.put("/organisation/plan", json=plan)).status_code == 200

    async def _serve(self) -> None:
        """Keep the service up, in one task from its start to its end."""
        async with self.app.lifespan():
            self._up.set()
            await self._done.wait()

    async def close(self) -> None:
        await self.monitor.stop()
        await self.ledger.drained()
        await self.pool.close()
        await self.nats.close()
        await self.http.aclose()
        self._done.set()
        await self._serving
        await servers.drop_database(self._postgres, self.database)

    async def post(self, path: str, **body: Any) -> httpx.Response:
        return await self.http.post(path, json=body)

    async def passes(self, seconds: float, tracked: dict[UUID, int], managed: dict[UUID, int]) -> None:
        """Let time pass while these runs beat."""
        end = self.clock.now + seconds
        while True:
            self.monitor.hear(Beat(sender=self.monitor.sender, kind="canary"))
            self.monitor.hear(Beat(sender="api-0", kind="api", runs=tracked))
            self.monitor.hear(worker_beat(UUID(self.worker), managed))
            while await self.monitor.step():
                pass
            if self.clock.now >= end:
                return
            self.clock.now = min(end, self.clock.now + LATE_STEP_SECONDS - 1)
