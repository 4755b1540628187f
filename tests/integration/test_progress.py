"""Progress by the ledger's times: in the run's state, over HTTP, and the same again from the ledger alone."""

import math
import time
from pathlib import Path

import msgspec
import pytest

from events import commands as c
from events.types import Status
from projections import runs
from projections.execute import as_of
from projections.rebuild import PROJECTIONS, rebuild
from tests.api import accepted, refused, serving
from tests.integration.histories import opened_project
from tests.servers import Database, NatsServer, PostgresServer


async def test_the_state_holds_the_pace_by_recorded_times_and_a_rebuild_the_same(database: Database):
    async with opened_project(database.url) as project:
        run_id = await project.started()
        for done in (1.0, 2.0, 2.0, 5.0):
            await project.do(run_id, c.ReportProgress(epoch=1, done=done, total=10.0, unit="epochs"))
        stored = await runs.get(project.pool, run_id)
        assert stored is not None
        progress, at = stored.run.progress, stored.run.progress_at
        events = await project.ledger.read_stream(project.ledger_id, run_id)
        times = [event.recorded_at for event in events if event.type == "run.progress_reported"]
        assert progress is not None
        assert progress.before is not None
        assert (progress.before.at, at) == (times[-2], times[-1])
        assert 0 < progress.seconds <= (times[-2] - times[0]).total_seconds()
        assert 0 < progress.gained <= 1
        assert (await as_of(project.ledger, project.ledger_id, run_id))[0] == stored.run
        await project.do(run_id, c.AttachRun())
        await project.do(run_id, c.ReportProgress(epoch=2, done=6.0, total=10.0, unit="epochs"))
        anew = await runs.get(project.pool, run_id)
        assert anew is not None
        assert anew.run.status is Status.RUNNING
        assert anew.run.progress is not None
        assert anew.run.progress.before is None
        rebuilt = await rebuild(project.ledger, database.owner_url, PROJECTIONS["runs"])
        assert rebuilt.differences == []


def test_what_remains_is_shown_wherever_a_run_is(
    postgres_server: PostgresServer, nats_server: NatsServer, servers_home: Path
):
    with serving(postgres_server, nats_server, servers_home) as api:
        project = api.project()
        run = project.started()
        path = f"/runs/{run['id']}"
        assert run["progress"] is None
        first = accepted(
            api.client.post(f"{path}/progress", json={"epoch": 1, "done": 1, "total": 4, "unit": "epochs"})
        )
        told = first["progress"]
        assert (told["done"], told["total"], told["unit"], told["percent"]) == (1, 4, "epochs", 25)
        assert (told["rate_per_second"], told["remaining_seconds"]) == (None, None)
        body = {"epoch": 1, "done": 2, "total": 4, "unit": "epochs"}
        headers = {"Idempotency-Key": "k"}
        second = accepted(api.client.post(f"{path}/progress", json=body, headers=headers))
        rate = second["progress"]["rate_per_second"]
        assert rate > 0
        assert second["progress"]["remaining_seconds"] == pytest.approx(2 / rate)
        time.sleep(0.01)
        assert accepted(api.client.post(f"{path}/progress", json=body, headers=headers)) == second
        (listed,) = accepted(api.client.get(f"/projects/{project.id}/runs"))["items"]
        read = accepted(api.client.get(path))
        for shown in (listed, read):
            assert shown["progress"]["rate_per_second"] == rate
            assert 0 <= shown["progress"]["remaining_seconds"] < 2 / rate
        before = accepted(api.client.get(path, params={"at": first["version"]}))["progress"]
        assert {**before, "remaining_seconds": None} == told
        head = project.head()
        for bad, at in (
            ({"done": -1}, "$.done"),
            ({"done": 1, "total": 0}, "$.total"),
            ({"done": 1e16}, "$.done"),
            ({"done": 1, "total": 1e300}, "$.total"),
            ({"done": math.inf}, "$.done"),
            ({"done": 1, "total": math.inf}, "$.total"),
            ({"done": math.nan}, "$.done"),
        ):
            content = msgspec.msgpack.encode({"epoch": 1, **bad})
            headers = {"Content-Type": "application/msgpack"}
            problem = refused(api.client.post(f"{path}/progress", content=content, headers=headers), 422)
            assert problem["errors"][0]["path"] == at
        assert project.head() == head
        ended = accepted(api.client.post(f"{path}/finish", json={"epoch": 1, "status": "failed"}))
        assert ended["progress"]["percent"] == 50
        assert ended["progress"]["remaining_seconds"] is None
        refused(api.client.post(f"{path}/progress", json=body), 409)
