"""A user's program that the server loses and finds again: it crashed, it recovers, and nothing it logged is missing."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tachograph
from stack import Stack
from stack.ports import free_port
from tests.api import SECONDS, until
from tests.gate import Gate

QUICK = {"beat_seconds": 0.5, "unresponsive_seconds": 6.0, "crashed_seconds": 10.0}
PROGRAM = """
import os, sys, time, tachograph
with tachograph.init("lost", liveness={liveness!r}, finish_seconds={patience}) as run:
    print(run.id, flush=True)
    step = 0
    while not os.path.exists({mark!r}):
        step += 1
        run.log({{"loss": 1 / step}}, step=step)
        run.log_text(f"step {{step}}")
        time.sleep(0.02)
    run.summary({{"steps": step}})
print(step, flush=True)
"""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("recovery"), free_port(), gpu_worker=False) as stack:
        yield stack


@pytest.fixture
def client(system: Stack) -> Iterator[tachograph.Client]:
    with tachograph.Client(system.url, system.api_key) as client:
        yield client


@pytest.fixture
def gate(system: Stack) -> Iterator[Gate]:
    with Gate(system.port) as gate:
        yield gate


def launched(system: Stack, gate: Gate, home: Path, mark: Path, patience: float) -> subprocess.Popen[str]:
    """A program that logs behind the gate until the mark is there, and then has some seconds to deliver the rest."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TACHOGRAPH_")} | {
        "TACHOGRAPH_URL": f"http://127.0.0.1:{gate.port}",
        "TACHOGRAPH_API_KEY": system.api_key or "",
        "TACHOGRAPH_HOME": str(home),
    }
    source = PROGRAM.format(liveness=QUICK, mark=str(mark), patience=patience)
    return subprocess.Popen([sys.executable, "-c", source], env=environment, stdout=subprocess.PIPE, text=True)


def types(client: tachograph.Client, run: str) -> list[str]:
    wanted = {"run.started", "run.crashed", "run.recovered", "run.completed"}
    return [event["type"] for event in client.events(run=run) if event["type"] in wanted]


@pytest.mark.slow
@pytest.mark.parametrize("ends", ["meanwhile", "afterwards"])
def test_a_program_that_was_lost_comes_back_with_all_it_logged(
    system: Stack, gate: Gate, client: tachograph.Client, tmp_path: Path, ends: str
) -> None:
    mark, home = tmp_path / "go", tmp_path / "home"
    home.mkdir()
    with launched(system, gate, home, mark, 1.0 if ends == "meanwhile" else SECONDS) as program:
        assert program.stdout is not None
        run = program.stdout.readline().strip()
        until(lambda: client.metrics(run), "the first points")
        gate.shut()
        until(lambda: client.run(run)["status"] == "crashed", "it counts as crashed")
        assert client.run(run)["cause"] == "heartbeat_lost"
        if ends == "afterwards":
            gate.open()
            until(lambda: client.run(run)["status"] == "running", "it is back")
        mark.touch()
        steps = int(program.stdout.readline())
        assert program.wait(SECONDS) == 0
    if ends == "meanwhile":
        assert client.run(run)["status"] == "crashed"
        gate.open()
        synced = tachograph.sync(home / "spool", url=f"http://127.0.0.1:{gate.port}", api_key=system.api_key)
        assert (synced.files, synced.refused) == (1, 0)
    ended = client.run(run)
    assert (ended["status"], ended["cause"], ended["epoch"], ended["synced"]) == ("completed", "finished", 1, True)
    assert ended["summary"]["steps"] == steps
    assert types(client, run) == ["run.started", "run.crashed", "run.recovered", "run.completed"]
    curves = client.chart(run, "loss", buckets=20_000)
    points = [point for curve in curves for point in zip(curve["x"], curve["last"], strict=True)]
    assert points == [(step, 1 / step) for step in range(1, steps + 1)]
    assert [line["text"].rpartition("step ")[2] for line in client.stream_logs(run)] == [
        str(step) for step in range(1, steps + 1)
    ]
    assert client.verify("lost")["verified"]
