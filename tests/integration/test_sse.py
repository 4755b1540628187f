"""Event streams: history, then what happens; no gap and no repetition across reconnects; a good-bye at the end."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from service import stream, tails
from service.keys import Keys, Principal
from tests.api import SECONDS, Api, Json, Project, accepted, refused, serving, until
from tests.integration.telemetry import World
from tests.servers import NatsServer, PostgresServer


class Stream:
    """An open event stream, read message by message."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self._lines = answer.aiter_lines()

    async def next(self) -> Json | None:
        """Return the next message, None when the stream has ended; comments are passed over."""
        message: Json = {}
        async for line in self._lines:
            if line == "" and message:
                return message
            name, _, value = line.partition(": ")
            if name in {"id", "event", "data"}:
                message[name] = value
        return None

    async def take(self, count: int) -> list[Json]:
        """Return the next messages; fails when they do not come."""
        async with asyncio.timeout(SECONDS):
            return [message for _ in range(count) if (message := await self.next())]


@asynccontextmanager
async def listening(api: Api, path: str, last: int | None = None, **parameters: Any) -> AsyncIterator[Stream]:
    headers = {"Authorization": f"Bearer {api.key}"} | ({} if last is None else {"Last-Event-ID": str(last)})
    async with (
        httpx.AsyncClient(base_url=f"{api.url}/api/v1", headers=headers, timeout=SECONDS) as client,
        client.stream("GET", path, params=parameters) as answer,
    ):
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield Stream(answer)


async def test_history_comes_first_and_then_what_happens(api: Api, project: Project):
    run = project.started()
    for seq in range(1, 4):
        accepted(project.log(run, seq, {"a": {"step": [seq], "value": ["NaN"], "time_us": [seq]}}), 202)
    async with listening(api, f"/projects/{project.id}/stream", after=0) as stream:
        history = await stream.take(6)
        assert [int(message["id"]) for message in history] == [1, 2, 3, 4, 5, 6]
        for seq in range(4, 8):
            accepted(project.log(run, seq, {"a": {"step": [seq], "value": [0.5]}}), 202)
            (message,) = await stream.take(1)
            assert (int(message["id"]), message["event"]) == (seq + 3, "run.metrics_logged")
            assert json.loads(message["data"])["seq"] == seq
        created = accepted(api.client.post(f"/runs/{run['id']}/finish", json={"epoch": 1, "status": "completed"}))
        (message,) = await stream.take(1)
        assert (int(message["id"]), message["event"]) == (created["position"], "run.completed")
    documents = [json.loads(message["data"]) for message in history]
    assert documents == project.events()[:6]


async def test_without_a_position_a_stream_begins_now(api: Api, project: Project):
    run = project.started()
    async with listening(api, f"/runs/{run['id']}/stream") as stream:
        other = project.create()
        accepted(api.client.patch(f"/runs/{run['id']}", json={"notes": "seen"}))
        (message,) = await stream.take(1)
    assert message["event"] == "run.notes_set"
    assert other["id"] not in message["data"]


async def test_a_stream_of_some_types_has_no_other_and_misses_none(api: Api, project: Project):
    path = f"/projects/{project.id}/stream"
    async with listening(api, path, after=0, types="run.created,run.notes_set") as stream:
        wanted = []
        for index in range(5):
            run = project.started()
            accepted(project.log(run, 1, {"a": {"step": [1], "value": [1.0]}}), 202)
            accepted(api.client.patch(f"/runs/{run['id']}", json={"notes": f"n{index}"}))
            wanted += [("run.created", run["id"]), ("run.notes_set", run["id"])]
        messages = await stream.take(10)
    seen = [(message["event"], json.loads(message["data"])["subject"].removeprefix("runs/")) for message in messages]
    assert seen == wanted


async def test_who_comes_back_goes_on_where_it_was_cut_off(api: Api, project: Project):
    run = project.started()
    path = f"/projects/{project.id}/stream"
    batches = 120

    async def write() -> None:
        async with httpx.AsyncClient(base_url=api.client.base_url, headers=api.client.headers) as client:
            for seq in range(1, batches + 1):
                body = {"epoch": 1, "seq": seq, "series": {"a": {"step": [seq], "value": [float(seq)]}}}
                assert (await client.post(f"/runs/{run['id']}/metrics", json=body)).status_code == 202

    writing = asyncio.create_task(write())
    seen: list[int] = []
    while len(seen) < batches + 3:
        async with listening(api, path, last=seen[-1] if seen else 0) as stream:
            some = await stream.take(min(7 + len(seen) % 13, batches + 3 - len(seen)))
            seen += [int(message["id"]) for message in some]
    await writing
    assert seen == list(range(1, batches + 4))


