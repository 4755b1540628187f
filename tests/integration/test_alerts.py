"""Alert rules and webhooks: once an episode, through crashes too; signed, tried again, and never to our own network."""

import hmac
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import nan
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

import tachograph
from events import codec
from events.alerts import (
    AlertFired,
    AlertRuleSet,
    Condition,
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
from projections import dead_letters, firings, subscriptions, tenancy
from projections.execute import asked_by, record
from projections.inline import Tenancy
from projections.rebuild import rebuild
from projections.storage.artifact_limits import Limits
from projections.storage.uploads import Uploads
from service.imports.importer import Importer
from service.imports.incoming import Batch, Incoming
from tests.api import Api, Json, accepted, refused, serving, until
from tests.integration.telemetry import World, metric_batch
from tests.servers import Database, NatsServer, PostgresServer
from workers.alerter import READER, Alerter
from workers.deliveries import secret


class Receiver:
    """An HTTP server that keeps what it is sent, and answers as it is told."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[int] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.requests.append((dict(self.headers), body))
                self.send_response(receiver.answers.pop(0) if receiver.answers else 204)
                self.send_header("Location", receiver.url)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nothing is said."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hook?a=1"

    @contextmanager
    def serving(self) -> Iterator["Receiver"]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver().serving() as receiver:
        yield receiver


class Alerting:
    """A world whose organisation has a ledger, with rules and webhooks."""

    def __init__(self, world: World, organisation: UUID) -> None:
        self.world = world
        self.organisation = organisation

    async def subscribe(self, event: AlertRuleSet | WebhookSet, again: UUID | None = None) -> UUID:
        identity, version = again or uuid7(), 0 if again is None else 1
        await record(
            self.world.ledger,
            ledger_id=self.organisation,
            stream=identity,
            expected_version=version,
            events=[event],
            inline=subscriptions.row(identity, event, version=version + 1),
            request=asked_by("key:test"),
        )
        return identity

    async def rule(self, condition: Condition, **scope: UUID) -> UUID:
        return await self.subscribe(AlertRuleSet(project=self.world.ledger_id, name="r", condition=condition, **scope))

    async def hook(self, url: str, *types: str) -> UUID:
        return await self.subscribe(WebhookSet(project=self.world.ledger_id, url=url, types=types))

    async def fired(self) -> list[AlertFired]:
        return [one.event() for one in await self.world.ledger.read(self.organisation, types=["alert.fired"])]

    async def nans(self, run_id: UUID, *values: float) -> None:
        await self.world.metrics(run_id, {"loss": (range(len(values)), values)})


@pytest.fixture
async def alerting(world: World) -> AsyncIterator[Alerting]:
    organisation = await world.pool.fetchval(
        "select organisation_id from ledger.ledger where ledger_id = $1", world.ledger_id
    )
    await world.ledger.open(organisation, organisation, "organisation")
    return Alerting(world, organisation)


async def drain(alerter: Alerter) -> None:
    while await alerter.step():
        pass


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


async def test_deliveries_are_signed_and_tried_again(alerting: Alerting, receiver: Receiver) -> None:
    world = alerting.world
    hook = await alerting.hook(receiver.url, "run.created")
    receiver.answers = [500, 302, 200]
    run_id = await world.started_run()
    alerter = Alerter(world.ledger, allow_private=True)
    await drain(alerter)
    for attempts in (1, 2):
        (delivery,) = await subscriptions.deliveries(world.pool, hook, 10)
        assert (delivery.state, delivery.attempts) == ("pending", attempts)
        assert len(receiver.requests) == attempts, "it is not tried again at once"
        await world.pool.execute("update operation.delivery set next_at = clock_timestamp()")
        await drain(alerter)
    (delivery,) = await subscriptions.deliveries(world.pool, hook, 10)
    assert (delivery.state, delivery.attempts, delivery.status) == ("delivered", 3, 200)
    for headers, body in receiver.requests:
        at, _, said = headers["Tachograph-Signature"].partition(",v1=")
        expected = hmac.digest(secret(world.ledger, hook), at.removeprefix("t=").encode() + b"." + body, "sha256")
        assert said == expected.hex()
        assert headers["Tachograph-Delivery"] == str(delivery.delivery_id)
        document = json.loads(body)
        assert (document["type"], document["subject"]) == ("run.created", f"runs/{run_id}")


async def test_an_address_of_our_own_network_is_refused(alerting: Alerting, receiver: Receiver) -> None:
    hook = await alerting.hook(receiver.url, "run.created")
    await alerting.world.started_run()
    await drain(Alerter(alerting.world.ledger))
    (delivery,) = await subscriptions.deliveries(alerting.world.pool, hook, 10)
    assert receiver.requests == []
    assert delivery.status is None
    assert "not a public address" in (delivery.error or "")


async def test_a_delivery_that_never_succeeds_ends(alerting: Alerting) -> None:
    world = alerting.world
    hook = await alerting.hook("http://127.0.0.1:1/", "run.created")
    await world.started_run()
    alerter = Alerter(world.ledger, allow_private=True)
    for _ in range(10):
        await drain(alerter)
        await world.pool.execute("update operation.delivery set next_at = clock_timestamp()")
    (delivery,) = await subscriptions.deliveries(world.pool, hook, 10)
    assert (delivery.state, delivery.attempts) == ("failed", 10)


async def test_the_log_is_bounded_and_leaves_with_its_run(
    alerting: Alerting, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = alerting.world
    monkeypatch.setattr(subscriptions, "MAX_DELIVERIES", 3)
    hook = await alerting.hook(receiver.url, "run.created", "run.deleted")
    alerter = Alerter(world.ledger, allow_private=True)
    runs = [await world.started_run() for _ in range(5)]
    await drain(alerter)
    kept = await subscriptions.deliveries(world.pool, hook, 10)
    assert len(kept) == 3
    run_id = kept[0].run_id
    assert run_id in runs
    assert run_id is not None
    await world.end(run_id)
    await world.delete(run_id)
    await drain(alerter)
    log = await subscriptions.deliveries(world.pool, hook, 10)
    assert [one.type for one in log if one.run_id == run_id] == ["run.deleted"]


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


@pytest.fixture(scope="module")
def api(postgres_server: PostgresServer, nats_server: NatsServer, servers_home: Path) -> Iterator[Api]:
    allowed = {"TACHOGRAPH_WEBHOOK_ALLOW_PRIVATE": "1"}
    with serving(postgres_server, nats_server, servers_home, roles=("alerter",), environment=allowed) as api:
        yield api


def test_from_a_rule_to_a_signed_alert_over_http(api: Api, receiver: Receiver) -> None:
    project = api.project()
    path = f"/projects/{project.id}"
    hook = accepted(api.client.post(f"{path}/webhooks", json={"url": receiver.url}), 201)
    condition = {"when": "threshold", "metric": "loss", "side": "above", "value": 2.0}
    rule = accepted(api.client.post(f"{path}/alerts", json={"name": "diverged", "condition": condition}), 201)
    assert accepted(api.client.get(f"{path}/alerts")) == [rule]
    run = project.started()
    accepted(project.log(run, 1, {"loss": {"step": [1, 2, 3], "value": [1.0, 3.0, 4.0]}}), 202)
    until(lambda: receiver.requests, "the alert is told")
    ((headers, body),) = receiver.requests
    at, _, said = headers["Tachograph-Signature"].partition(",v1=")
    assert said == hmac.digest(hook["secret"].encode(), at[2:].encode() + b"." + body, "sha256").hex()
    alert = json.loads(body)
    assert (alert["type"], alert["data"]["rule"], alert["data"]["run"]) == ("alert.fired", rule["id"], run["id"])
    assert (alert["data"]["metric"], alert["data"]["step"], alert["data"]["value"]) == ("loss", 2, "3.0")
    accepted(project.log(run, 2, {"loss": {"step": [4, 5, 6, 7], "value": [1.0, 5.0, 1.0, 6.0]}}), 202)

    def fired(**asked: Any) -> list[Any]:
        return [one["value"] for one in accepted(api.client.get(f"{path}/alerts/fired", params=asked))["items"]]

    until(lambda: len(fired()) == 3, "all three are listed")
    assert sorted(fired()) == sorted(fired(rule=rule["id"], run=run["id"])) == ["3.0", "5.0", "6.0"]
    assert fired(run=hook["id"]) == []
    assert fired()[-1] == "3.0"
    first = accepted(api.client.get(f"{path}/alerts/fired", params={"limit": 2}))
    rest = accepted(api.client.get(f"{path}/alerts/fired", params={"limit": 2, "cursor": first["next_cursor"]}))
    assert [one["value"] for one in first["items"] + rest["items"]] == fired()
    assert rest["next_cursor"] is None

    def log(state: str) -> list[Json]:
        items = accepted(api.client.get(f"{path}/webhooks/{hook['id']}/deliveries"))["items"]
        return [one for one in items if one["state"] == state]

    until(lambda: len(log("delivered")) == 3, "they are in the log")
    accepted(api.client.post(f"{path}/webhooks/{hook['id']}/test"), 202)
    until(lambda: len(log("delivered")) == 4, "the test too")
    assert json.loads(receiver.requests[-1][1])["type"] == "webhook.test"
    (listed,) = accepted(api.client.get(f"{path}/webhooks"))
    assert listed == hook | {"secret": None}
    with api.other_tenant() as other:
        refused(other.get(f"{path}/alerts"), 404)
        refused(other.get(f"{path}/alerts/fired"), 404)
        refused(other.post(f"{path}/webhooks/{hook['id']}/test"), 404)
    for kind, one in (("alerts", rule), ("webhooks", hook)):
        removals = [api.client.delete(f"{path}/{kind}/{one['id']}", headers={"Idempotency-Key": kind}) for _ in "ab"]
        assert [answer.status_code for answer in removals] == [204, 204]
        assert len({answer.headers["tachograph-position"] for answer in removals}) == 1
        refused(api.client.delete(f"{path}/{kind}/{one['id']}"), 404)
        assert accepted(api.client.get(f"{path}/{kind}")) == []


def test_an_imported_webhook_sends_nothing_until_its_address_is_given_again(
    api: Api, receiver: Receiver, tmp_path: Path
) -> None:
    source, project = api.project(), api.project()
    body = {"url": receiver.url, "types": ["run.completed"]}
    made = accepted(api.client.post(f"/projects/{source.id}/webhooks", json=body), 201)
    with tachograph.Client(api.url, api.key) as client:
        client.export_archive(tmp_path / "p.zip", project=source.id)
        report = client.import_archive(project.id, tmp_path / "p.zip")["report"]
    assert report is not None
    (told,) = report["definitions"]
    path = f"/projects/{project.id}/webhooks"
    assert (told["kind"], told["outcome"]) == ("webhook", "new")
    assert f"{path}/{told['id']}" in told["why"]
    (listed,) = accepted(api.client.get(path))
    host = receiver.url.removesuffix("/hook?a=1")
    assert listed == {"id": told["id"], "url": host, "types": ["run.completed"], "secret": None, "in_force": False}
    refused(api.client.post(f"{path}/{told['id']}/test"), 409)
    problem = refused(api.client.patch(f"{path}/{told['id']}", json={"types": ["run.failed"]}), 422)
    assert problem["errors"][0]["path"] == "$.url"

    project.finished()  # nobody is told
    again = {"Idempotency-Key": f"set {told['id']}"}
    answers = [api.client.patch(f"{path}/{told['id']}", json={"url": receiver.url}, headers=again) for _ in "ab"]
    hook, same = [accepted(answer) for answer in answers]
    assert hook == same
    assert (hook["url"], hook["in_force"], hook["types"]) == (receiver.url, True, ["run.completed"])
    assert hook["secret"] != made["secret"]
    run = project.finished()
    until(lambda: receiver.requests, "the run's end is told")
    ((headers, sent),) = receiver.requests
    at, _, said = headers["Tachograph-Signature"].partition(",v1=")
    assert said == hmac.digest(hook["secret"].encode(), at[2:].encode() + b"." + sent, "sha256").hex()
    assert json.loads(sent)["subject"].endswith(run["id"])


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("alerts", {"name": "a", "condition": {"when": "event", "types": ["run.unheard_of"]}}),
        ("alerts", {"name": "a", "condition": {"when": "event", "types": []}}),
        ("alerts", {"name": "a", "condition": {"when": "status", "statuses": []}}),
        ("alerts", {"name": "a", "condition": {"when": "nan", "metric": ""}}),
        ("alerts", {"name": "a", "condition": {"when": "no_improvement", "metric": "m", "mode": "min"}}),
        ("alerts", {"name": "a", "condition": {"when": "moon"}}),
        ("webhooks", {"url": "ftp://example.org/"}),
        ("webhooks", {"url": "https://user:word@example.org/"}),
        ("webhooks", {"url": "http://exa mple.org/"}),
        ("webhooks", {"url": "http://example.org:99999/"}),
        ("webhooks", {"url": "http://example.org/", "types": ["run.unheard_of"]}),
    ],
)
def test_what_cannot_be_meant_is_refused(api: Api, route: str, body: Any) -> None:
    refused(api.client.post(f"/projects/{api.project().id}/{route}", json=body), 422)


def test_the_alerter_killed_between_firing_and_remembering_fires_once(
    postgres_server: PostgresServer, nats_server: NatsServer, servers_home: Path, receiver: Receiver
) -> None:
    crashing = {"TACHOGRAPH_WEBHOOK_ALLOW_PRIVATE": "1", "TACHOGRAPH_CRASH_AT": "alerter.after_fire"}
    with serving(postgres_server, nats_server, servers_home, roles=("alerter",), environment=crashing) as api:
        alerter = api.processes["alerter"]
        project = api.project()
        path = f"/projects/{project.id}"
        accepted(api.client.post(f"{path}/webhooks", json={"url": receiver.url}), 201)
        condition = {"when": "event", "types": ["run.completed"]}
        accepted(api.client.post(f"{path}/alerts", json={"name": "a", "condition": condition}), 201)
        runs = [project.finished()["id"] for _ in range(2)]
        until(lambda: alerter.restarts >= 2, "the alerter was killed twice at its crash point")
        assert alerter.environment is not None
        del alerter.environment["TACHOGRAPH_CRASH_AT"]
        if alerter.failure is not None:
            alerter.start()
        runs.append(project.finished()["id"])
        until(lambda: len(receiver.requests) >= 3, "every alert is told")
        assert sorted(json.loads(body)["data"]["run"] for _, body in receiver.requests) == sorted(runs)
