"""Ports of loopback for servers of our own, which find them free again after a restart."""

import random
import socket
from itertools import cycle, islice
from typing import Final

from stack.errors import StackError

HOST: Final = "127.0.0.1"
PORTS: Final = range(20_000, 32_000)
"""Below those that outgoing connections take: one of these could hold, or even reach itself at, a server's port."""

_candidates: Final = cycle(random.SystemRandom().sample(PORTS, len(PORTS)))


def free_port() -> int:
    """Return a port that nobody listens on now, and that this process has not returned lately. Raises `StackError`."""
    for port in islice(_candidates, len(PORTS)):
        if is_free(port):
            return port
    raise StackError(f"no port from {PORTS.start} to {PORTS.stop - 1} is free")


def is_free(port: int) -> bool:
    """Say whether nobody listens on it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True