async def test_a_long_history_is_followed_by_many_at_once(api: Api, project: Project):
    run = project.started()
    for seq in range(1, 451):
        accepted(project.log(run, seq, {"a": {"step": [seq], "value": [0.0]}}), 202)

    async def follow() -> list[int]:
        async with listening(api, f"/runs/{run['id']}/stream", after=0) as stream:
            return [int(message["id"]) for message in await stream.take(453)]

    following = [asyncio.create_task(follow()) for _ in range(10)]
    accepted(api.client.patch(f"/runs/{run['id']}", json={"notes": "the last one"}))
    for ids in await asyncio.gather(*following):
        assert ids == list(range(2, 455))


async def test_a_deleted_run_has_no_stream_and_its_project_tells_of_the_deletion(api: Api, project: Project):
    run = project.finished()
    async with listening(api, f"/projects/{project.id}/stream") as stream:
        accepted(api.client.delete(f"/runs/{run['id']}"))
        (message,) = await stream.take(1)
    assert message["event"] == "run.deleted"
    refused(api.client.get(f"/runs/{run['id']}/stream"), 410)


async def test_streams_are_counted_while_they_are_open(api: Api, project: Project):
    def open_streams() -> float:
        text = httpx.get(f"{api.url}/metrics", headers={"X-API-Key": api.key}).text
        return float(text.split("\ntachograph_sse_clients ")[1].split()[0])

    before = open_streams()
    async with listening(api, f"/projects/{project.id}/stream", after=0) as stream:
        await stream.take(1)
        assert open_streams() == before + 1
    until(lambda: open_streams() == before, "a closed stream is followed no more")


async def test_a_stopping_service_says_good_bye_to_its_listeners(
    postgres_server: PostgresServer, nats_server: NatsServer, servers_home: Path
):
    serving_one = serving(postgres_server, nats_server, servers_home)
    api = await asyncio.to_thread(serving_one.__enter__)
    try:
        project = await asyncio.to_thread(api.project)

        async def follow(path: str) -> list[str]:
            async with listening(api, path, after=0) as stream:
                first = await stream.take(1)
                started.release()
                rest = []
                while (message := await stream.next()) is not None:
                    rest.append(message["event"])
                return [first[0]["event"], *rest]

        started = asyncio.Semaphore(0)
        paths = [f"/projects/{project.id}/stream"] * 10
        listeners = [asyncio.create_task(follow(path)) for path in paths]
        for _ in listeners:
            async with asyncio.timeout(SECONDS):
                await started.acquire()
        assert await asyncio.to_thread(api.processes["service"].stop, SECONDS), "it had to be killed"
        for events in await asyncio.gather(*listeners):
            assert events == ["project.created", "goodbye"]
        assert "Finished server process" in api.processes["service"].log.read_text()
    finally:
        await asyncio.to_thread(serving_one.__exit__, None, None, None)


async def test_a_quiet_stream_says_that_it_is_alive(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "PING_SECONDS", 0.0)
    monkeypatch.setattr(stream, "LOOK_SECONDS", 0.01)
    feeds = tails.Tails()
    feeds.ledger = world.ledger
    keys = Keys(world.pool, b"")
    service: Any = SimpleNamespace(ledger=world.ledger, tails=feeds, stopping=asyncio.Event(), keys=keys)
    follower = Principal(actor="test", organisation_id=world.ledger_id, role="viewer")
    head, _ = await world.ledger.head(world.ledger_id)
    events = stream.follow(service, stream.Wanted(world.ledger_id, None, None, follower), head)
    async with asyncio.timeout(SECONDS):
        said = [await anext(events) for _ in range(3)]
        await world.started_run()
        feeds.wake(world.ledger_id)
        while (message := await anext(events)).data is None:
            pass
    assert [one.comment for one in said] == ["tachograph", "ping", "ping"]
    assert message.id == head + 1
    await events.aclose()
    assert feeds.feeds == 0
