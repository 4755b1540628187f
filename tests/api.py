"""A service, and roles where a test needs them, as real processes on the shared servers; and a client that knows it."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx

from events.database import open_pool
from events.ids import uuid7
from events.keys import Keyring
from events.ledger import Ledger
from events.organisation import KeyIssued, OrganisationCreated
from projections import api_keys, tenancy
from projections.execute import asked_by, record
from service.keys import key_of
from stack import Process
from stack.home import Home
from stack.ports import free_port
from stack.process import ROOT
from stack.system import OURS_ALONE
from stack.warden import Warden
from tests import servers
from tests.described import as_described
from tests.servers import Database, NatsServer, PostgresServer

T = TypeVar("T")

Json = dict[str, Any]

SECONDS = 120.0
"""How long something may take that takes a moment on a quiet machine; nothing waits for it to pass."""


def until(look: Callable[[], T | None], what: str, seconds: float = SECONDS) -> T:
    """Look again and again until something is found; fails past the deadline."""
    give_up = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < give_up, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)


async def eventually(look: Callable[[], Awaitable[object]], what: str, seconds: float = SECONDS) -> None:
    """Look again and again until something is so; fails past the deadline."""
    give_up = time.monotonic() + seconds
    while True:
        if await look():
            return
        assert time.monotonic() < give_up, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(0.02)


def refused(answer: httpx.Response, status: int) -> Json:
    """Check that an answer is a problem document of this status, and return it."""
    assert answer.status_code == status, f"{answer.status_code}: {answer.text[:2_000]}"
    assert answer.headers["content-type"] == "application/problem+json"
    problem: Json = answer.json()
    assert problem["type"].startswith("urn:tachograph:problem:")
    assert problem["status"] == status
    assert problem["title"]
    assert problem["detail"]
    return problem


def accepted(answer: httpx.Response, status: int = 200) -> Json:
    """Check that an answer has this status, and return its document."""
    assert answer.status_code == status, f"{answer.status_code}: {answer.text[:2_000]}"
    document: Json = answer.json()
    return document


class Project:
    """A project of a test's own, and the calls that tests make again and again."""

    def __init__(self, api: httpx.Client, document: Json) -> None:
        self.api = api
        self.id: str = document["id"]
        self.name: str = document["name"]

    def create(self, **body: Any) -> Json:
        """Create a run; tracked unless it has a command."""
        return accepted(self.api.post(f"/projects/{self.id}/runs", json=body), 201)

    def started(self, **body: Any) -> Json:
        """Create a tracked run and start it."""
        run = self.create(**body)
        return accepted(self.api.post(f"/runs/{run['id']}/start", json={"pid": 1}))

    def finished(self, **body: Any) -> Json:
        """Create, start and complete a tracked run."""
        run = self.started(**body)
        return accepted(self.api.post(f"/runs/{run['id']}/finish", json={"epoch": 1, "status": "completed"}))

    def log(self, run: Json, seq: int, series: Json, **fields: Any) -> httpx.Response:
        """Send a batch of metrics."""
        body = {"epoch": 1, "seq": seq, "series": series, **fields}
        return self.api.post(f"/runs/{run['id']}/metrics", json=body)

    def write(self, run: Json, seq: int, *texts: str, **fields: Any) -> httpx.Response:
        """Send a batch of log lines."""
        body = {"epoch": 1, "seq": seq, "lines": [{"text": text} for text in texts], **fields}
        return self.api.post(f"/runs/{run['id']}/logs", json=body)

    def events(self, run: Json | None = None) -> list[Json]:
        """Return the whole history of the project, or of one run."""
        path = f"/runs/{run['id']}/events" if run else f"/projects/{self.id}/events"
        events: list[Json] = []
        after: int | None = 0
        while after is not None:
            page = accepted(self.api.get(path, params={"after": after, "limit": 1_000}))
            events += page["events"]
            after = page["next"]
        return events

    def head(self) -> Json:
        """Return where the ledger stands: position and chain."""
        answer = accepted(self.api.get(f"/projects/{self.id}/audit"))
        return {"position": answer["position"], "chain": answer["chain"]}

    def verified(self) -> Json:
        """Verify the whole history and return the report."""
        return accepted(self.api.post(f"/projects/{self.id}/audit/verify"))


