"""A history published again for a new subscriber: what the relay says, in order, and never where it has been said."""

import asyncio
import threading
from pathlib import Path

import asyncpg
import msgspec
import pytest
from nats.aio.client import Client
from nats.js.api import RawStreamMsg, StreamConfig
from nats.js.errors import NotFoundError

from events import bus, codec
from events.errors import Unavailable
from events.telemetry import MetricColumns
from projections.archive.restore import Restorer
from projections.replay import Replay, Wanted
from projections.republish import Republisher, SubjectRefusedError, check_subject
from stack import Nats
from tests.integration.telemetry import World
from tests.integration.test_replay import Shell, awkward_history
from tests.servers import Database, NatsServer
from workers.relay import Relay
from workers.run_messages import erase_messages, find_messages


@pytest.fixture
def shell(world: World, database: Database, tmp_path: Path) -> Shell:
    return Shell(world, database, tmp_path)


async def kept(client: Client, stream: str) -> list[RawStreamMsg]:
    """Return all messages of a stream, in order."""
    jetstream = client.jetstream()
    found: list[RawStreamMsg] = []
    try:
        while True:
            seq = (found[-1].seq or 0) + 1 if found else 1
            found.append(await jetstream.get_msg(stream, seq, subject=">", next=True))
    except NotFoundError:
        return found


def position(message: RawStreamMsg) -> int:
    headers = message.headers or {}
    if "ce-position" in headers:
        return int(headers["ce-position"])
    return int(msgspec.json.decode(message.data or b"")["position"])


def of(message: RawStreamMsg, first: int) -> tuple[str, bytes, dict[str, str]]:
    """Return what a subscriber gets, its subject without the first words."""
    headers = {name: value for name, value in (message.headers or {}).items() if name != "Nats-Expected-Last-Msg-Id"}
    return ".".join((message.subject or "").split(".")[first:]), message.data or b"", headers


