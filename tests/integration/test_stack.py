"""`python -m stack up` as a person meets it: what it says, what it refuses, and what it leaves behind."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from stack import Nats, Postgres, Process, Stack, process
from stack.ports import free_port
from stack.process import BACKOFF_SECONDS
from stack.warden import Warden
from tests.api import SECONDS, until

ROOT = Path(__file__).resolve().parent.parent.parent


class Up:
    """A running `python -m stack up`, what it has printed, and whom it has started."""

    def __init__(self, home: Path, port: int, **environment: str) -> None:
        self.home = home
        self.port = port
        self.output = Path(f"{home}.out".replace("file/home", "home"))
        with self.output.open("wb") as output:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "stack", "--home", str(home), "--port", str(port), "up"],
                cwd=ROOT,
                env={**os.environ, **environment},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def says(self, text: str) -> bool:
        return text in self.output.read_text()

    def ready(self) -> "Up":
        until(lambda: self.says("Tachograph is ready at") or self._child.poll() is not None, "it says that it is ready")
        assert self.says(f"Tachograph is ready at http://127.0.0.1:{self.port}\n"), self.output.read_text()
        return self

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self._child.pid).children(recursive=True)

    def send(self, number: signal.Signals) -> None:
        self._child.send_signal(number)

    def ended(self, seconds: float = SECONDS) -> int:
        return self._child.wait(seconds)

    def stop(self) -> int:
        self.send(signal.SIGTERM)
        return self.ended()

    def end(self) -> None:
        """Leave nothing behind, whatever the test has come to."""
        with contextlib.suppress(psutil.NoSuchProcess):
            family = self.family()
            self._child.terminate()
            try:
                self._child.wait(SECONDS)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()
            for process in psutil.wait_procs(family, timeout=SECONDS)[1]:
                process.kill()

    def request(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        key = json.loads((self.home / "credentials.json").read_text())["api_key"]
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        try:
            headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or b"null")
        finally:
            connection.close()


def all_gone(processes: list[psutil.Process]) -> bool:
    return not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)


@pytest.fixture
def start_up(own_home: Path) -> Iterator[Callable[..., Up]]:
    started: list[Up] = []

    def start(home: Path | None = None, port: int | None = None, **environment: str) -> Up:
        started.append(Up(home or own_home / f"home-{len(started)}", port or free_port(), **environment))
        return started[-1]

    yield start
    for up in started:
        up.end()


def test_two_systems_side_by_side_and_a_restart_that_keeps_everything(start_up: Callable[..., Up]):
    one, other = start_up(), start_up()
    one.ready(), other.ready()
    assert one.request("POST", "/api/v1/projects", {"name": "kept"})[0] == 201
    assert other.request("GET", "/api/v1/projects/kept")[0] == 404
    key = (one.home / "credentials.json").read_text()
    assert (one.home / "credentials.json").stat().st_mode & 0o777 == 0o600
    assert (one.home / "master.key").stat().st_mode & 0o777 == 0o600
    assert (one.home / "master.key").stat().st_size == 32

    family = one.family()
    assert {"postgres", "nats-server"} < {process.name() for process in family}
    assert one.stop() == 0
    assert all_gone(family)

    again = start_up(one.home, one.port).ready()
    assert again.request("GET", "/api/v1/projects/kept")[0] == 200
    assert (one.home / "credentials.json").read_text() == key
    assert other.request("GET", "/healthz")[0] == 200


def test_sigterm_ends_everything_with_a_client_on_a_stream(start_up: Callable[..., Up]):
    up = start_up().ready()
    assert up.request("POST", "/api/v1/projects", {"name": "watched"})[0] == 201
    key = json.loads((up.home / "credentials.json").read_text())["api_key"]
    with socket.create_connection(("127.0.0.1", up.port), timeout=SECONDS) as client:
        request = f"GET /api/v1/projects/watched/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n"
        client.sendall(request.encode())
        assert client.recv(12) == b"HTTP/1.1 200"
        family = up.family()
        up.send(signal.SIGTERM)
        assert up.ended(5.0) == 0
    assert all_gone(family)
    assert not up.says("killed"), up.output.read_text()


def test_killed_hard_it_takes_its_processes_along_and_starts_again_at_once(start_up: Callable[..., Up]):
    up = start_up().ready()
    assert up.request("POST", "/api/v1/projects", {"name": "kept"})[0] == 201
    family = up.family()
    up.send(signal.SIGKILL)
    up.ended()
    again = start_up(up.home, up.port).ready()
    assert all_gone(family)
    assert again.request("GET", "/api/v1/projects/kept")[0] == 200


def test_what_dies_is_started_again_and_said(start_up: Callable[..., Up]):
    up = start_up().ready()
    for child in up.family():
        if child.name() in ("postgres", "nats-server") and child.ppid() == up._child.pid:
            child.kill()
    until(lambda: up.says("postgres ended unexpectedly (SIGKILL); starting it again"), "a server starts again")
    until(lambda: up.says("nats-server ended unexpectedly (SIGKILL); starting it again"), "a server starts again")
    until(lambda: up.request("GET", "/readyz")[0] == 200, "it is ready again")
    assert up.request("POST", "/api/v1/projects", {"name": "after"})[0] == 201


def test_a_taken_port_is_one_clear_line(start_up: Callable[..., Up]):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        up = start_up(port=taken.getsockname()[1])
        assert up.ended() == 2
        assert up.output.read_text() == (f"tachograph: port {up.port} is taken; choose another with TACHOGRAPH_PORT\n")


def test_a_home_in_use_is_one_clear_line(start_up: Callable[..., Up], start_stack: Callable[..., Stack]):
    first = start_up().ready()
    second = start_up(first.home)
    assert second.ended() == 2
    (line,) = second.output.read_text().splitlines()
    assert f"{first.home} is in use by another Tachograph" in line
    assert first.request("GET", "/healthz")[0] == 200


def test_a_home_that_cannot_be_written_is_one_clear_line(own_home: Path, start_up: Callable[..., Up]):
    (own_home / "file").touch()
    up = start_up(own_home / "file" / "home")
    assert up.ended() == 2
    (line,) = up.output.read_text().splitlines()
    assert "cannot be written" in line


@pytest.mark.parametrize("port", ["0", "65536", "http"])
def test_a_port_that_is_none_is_refused(port: str):
    command = [sys.executable, "-m", "stack", "--port", port, "up"]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert "is not a port number" in done.stderr


def test_a_lost_master_key_is_not_silently_replaced(start_stack: Callable[..., Stack], start_up: Callable[..., Up]):
    stack = start_stack(gpu_worker=False)
    stack.stop()
    stack.home.master_key.unlink()
    up = start_up(stack.home.path)
    assert up.ended() == 2
    assert up.says("master.key is missing")


def test_a_process_that_keeps_dying_is_given_up_with_its_last_words(tmp_path: Path):
    warden = Warden()
    said: list[str] = []
    dying = Process(
        "dying",
        [sys.executable, "-c", "print('no way'); raise SystemExit(3)"],
        log=tmp_path / "dying.log",
        warden=warden,
        say=said.append,
    )
    dying.start()
    assert dying.failed.wait(SECONDS)
    warden.close()
    assert dying.failure is not None
    assert "dying ended unexpectedly (exit code 3), 5 times in a row" in str(dying.failure)
    assert dying.failure.last_lines[-1] == "no way"
    assert len(said) == dying.restarts == len(BACKOFF_SECONDS)


def test_a_stubborn_process_is_killed(tmp_path: Path):
    warden = Warden()
    program = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    stubborn = Process("stubborn", [sys.executable, "-c", program], log=tmp_path / "log", warden=warden)
    stubborn.start()
    until(lambda: stubborn.tail() == ["deaf"], "it hears nothing")
    assert stubborn.stop(0.1) is False
    assert stubborn.pid is None
    warden.close()


def test_a_log_that_grows_is_put_aside_under_its_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(process, "LOG_BYTES", 10)
    log = tmp_path / "some.log"
    with log.open("ab", buffering=0) as writer:
        for line in (b"the first line\n", b"the second line\n", b"the third line\n"):
            writer.write(line)
            process.rotate(log)
        writer.write(b"short\n")
        process.rotate(log)
    kept = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert kept == {"some.log": "short\n", "some.log.1": "the third line\n", "some.log.2": "the second line\n"}


def test_a_long_path_gets_its_socket_elsewhere(own_home: Path):
    home = own_home / ("long-" * 12) / ("path-" * 12)
    server = Postgres(home)
    server.start()
    try:
        assert not str(server.sockets).startswith(str(home))
        assert server.sockets.stat().st_mode & 0o777 == 0o700
        assert (server.sockets / ".s.PGSQL.5432").is_socket()
    finally:
        server.stop()
        server.sockets.rmdir()


def test_postgres_comes_back_after_a_kill(own_postgres: Postgres):
    before = own_postgres.process
    assert before is not None
    pid = before.pid
    own_postgres.kill()
    own_postgres.start()
    assert own_postgres.process is not None
    assert own_postgres.process.pid not in (None, pid)


def test_nats_keeps_its_address_unless_somebody_took_it(own_nats: Nats):
    url = own_nats.url()
    own_nats.kill()
    own_nats.start()
    assert own_nats.url() == url
    own_nats.stop()
    with socket.create_server(("127.0.0.1", own_nats.port)):
        own_nats.start()
        assert own_nats.url() != url
