"""JetStream, the transport: its streams, and publishing that knows what it does not know.

A publish that fails or times out is *unknown*: it may still be stored later. The remedy is always to publish the
same message id again. Source: docs/decisions/0003-postgres-record-jetstream-transport.md.
"""

import asyncio
import logging
from collections.abc import Mapping, MutableMapping, Sequence
from contextlib import closing
from datetime import datetime
from http.client import HTTPConnection
from typing import Any, Final
from urllib.parse import unquote, urlsplit
from uuid import UUID, uuid4

import msgspec
from msgspec import structs
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import MaxPayloadError
from nats.js import JetStreamContext
from nats.js.api import PersistMode
from nats.js.errors import NotFoundError

from events.complaints import Complaints
from events.streams import MIN_PAYLOAD_BYTES, STREAMS, BatchedConfig

log = logging.getLogger("tachograph.bus")

PUBLISH_WINDOW: Final = 512
PUBLISH_SECONDS: Final = 5.0
BATCH_MESSAGES: Final = 12
"""So many messages or more are stored as one batch: one flush for all; for fewer, staging costs more than that."""
BATCHED: Final = frozenset(stream.name for stream in STREAMS if isinstance(stream, BatchedConfig))


def nudge_subject(ledger_id: object) -> str:
    """Return the core NATS subject that says "this ledger has grown"."""
    return f"tachograph.nudge.{ledger_id}"


BY_TELEMETRY: Final = b"telemetry"
"""What a nudge holds where the ledger has grown by telemetry alone."""


async def connect(url: str, *, name: str, wait: bool = True, echo: bool = True) -> Client:
    """Return a client that is connected to NATS and stays so; see `join`."""
    client = Client()
    await join(client, url, name=name, wait=wait, echo=echo)
    return client


async def join(client: Client, url: str, *, name: str, wait: bool = True, echo: bool = True) -> None:
    """Connect a client to NATS, which stays connected then; user and password may stand in the URL.

    With `wait`, the first connection is tried until it is made; without, it raises after the first failure. Without
    `echo`, it does not hear what it says itself.
    """
    parts = urlsplit(url)
    complaints = Complaints(log)
    await client.connect(
        f"{parts.scheme}://{parts.hostname}:{parts.port or 4222}",
        user=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        name=f"tachograph-{name}",
        error_cb=complaints.error,
        reconnected_cb=complaints.reconnected,
        ping_interval=5,
        max_outstanding_pings=2,
        reconnect_time_wait=1,
        max_reconnect_attempts=-1 if wait else 1,
        connect_timeout=2,
        no_echo=not echo,
    )


GATHER_SECONDS: Final = 0.02


