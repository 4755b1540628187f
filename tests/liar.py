"""A server in front of an S3 that answers wrongly, or takes a request and says nothing."""

import http.client
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Final, Literal, Self

Way = Literal["silent", "half", "torn", "short"]
"""No answer at all; half of the body that the head announces, then nothing; half of it, then the end of the connection;
a head that announces half of the body, and that half."""

WAYS: Final[tuple[Way, ...]] = ("silent", "half", "torn", "short")


class Liar:
    """Passes requests on to the server at `to_port`; those of one method may be answered in one of the ways."""

    def __init__(self, to_port: int) -> None:
        self.to_port = to_port
        self.asked: list[str] = []
        self._spoilt: tuple[str, Way] | None = None
        self._healed = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def spoil(self, method: str, way: Way) -> None:
        """Answer requests of a method, or of `ANY`, this way from now on."""
        self._healed.clear()
        self._spoilt = (method, way)

    def heal(self) -> None:
        """Answer truly again; who waits for an answer is hung up on."""
        self._spoilt = None
        self._healed.set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.heal()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handler(liar) -> type[BaseHTTPRequestHandler]:  # noqa: N805 (`self` is the handler)
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                liar.asked.append(f"{self.command} {self.path}")
                spoilt = liar._spoilt
                way = spoilt[1] if spoilt is not None and spoilt[0] in {self.command, "ANY"} else None
                if way == "silent":
                    liar._healed.wait()
                    self.close_connection = True
                    return
                answer, data = liar._true(self, body)
                size = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
                if way is not None:
                    data = data[: len(data) // 2]
                self.send_response_only(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in {"content-length", "transfer-encoding", "connection"}:
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)) if way == "short" else size or "0")
                self.end_headers()
                self.wfile.write(data)
                self.wfile.flush()
                if way == "half":
                    liar._healed.wait()
                self.close_connection = self.close_connection or way is not None

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _answer  # noqa: N815 (names of the library)

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def _true(self, asked: BaseHTTPRequestHandler, body: bytes) -> tuple[http.client.HTTPResponse, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.to_port, timeout=60)
        connection.request(asked.command, asked.path, body, dict(asked.headers))
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer, data
