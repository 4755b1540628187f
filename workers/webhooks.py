"""One HTTP request to an address that somebody else chose: signed, bounded, and to no machine of our own network.

    Tachograph-Signature: t=<Unix seconds>,v1=<HMAC-SHA256 of "<t>." + body, hex>

The name is resolved once and the connection made to that very address, so that a name cannot lead elsewhere the second
time; redirects are answers like any other. An address that answers a byte now and then is left after `TOTAL_SECONDS`.
Source: OWASP, Server-Side Request Forgery Prevention.
"""

import hmac
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Final
from urllib.parse import urlsplit

import msgspec

TIMEOUT_SECONDS: Final = 10.0
TOTAL_SECONDS: Final = 20.0
MAX_ANSWER_BYTES: Final = 1_024

_UNICAST: Final = ipaddress.IPv6Network("2000::/3")
"""All that the Internet uses of IPv6; the rest is local, or means something else."""

_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")


class Answer(msgspec.Struct, frozen=True):
    """What a webhook answered: its status, or why there is none."""

    status: int | None
    error: str | None

    @property
    def delivered(self) -> bool:
        """Whether it took the event."""
        return self.status is not None and 200 <= self.status < 300


def signature(secret: bytes, body: bytes, at: int) -> str:
    """Return the value of the signature's header for a moment in Unix seconds."""
    return f"t={at},v1={hmac.digest(secret, f'{at}.'.encode() + body, 'sha256').hex()}"


def post(url: str, body: bytes, secret: bytes, headers: Mapping[str, str], *, allow_private: bool) -> Answer:
    """Send a body, and return what came of it; raises nothing that the address could cause. Blocks."""
    parts = urlsplit(url)
    at = int(time.time())
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    sent = {
        "Content-Type": "application/cloudevents+json",
        "User-Agent": "tachograph",
        "Tachograph-Signature": signature(secret, body, at),
        **headers,
    }
    try:
        address = resolve(parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80), allow_private)
        with (
            closing(socket.create_connection(address, timeout=TIMEOUT_SECONDS)) as plain,
            _cut_off(plain, TOTAL_SECONDS),
            closing(_connection(parts.scheme, parts.hostname or "", parts.port, plain)) as connection,
        ):
            connection.request("POST", path, body, sent)
            answer = connection.getresponse()
            answer.read(MAX_ANSWER_BYTES)
    except (OSError, HTTPException, ValueError) as error:
        return Answer(None, printable(f"{type(error).__name__}: {error}"))
    return Answer(answer.status, None if 200 <= answer.status < 300 else f"answered {answer.status}")


def printable(text: str) -> str:
    """Return what can be stored and shown of a text that somebody else may have chosen."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text[:300])


class PrivateAddress(OSError):
    """The name leads into a network that is not the public one."""


def resolve(host: str, port: int, allow_private: bool) -> tuple[str, int]:  # noqa: FBT001 (said by name at its caller)
    """Return the address to connect to. Raises `PrivateAddress` when any address of the name is not public."""
    found = [str(one[4][0]) for one in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    for one in found:
        if not allow_private and not _public(one):
            raise PrivateAddress(f"{host} leads to {one}, which is not a public address")
    return found[0], port


def _public(text: str) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        inner = _inner(address)
        if inner is not None:
            return inner.is_global and not inner.is_multicast
        return address.is_global and address in _UNICAST
    return address.is_global and not address.is_multicast


def _inner(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address that an IPv6 one stands for: mapped, 6to4, or through NAT64."""
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


@contextmanager
def _cut_off(plain: socket.socket, seconds: float) -> Iterator[None]:
    """End a connection that takes longer in all, however often a byte of it comes."""
    other, late = plain.dup(), threading.Event()

    def end() -> None:
        late.set()
        with suppress(OSError):  # it ended by itself
            other.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
        if late.is_set():  # what was read of the answer may look whole
            raise TimeoutError(f"took over {seconds} seconds in all")
    finally:
        timer.cancel()
        timer.join()
        other.close()


def _connection(scheme: str, host: str, port: int | None, plain: socket.socket) -> HTTPConnection:
    """Return a connection to an address that was connected to already, under the name that it goes by."""
    connection: HTTPConnection
    if scheme == "https":
        connection = HTTPSConnection(host, port, timeout=TIMEOUT_SECONDS)
        connection.sock = ssl.create_default_context().wrap_socket(plain, server_hostname=host)
    else:
        connection = HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)
        connection.sock = plain
    return connection