class Nudges:
    """Says on core NATS which ledgers have grown: at once, then what grew meanwhile, `GATHER_SECONDS` apart.

    What grew by telemetry alone is said to have, so that who needs none of it sleeps on. Nobody relies on a nudge: who
    does not hear it polls.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._grown: dict[UUID, bool] = {}
        self._task: asyncio.Task[None] | None = None

    def __call__(self, ledger_id: UUID, *, telemetry: bool) -> None:
        """Let everybody know, without waiting."""
        self._grown[ledger_id] = self._grown.get(ledger_id, True) and telemetry
        if self._task is None and self._client.is_connected:
            self._task = asyncio.create_task(self._say(), name="nudge")

    async def _say(self) -> None:
        try:
            while self._grown and self._client.is_connected:
                grown, self._grown = self._grown, {}
                for ledger_id, telemetry in grown.items():
                    await self._client.publish(nudge_subject(ledger_id), BY_TELEMETRY if telemetry else b"")
                await asyncio.sleep(GATHER_SECONDS)
        except (NatsError, OSError) as error:
            log.warning("nudge: %s", error)
        finally:
            self._task = None


class TransportRefused(Exception):
    """The NATS server is not one that we can rely on; the message says what must change."""


async def ensure_streams(jetstream: JetStreamContext) -> None:
    """Create the streams that are missing; bring the others to the declared limits.

    Raises `TransportRefused` for a stream of another kind: only its owner can say what is to become of its messages.
    """
    for declared in STREAMS:
        assert declared.name is not None
        try:
            found = (await jetstream.stream_info(declared.name)).config
        except NotFoundError:
            await jetstream.add_stream(declared)
            continue
        for field in ("storage", "retention"):
            wanted, has = getattr(declared, field), getattr(found, field)
            if has != wanted:
                raise TransportRefused(
                    f"the JetStream stream {declared.name} has {field} {has}, not {wanted.value}; "
                    "remove it, and what it held is published again"
                )
        if found.persist_mode is PersistMode.ASYNC:
            raise TransportRefused(
                f"the JetStream stream {declared.name} is persisted asynchronously, which overrides sync_interval; "
                "remove it, and what it held is published again"
            )
        await jetstream.update_stream(declared)


async def check_server(client: Client, monitor_url: str | None) -> bool:
    """Refuse a server that takes too small messages or acknowledges what it has not synced.

    The latter is known to the server's monitoring address alone: without one, returns False, for unchecked. Raises
    `TransportRefused`, and `OSError` when the monitoring address does not answer.
    """
    if client.max_payload < MIN_PAYLOAD_BYTES:
        raise TransportRefused(
            f"the NATS server takes messages of {client.max_payload} bytes; set max_payload to {MIN_PAYLOAD_BYTES}"
        )
    if monitor_url is None:
        return False
    configuration = (await asyncio.to_thread(_varz, monitor_url)).get("jetstream", {}).get("config", {})
    if not configuration.get("sync_always"):
        raise TransportRefused(
            f"the NATS server syncs every {configuration.get('sync_interval', 0) / 1e9:g} s and acknowledges before; "
            "set jetstream.sync_interval to always"
        )
    return True


def _varz(monitor_url: str) -> Any:
    address = urlsplit(monitor_url)
    with closing(HTTPConnection(address.hostname or "", address.port, timeout=2)) as connection:
        connection.request("GET", "/varz")
        return msgspec.json.decode(connection.getresponse().read())


Message = tuple[str, bytes, Mapping[str, str]]


class Tail(msgspec.Struct, frozen=True):
    """The end of a stream: when it was created, its last sequence, and that message's id where it is known."""

    created_at: datetime
    last_seq: int
    last_id: str | None


async def tail(jetstream: JetStreamContext, stream: str) -> Tail:
    """Return where a stream ends. Raises `NotFoundError` where there is none."""
    info = await jetstream.stream_info(stream)
    assert info.created is not None
    return Tail(info.created, info.state.last_seq, await message_id(jetstream, stream, info.state.last_seq))


async def message_id(jetstream: JetStreamContext, stream: str, seq: int) -> str | None:
    """Return the id of one message, or None where there is no message, or it has none."""
    if seq == 0:
        return None  # nothing was ever stored
    try:
        message = await jetstream.get_msg(stream, seq)
    except NotFoundError:
        return None
    return (message.headers or {}).get("Nats-Msg-Id")


async def last_position(jetstream: JetStreamContext, stream: str, ledger_id: UUID) -> int:
    """Return the position of a ledger's last event in a stream, 0 where it holds none."""
    try:
        message = await jetstream.get_last_msg(stream, f"tachograph.{stream.lower()}.{ledger_id}.>")
    except NotFoundError:
        return 0
    position = (message.headers or {}).get("ce-position") or msgspec.json.decode(message.data or b"{}").get("position")
    return int(position or 0)


