"""What a real MLflow server answered, played back over HTTP; and how it was recorded:

make .venv-mlflow/.locked && python -m tests.integration.mlflow_answers
"""

import asyncio
import json
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import msgspec

from service.imports.incoming import Incoming
from service.imports.inputs import Where, opened
from service.imports.mlflow_client import Client
from service.imports.mlflow_server import MLflowServer

RECORDED = Path(__file__).with_suffix(".json")
MS = 1_700_000_000_000
LOSS = [(MS + 3, -3, 0.1), (MS, 0, "NaN"), (MS + 1, 1, 0.1 + 0.2), (MS + 1, 1, 0.5), (MS + 4, 2**53 + 1, 1e-320)]
"""As logged: milliseconds, step, value."""


class Answer(msgspec.Struct, frozen=True):
    """What came for a request."""

    status: int
    body: bytes


class Server(ThreadingHTTPServer):
    """Answers from a table; what it lacks it asks of `upstream` and keeps, where there is one."""

    daemon_threads = True

    def __init__(self, answers: dict[str, Answer], upstream: str | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers = answers
        self.upstream = upstream
        self.asked: list[str] = []
        self.credentials: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        key = asked(self.command, self.path, body)
        self.server.asked.append(key)
        self.server.credentials.append(self.headers.get("Authorization"))
        if key not in self.server.answers and self.server.upstream:
            upstream = HTTPConnection(urlsplit(self.server.upstream).netloc)
            upstream.request(self.command, self.path, body, {"Content-Type": "application/json"})
            answer = upstream.getresponse()
            self.server.answers[key] = Answer(answer.status, answer.read())
            upstream.close()
        found = self.server.answers.get(key, Answer(404, f"nobody recorded {key}".encode()))
        self.send_response(found.status)
        self.send_header("Content-Length", str(len(found.body)))
        self.end_headers()
        self.wfile.write(found.body)

    do_GET = do_POST = _serve  # noqa: N815 (their names)

    def log_request(self, *_: Any) -> None:
        """Say nothing."""


def asked(method: str, path: str, body: bytes = b"") -> str:
    """Return the name of a request: the order of its parameters is of no weight."""
    parts = urlsplit(path)
    document = json.dumps(json.loads(body), sort_keys=True) if body else ""
    return f"{method} {parts.path}?{urlencode(sorted(parse_qsl(parts.query)))} {document}"


@contextmanager
def serving(answers: dict[str, Answer], upstream: str | None = None) -> Iterator[Server]:
    """Run a server on a port of its own."""
    with Server(answers, upstream) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def recorded() -> dict[str, Answer]:
    """Return the answers of a real server."""
    return msgspec.json.decode(RECORDED.read_bytes(), type=dict[str, Answer])


def source(url: str, *experiments: str) -> MLflowServer:
    """Return the server as an input, with pages so small that there are several of everything."""
    return MLflowServer(Client(url), experiments, points_at_once=2, runs_at_once=2)


def seed(url: str) -> None:
    """Have a fresh server hold three ended runs, one that goes on, a deleted one, and files."""
    connection = HTTPConnection(urlsplit(url).netloc)

    def send(method: str, path: str, body: bytes) -> Any:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        said = answer.read()
        assert answer.status == 200, said
        return json.loads(said or b"{}")

    def ask(path: str, document: Any) -> Any:
        return send("POST", f"/api/2.0/mlflow/{path}", json.dumps(document).encode())

    def run(experiment: str, name: str, status: str | None, at: int) -> Any:
        made = ask("runs/create", {"experiment_id": experiment, "run_name": name, "start_time": at, "user_id": "ada"})
        info = made["run"]["info"]
        if status is not None:
            ask("runs/update", {"run_id": info["run_id"], "status": status, "end_time": at + 5_000})
        return info

    vision = ask("experiments/create", {"name": "vision"})["experiment_id"]
    whole = run("0", "upset-loon", None, MS)
    metrics = [{"key": "loss", "timestamp": at, "step": step, "value": value} for at, step, value in LOSS]
    metrics.append({"key": "loss/a", "timestamp": MS, "step": 7, "value": 1.5})
    params = [{"key": name, "value": text} for name, text in {"lr": "0.1", "layers": "3", "opt/name": "adam"}.items()]
    tags = [{"key": "team", "value": "x"}, {"key": "mlflow.note.content", "value": "a note"}]
    ask("runs/log-batch", {"run_id": whole["run_id"], "metrics": metrics, "params": params, "tags": tags})
    root = urlsplit(whole["artifact_uri"]).path.strip("/")
    for name, content in {"model/weights.bin": b"w" * 10, "notes ü.txt": b"hello"}.items():
        quoted = name.replace(" ", "%20").replace("ü", "%C3%BC")
        send("PUT", f"/api/2.0/mlflow-artifacts/artifacts/{root}/{quoted}", content)
    ask("runs/update", {"run_id": whole["run_id"], "status": "FINISHED", "end_time": MS + 5_000})
    run("0", "killed", "KILLED", MS + 1)
    run("0", "goes on", None, MS + 2)
    ask("runs/delete", {"run_id": run("0", "deleted", "FINISHED", MS + 3)["run_id"]})
    run(vision, "failed", "FAILED", MS + 4)
    connection.close()


async def _record() -> None:
    from bench.mlflow import served

    with tempfile.TemporaryDirectory() as home:
        async with served(f"sqlite:///{home}/mlflow.db", "--workers", "1") as peer:
            await asyncio.to_thread(seed, peer.url)
            answers: dict[str, Answer] = {}
            with serving(answers, peer.url) as proxy:
                await asyncio.to_thread(_read_all, proxy.url)
    document = msgspec.json.encode(dict(sorted(answers.items())))
    RECORDED.write_bytes(msgspec.json.format(document, indent=1) + b"\n")


def _read_all(url: str) -> None:
    as_usual = opened(Where(url, experiments=("vision",)), lambda *_: None).input
    for read in [*source(url).runs(), *as_usual.runs()]:
        if isinstance(read, Incoming):
            for file in read.files:
                assert sum(map(len, file.read())) == file.bytes
    source(url, "vision")


if __name__ == "__main__":
    asyncio.run(_record())
