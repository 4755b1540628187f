"""A whole history told again from Postgres and Parquet, in order, with nothing lost and nothing made up."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import asyncpg
import numpy as np
import pytest

from events import cloudevents, codec
from events.commands import EditRun
from events.ledger import Recorded
from projections.apply import TelemetryMovedError
from projections.archive.restore import Restorer
from projections.execute import asked_by, execute
from projections.replay import Replay, Step, Wanted
from service.http import downloads
from service.routes import replay as routes
from stack.process import ROOT
from tests.api import SECONDS
from tests.integration.telemetry import ACTOR, MASTER_KEY, World, metric_batch
from tests.servers import Database

NAN = float("nan")


async def told(world: World, restorer: Restorer | None = None, **wanted: Any) -> tuple[list[Step], Replay]:
    head, _ = await world.ledger.head(world.ledger_id)
    given = {"ledger_id": world.ledger_id, "up_to": head, **wanted}
    replay = Replay(world.ledger, restorer or Restorer(world.store), Wanted(**given))
    return [step async for step in replay.steps()], replay


def as_stored(recorded: Recorded) -> Any:
    """Return an event's data in the order that an archive keeps: series by name, steps in order."""
    data = cloudevents.data(recorded)
    if recorded.type not in (codec.METRICS, codec.SYSTEM_METRICS):
        return data
    series = {}
    for name, columns in data["series"].items():
        order = np.argsort(columns["step"], kind="stable").tolist()
        series[name] = {column: [values[index] for index in order] for column, values in columns.items()}
    return {"series": series}


async def awkward_history(world: World) -> list[UUID]:
    """Fill two runs side by side with whatever is hard to keep, in several files and partly in none."""
    runs = [await world.started_run() for _ in range(2)]
    for round_ in range(4):
        for run_id in runs:
            steps = [3, 1, 2, 1, 0]
            values = [NAN, float("inf"), -0.0, 0.1 + 0.2, 5e-324]
            await world.metrics(run_id, {"z": (steps, values), "a": (steps[:2], [1.0, 2.0])}, stage=f"epoch {round_}")
            await world.lines(run_id, "", "ü\x1b[31m", "x" * 300, stream="stderr")
            await world.metrics(run_id, {f"m{round_}": ([round_], [float(round_)])})
            await world.log(run_id, codec.SYSTEM_METRICS, metric_batch({"system/gpu": ([1], [0.5])}))
            command = EditRun(notes=f"note {round_}")
            await execute(world.ledger, world.ledger_id, run_id, command, asked_by(ACTOR))
        if round_ < 3:
            await world.archive()
    await world.end(runs[0])
    return runs


async def test_what_left_postgres_comes_back_from_parquet(world: World, owner: asyncpg.Connection) -> None:
    await awkward_history(world)
    before, _ = await told(world)
    assert [step.recorded.position for step in before] == list(range(1, before[-1].recorded.position + 1))
    assert not any(step.restored for step in before)
    gone = await owner.fetch("delete from ledger.telemetry t using projection.segment s where s.run_id = t.stream"
                             " and t.position <= s.last_position returning t.position")  # fmt: skip
    for restorer in (Restorer(world.store), Restorer(world.store, window_rows=3, cache_bytes=1)):
        after, replay = await told(world, restorer)
        assert {step.recorded.position for step in after if step.restored} == {row["position"] for row in gone}
        assert replay.restored == len(gone) > 20
        for one, other in zip(before, after, strict=True):
            assert as_stored(one.recorded) == as_stored(other.recorded)
            assert one.run == other.run


async def test_one_run_is_told_with_the_state_after_each_event(world: World) -> None:
    run_id, other = await awkward_history(world)
    steps, replay = await told(world, run_id=run_id)
    whole, _ = await told(world)
    own = [step for step in whole if step.recorded.stream == run_id]
    assert [(step.recorded.position, step.run) for step in steps] == [(s.recorded.position, s.run) for s in own]
    assert replay.state(run_id) == (await world.stored(run_id)).run
    assert replay.state(other) is None
    last = [step.run for step in steps if step.run][-1]
    assert last == replay.state(run_id)
    middle = steps[len(steps) // 2].recorded.position
    rest, again = await told(world, run_id=run_id, after=middle)
    assert [(s.recorded.position, s.run) for s in rest] == [
        (s.recorded.position, s.run) for s in steps if s.recorded.position > middle
    ]
    assert again.state(run_id) == replay.state(run_id)
    edits, _ = await told(world, run_id=run_id, types=["run.notes_set"])
    assert [step.run.notes for step in edits if step.run] == [f"note {round_}" for round_ in range(4)]


async def test_a_deleted_run_is_told_without_its_contents(world: World) -> None:
    run_id, _ = await awkward_history(world)
    await world.delete(run_id)
    await world.ledger.erase(world.ledger_id, run_id)
    await world.pool.execute("delete from segment where run_id = $1", run_id)
    steps, replay = await told(world, run_id=run_id)
    kept = [step.recorded.type for step in steps if step.recorded.payload is not None]
    assert kept == ["run.deleted"]
    assert replay.erased == len(steps) - 1
    assert replay.state(run_id) == (await world.stored(run_id)).run


async def test_a_missing_file_is_named(world: World, owner: asyncpg.Connection) -> None:
    await awkward_history(world)
    await owner.execute("delete from ledger.telemetry")
    world.files()[0].unlink()
    with pytest.raises(TelemetryMovedError, match="which is missing"):
        await told(world)


class Shell:
    """The command line in the environment of a world."""

    def __init__(self, world: World, database: Database, directory: Path) -> None:
        key = directory / "master.key"
        key.write_bytes(MASTER_KEY)
        self._project = str(world.ledger_id)
        self._environment = os.environ | {
            "TACHOGRAPH_DATABASE_URL": database.url,
            "TACHOGRAPH_NATS_URL": "nats://127.0.0.1:1",
            "TACHOGRAPH_MASTER_KEY": str(key),
            "TACHOGRAPH_PARQUET": str(world.root),
        }

    def run(self, *options: str, pipe: Sequence[str] = (), out: str = "") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "service", "replay", "--project", self._project, *options]
        if pipe:
            command = ["bash", "-o", "pipefail", "-c", f'"$@" | {" ".join(pipe)}', "_", *command]
        if out:
            command = ["bash", "-c", f'"$@" > {out}', "_", *command]
        return subprocess.run(
            command, cwd=ROOT, env=self._environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )


