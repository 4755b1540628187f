"""What a reader cannot take holds up its ledger alone, is listed and explained, and retried or discarded."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import asyncpg
import httpx
import pytest
from nats.aio.client import Client

from events.commands import EditRun
from projections import dead_letters
from projections.execute import asked_by, execute
from tests.api import Api, Project, accepted, refused, serving, until
from tests.integration.jetstream import drain, lifecycle, published
from tests.integration.telemetry import World, opened_world
from tests.servers import Database, NatsServer, PostgresServer
from workers.relay import READER, Relay


async def poisoned(world: World) -> int:
    """Record events around one that a test will spoil; returns its position."""
    run_id = await world.started_run()
    noted = await execute(world.ledger, world.ledger_id, run_id, EditRun(notes="n"), asked_by("key:test"))
    await world.started_run()
    return noted.position


async def spoil(owner: asyncpg.Connection, ledger_id: UUID, position: int) -> bytes:
    """Flip a bit of a payload, as a fault in storage would; returns what it was."""
    was: bytes = await owner.fetchval(
        "select ciphertext from ledger.payload where ledger_id = $1 and position = $2", ledger_id, position
    )
    await put(owner, ledger_id, position, was[:-1] + bytes([was[-1] ^ 1]))
    return was


async def put(owner: asyncpg.Connection, ledger_id: UUID, position: int, ciphertext: bytes) -> None:
    await owner.execute(
        "update ledger.payload set ciphertext = $3 where ledger_id = $1 and position = $2",
        ledger_id,
        position,
        ciphertext,
    )


async def test_an_event_that_cannot_be_published_holds_up_its_ledger_alone(
    world: World, client: Client, database: Database, owner: asyncpg.Connection, tmp_path: Path
) -> None:
    position = await poisoned(world)
    whole = await spoil(owner, world.ledger_id, position)
    now = 0.0
    relay = Relay(world.ledger, client.jetstream(), clock=lambda: now)
    await relay.start()
    async with opened_world(database.url, tmp_path / "other") as other:
        await other.started_run()
        await drain(relay)
        head, _ = await other.ledger.head(other.ledger_id)
        cursors = dict(
            await world.pool.fetch("select ledger_id, position from ledger.cursor where reader = $1", READER)
        )
        assert cursors == {world.ledger_id: position - 1, other.ledger_id: head}
    (letter,) = await dead_letters.of_ledger(world.pool, world.ledger_id, ["held"], (0, ""), 10)
    assert (letter.reader, letter.position, letter.type, letter.failures) == (READER, position, "run.notes_set", 1)
    assert "altered" in letter.error
    await put(owner, world.ledger_id, position, whole)
    assert await drain(relay) == 0, "its turn has not come"
    await dead_letters.decide(world.pool, READER, world.ledger_id, position, "retry", "key:test")
    assert await drain(relay) == 3
    (letter,) = await dead_letters.of_ledger(world.pool, world.ledger_id, ["resolved"], (0, ""), 10)
    assert letter.position == position


async def test_a_discarded_event_is_passed_over_for_good(
    world: World, client: Client, owner: asyncpg.Connection
) -> None:
    position = await poisoned(world)
    await spoil(owner, world.ledger_id, position)
    relay = Relay(world.ledger, client.jetstream())
    await relay.start()
    await drain(relay)
    await dead_letters.decide(world.pool, READER, world.ledger_id, position, "discarded", "key:test")
    await drain(relay)
    found = [json.loads(message.data or b"")["position"] for message in await published(client.jetstream())]
    assert found == [one for one in await lifecycle(world) if one != position]
    (letter,) = await dead_letters.of_ledger(world.pool, world.ledger_id, ["discarded"], (0, ""), 10)
    assert letter.decided_by == "key:test"


@pytest.fixture(scope="module")
def api(postgres_server: PostgresServer, nats_server: NatsServer, servers_home: Path) -> Iterator[Api]:
    with serving(postgres_server, nats_server, servers_home, roles=("projector", "relay")) as api:
        yield api


def spoil_batch(api: Api, project: Project, position: int) -> None:
    async def flip() -> None:
        connection = await asyncpg.connect(api.database.superuser_url)
        await connection.execute(
            "update ledger.telemetry set ciphertext = set_byte(ciphertext, 20, 255 - get_byte(ciphertext, 20))"
            " where ledger_id = $1 and position = $2",
            UUID(project.id),
            position,
        )
        await connection.close()

    asyncio.run(flip())


def test_dead_letters_are_listed_explained_retried_and_discarded(api: Api) -> None:
    project = api.project()
    path = f"/projects/{project.id}/dead-letters"
    run = project.started()
    api.processes["projector"].stop(10)
    api.processes["relay"].stop(10)
    position = accepted(project.log(run, 1, {"a": {"step": [1], "value": [1.0]}}), 202)["position"]
    spoil_batch(api, project, position)
    accepted(project.log(run, 2, {"a": {"step": [2], "value": [2.0]}}), 202)
    for role in ("projector", "relay"):
        api.processes[role].start()

    def listed(states: str = "held,retry") -> list[dict]:
        return accepted(api.client.get(path, params={"states": states}))["items"]

    until(lambda: len(listed()) == 2, "both readers stop at the event")
    assert {(one["reader"], one["position"], one["state"]) for one in listed()} == {
        ("projector.metrics", position, "held"),
        ("relay", position, "held"),
    }
    explained = accepted(api.client.get(f"{path}/relay/{position}"))
    assert explained["waiting_events"] == 1
    assert explained["event"] is None
    assert "altered" in explained["unreadable"]
    told = httpx.get(f"{api.url}/metrics", headers={"X-API-Key": api.key}).text
    assert 'tachograph_dead_letters{reader="relay"} 1.0' in told
    failures = explained["letter"]["failures"]
    retried = accepted(api.client.post(f"{path}/relay/{position}/retry"))
    assert retried["state"] == "retry"
    until(
        lambda: accepted(api.client.get(f"{path}/relay/{position}"))["letter"]["failures"] > failures,
        "it was tried again",
    )
    for reader in ("relay", "projector.metrics"):
        assert accepted(api.client.post(f"{path}/{reader}/{position}/discard"))["state"] == "discarded"
    until(lambda: [one["count"] for one in metrics(api, run)] == [1], "the projection goes on without it")
    assert listed() == []
    assert len(listed("discarded")) == 2
    refused(api.client.post(f"{path}/relay/{position}/discard"), 404)
    refused(api.client.get(path, params={"states": "lost"}), 422)
    refused(api.client.get(path, params={"cursor": "x"}), 422)
    with api.other_tenant() as other:
        refused(other.get(path), 404)


def metrics(api: Api, run: dict) -> list[dict]:
    return accepted(api.client.get(f"/runs/{run['id']}/metrics"))["metrics"]


def test_roles_are_seen_in_readiness_and_figures(api: Api) -> None:
    def roles() -> dict[str, str]:
        answer = httpx.get(f"{api.url}/readyz")
        assert answer.status_code == 200
        return answer.json()["roles"]

    until(lambda: (roles()["relay"], roles()["projector"]) == ("ok", "ok"), "both roles say that they are well")
    assert roles()["monitor"] == "not running"
    told = httpx.get(f"{api.url}/metrics", headers={"X-API-Key": api.key}).text
    assert 'tachograph_role_up{role="relay"} 1.0' in told
    assert 'tachograph_reader_lag_events{reader="relay"}' in told
