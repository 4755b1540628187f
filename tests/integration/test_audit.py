"""An audit finds what was altered outside the chain as well: files, projections, JetStream's copy, the whole ledger."""

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from events import cloudevents
from events.heads import Signer
from events.ids import uuid7
from projections import transport
from projections.apply import advance
from projections.credits import Credits
from projections.verification import Report
from stack.process import ROOT
from tests.api import SECONDS
from tests.integration.audited import NOW, SEED, Audited
from tests.integration.telemetry import MASTER_KEY
from tests.servers import NatsServer
from workers.heads import Heads
from workers.projector import Projector


async def test_everything_is_compared(audited: Audited) -> None:
    head = await audited.head()
    report = await audited.report(head)
    assert report.first_bad is None
    assert report.verified
    assert report.files == 2
    assert report.rows > 8
    assert report.messages == report.checked == report.position == report.head
    assert (await audited.report(sample=2)).messages == 2 + 2


async def test_after_a_purge_the_rest_is_verified(audited: Audited) -> None:
    world = audited.world
    await world.end(audited.archived)
    await audited.publish()
    await world.delete(audited.archived)
    assert (await audited.report()).verified  # deleted, nothing purged yet
    await audited.publish()
    projector = Projector(world.ledger)
    while await projector.step():
        pass
    archiver = world.archiver()
    archiver._purge._jetstream = audited.jetstream
    await archiver.start()
    while await archiver.step():
        pass
    await audited.publish()
    report = await audited.report()
    assert report.first_bad is None
    assert report.erased > 0
    assert report.files == 1  # of the run that is still there
    purged = await world.ledger.read_stream(world.ledger_id, audited.archived, up_to=1)
    subject = f"tachograph.events.{world.ledger_id}.{audited.archived}.run.created"
    bare = cloudevents.message(purged[0])
    await audited.jetstream.publish(subject, bare[1], headers=bare[2] | {"Nats-Msg-Id": str(purged[0].event_id)})
    assert (await audited.report()).first_bad is None
    altered = json.dumps(json.loads(bare[1]) | {"actor": "key:other"}).encode()
    await audited.jetstream.publish(subject, altered, headers={**bare[2], "Nats-Msg-Id": str(uuid7())})
    position, reason = await audited.bad()
    assert (position, "Nats-Msg-Id, body" in reason) == (purged[0].position, True)
    altered_at = (await audited.jetstream.stream_info("EVENTS")).state.last_seq
    await audited.jetstream.delete_msg("EVENTS", altered_at)
    await audited.jetstream.publish(subject, b"no JSON", headers={"ce-position": str(purged[0].position)})
    assert await audited.bad() == (purged[0].position, "JetStream still holds what a purge was to erase")


