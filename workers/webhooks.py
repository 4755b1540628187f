"""One HTTP request to an address that somebody else chose: signed, bounded, and to no machine of our own network.

    Tachograph-Signature: t=<Unix seconds>,v1=<HMAC-SHA256 of "<t>." + body, hex>

The name is resolved once and the connection made to that very address, so that a name cannot lead elsewhere the second
time; redirects are answers like any other. Source: OWASP, Server-Side Request Forgery Prevention.
"""

import hmac
import ipaddress
import socket
import ssl
import time
from collections.abc import Mapping
from contextlib import closing
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Final
from urllib.parse import urlsplit

import msgspec

TIMEOUT_SECONDS: Final = 10.0
MAX_ANSWER_BYTES: Final = 1_024


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
        with closing(_connection(parts.scheme, parts.hostname or "", parts.port, address)) as connection:
            connection.request("POST", path, body, sent)
            answer = connection.getresponse()
            answer.read(MAX_ANSWER_BYTES)
    except (OSError, HTTPException, ValueError) as error:
        return Answer(None, f"{type(error).__name__}: {error}"[:300])
    return Answer(answer.status, None if 200 <= answer.status < 300 else f"answered {answer.status}")


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
    mapped = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None)
    return address.is_global and not address.is_multicast and (mapped is None or mapped.is_global)


def _connection(scheme: str, host: str, port: int | None, address: tuple[str, int]) -> HTTPConnection:
    """Return a connection to an address that was resolved already, under the name that it goes by."""
    plain = socket.create_connection(address, timeout=TIMEOUT_SECONDS)
    connection: HTTPConnection
    if scheme == "https":
        connection = HTTPSConnection(host, port, timeout=TIMEOUT_SECONDS)
        try:
            connection.sock = ssl.create_default_context().wrap_socket(plain, server_hostname=host)
        except OSError:
            plain.close()
            raise
    else:
        connection = HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)
        connection.sock = plain
    return connection
