"""MLflow as a peer: its real server, from its own environment, on a database of its own in the same Postgres.

    async with mlflow(stack.postgres) as peer:
        client = peer.client()
        client.ask("runs/create", {"experiment_id": "0"})

Its pins are not ours, so `make bench` installs it from `bench/mlflow.lock` into `.venv-mlflow`.
"""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import asyncpg

from bench.client import RefusedError
from bench.harness import Void
from bench.http import Connection
from stack.ports import free_port
from stack.postgres import Postgres

ROOT: Final = Path(__file__).resolve().parent.parent
PROGRAM: Final = ROOT / ".venv-mlflow" / "bin" / "mlflow"
DATABASE: Final = "mlflow"
READY_SECONDS: Final = 120.0
PAUSE_SECONDS: Final = 0.2


class MlflowClient:
    """One connection to its REST API, kept open."""

    def __init__(self, port: int) -> None:
        self._connection = Connection("127.0.0.1", port)

    def ask(self, path: str, document: Any) -> Any:
        """POST below /api/2.0/mlflow and return the answer. Raises `RefusedError`."""
        return json.loads(self.send(path, json.dumps(document).encode()) or b"{}")

    def send(self, path: str, body: bytes) -> bytes:
        """POST a ready body below /api/2.0/mlflow and return that of the answer. Raises `RefusedError`."""
        status, said = self._connection.exchange("POST", f"/api/2.0/mlflow/{path}", body)
        if status >= 300:
            raise RefusedError(f"{path}: {status} {said[:500].decode(errors='replace')}")
        return said

    def get(self, path: str) -> Any:
        """GET below /ajax-api/2.0/mlflow, as its pages do, and return the answer. Raises `RefusedError`."""
        status, said = self._connection.exchange("GET", f"/ajax-api/2.0/mlflow/{path}")
        if status >= 300:
            raise RefusedError(f"{path}: {status} {said[:500].decode(errors='replace')}")
        return json.loads(said)

    def healthy(self) -> bool:
        """Whether the server answers."""
        try:
            status, _ = self._connection.exchange("GET", "/health")
        except OSError:
            return False
        return status == 200

    def close(self) -> None:
        """Close the connection; it opens again by itself."""
        self._connection.close()


class Mlflow:
    """A running server."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.url = f"http://127.0.0.1:{port}"

    def client(self) -> MlflowClient:
        """Return a client with a connection of its own."""
        return MlflowClient(self._port)


@asynccontextmanager
async def mlflow(postgres: Postgres) -> AsyncIterator[Mlflow]:
    """Run a server on a database of its own in this Postgres. Raises `Void` where there is none."""
    owner = await asyncpg.connect(postgres.url("postgres"))
    if not await owner.fetchval("select exists (select from pg_database where datname = $1)", DATABASE):
        await owner.execute(f"create database {DATABASE}")
    await owner.close()
    async with served(postgres.url("postgres", DATABASE).replace("postgresql://", "postgresql+psycopg2://", 1)) as peer:
        yield peer


@asynccontextmanager
async def served(store: str, *options: str) -> AsyncIterator[Mlflow]:
    """Run a server on the store of that URI, with the number of workers that it chooses itself. Raises `Void`."""
    if not PROGRAM.exists():
        raise Void(f"{PROGRAM} is not there; `make bench` installs it")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="mlflow-") as home:
        log = Path(home) / "log"
        command = [
            str(PROGRAM), "server", "--host", "127.0.0.1", "--port", str(port), "--backend-store-uri", store,
            "--artifacts-destination", home, "--uvicorn-opts", f"--timeout-worker-healthcheck={READY_SECONDS:.0f}",
            *options,
        ]  # fmt: skip
        environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "HOME": home}
        environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # seven processes that nobody here asks anything
        server = await asyncio.to_thread(_started, command, environment, log)
        try:
            await _ready(server, port, log)
            yield Mlflow(port)
        finally:
            server.terminate()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)  # what it started and left behind


def _started(command: list[str], environment: dict[str, str], log: Path) -> "subprocess.Popen[bytes]":
    with log.open("wb") as output:
        return subprocess.Popen(
            command, cwd=log.parent, env=environment, stdout=output, stderr=output, start_new_session=True
        )


async def _ready(server: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    client = MlflowClient(port)
    give_up = asyncio.get_running_loop().time() + READY_SECONDS
    while not await asyncio.to_thread(client.healthy):
        if server.poll() is not None or asyncio.get_running_loop().time() > give_up:
            said = await asyncio.to_thread(log.read_text, errors="replace")
            raise Void(f"MLflow does not start: {said[-2_000:]}")
        await asyncio.sleep(PAUSE_SECONDS)
    client.close()