@pytest.mark.parametrize("how", ["bit", "cut", "gone"])
async def test_an_altered_file_is_named(audited: Audited, how: str) -> None:
    path = next(path for path in audited.world.files() if path.name.startswith("metrics"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(data if how == "bit" else data[:-1])
    position, reason = await audited.bad()
    row = await audited.world.pool.fetchrow("select position from segment where kind = 'metrics'")
    assert position == row["position"]
    assert path.name in reason
    assert {"bit": "another SHA-256", "cut": "bytes, not", "gone": "is missing"}[how] in reason


async def test_an_altered_file_of_levels_is_named(audited: Audited) -> None:
    world = audited.world
    run_id = await world.started_run()
    await world.metrics(run_id, {"loss": (range(20_000), [1.0] * 20_000)})
    await world.archive()
    await audited.publish()
    path = next(path for path in world.files() if path.name.startswith("levels"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    position, reason = await audited.bad()
    assert position == await world.pool.fetchval("select position from segment where levels_path is not null")
    assert path.name in reason


ROWS = {
    "status": (
        "update projection.run set status = 'failed' where status = 'running'",
        "status differ from a fresh fold (status is 'failed', not 'running')",
    ),
    "state": ("update projection.run set state = set_byte(state, 5, get_byte(state, 5) # 1)", "state differ"),
    "transition": ("update projection.run_transition set cause = 'exception' where version = 2", "cause differ"),
    "transition gone": ("delete from projection.run_transition where version = 1", "missing"),
    "run made up": (
        """
        insert into projection.run
        select (jsonb_populate_record(r, jsonb_build_object('run_id', gen_random_uuid(), 'name', 'x'))).*
        from projection.run r limit 1
        """,
        "no event leads to",
    ),
    "run gone": ("delete from projection.run", "missing"),
    "manifest": ("update projection.segment set sha256 = 'x'", "sha256 differ"),
    "project": ("update projection.project set name = 'q'", "name differ"),
    "credits": ("update projection.run_credit set consumed_micro = consumed_micro - 1", "consumed_micro differ"),
    "credits gone": ("delete from projection.run_credit", "missing"),
    "day made up": (
        "insert into projection.credit_day select ledger_id, run_id, '2026-01-31', 5 from projection.run_credit",
        "no event leads to",
    ),
    "attempt": ("update ledger.stream set epoch = epoch + 1 where epoch > 0", "says epoch 2, its events 1"),
}


@pytest.mark.parametrize("name", ROWS)
async def test_an_altered_projection_is_named(audited: Audited, name: str) -> None:
    statement, reason = ROWS[name]
    await audited.tamper(statement)
    assert reason in (await audited.bad())[1]


async def test_credits_are_folded_as_far_as_they_have_come(audited: Audited) -> None:
    world = audited.world
    await world.started_run()
    await world.end(audited.archived)
    assert (await audited.report()).first_bad is None
    await world.delete(audited.archived)
    await world.ledger.erase(world.ledger_id, audited.archived)
    assert (await audited.report()).first_bad is None, (
        "they have not seen the deletion, which tells what the run had cost"
    )
    while await advance(world.ledger, Credits(), world.ledger_id):
        pass
    assert (await audited.report()).first_bad is None
    await audited.tamper("update projection.run_credit set saved_micro = 1 where status = 'deleted'")
    assert "saved_micro differ" in (await audited.bad())[1]


async def test_a_fold_writes_no_live_row(audited: Audited) -> None:
    await audited.tamper("delete from projection.run_transition; delete from projection.segment")
    await audited.bad()
    assert await audited.world.pool.fetchval("select count(*) from run_transition") == 0
    assert await audited.world.pool.fetchval("select count(*) from segment") == 0


STREAM_ROWS = {
    "version": ("update ledger.stream set version = version + 1 where epoch > 0", "says version"),
    "gone": ("delete from ledger.stream where epoch > 0", "no row in ledger.stream"),
    "made up": ("insert into ledger.stream select ledger_id, gen_random_uuid(), 1 from ledger.ledger", "no event"),
    "erased": ("update ledger.stream set gate = 2 where epoch > 0", "says gate 2"),
}


@pytest.mark.parametrize("name", STREAM_ROWS)
async def test_an_altered_stream_row_is_named(audited: Audited, name: str) -> None:
    statement, reason = STREAM_ROWS[name]
    await audited.tamper(statement)
    assert reason in (await audited.bad())[1]


async def test_jetstreams_copy_is_compared(audited: Audited) -> None:
    jetstream = audited.jetstream
    stream = await jetstream.stream_info("EVENTS")
    last = await jetstream.get_msg("EVENTS", stream.state.last_seq)
    document = json.loads(last.data)
    await jetstream.delete_msg("EVENTS", stream.state.last_seq)
    position, reason = await audited.bad()
    assert (position, "lacks its message" in reason) == (document["position"], True)
    altered = json.dumps(document | {"actor": "key:other"}).encode()
    headers = {name: value for name, value in last.headers.items() if not name.startswith("Nats-Expected")}
    headers["Nats-Msg-Id"] = str(uuid7())
    await jetstream.publish(last.subject, altered, headers=headers)
    position, reason = await audited.bad()
    assert position == document["position"]
    assert "Nats-Msg-Id" in reason
    assert "body" in reason


async def test_messages_that_are_too_young_to_be_gone_are_missed(audited: Audited) -> None:
    jetstream = audited.jetstream
    await jetstream.delete_msg("EVENTS", 1)
    assert await audited.bad() == (1, "JetStream lacks its message (project.created)")
    assert (await audited.report(sample=3)).verified
    for remove in (jetstream.purge_stream, jetstream.delete_stream):
        await remove("EVENTS")
        assert await audited.bad() == (1, "JetStream lacks its message (project.created)")


async def test_messages_that_may_be_gone_are_not_missed(audited: Audited, monkeypatch: pytest.MonkeyPatch) -> None:
    await audited.jetstream.purge_stream("EVENTS")
    for age_seconds, most_bytes in ((transport.SPARE_SECONDS, 1 << 33), (30 * 86_400.0, -2)):
        monkeypatch.setitem(transport._LIMITS, "EVENTS", (age_seconds, most_bytes))
        assert (await audited.report()).first_bad is None


async def test_messages_are_compared_whatever_the_cursor_says(audited: Audited) -> None:
    await audited.tamper("delete from ledger.cursor where reader = 'relay'")
    assert (await audited.report()).messages
    subject = f"tachograph.events.{audited.world.ledger_id}.{audited.running}.run.completed"
    await audited.jetstream.publish(subject, json.dumps({"position": 10_000}).encode())
    assert "no event of the ledger" in (await audited.bad())[1]


async def test_the_attributes_of_an_archived_batch_are_compared(audited: Audited) -> None:
    subject = f"tachograph.telemetry.{audited.world.ledger_id}.{audited.archived}.>"
    last = await audited.jetstream.get_last_msg("TELEMETRY", subject)
    await audited.tamper(f"delete from ledger.telemetry where stream = '{audited.archived}'")  # as its partition goes
    assert (await audited.report()).first_bad is None
    headers = {name: value for name, value in last.headers.items() if not name.startswith("Nats-Expected")}
    await audited.jetstream.delete_msg("TELEMETRY", last.seq)
    await audited.jetstream.publish(
        last.subject, last.data, headers=headers | {"ce-actor": "key:other", "Nats-Msg-Id": str(uuid7())}
    )
    assert "differs from the ledger in Nats-Msg-Id, ce-actor" in (await audited.bad())[1]


async def test_an_attribute_that_no_event_has_is_named(audited: Audited) -> None:
    last = await audited.jetstream.get_last_msg("TELEMETRY", f"tachograph.telemetry.{audited.world.ledger_id}.>")
    headers = {name: value for name, value in last.headers.items() if not name.startswith("Nats-Expected")}
    await audited.jetstream.delete_msg("TELEMETRY", last.seq)
    await audited.jetstream.publish(last.subject, last.data, headers=headers | {"ce-restored": "1", "Nats-Msg-Id": "x"})
    assert "differs from the ledger in Nats-Msg-Id, ce-restored" in (await audited.bad())[1]


async def test_a_message_that_no_event_is_is_named(audited: Audited) -> None:
    made_up = {"position": 10_000}
    subject = f"tachograph.events.{audited.world.ledger_id}.{audited.running}.run.completed"
    await audited.jetstream.publish(subject, json.dumps(made_up).encode())
    assert await audited.bad() == (10_000, f"JetStream has a message that no event of the ledger is: {subject}")


async def test_a_message_of_no_position_is_named(audited: Audited) -> None:
    subject = f"tachograph.events.{audited.world.ledger_id}.{audited.running}.run.completed"
    await audited.jetstream.publish(subject, json.dumps({"position": 1 << 63}).encode())
    assert f"JetStream's {subject} says no position" in (await audited.bad())[1]


def command_line(audited: Audited, home: Path, nats: NatsServer, *options: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "TACHOGRAPH_HOME": str(home),
        "TACHOGRAPH_DATABASE_URL": audited.database.url,
        "TACHOGRAPH_NATS_URL": nats.url(),
        "TACHOGRAPH_MASTER_KEY": str(home / "master.key"),
        "TACHOGRAPH_PARQUET": str(audited.world.root),
    }
    return subprocess.run(
        [sys.executable, "-m", "service", "verify", *options],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip


async def test_the_command_line_says_what_it_found(audited: Audited, tmp_path: Path, nats: NatsServer) -> None:
    (tmp_path / "master.key").write_bytes(MASTER_KEY)
    role = Heads(audited.world.ledger, tmp_path / "master.key", tmp_path / "heads", seconds=60)
    await role.start()
    await role.step()
    path = role.file(audited.world.ledger_id)
    given = ("--project", "p", "--head", str(path))
    done = command_line(audited, tmp_path, nats, *given, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    report = msgspec.json.decode(done.stdout, type=Report)
    assert report.verified
    assert report.messages == report.checked == report.head

    other = Signer(SEED).sign(uuid7(), 1, bytes(32), NOW)
    (tmp_path / "other.json").write_bytes(msgspec.json.encode(other))
    done = command_line(audited, tmp_path, nats, "--project", "p", "--head", str(tmp_path / "other.json"))
    assert done.returncode == 2
    assert f"this head is of ledger {other.ledger}" in done.stderr
    assert command_line(audited, tmp_path, nats, "--project", "nobody").returncode == 2

    await audited.tamper("update ledger.event set actor = 'key:other' where position = 3")
    done = command_line(audited, tmp_path, nats, *given, "--whole")
    assert done.returncode == 1
    assert "NOT VERIFIED: position 3: its columns do not lead to its chain value" in done.stdout
    assert "docs/audit.md says what to do" in done.stdout


async def test_projections_that_lag_do_not_matter(audited: Audited) -> None:
    await Projector(audited.world.ledger).step()
    assert (await audited.report()).verified