async def test_it_says_what_the_relay_says(
    world: World, client: Client, nats: NatsServer, shell: Shell, owner: asyncpg.Connection
) -> None:
    run_id, _ = await awkward_history(world)
    relay = Relay(world.ledger, client.jetstream())
    await relay.start()
    while await relay.step():
        pass
    said = {position(one): of(one, 2) for stream in ("EVENTS", "TELEMETRY") for one in await kept(client, stream)}

    to = ["--to", nats.url("replay"), "--subject", "replay.for.me"]
    counted = await asyncio.to_thread(shell.run, *to, "--dry-run")
    assert counted.stdout == f"would publish {len(said)} events below replay.for.me (0 restored from Parquet)\n"
    missing = await asyncio.to_thread(shell.run, *to)
    assert missing.returncode == 2
    assert "--stream NAME makes one" in missing.stderr
    done = await asyncio.to_thread(shell.run, *to, "--stream", "AGAIN")
    assert (done.returncode, done.stderr) == (0, "")
    again = await kept(client, "AGAIN")
    assert [position(one) for one in again] == sorted(said)
    assert {position(one): of(one, 3) for one in again} == said

    repeated = await asyncio.to_thread(shell.run, *to)  # the same ids: nothing is stored twice
    assert repeated.stdout == done.stdout
    assert len(await kept(client, "AGAIN")) == len(said)

    await world.archive()
    await owner.execute("delete from ledger.telemetry")
    middle = sorted(said)[len(said) // 2]
    other = ["--to", nats.url("replay"), "--subject", "replay.other", "--stream", "OTHER", "--run", str(run_id)]
    resumed = await asyncio.to_thread(shell.run, *other, "--after", str(middle))
    assert resumed.returncode == 0, resumed.stderr
    for message in await kept(client, "OTHER"):
        subject, body, headers = of(message, 2)
        assert position(message) > middle
        assert headers.pop("ce-restored", None) == ("true" if "ce-id" in headers else None)
        if position(message) in said:
            was = said[position(message)]
            assert (subject, headers) == (was[0], was[2])
            assert "ce-id" in headers or body == was[1]


async def test_a_user_who_may_not_publish_there_is_told_so(world: World, client: Client, nats: NatsServer) -> None:
    await client.jetstream().add_stream(StreamConfig(name="MINE", subjects=["mine.>"]))
    stranger = await bus.connect(nats.url("replay"), name="test")
    republisher = Republisher(stranger, "mine")
    await republisher.ready()
    head, _ = await world.ledger.head(world.ledger_id)
    with pytest.raises(Unavailable, match="may not publish on mine"):
        await republisher.publish(
            Replay(world.ledger, Restorer(world.store), Wanted(ledger_id=world.ledger_id, up_to=head))
        )
    await stranger.close()


async def test_restored_batches_are_columns_again(
    world: World, client: Client, nats: NatsServer, owner: asyncpg.Connection
) -> None:
    run_id = await world.started_run()
    await world.metrics(run_id, {"b": ([1, 2], [0.5, float("nan")]), "a": ([1], [-0.0])})
    await world.archive()
    await owner.execute("delete from ledger.telemetry")
    publisher = await bus.connect(nats.url("replay"), name="test")
    republisher = Republisher(publisher, "replay.columns")
    await republisher.ready("COLUMNS")
    head, _ = await world.ledger.head(world.ledger_id)
    replay = Replay(world.ledger, Restorer(world.store), Wanted(ledger_id=world.ledger_id, up_to=head))
    sent = await republisher.publish(replay)
    await publisher.close()
    assert (sent.published, sent.restored, sent.erased) == (head, 1, 0)
    (batch,) = [one for one in await kept(client, "COLUMNS") if "ce-restored" in (one.headers or {})]
    columns = codec.decode(codec.METRICS, codec.PACKED, batch.data or b"")
    assert isinstance(columns, MetricColumns)
    assert (columns.names, columns.counts, columns.steps().tolist()) == (("a", "b"), (1, 2), [1, 1, 2])
    assert str(columns.values().tolist()) == "[-0.0, 0.5, nan]"


async def test_a_deletion_finds_what_was_published_again(world: World, client: Client, nats: NatsServer) -> None:
    run_id, other = await awkward_history(world)
    publisher = await bus.connect(nats.url("replay"), name="test")
    head, _ = await world.ledger.head(world.ledger_id)
    for name, subject in (("AGAIN", "replay.again"), ("DEEP", "replay.deep.for.me")):
        above = ".".join(subject.split(".")[:2])
        await client.jetstream().add_stream(StreamConfig(name=name, subjects=[f"{above}.>"]))
        republisher = Republisher(publisher, subject)
        await republisher.ready()
        wanted = Wanted(ledger_id=world.ledger_id, up_to=head)
        await republisher.publish(Replay(world.ledger, Restorer(world.store), wanted))
    await publisher.close()
    found = await find_messages(client.jetstream(), world.ledger_id, run_id)
    before = {name: await kept(client, name) for name in ("AGAIN", "DEEP")}
    await erase_messages(client.jetstream(), found)
    for name, messages in before.items():
        of_run = [message.seq for message in messages if f".{run_id}." in (message.subject or "")]
        assert len(messages) == head
        assert of_run
        assert sorted(message.sequence for message in found[name]) == of_run
        left = await kept(client, name)
        assert [message.seq for message in left] == [one.seq for one in messages if one.seq not in of_run]
        assert any(f".{other}." in (message.subject or "") for message in left)


@pytest.mark.parametrize(
    "subject",
    ["tachograph", "tachograph.events", "tachograph.events.x", "Tachograph.copy", "_INBOX.x", "", "a..b", "a.>", "a.*",
     "a b", "$JS.API", ".a", "a.", "x" * 201],
)  # fmt: skip
def test_the_running_systems_subjects_are_refused(subject: str) -> None:
    with pytest.raises(SubjectRefusedError):
        check_subject(subject)


async def test_the_running_systems_streams_are_refused(client: Client) -> None:
    await bus.ensure_streams(client.jetstream())
    declared = (await client.jetstream().stream_info("COMMANDS")).config
    await client.jetstream().update_stream(
        StreamConfig(**{**declared.__dict__, "subjects": [*(declared.subjects or []), "sneaky.>"]})
    )
    with pytest.raises(SubjectRefusedError, match="own stream COMMANDS"):
        await Republisher(client, "sneaky").ready()


async def test_a_server_that_goes_away_meanwhile_loses_and_swaps_nothing(world: World, own_nats: Nats) -> None:
    run_id = await world.started_run()
    for _ in range(700):
        await world.lines(run_id, "x")
    client = await bus.connect(own_nats.url("replay"), name="test")
    republisher = Republisher(client, "replay.kept")
    await republisher.ready("KEPT")
    head, _ = await world.ledger.head(world.ledger_id)
    replay = Replay(world.ledger, Restorer(world.store), Wanted(ledger_id=world.ledger_id, up_to=head))
    restarts: list[threading.Thread] = []

    def restart() -> None:
        own_nats.stop()
        own_nats.start()

    def once(_: int) -> None:
        if not restarts:
            restarts.append(threading.Thread(target=restart))
            restarts[0].start()

    sent = await republisher.publish(replay, once)
    restarts[0].join()
    assert sent.published == head
    await client.close()
    client = await bus.connect(own_nats.url("roles"), name="test")
    assert [position(one) for one in await kept(client, "KEPT")] == list(range(1, head + 1))
    await client.close()


async def test_the_command_line_wants_it_whole(world: World, shell: Shell) -> None:
    for options, said in (
        (["--to", "nats://127.0.0.1:1"], "go together"),
        (["--to", "4711", "--subject", "x"], "a range ends with --until"),
        (["--dry-run"], "go with --to"),
        (["--to", "nats://u:secret@127.0.0.1:1", "--subject", "tachograph.events"], "belongs to the running system"),
        (["--to", "nats://u:secret@127.0.0.1:1", "--subject", "mine"], "does not answer at 127.0.0.1:1"),
    ):
        done = await asyncio.to_thread(shell.run, *options)
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr
        assert "secret" not in done.stderr
