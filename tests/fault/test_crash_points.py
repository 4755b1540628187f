"""A role dies at each of its named steps. The next one finds what was done, or does it again: nothing is lost, doubled
or skipped."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path

import asyncpg
import pytest

from events import bus
from events.alerts import AlertRuleSet, EventHappens, WebhookSet
from events.commands import KillRun
from events.ids import uuid7
from events.organisation import WorkflowCreated
from events.search_space import IntUniform
from events.sweep import Method, SweepCreated, decide
from events.trials import trial_id
from projections import dead_letters, subscriptions, sweeps, workflows
from projections.execute import asked_by, execute, record
from projections.storage import artifacts
from stack.ports import free_port
from stack.process import ROOT
from tests import servers
from tests.api import SECONDS, eventually
from tests.fault import messages
from tests.fault.deaths import Stage
from tests.integration.alerting import drain
from tests.integration.telemetry import opened_world
from tests.servers import Database, NatsServer
from workers.alerter import Alerter
from workers.archive_policy import Policy
from workers.crashpoints import POINTS
from workers.projector import Projector
from workers.sweeper import Sweeper

Prepare = Callable[[Stage], Awaitable[None]]
Die = Callable[[Stage, str], Awaitable[None]]


@pytest.fixture
async def stage(database: Database, nats: NatsServer, tmp_path: Path) -> AsyncIterator[Stage]:
    client = await bus.connect(nats.url("roles"), name="test")
    owner = await asyncpg.connect(database.owner_url)
    async with opened_world(database.url, tmp_path / "parquet") as world:
        yield Stage(world, database, owner, nats, tmp_path, client)
    await owner.close()
    await client.close()


# --- what was there before ------------------------------------------------------------------------------------


async def a_history(stage: Stage) -> None:
    await stage.run(ended=True)
    await stage.run()


async def a_lost_stream(stage: Stage) -> None:
    await a_history(stage)
    await stage.caught_up(stage.relay())
    await servers.wipe_jetstream(stage.nats)


async def an_older_store(stage: Stage) -> None:
    run_id = await stage.run(ended=True)
    roles = (stage.relay(), Projector(stage.world.ledger), stage.archiver())
    await stage.caught_up(*roles)
    jetstream = stage.client.jetstream()
    kept = [await messages.stored(jetstream, stream, stage.world.ledger_id) for stream in ("EVENTS", "TELEMETRY")]
    await stage.delete(run_id)
    await stage.caught_up(*roles)
    await servers.wipe_jetstream(stage.nats)
    await bus.ensure_streams(jetstream)
    for message in [message for stream in kept for message in stream]:
        assert message.subject is not None
        await jetstream.publish(message.subject, message.data or b"", headers=dict(message.headers or {}))


async def a_spoiled_event(stage: Stage) -> None:
    await a_history(stage)
    await stage.spoil("telemetry", await stage.telemetry())


async def a_mended_event(stage: Stage) -> None:
    await a_spoiled_event(stage)
    await stage.caught_up(stage.relay(), Projector(stage.world.ledger))
    await stage.mend()


async def a_discarded_event(stage: Stage) -> None:
    await a_spoiled_event(stage)
    await stage.caught_up(Projector(stage.world.ledger))
    ledger_id, position = stage.world.ledger_id, await stage.telemetry()
    letter = (stage.world.pool, "projector.metrics", ledger_id, position)
    assert await dead_letters.decide(*letter, "discarded", "key:test")
    stage.discarded = True


async def an_old_partition(stage: Stage) -> None:
    await a_history(stage)
    await stage.owner.execute(
        "create table ledger.telemetry_20200101_00 partition of ledger.telemetry"
        " for values from ('2020-01-01T00:00Z') to ('2020-01-01T01:00Z')"
    )
    await stage.caught_up(stage.relay(), Projector(stage.world.ledger), stage.archiver())
    await stage.world.readers_pass()
    await stage.caught_up(stage.relay())
    await stage.owner.execute("update ledger.telemetry set recorded_at = '2020-01-01T00:30Z'")


async def many_files(stage: Stage) -> None:
    run_id = await stage.run(batches=10)
    await stage.caught_up(stage.archiver(Policy(age_seconds=1e-9, tail_seconds=1e-9, file_batches=1, merge_files=99)))
    count = "select count(*) from projection.segment where run_id = $1 and kind = 'metrics'"
    assert await stage.world.pool.fetchval(count, run_id) == 10
    await stage.world.end(run_id)


async def some_strays(stage: Stage) -> None:
    await a_history(stage)
    stage.stray()
    stage.stray()


async def some_stale_uploads(stage: Stage) -> None:
    await a_history(stage)
    await stage.stale_upload()
    await stage.stale_upload()


async def some_orphan_parts(stage: Stage) -> None:
    await a_history(stage)
    for number in range(2):
        path = artifacts.part_path(stage.world.ledger_id, stage.runs[0], uuid7(), number)
        await stage.world.objects.put(path, b"of a process that stood still for long")


async def a_deletion(stage: Stage) -> None:
    run_id = await stage.run(ended=True)
    await stage.run()
    await stage.caught_up(stage.relay(), stage.archiver(), Projector(stage.world.ledger))
    await stage.delete(run_id)
    await stage.caught_up(stage.relay(), Projector(stage.world.ledger))


# --- how it dies ----------------------------------------------------------------------------------------------


async def at_once(stage: Stage, point: str) -> None:
    role = point.partition(".")[0].replace("purge", "archiver")
    await stage.dies(role, point)


async def sweeping(stage: Stage, point: str) -> None:
    await stage.dies("archiver", point, ORPHAN="0.000001")
    assert len(stage.world.listed()) == 1, "the second stray is left for the next process"


async def sweeping_parts(stage: Stage, point: str) -> None:
    await stage.dies("archiver", point, ORPHAN="0.000001")


async def refused(stage: Stage, point: str) -> None:
    """The run is deleted after the archiver has decided, while its file lies ready: appends wait for the head."""
    run_id = stage.runs[0]
    holder = await asyncpg.connect(stage.database.url)
    try:
        hold = holder.transaction()
        await hold.start()
        await holder.execute("select from ledger.head where ledger_id = $1 for update", stage.world.ledger_id)

        async def waiting(count: int) -> bool:
            return count == await stage.owner.fetchval(
                "select count(*) from pg_locks where not granted and locktype in ('transactionid', 'tuple')"
            )

        deleting = asyncio.create_task(stage.world.delete(run_id))
        await eventually(lambda: waiting(1), "the deletion waits")
        child = await stage.start("archiver", point)
        await eventually(lambda: waiting(2), "the archiver waits behind it")
        await hold.rollback()
        await deleting
        await stage.died(child, point)
    finally:
        await holder.close()
    stage.forget(run_id)


PURGES = [point for point in POINTS if point.startswith("purge.")]
SCENES: Mapping[str, tuple[Prepare, Die]] = {
    **{point: (a_history, at_once) for point in POINTS if not point.startswith(("purge.", "alerter.", "sweeper."))},
    **dict.fromkeys(PURGES, (a_deletion, at_once)),
    "relay.after_rewind": (a_lost_stream, at_once),
    "relay.after_erase": (an_older_store, at_once),
    "relay.after_hold": (a_spoiled_event, at_once),
    "relay.after_resolve": (a_mended_event, at_once),
    "projector.after_hold": (a_spoiled_event, at_once),
    "projector.after_resolve": (a_mended_event, at_once),
    "projector.after_pass_over": (a_discarded_event, at_once),
    "archiver.after_drop": (an_old_partition, at_once),
    "archiver.after_sweep": (some_strays, sweeping),
    **{
        f"archiver.{step}": (many_files, at_once) for step in ("after_merge_write", "after_merge_rename", "after_merge")
    },
    "archiver.after_removal": (many_files, at_once),
    "archiver.after_stale_upload": (some_stale_uploads, at_once),
    "archiver.after_orphan_parts": (some_orphan_parts, sweeping_parts),
    "archiver.after_refusal": (a_history, refused),
}


@pytest.mark.parametrize("point", SCENES)
async def test_nothing_is_lost_doubled_or_skipped_when_a_role_dies(stage: Stage, point: str) -> None:
    prepare, die = SCENES[point]
    await prepare(stage)
    await die(stage, point)
    await stage.mend()
    await stage.run()
    await stage.check()


@pytest.mark.parametrize("point", [point for point in POINTS if point.startswith("alerter.")])
async def test_an_alert_fires_once_and_its_delivery_is_not_forgotten_when_the_alerter_dies(
    stage: Stage, point: str
) -> None:
    world = stage.world
    organisation = await world.pool.fetchval(
        "select organisation_id from ledger.ledger where ledger_id = $1", world.ledger_id
    )
    await world.ledger.open(organisation, organisation, "organisation")
    rule = AlertRuleSet(project=world.ledger_id, name="r", condition=EventHappens(types=("run.completed",)))
    nobody = WebhookSet(project=world.ledger_id, url=f"http://127.0.0.1:{free_port()}/", types=("alert.fired",))
    for event in (rule, nobody):
        identity = uuid7()
        row = subscriptions.row(identity, event, version=1)
        await record(
            world.ledger, ledger_id=organisation, stream=identity, expected_version=0, events=[event], inline=row,
            request=asked_by("key:test"),
        )  # fmt: skip
    ended = [await stage.run(ended=True) for _ in range(2)]
    await stage.dies("alerter", point)
    await drain(Alerter(world.ledger, allow_private=True))
    fired = [one.event().run for one in await world.ledger.read(organisation, types=["alert.fired"])]
    assert sorted(fired) == sorted(ended)
    deliveries = await world.pool.fetch("select position, attempts, state from operation.delivery")
    assert len({row["position"] for row in deliveries}) == len(deliveries) == 2
    assert all(row["attempts"] >= 1 and row["state"] == "pending" for row in deliveries)


@pytest.mark.parametrize("point", [point for point in POINTS if point.startswith("sweeper.")])
async def test_each_trial_is_made_once_and_each_cancelled_one_is_ended_when_the_sweeper_dies(
    stage: Stage, point: str
) -> None:
    world = stage.world
    recipe = WorkflowCreated(name="w", command=("true",))
    recorded, _ = await workflows.create(world.ledger, world.ledger_id, uuid7(), recipe, asked_by("key:test"))
    made = {}
    for name, runs in (("short", 1), ("cancelled", 3), ("long", 5)):
        created = SweepCreated(
            name=name,
            workflow=recorded.workflow_id,
            workflow_version=1,
            method=Method.GRID,
            parameters={"n": IntUniform(min=1, max=runs)},
            max_runs=runs,
            concurrency=3,
        )
        made[name], _ = await sweeps.create(world.ledger, world.ledger_id, uuid7(), created, asked_by("key:test"))
    if not point.endswith("trial"):
        await stage.caught_up(Sweeper(world.ledger))
        only = trial_id(made["short"].sweep_id, 1)
        await execute(world.ledger, world.ledger_id, only, KillRun(), asked_by("key:test"))
    if point.endswith("kill"):
        cancelled = made["cancelled"].sweep_id
        await sweeps.change(world.ledger, cancelled, partial(decide, "cancel"), asked_by("key:test"))
    await stage.dies("sweeper", point)
    await stage.caught_up(Sweeper(world.ledger))
    killed = "killed" if point.endswith("kill") else "queued"
    for name, statuses in (
        ("short", ["queued" if point.endswith("trial") else "killed"]),
        ("cancelled", [killed] * 3),
        ("long", ["queued"] * 3),
    ):
        found = await sweeps.trials(world.pool, made[name], 0, 10)
        assert [one.number for one in found] == list(range(1, len(statuses) + 1))
        assert [one.stored.run.status for one in found] == statuses
        assert [one.stored.run.config["n"] for one in found] == [one.number for one in found]
    short = await sweeps.get(world.pool, made["short"].sweep_id)
    assert short is not None
    assert short.sweep.status == ("running" if point.endswith("trial") else "finished")


def test_every_step_in_the_code_is_named_and_every_name_is_a_step() -> None:
    said = re.compile(r"crash_point\(\s*f?\"([^\"]+)\"\s*\)")
    in_code = [name for path in sorted(ROOT.glob("workers/**/*.py")) for name in said.findall(path.read_text())]
    patterns = [re.compile(re.sub(r"\\\{.*?\\\}", ".+", re.escape(name))) for name in in_code]
    assert [name for name in POINTS if not any(pattern.fullmatch(name) for pattern in patterns)] == []
    unnamed = [name for name, p in zip(in_code, patterns, strict=True) if not any(p.fullmatch(one) for one in POINTS)]
    assert unnamed == []
    calls = sum(path.read_text().count("crash_point(") for path in ROOT.glob("workers/**/*.py"))
    assert calls == len(in_code) + 1, "a step is named in a way that this test does not read"


async def test_a_name_that_is_no_step_is_refused(stage: Stage) -> None:
    child = await stage.start("relay", "relay.after_lunch")
    assert await asyncio.wait_for(child.wait(), SECONDS) == 2
    assert "TACHOGRAPH_CRASH_AT" in (stage.home / "role.log").read_text()
