"""Alert rules, step by step: each fires once an episode, for what it may see, and holds up nothing for long."""

import json
from datetime import UTC, datetime
from math import nan

import asyncpg
import pytest

from events import codec
from events.alerts import (
    EventHappens,
    MetricBeyond,
    MetricIsNan,
    Side,
    StatusBecomes,
    WebhookSet,
)
from events.errors import CorruptHistory
from events.ids import uuid7
from events.run_events import RunCompleted, RunCreated, RunImported
from events.types import Mode, Origin, Status
from projections import dead_letters, firings, tenancy
from projections.inline import Tenancy
from projections.rebuild import rebuild
from projections.storage.artifact_limits import Limits
from projections.storage.uploads import Uploads
from service.imports.importer import Importer
from service.imports.incoming import Batch, Incoming
from tests.integration.alerting import Alerting, Receiver, drain
from tests.integration.telemetry import metric_batch
from tests.servers import Database
from workers.alerter import READER, Alerter


async def test_rules_fire_for_what_comes_after_them(alerting: Alerting) -> None:
    world = alerting.world
    before = await world.started_run()
    await world.end(before)
    rules = [
        await alerting.rule(EventHappens(types=("run.completed",))),
        await alerting.rule(StatusBecomes(statuses=(Status.RUNNING, Status.COMPLETED))),
        await alerting.rule(MetricIsNan(metric="loss")),
    ]
    run_id = await world.started_run()
    await alerting.nans(run_id, 1.0, nan, nan, 2.0, nan)
    await alerting.nans(run_id, nan, 1.0)
    await world.end(run_id)
    await drain(Alerter(world.ledger))
    fired = await alerting.fired()
    assert {one.run for one in fired} == {run_id}
    counts = [sum(one.rule == rule for one in fired) for rule in rules]
    assert counts == [1, 2, 2]
    assert [(one.step, one.value) for one in fired if one.rule == rules[2]] == [(1, None), (4, None)]
    kept = await firings.of_project(world.pool, world.ledger_id, limit=10)
    assert {(one.rule_id, one.run_id, one.position) for one in kept} == {(o.rule, o.run, o.position) for o in fired}
    points = [(one.metric, one.step, one.value) for one in kept if one.rule_id == rules[2]]
    assert sorted(points) == [("loss", 1, "nan"), ("loss", 4, "nan")]


