"""A lean HTTP/1.1 connection, for ours and the peer alike: what is to be measured is the server, not the client."""

import contextlib
import socket
import time
from collections.abc import Mapping

RECEIVE_BYTES = 1 << 16
TIMEOUT_SECONDS = 60.0
WITHOUT_BODY = (204, 304)
IDLE_SECONDS = 2.0
"""A connection that was not used for longer may have been closed by the server, and is opened anew."""


class BrokenError(OSError):
    """The other side closed the connection, or answered in a way that this client does not speak."""


class Connection:
    """One connection, kept open; it opens when it is used."""

    def __init__(self, host: str, port: int, headers: Mapping[str, str] | None = None) -> None:
        self._address = (host, port)
        self._headers = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        self._socket: socket.socket | None = None
        self._used = 0.0

    def exchange(
        self, method: str, path: str, body: bytes = b"", media_type: str = "application/json"
    ) -> tuple[int, bytes]:
        """Send a request and return the answer's status and body. Raises `BrokenError` and other `OSError`."""
        if time.monotonic() - self._used > IDLE_SECONDS:
            self.close()
        if self._socket is None:
            self._socket = socket.create_connection(self._address, TIMEOUT_SECONDS)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: {self._address[0]}\r\n{self._headers}"
            f"Content-Type: {media_type}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        try:
            self._socket.sendall(head.encode("latin-1") + body)
            answer = self._answer(self._socket)
        except OSError:
            self.close()
            raise
        self._used = time.monotonic()
        return answer

    def close(self) -> None:
        """Close the connection; it opens again by itself."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.close()
            self._socket = None

    def _answer(self, connection: socket.socket) -> tuple[int, bytes]:
        got = _received(connection)
        while (end := got.find(b"\r\n\r\n")) < 0:
            got += _received(connection)
        status, *lines = got[:end].split(b"\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        code = int(status.split(b" ", 2)[1])
        if code in WITHOUT_BODY:
            headers[b"content-length"] = b"0"
        if b"content-length" not in headers:
            raise BrokenError("the answer does not say how long it is")
        whole = end + 4 + int(headers[b"content-length"])
        if len(got) < whole:
            parts = [got]
            missing = whole - len(got)
            while missing > 0:
                parts.append(_received(connection))
                missing -= len(parts[-1])
            got = b"".join(parts)
        if headers.get(b"connection", b"").lower() == b"close":
            self.close()
        return code, got[end + 4 : whole]


def _received(connection: socket.socket) -> bytes:
    some = connection.recv(RECEIVE_BYTES)
    if not some:
        raise BrokenError("the connection was closed")
    return some