class Api:
    """A running service with a client of its first API key."""

    def __init__(
        self,
        url: str,
        key: str,
        home: Path,
        database: Database,
        processes: Mapping[str, Process],
        environment: Mapping[str, str],
    ) -> None:
        self.environment = environment
        self.url = url
        self.key = key
        self.home = home
        self.database = database
        self.processes = processes
        self.client = self.as_caller(key)

    def as_caller(self, key: str | None) -> httpx.Client:
        """Return a client with this credential, or without any."""
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        return httpx.Client(
            base_url=f"{self.url}/api/v1",
            headers=headers,
            timeout=SECONDS,
            event_hooks={"response": [as_described]},
        )

    def other_tenant(self) -> httpx.Client:
        """Open another organisation and return a client of its key."""
        return self.as_caller(asyncio.run(_tenant(self.database, self.home / "master.key")))

    def project(self) -> Project:
        """Open a project with a name that no other has."""
        return Project(self.client, accepted(self.client.post("/projects", json={"name": f"p-{uuid7()}"}), 201))


@contextmanager
def serving(
    postgres: PostgresServer,
    nats: NatsServer,
    parent: Path,
    *,
    roles: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[Api]:
    """Run a service on a database of its own, and the named roles each as a process."""
    database = asyncio.run(servers.create_database(postgres))
    home = Home(parent / f"api-{uuid7()}")
    home.prepare()
    home.ensure_master_key()
    port = free_port()
    variables = _environment(home, port, database, nats, environment or {})
    key = _bootstrap(variables)
    warden = Warden()
    processes: dict[str, Process] = {}
    try:
        for name in ("service", *roles):
            module = ["service"] if name == "service" else ["workers", name]
            command = [sys.executable, "-m", *module]
            log = home.logs / f"{name}.log"
            processes[name] = Process(name, command, environment=variables, log=log, warden=warden)
            processes[name].start()
        api = Api(f"http://127.0.0.1:{port}", key, home.path, database, processes, variables)
        with api.client:
            until(lambda: _is_ready(api, processes["service"]), "the service is ready")
            yield api
    finally:
        for process in reversed(processes.values()):
            process.stop(10)
        warden.close()
        asyncio.run(servers.drop_database(postgres, database))


@contextmanager
def replica(api: Api) -> Iterator[Api]:
    """Run another service on the same database."""
    port = free_port()
    environment = {**api.environment, "TACHOGRAPH_PORT": str(port)}
    warden = Warden()
    log = api.home / "logs" / f"replica-{port}.log"
    process = Process("replica", [sys.executable, "-m", "service"], environment=environment, log=log, warden=warden)
    try:
        process.start()
        other = Api(f"http://127.0.0.1:{port}", api.key, api.home, api.database, {"service": process}, environment)
        with other.client:
            until(lambda: _is_ready(other, process), "the replica is ready")
            yield other
    finally:
        process.stop(10)
        warden.close()


def _environment(
    home: Home, port: int, database: Database, nats: NatsServer, more: Mapping[str, str]
) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name not in OURS_ALONE}
    return inherited | {
        "PYTHONUNBUFFERED": "1",
        "TACHOGRAPH_HOME": str(home.path),
        "TACHOGRAPH_PORT": str(port),
        "TACHOGRAPH_DATABASE_URL": database.url,
        "TACHOGRAPH_OWNER_DATABASE_URL": database.owner_url,
        "TACHOGRAPH_NATS_URL": nats.url("roles"),
        "TACHOGRAPH_MASTER_KEY": str(home.master_key),
        "TACHOGRAPH_PARQUET": str(home.parquet),
        **more,
    }


async def _tenant(database: Database, master_key: Path) -> str:
    organisation_id = uuid7()
    key, digest = key_of(os.urandom(32))
    created = OrganisationCreated(name=f"tenant {organisation_id}")
    issued = KeyIssued(key_id=uuid7(), label="test", prefix=key[:7], sha256=digest)
    row = tenancy.organisation_row(version=1, name=created.name, max_active_runs=created.max_active_runs)
    async with await open_pool(database.url, name="tenant", size=1) as pool:
        ledger = Ledger(pool, Keyring.from_file(master_key))
        await ledger.open(organisation_id, organisation_id, "organisation")
        for stream, event, inline in (
            (organisation_id, created, row),
            (issued.key_id, issued, api_keys.row(api_keys.issued(organisation_id, issued))),
        ):
            await record(
                ledger,
                ledger_id=organisation_id,
                stream=stream,
                expected_version=0,
                events=[event],
                inline=inline,
                request=asked_by("test"),
            )
    return key


def _bootstrap(environment: Mapping[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "service", "bootstrap"],
        cwd=ROOT,
        env=environment,
        check=True,
        capture_output=True,
        timeout=SECONDS,
    )
    key: str = json.loads(done.stdout)["api_key"]
    return key


def _is_ready(api: Api, process: Process) -> bool:
    if process.failure is not None:
        raise process.failure
    try:
        return httpx.get(f"{api.url}/readyz").status_code == 200
    except httpx.TransportError:
        return False
