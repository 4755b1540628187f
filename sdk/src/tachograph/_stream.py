"""Server-Sent Events: parse them, and reconnect where the stream was cut."""

import time
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

import msgspec

from tachograph._errors import Error
from tachograph._http import Transport, backoff, transient

SILENCE_SECONDS: Final = 60.0
GOODBYE: Final = "goodbye"
"""The service is stopping, and another one or the next will go on."""


class ServerEvent(NamedTuple):
    """One event of a stream; `position` is its place in the ledger, `data` the CloudEvent."""

    position: int | None
    type: str
    data: Any


def parse(lines: Iterable[str]) -> Iterator[ServerEvent]:
    """Yield the events in `lines`; comments and unfinished events are left out."""
    name, position, data = "message", None, list[str]()
    for line in lines:
        if not line:
            if data:
                yield ServerEvent(position, name, _decoded("\n".join(data)))
            name, data = "message", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "data":
            data.append(value)
        elif field == "id" and value.isdecimal():
            position = int(value)


def follow(transport: Transport, path: str, after: int | None) -> Iterator[ServerEvent]:
    """Yield events without end, going on behind the last one after a cut; raises when refused."""
    attempt = 0
    while True:
        headers = {"Accept": "text/event-stream"}
        if after is not None:
            headers["Last-Event-ID"] = str(after)
        error: Error | None = None
        try:
            for event in parse(transport.lines(path, headers, SILENCE_SECONDS)):
                if event.type == GOODBYE:
                    break
                attempt = 0
                after = event.position if event.position is not None else after
                yield event
        except Error as raised:
            if not transient(raised):
                raise
            error = raised
        attempt += 1
        time.sleep(backoff(attempt, error, most=5.0))


def _decoded(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text
