"""Deliveries to webhooks: signed, tried again, bounded, and never to our own network."""

import asyncio
import hmac
import json

import pytest

from events.alerts import EventHappens
from events.ids import uuid7
from projections import subscriptions
from tests.api import SECONDS, eventually
from tests.integration.alerting import Alerting, Receiver, drain
from workers import alerter as alerts
from workers import deliveries, webhooks
from workers.alerter import Alerter
from workers.deliveries import secret


async def test_deliveries_are_signed_and_tried_again(
    alerting: Alerting, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "BACKOFF_SECONDS", (3_600.0,))  # however slow we are, none is due by itself
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


async def test_a_receiver_that_hangs_holds_up_neither_alerts_nor_other_webhooks(
    alerting: Alerting, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for patience in ("TIMEOUT_SECONDS", "TOTAL_SECONDS"):
        monkeypatch.setattr(webhooks, patience, 10 * SECONDS)
    world = alerting.world
    await alerting.rule(EventHappens(types=("run.created",)))
    alerter = Alerter(world.ledger, allow_private=True)
    with Receiver().serving() as quick:
        receiver.hangs.set()
        await alerting.hook(receiver.url, "run.created")
        await alerting.hook(quick.url, "run.created")
        for runs in range(1, 4):
            await world.started_run()

            async def heard(runs: int = runs) -> bool:
                await alerter.step()
                return len(quick.requests) == len(await alerting.fired()) == runs

            async with asyncio.timeout(SECONDS):
                await eventually(heard, "the other webhook and the alert")
        assert len(receiver.requests) == 1
        receiver.goes_on.set()
        await drain(alerter)
        assert len(receiver.requests) == 3
        await alerter.stop()


async def test_nothing_that_a_receiver_says_or_an_event_lacks_stops_the_others(
    alerting: Alerting, receiver: Receiver
) -> None:
    world = alerting.world
    alerter = Alerter(world.ledger, allow_private=True)
    async with await asyncio.start_server(_nonsense, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        rude = await alerting.hook(f"http://127.0.0.1:{port}/", "run.created")
        polite = await alerting.hook(receiver.url, "run.created")
        await world.started_run()
        await drain(alerter)
        (delivery,) = await subscriptions.deliveries(world.pool, rude, 10)
        assert (delivery.state, delivery.attempts) == ("pending", 1)
        assert "BadStatusLine" in (delivery.error or "")
        assert len(receiver.requests) == 1
    await world.pool.execute(
        "insert into operation.delivery (delivery_id, webhook_id, ledger_id, position, type, state)"
        " values ($1, $2, $3, 1000000, 'run.created', 'pending')",
        uuid7(), polite, world.ledger_id,
    )  # fmt: skip
    await world.started_run()
    await drain(alerter)
    log = await subscriptions.deliveries(world.pool, polite, 10)
    assert sorted(one.state for one in log) == ["delivered", "delivered", "pending"]
    assert any((one.error or "").startswith("cannot be sent: ") for one in log)


async def _nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"\x00\xff nonsense\r\n\r\n")
    writer.close()


async def test_of_what_a_webhook_does_not_take_the_oldest_fails(
    alerting: Alerting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerts, "MAX_WAITING", 3)
    world = alerting.world
    hook = await alerting.hook("http://127.0.0.1:1/", "run.created")
    for _ in range(5):
        await world.started_run()
    await drain(Alerter(world.ledger, allow_private=True))
    log = await subscriptions.deliveries(world.pool, hook, 10)
    states = [one.state for one in sorted(log, key=lambda one: one.position)]
    assert states == ["failed", "failed", "pending", "pending", "pending"]
    assert {one.error for one in log if one.state == "failed"} == {"given up: over 3 deliveries of this webhook waited"}