async def test_what_a_deleted_run_fired_goes_and_the_newest_of_the_others_are_kept(
    alerting: Alerting, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = alerting.world
    above = await alerting.rule(MetricBeyond(metric="loss", side=Side.ABOVE, value=5.0))
    gone, left = [await world.started_run() for _ in range(2)]
    await alerting.nans(gone, 7.0625)
    await alerting.nans(left, 6.0, 1.0, 8.0, 1.0, 9.0)
    await drain(Alerter(world.ledger))
    kept = await firings.of_project(world.pool, world.ledger_id, rule=above, limit=10)
    assert sorted((one.step, one.value) for one in kept) == [(0, "6.0"), (0, "7.0625"), (2, "8.0"), (4, "9.0")]
    await world.end(gone)
    await world.delete(gone)
    await drain(Alerter(world.ledger))
    kept = await firings.of_project(world.pool, world.ledger_id, limit=10)
    assert {one.run_id for one in kept} == {left}
    assert "7.0625" not in repr(await alerting.fired())
    monkeypatch.setattr(firings, "MAX_PER_PROJECT", 2)
    await alerting.nans(left, 1.0, 10.0)
    await drain(Alerter(world.ledger))
    kept = await firings.of_project(world.pool, world.ledger_id, limit=10)
    assert len(kept) == 2
    assert kept[0].value == "10.0"


async def test_what_an_import_brings_fires_nothing(alerting: Alerting) -> None:
    world = alerting.world
    await alerting.rule(EventHappens(types=("run.completed", "run.imported")))
    await alerting.rule(StatusBecomes(statuses=(Status.COMPLETED,)))
    await alerting.rule(MetricIsNan(metric="loss"))
    created = RunCreated(name="old", session_id="", mode=Mode.TRACKED)
    origin = Origin(system="mlflow", run="1")
    at = datetime(2020, 1, 1, tzinfo=UTC)
    columns = metric_batch({"loss": ([1], [nan])})
    incoming = Incoming(
        run_id=uuid7(),
        imported=RunImported(origin=origin, created=created, created_at=at, started_at=at, ended_at=at),
        end=RunCompleted(epoch=1),
        batches=lambda: iter([Batch(1, "mlflow", 1, codec.METRICS, at, [columns])]),
    )
    project = await tenancy.project_by_id(world.pool, world.ledger_id)
    assert project is not None
    report = await Importer(world.ledger, Uploads(world.ledger, world.objects, Limits()), project).take(incoming)
    assert (report.outcome, report.points) == ("new", 1)
    await drain(Alerter(world.ledger))
    assert await alerting.fired() == []
    live = await world.started_run()
    await alerting.nans(live, nan)
    await drain(Alerter(world.ledger))
    assert {one.run for one in await alerting.fired()} == {live}


async def test_a_rule_sees_its_scope_alone(alerting: Alerting) -> None:
    world = alerting.world
    one, other = [await world.started_run() for _ in range(2)]
    rule = await alerting.rule(EventHappens(types=("run.completed",)), run=one)
    await alerting.rule(EventHappens(types=("run.completed",)), workflow=uuid7())
    for run_id in (one, other):
        await world.end(run_id)
    await drain(Alerter(world.ledger))
    assert [(fired.rule, fired.run) for fired in await alerting.fired()] == [(rule, one)]


async def test_a_page_that_is_done_again_fires_and_sends_nothing_twice(alerting: Alerting, receiver: Receiver) -> None:
    """As after a kill -9 anywhere between firing and the cursor: both state and cursor are those of before the page."""
    world = alerting.world
    await alerting.rule(MetricIsNan(metric="loss"))
    await alerting.hook(receiver.url, "alert.fired", "run.completed")
    run_id = await world.started_run()
    await alerting.nans(run_id, nan, 1.0, nan)
    await world.end(run_id)
    for _ in range(3):
        await drain(Alerter(world.ledger, allow_private=True))
        await world.pool.execute("update ledger.cursor set position = 0 where reader = $1", READER)
        await world.pool.execute("delete from operation.alert_state")
    assert len(await alerting.fired()) == 2
    kinds = sorted(json.loads(body)["type"] for _, body in receiver.requests)
    assert kinds == ["alert.fired", "alert.fired", "run.completed"]


async def test_an_unreadable_event_holds_up_its_ledger_until_it_is_discarded(
    alerting: Alerting, owner: asyncpg.Connection
) -> None:
    world = alerting.world
    await alerting.rule(EventHappens(types=("run.completed",)))
    run_id = await world.started_run()
    bad = (await world.stored(run_id)).position
    await world.end(run_id)
    await owner.execute(
        "update ledger.payload set ciphertext = set_byte(ciphertext, 20, 255 - get_byte(ciphertext, 20))"
        " where ledger_id = $1 and position = $2",
        world.ledger_id,
        bad,
    )
    with pytest.raises(CorruptHistory):
        await world.ledger.read(world.ledger_id, after=bad - 1, up_to=bad)
    alerter = Alerter(world.ledger)
    await drain(alerter)
    assert await alerting.fired() == []
    (letter,) = await dead_letters.of_ledger(world.pool, world.ledger_id, ["held"], (0, ""), 10)
    assert (letter.reader, letter.position) == (READER, bad)
    await dead_letters.decide(world.pool, READER, world.ledger_id, bad, "discarded", "key:test")
    await drain(alerter)
    assert [one.run for one in await alerting.fired()] == [run_id]


async def test_rules_and_webhooks_are_rebuilt(alerting: Alerting, database: Database) -> None:
    await alerting.rule(MetricIsNan(metric="loss"))
    hook = await alerting.hook("https://example.org/", "run.created")
    again = WebhookSet(project=alerting.world.ledger_id, url="https://example.org/2", types=("run.failed",))
    await alerting.subscribe(again, hook)
    rebuilt = await rebuild(alerting.world.ledger, database.owner_url, Tenancy())
    assert rebuilt.differences == []
    assert rebuilt.rows["subscription"] == 2
