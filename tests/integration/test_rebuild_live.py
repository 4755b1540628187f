"""Every projection is rebuilt and swapped by the command line under a real load, while telemetry is moved away."""

import os
import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from projections.rebuild import PROJECTIONS
from stack.process import ROOT
from tests.api import SECONDS, Api, accepted, eventually, serving
from tests.servers import NatsServer, PostgresServer

WRITERS = 3
ARCHIVE = {
    "TACHOGRAPH_ARCHIVE_AGE_SECONDS": "0.1",
    "TACHOGRAPH_ARCHIVE_HOT_BYTES": "1",
    "TACHOGRAPH_ARCHIVE_TAIL_SECONDS": "0.1",
}

MOVE = """
delete from ledger.telemetry t using projection.segment s, projection.checkpoint c
where s.ledger_id = t.ledger_id and s.run_id = t.stream and c.ledger_id = t.ledger_id and c.projection = 'metrics'
  and s.kind = case when (select type from ledger.event e where e.ledger_id = t.ledger_id and e.position = t.position)
                         = 'run.logs_written' then 'logs' else 'metrics' end
  and t.position between s.first_position and s.last_position and t.position <= c.position
"""
"""What dropping partitions does: what is archived, and passed by who reads it, leaves Postgres."""


class Writer(threading.Thread):
    """Does to runs of its own what programs do, and remembers what was acknowledged."""

    def __init__(self, api: Api, project: str, seed: int, stop: threading.Event) -> None:
        super().__init__()
        self._client = api.as_caller(api.key)
        self._project = project
        self._random = random.Random(seed)
        self._ended = stop
        self.points: Counter[tuple[str, str]] = Counter()
        self.statuses: dict[str, str] = {}
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            with self._client:
                while not self._ended.is_set():
                    self._live()
        except BaseException as failure:  # noqa: BLE001 (told by the test's own thread)
            self.failure = failure

    def _live(self) -> None:
        resources = {"accelerator": "a", "count": 2}
        body = {"tags": ["load"], "resources": resources, "estimate_seconds": 60}
        run = self._post(f"/projects/{self._project}/runs", body, 201)["id"]
        self._post(f"/runs/{run}/start", {"pid": 1}, 200)
        self.statuses[run] = "running"
        for seq in range(1, self._random.randrange(2, 12)):
            count = self._random.randrange(1, 50)
            name = self._random.choice(["loss", "acc", f"m{self._random.randrange(20)}"])
            values = [self._random.choice([0.1 + 0.2, -0.0, 5e-324, "NaN", "Infinity", 1.5]) for _ in range(count)]
            steps = [self._random.randrange(5) for _ in range(count)]
            series = {name: {"step": steps, "value": values}}
            self._post(f"/runs/{run}/metrics", {"epoch": 1, "seq": seq, "series": series}, 202)
            self.points[run, name] += count
            answer = self._client.patch(f"/runs/{run}", json={"notes": f"note {seq}"})
            assert answer.status_code == 200, answer.text
        if self._random.random() < 0.7:
            self._post(f"/runs/{run}/finish", {"epoch": 1, "status": "completed"}, 200)
            self.statuses[run] = "completed"

    def _post(self, path: str, body: object, status: int) -> dict[str, object]:
        return accepted(self._client.post(path, json=body), status)


def rebuild(api: Api, *options: str) -> subprocess.CompletedProcess[str]:
    variables = api.processes["service"].environment
    return subprocess.run(
        [sys.executable, "-m", "service", "rebuild", *options],
        cwd=ROOT, env={**os.environ, **(variables or {})}, capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip


@pytest.fixture
def api(postgres_server: PostgresServer, nats_server: NatsServer, servers_home: Path) -> Iterator[Api]:
    roles = ["projector", "archiver"]
    with serving(postgres_server, nats_server, servers_home, roles=roles, environment=ARCHIVE) as api:
        yield api


async def test_nothing_is_lost_while_every_projection_is_swapped_under_load(api: Api) -> None:
    owner = await asyncpg.connect(api.database.owner_url)
    project = api.project()
    stop = threading.Event()
    writers = [Writer(api, project.id, seed, stop) for seed in range(WRITERS)]
    for writer in writers:
        writer.start()
    try:
        await eventually(lambda: owner.fetchval("select count(*) > 20 from projection.segment"), "files")
        moved = int((await owner.execute(MOVE)).split()[-1])
        done = rebuild(api, "--all")
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        assert done.stdout.count("nothing differs") == len(PROJECTIONS)
        assert done.stdout.count("writers waited") == len(PROJECTIONS)
        await owner.execute(MOVE)
        compared = rebuild(api, "--all", "--compare")
        assert (compared.returncode, compared.stdout.count("nothing differs")) == (0, len(PROJECTIONS))
        assert moved > 0
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert [writer.failure for writer in writers] == [None] * WRITERS
    head = project.head()["position"]
    caught_up = "select count(*) filter (where position < $2) = 0 from projection.checkpoint where ledger_id = $1"
    await eventually(lambda: owner.fetchval(caught_up, project.id, head), "the projector has come to the head")

    statuses = {str(r["run_id"]): r["status"] for r in await owner.fetch("select * from projection.run")}
    assert statuses == {run: status for writer in writers for run, status in writer.statuses.items()}
    counts = {
        (str(row["run_id"]), row["name"]): row["count"]
        for row in await owner.fetch("select run_id, name, count from projection.metric_summary")
    }
    assert counts == sum((writer.points for writer in writers), Counter())
    await owner.execute(MOVE)
    last = rebuild(api, "--all", "--compare")
    assert (last.returncode, last.stdout.count("nothing differs")) == (0, len(PROJECTIONS)), last.stdout
    assert project.verified()["verified"]
    await owner.close()