async def publish(
    jetstream: JetStreamContext, messages: Sequence[Message], tails: MutableMapping[str, Tail] | None = None
) -> int:
    """Publish in order, a window of messages at a time; returns how many of the first are surely stored.

    Each message expects its predecessor to be the last one of its stream, so a gap is refused by the server
    instead of being filled too late; the first one expects what `tails` says, which is moved on. Less than all
    means that the outcome of the next one is unknown: publish from there again, with the same ids.

    A window for one of our own streams is tried as one batch, whole or not at all, behind where `tails` says that the
    stream ends. What is refused (part of it was stored before, say) goes message by message.
    """
    stored = 0
    last = {stream: one.last_id for stream, one in tails.items() if one.last_id} if tails is not None else {}
    for start in range(0, len(messages), PUBLISH_WINDOW):
        window = messages[start : start + PUBLISH_WINDOW]
        tasks = []
        try:
            end = await _at_once(jetstream, window, tails or {})
        except (NatsError, TimeoutError, OSError) as error:
            log.warning("publish: %s; will be repeated", str(error) or repr(error))
            return stored
        if end is not None:
            last[end.stream] = window[-1][2]["Nats-Msg-Id"]
            if tails is not None and end.stream in tails:
                tails[end.stream] = structs.replace(tails[end.stream], last_seq=end.seq, last_id=last[end.stream])
            stored += len(window)
            continue
        for subject, body, given in window:
            stream = _stream(subject)
            headers = dict(given)
            if stream in last:
                headers["Nats-Expected-Last-Msg-Id"] = last[stream]
            last[stream] = headers["Nats-Msg-Id"]
            sending = jetstream.publish(subject, body, headers=headers, timeout=PUBLISH_SECONDS)
            tasks.append(asyncio.create_task(sending))
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, NatsError | TimeoutError | OSError):
                log.warning("publish: %s; will be repeated", str(result) or repr(result))
                return stored
            if isinstance(result, BaseException):
                raise result
            if tails is not None and result.stream in tails and result.seq > tails[result.stream].last_seq:
                sent = messages[stored][2]["Nats-Msg-Id"]
                tails[result.stream] = structs.replace(tails[result.stream], last_seq=result.seq, last_id=sent)
            stored += 1
    return stored


class _Said(msgspec.Struct):
    """What JetStream answers to the end of a batch."""

    stream: str = ""
    seq: int = 0
    count: int = 0
    error: Any = None


def _stream(subject: str) -> str:
    return subject.split(".", 2)[1].upper()


async def _at_once(jetstream: JetStreamContext, window: Sequence[Message], tails: Mapping[str, Tail]) -> _Said | None:
    """Store a window whole, with one flush; None where it is not for that, or was refused and nothing is stored.

    Raises what NATS raises when nobody knows whether it was stored. Source: NATS ADR-50, atomic batch publishing.
    """
    streams = {_stream(subject) if subject.startswith("tachograph.") else None for subject, _, _ in window}
    if len(window) < BATCH_MESSAGES or len(streams) > 1 or not streams <= BATCHED:
        return None
    client = jetstream._nc  # noqa: SLF001 (a context has no other way to its client)
    batch = uuid4().hex
    numbered = [
        (subject, body, {**given, "Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(number)})
        for number, (subject, body, given) in enumerate(window, 1)
    ]
    before = tails.get(_stream(window[0][0]))
    if before is not None:
        numbered[0][2]["Nats-Expected-Last-Sequence"] = str(before.last_seq)
    for subject, body, headers in numbered[:-1]:
        await _send(client, subject, body, headers)
    subject, body, headers = numbered[-1]
    headers["Nats-Batch-Commit"] = "1"
    answer = await client.request(subject, body, timeout=PUBLISH_SECONDS, headers=headers)
    said = msgspec.json.decode(answer.data, type=_Said)
    if said.error is not None or said.count != len(window):
        log.info("a batch of %d messages was refused: %s", len(window), said.error)
        return None
    return said


async def _send(client: Client, subject: str, body: bytes, headers: Mapping[str, str]) -> None:
    """Hand a message to the client as it will stand on the wire; the client itself takes five times as long for that.

    What is not as plain as ours are, is left to the client. Source: the NATS client protocol, HPUB.
    """
    head = "NATS/1.0\r\n" + "".join([f"{name}: {value}\r\n" for name, value in headers.items()]) + "\r\n"
    lines = len(headers) + 2
    if (head.count("\n"), head.count("\r")) != (lines, lines) or not (head.isascii() and client.is_connected):
        await client.publish(subject, body, headers=dict(headers))
        return
    size = len(head)
    if len(body) > client.max_payload:
        raise MaxPayloadError
    line = f"HPUB {subject} {size} {size + len(body)}\r\n"
    await client._send_command(b"%b%b%b\r\n" % (line.encode(), head.encode(), body))  # noqa: SLF001


__all__ = [
    "BY_TELEMETRY",
    "STREAMS",
    "Message",
    "Nudges",
    "Tail",
    "TransportRefused",
    "check_server",
    "connect",
    "ensure_streams",
    "last_position",
    "message_id",
    "nudge_subject",
    "publish",
    "tail",
]
