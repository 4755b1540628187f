"""The object stores that tests run against: a directory, and an S3 server from the registry as a real process."""

import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import httpx

from events.ids import uuid7
from stack.ports import free_port
from stack.warden import Warden
from tests.api import SECONDS, until


class Place(NamedTuple):
    """Where an object store is: what `TACHOGRAPH_OBJECT_STORE` says, and the variables that it needs."""

    url: str
    environment: Mapping[str, str]


class S3Server:
    """An S3 server on a free port of this machine."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def bucket(self) -> Place:
        """Make a bucket and return where it is."""
        name = f"b-{uuid7()}"
        assert httpx.put(f"{self.url}/{name}", timeout=SECONDS).status_code == 200
        return Place(f"s3://{name}/some/prefix", self.environment)

    @property
    def environment(self) -> Mapping[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "test-key",
            "AWS_SECRET_ACCESS_KEY": "test-secret-5d1e",
        }


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """Run an S3 server until the end of the block."""
    server = S3Server(free_port())
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(server.port)]
    warden = Warden()  # tests that are killed leave nothing running
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    warden.add(process.pid, signal.SIGKILL)

    def answers() -> bool:
        assert process.poll() is None, "the S3 server ended"
        try:
            return httpx.get(f"{server.url}/moto-api/").status_code == 200
        except httpx.TransportError:
            return False

    try:
        until(answers, "the S3 server answers")
        yield server
    finally:
        process.kill()
        process.wait()
        warden.remove(process.pid)
        warden.close()
