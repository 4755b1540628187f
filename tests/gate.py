"""A gate in front of a server: open, shut as if the network were down, frozen, narrow, or with an ill server behind it.

For some of it a test names the moment.
"""

import contextlib
import socket
import threading
import time
from types import TracebackType
from typing import Self

REFUSAL = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Gate:
    """Passes on what comes to `port`, as long as it is open; shut, it cuts every connection.

    What it is asked while it is shut is kept in `turned_away`, the first bytes of each connection. Frozen, it takes
    whatever is said and answers nothing, as a stopped process does; what it took is kept in `held`, and passed on when
    the gate opens, though nobody may wait for the answer any more.
    """

    def __init__(self, to_port: int) -> None:
        self._to = ("127.0.0.1", to_port)
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open = True
        self._flows = threading.Event()
        self._flows.set()
        self._at: bytes | None = None
        self._answered = False
        self._freezes = False
        self._up: set[socket.socket] = set()
        self._lost: set[socket.socket] = set()  # servers whose next answer does not come through
        self._refuses = False
        self._pause_seconds = 0.0
        self._cut: tuple[bytes, int] | None = None  # what a request has in it, and how much of it comes through
        self._left: dict[socket.socket, int] = {}  # by server, how much of such a request may still pass
        self.turned_away: list[bytes] = []
        self.held: list[bytes] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)

    @property
    def is_open(self) -> bool:
        return self._open and self._flows.is_set()

    def open(self) -> None:
        """Let everything through."""
        with self._lock:
            self._open, self._at, self._cut, self._refuses, self._pause_seconds = True, None, None, False, 0.0
            self._flows.set()

    def refuse(self) -> None:
        """Answer every HTTP request with a status of 500 instead of passing it on."""
        with self._lock:
            self._refuses = True

    def narrow(self, seconds: float) -> None:
        """Take so long over every 64 KiB, there and back."""
        with self._lock:
            self._pause_seconds = seconds

    def shut_within(self, request: bytes, size: int) -> None:
        """Shut as soon as so many bytes of a request with these bytes have come through."""
        with self._lock:
            self._cut = (request, size)

    def shut(self) -> None:
        """Cut what is connected, and whatever comes."""
        with self._lock:
            self._shut()

    def shut_at(self, request: bytes, *, answered: bool = False) -> None:
        """Shut as soon as a request with these bytes comes: before it is passed on, or with its answer on the way."""
        with self._lock:
            self._at, self._answered, self._freezes = request, answered, False

    def freeze(self) -> None:
        """Hold whatever is said, in either direction."""
        with self._lock:
            self._flows.clear()

    def freeze_at(self, request: bytes) -> None:
        """Freeze as soon as a request with these bytes comes, before it is passed on."""
        with self._lock:
            self._at, self._answered, self._freezes = request, False, True

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shut()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()

    def _shut(self) -> None:
        self._open, self._at = False, None
        self._flows.set()
        for connection in self._up:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            if not self._open:
                self._turn_away(connection)
                return
            with contextlib.suppress(OSError), socket.create_connection(self._to) as server:
                with self._lock:
                    self._up |= {connection, server}
                back = threading.Thread(target=self._pass_on, args=(server, connection), daemon=True)
                back.start()
                self._pass_on(connection, server, asks=True)
                back.join()
            with self._lock:
                self._up -= {connection, server}
                self._lost.discard(server)

    def _turn_away(self, connection: socket.socket) -> None:
        connection.settimeout(1.0)  # whoever waits to be spoken to first says nothing
        with contextlib.suppress(OSError):
            self.turned_away.append(connection.recv(1 << 16))

    def _pass_on(self, source: socket.socket, target: socket.socket, *, asks: bool = False) -> None:
        """Pass on what one side says; `asks` says that it is the client's."""
        with contextlib.suppress(OSError):
            while (data := source.recv(1 << 16)) and self._open:
                time.sleep(self._pause_seconds)
                if asks and self._refuses:
                    source.sendall(REFUSAL)
                    break
                if asks and (last := self._last_of(data, target)) is not None:
                    target.sendall(last)
                    self.shut()
                    break
                if self._ends_at(data, target) if asks else self._is_lost(source):
                    break
                if not self._goes_on(data, asks=asks):
                    break
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _goes_on(self, data: bytes, *, asks: bool) -> bool:
        """Wait while the gate is frozen; say whether it is open then."""
        if not self._flows.is_set():
            if asks:
                self.held.append(data)
            self._flows.wait()
        return self._open

    def _ends_at(self, data: bytes, server: socket.socket) -> bool:
        with self._lock:
            if self._at is None or self._at not in data:
                return False
            if self._freezes:
                self._flows.clear()
                self._at = None
                return False
            if self._answered:
                self._lost.add(server)
                return False
            self._shut()
            return True

    def _last_of(self, data: bytes, server: socket.socket) -> bytes | None:
        """Return what passes of a request before the gate shuts within it, or None if it does not end here."""
        with self._lock:
            if self._cut is not None and self._cut[0] in data:
                self._left[server] = self._cut[1]
            if server not in self._left:
                return None
            left = self._left[server]
            self._left[server] = left - len(data)
            if left > len(data):
                return None
            del self._left[server]
            return data[:left]

    def _is_lost(self, server: socket.socket) -> bool:
        with self._lock:
            if server not in self._lost:
                return False
            self._shut()
            return True
