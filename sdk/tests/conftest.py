"""The whole system; and a recording peer on loopback, for what a service will not do on demand: refuse, stall, cut."""

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

import tachograph

Answer = tuple[int, dict[str, Any]]

PORTS = range(20_000, 32_000)
"""Below those of outgoing connections, one of which could take a peer's while it is away."""

RUN = {
    "id": "run-1",
    "name": "calm-heron-101",
    "epoch": 1,
    "status": "running",
    "config": {"lr": 0.1},
    "summary": {},
    "liveness": {"beat_seconds": 5.0},
}


class Seen(NamedTuple):
    """A request as it came over the wire."""

    method: str
    path: str
    headers: dict[str, str]
    content: bytes

    @property
    def body(self) -> Any:
        if "msgpack" in self.headers.get("content-type", ""):
            return msgspec.msgpack.decode(self.content)
        return json.loads(self.content) if self.content else None


class Peer:
    """Answers every request and keeps it; `answer` may return another answer, or None to cut the connection."""

    def __init__(self, port: int = 0) -> None:
        self.seen: list[Seen] = []
        self.answer: Callable[[Seen], Answer | None] = lambda seen: (200, {})
        peer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except ConnectionError:
                    self.close_connection = True

            def serve(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                headers = {name.lower(): value for name, value in self.headers.items()}
                seen = Seen(self.command, self.path, headers, self.rfile.read(length))
                peer.seen.append(seen)
                answer = peer.answer(seen)
                if answer is None:
                    self.close_connection = True
                    return
                status, body = answer
                content = json.dumps(body if status >= 400 else {**default(seen), **body}).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                for name, value in (body.get("headers", {}) if isinstance(body, dict) else {}).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PATCH = do_DELETE = serve  # noqa: N815

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False
            allow_reuse_address = True

        self._server = _bound(Server, Handler, [port] if port else random.SystemRandom().sample(PORTS, 100))
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def to(self, ending: str) -> list[Seen]:
        return [seen for seen in self.seen if seen.path.endswith(ending)]

    def points(self) -> dict[str, list[tuple[int, float]]]:
        """Return what a service would have stored: batches once each, in the order of their first arrival."""
        stored: dict[str, list[tuple[int, float]]] = {}
        known: dict[tuple[str, int], bytes] = {}
        for seen in self.to("/metrics"):
            body = seen.body
            key = (body["source"], body["seq"])
            if key in known:
                assert known[key] == seen.content, f"batch {key} was resent with other bytes"
                continue
            known[key] = seen.content
            for name, series in body["series"].items():
                stored.setdefault(name, []).extend(zip(series["step"], series["value"], strict=True))
        return stored


def _bound(server: type[ThreadingHTTPServer], handler: type, ports: Sequence[int]) -> ThreadingHTTPServer:
    """Return a server on the first of the ports that is free."""
    for port in ports[:-1]:
        with contextlib.suppress(OSError):
            return server(("127.0.0.1", port), handler)
    return server(("127.0.0.1", ports[-1]), handler)


def default(seen: Seen) -> dict[str, Any]:
    if seen.path.endswith("/heartbeat"):
        return {"epoch": 1, "stop": False, "stop_cause": None}
    if seen.path.endswith(("/metrics", "/logs")):
        return {"accepted": 1, "position": 1}
    return RUN


@pytest.fixture
def peer() -> Iterator[Peer]:
    server = Peer()
    yield server
    server.close()


@pytest.fixture
def peer_at() -> Iterator[Callable[[int], Peer]]:
    """Start a peer on a port of one's choice."""
    started: list[Peer] = []

    def start(port: int) -> Peer:
        started.append(Peer(port))
        return started[-1]

    yield start
    for server in started:
        server.close()


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings of the machine, and a home of one's own."""
    for name in list(os.environ):
        if name.startswith("TACHOGRAPH_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TACHOGRAPH_HOME", str(tmp_path / "home"))


@pytest.fixture
def until() -> Callable[..., None]:
    """Wait for a condition, with a deadline."""

    def wait(condition: Callable[[], object], seconds: float = 120.0, what: str = "") -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"not within {seconds:g} s: {what or condition}")
            time.sleep(0.01)

    return wait


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a Python program of its own that reports to a URL."""
    started: list[subprocess.Popen[str]] = []

    def start(source: str, url: str, **environment: str) -> subprocess.Popen[str]:
        file = tmp_path / f"program{len(started)}.py"
        file.write_text(textwrap.dedent(source), encoding="utf-8")
        process = subprocess.Popen(
            [sys.executable, "-W", "error", str(file)],
            env={**os.environ, "TACHOGRAPH_URL": url, "TACHOGRAPH_API_KEY": "tg_test", **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def system() -> Iterator[Any]:
    """A `stack.Stack` with a GPU worker; outside the server's repository what needs one is skipped."""
    stack = pytest.importorskip("stack", reason="the server is not here")
    from stack.ports import free_port

    home = Path(tempfile.mkdtemp(prefix="tachograph-sdk-"))
    with stack.Stack(home, free_port()) as started:
        yield started
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def client(system, monkeypatch) -> Iterator[tachograph.Client]:
    monkeypatch.setenv("TACHOGRAPH_URL", system.url)
    monkeypatch.setenv("TACHOGRAPH_API_KEY", system.api_key)
    with tachograph.Client() as client:
        yield client


@pytest.fixture
def project(request) -> str:
    return request.node.name.replace("[", "-").replace("]", "")


@pytest.fixture
def points(client) -> Callable[[Any, str], list[tuple[float, float]]]:
    """Read a metric's points, by run."""

    def read(run: Any, metric: str) -> list[tuple[float, float]]:
        curves = client.chart(run, metric, buckets=20_000)
        return [point for curve in curves for point in zip(curve["x"], curve["last"], strict=True)]

    return read
