"""A gate in front of a server: open, or shut as if the network were down, or frozen, at a moment that a test names."""

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self


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
        self.turned_away: list[bytes] = []
        self.held: list[bytes] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)

    @property
    def is_open(self) -> bool:
        return self._open and self._flows.is_set()

    def open(self) -> None:
        """Let everything through."""
        with self._lock:
            self._open, self._at = True, None
            self._flows.set()

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

    def _is_lost(self, server: socket.socket) -> bool:
        with self._lock:
            if server not in self._lost:
                return False
            self._shut()
            return True