@pytest.fixture
def shell(world: World, database: Database, tmp_path: Path) -> Shell:
    return Shell(world, database, tmp_path)


async def test_the_command_line_tells_a_run_as_text_and_as_json(
    world: World, shell: Shell, owner: asyncpg.Connection
) -> None:
    run_id, _ = await awkward_history(world)
    await world.archive()
    await owner.execute("delete from ledger.telemetry")
    text = await asyncio.to_thread(shell.run, "--run", str(run_id))
    assert text.returncode == 0, text.stderr
    assert "completed, as it is" in text.stderr
    assert "\x1b" not in text.stdout
    assert text.stdout.count("stderr │ ü·[31m") == 4
    assert text.stdout.count("(from Parquet)") == 16
    assert "run.completed            completed" in text.stdout

    done = await asyncio.to_thread(shell.run, "--run", f"run {run_id}", "--json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    steps, _ = await told(world, run_id=run_id)
    assert [line["position"] for line in lines] == [step.recorded.position for step in steps]
    assert [line["data"] for line in lines] == json.loads(json.dumps([cloudevents.data(one.recorded) for one in steps]))
    assert lines[-1]["type"] == "run.telemetry_archived"
    assert {line["state"]["status"] for line in lines if line["type"] == "run.completed"} == {"completed"}
    assert sum(line.get("restored", False) for line in lines) == 16

    at, until = lines[3], lines[9]
    for first, last in ((at["recordedat"], until["recordedat"]), (str(at["position"]), str(until["position"]))):
        part = await asyncio.to_thread(
            shell.run, "--run", str(run_id), "--json", "--from", first, "--until", last, "--types",
            "run.metrics_logged,run.notes_set",
        )  # fmt: skip
        some = [json.loads(line) for line in part.stdout.splitlines()]
        assert some == [line for line in lines[3:10] if line["type"] in ("run.metrics_logged", "run.notes_set")]
    rest = await asyncio.to_thread(shell.run, "--run", str(run_id), "--json", "--after", str(at["position"]))
    assert [json.loads(line)["position"] for line in rest.stdout.splitlines()] == [
        line["position"] for line in lines[4:]
    ]


async def test_a_reader_that_has_enough_ends_it_quietly(world: World, shell: Shell) -> None:
    run_id = await world.started_run()
    for _ in range(30):
        await world.lines(run_id, *("x" * 1_000 for _ in range(100)))
    done = await asyncio.to_thread(shell.run, pipe=["head", "-n", "1"])
    assert (done.returncode, done.stdout.count("\n")) == (0, 1)
    assert "Traceback" not in done.stderr
    assert "go on with --after" in done.stderr


async def test_a_full_disk_is_said_with_where_to_go_on(world: World, shell: Shell) -> None:
    await awkward_history(world)
    done = await asyncio.to_thread(shell.run, "--after", "3", out="/dev/full")
    assert done.returncode == 2
    assert "No space left on device" in done.stderr
    assert "go on with --after 3" in done.stderr


async def test_a_client_that_stops_reading_is_cut_off(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(downloads, "STALL_SECONDS", 0.05)
    run_id = await world.started_run()
    for _ in range(10):
        await world.lines(run_id, *("x" * 1_000 for _ in range(100)))
    head, _ = await world.ledger.head(world.ledger_id)
    replay = Replay(world.ledger, Restorer(world.store), Wanted(ledger_id=world.ledger_id, up_to=head))
    service = SimpleNamespace(stopping=asyncio.Event())

    async def read_one() -> None:
        async with aclosing(routes._chunks(service, None, replay)) as chunks:
            async for _ in chunks:
                await asyncio.Event().wait()

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(read_one())
    assert "it is cut off" in caplog.text


async def test_the_command_line_refuses_what_cannot_be(world: World, shell: Shell, owner: asyncpg.Connection) -> None:
    run_id = await world.started_run()
    for options, said in (
        (["--run", "nothing"], "there is no run 'nothing'"),
        (["--after", "99"], "beyond the ledger's head"),
        (["--until", "99"], "beyond the ledger's head"),
        (["--from", "soon"], "`from` is a version"),
        (["--until", "2999-01-01"], "has not come yet"),
    ):
        done = await asyncio.to_thread(shell.run, *options)
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr
    await world.started_run()
    await owner.execute(
        "update projection.run r set state = o.state from projection.run o where r.run_id = $1 and o.run_id <> $1",
        run_id,
    )
    done = await asyncio.to_thread(shell.run, "--run", str(run_id))
    assert done.returncode == 1
    assert "NOT what its events add up to" in done.stderr
