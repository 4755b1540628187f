"""A worker, a service or a NATS that dies or is away: nothing is lost, doubled or left over."""

import contextlib
import os
import signal
import subprocess
import sys
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from nats.aio.client import Client as Nats

from events import bus
from events.beats import Order
from stack.process import ROOT
from tests.api import until
from tests.integration.gpu.system import COUNTING, SECONDS, System, answers, crash
from workers.gpu.process import processes_of


def test_a_worker_killed_again_and_again_loses_and_doubles_nothing(system: System) -> None:
    run = system.python(COUNTING.format(lines=900, pause=0.004, code=6))
    for seen in (100, 300, 500):
        until(lambda seen=seen: system.printed(run) > seen, f"{seen} lines")
        crash(system.worker)
    ended = system.wait(run)
    assert (ended["status"], ended["cause"], ended["exit_code"]) == ("failed", "exit_code", 6)
    assert ended["epoch"] == 1
    assert system.texts(run) == [f"line {i}" for i in range(900)]
    assert system.texts(run, "stderr") == [f"err {i}" for i in range(900)]
    assert system.events(run).count("started") == 1


def test_a_run_that_ended_without_a_worker_is_reported_by_the_next_one(system: System, tmp_path: Path) -> None:
    mark = tmp_path / "go"
    source = (
        "import os, sys, time\n"
        "print('a')\n"
        f"while not os.path.exists({str(mark)!r}): time.sleep(0.02)\n"
        "print('b')\n"
        "sys.exit(9)\n"
    )
    run = system.python(source)
    until(lambda: system.printed(run), "the program runs")
    worker = system.worker
    assert worker.stop(SECONDS), "the worker did not stop in time"
    assert processes_of(run)
    mark.touch()
    until(lambda: not processes_of(run), "the program ends")
    worker.start()
    ended = system.wait(run)
    assert (ended["status"], ended["exit_code"]) == ("failed", 9)
    assert system.texts(run) == ["a", "b"]


def test_a_run_killed_while_its_worker_was_away_is_ended_by_the_next_one(system: System) -> None:
    run = system.python("import time; print('up'); time.sleep(600)")
    until(lambda: system.printed(run), "the program runs")
    worker = system.worker
    assert worker.stop(SECONDS)
    system.client.kill(run, grace_seconds=1)
    worker.start()
    assert system.wait(run)["status"] == "killed"
    until(lambda: not processes_of(run), "its processes are gone")


@pytest.mark.slow
def test_a_worker_whose_attempt_was_given_up_ends_its_process(system: System) -> None:
    run = system.python("import time; print('up'); time.sleep(600)")
    until(lambda: system.printed(run), "the program runs")
    worker = system.worker
    assert worker.stop(SECONDS)
    system.client.kill(run, grace_seconds=0)
    assert system.wait(run)["status"] == "killed"
    assert processes_of(run)
    worker.start()
    until(lambda: not processes_of(run), "the zombie is gone")
    assert system.client.run(run)["status"] == "killed"


def test_a_service_that_is_away_costs_no_line(system: System) -> None:
    run = system.python(COUNTING.format(lines=300, pause=0.01, code=0))
    until(lambda: system.printed(run) > 20, "the first lines")
    for _ in range(2):
        crash(system.service)
        until(lambda: answers(system), "the service answers")
    assert system.wait(run)["status"] == "completed"
    assert system.texts(run) == [f"line {i}" for i in range(300)]
    assert system.texts(run, "stderr") == [f"err {i}" for i in range(300)]


def test_the_worker_takes_orders_again_after_nats_was_away(system: System) -> None:
    nats = system.stack.nats.process
    assert nats is not None
    crash(nats)
    run = system.python("print('after')")
    assert system.wait(run)["status"] == "completed"


async def test_an_order_that_comes_again_starts_nothing_twice(system: System, tmp_path: Path) -> None:
    mark = tmp_path / "go"
    run = system.start("sh", "-c", f"echo begun; while [ ! -e {mark} ]; do sleep 0.02; done")
    until(lambda: system.printed(run), "the program runs")
    nats = await bus.connect(system.stack.nats.url("roles"), name="test")
    orders = await _orders(nats, run)
    assert [order.kind for _, order in orders] == ["start"]
    subject, order = orders[0]
    another = msgspec.structs.replace(order, command_id=uuid.uuid4())
    late = msgspec.structs.replace(order, deadline=datetime.now(UTC) - timedelta(seconds=1))
    for again in (order, another, late, order):
        await nats.jetstream().publish(subject, msgspec.json.encode(again))
    await nats.jetstream().publish(subject, b"{nonsense")
    await nats.close()
    after = system.python("print('after')")
    assert system.wait(after)["status"] == "completed"
    mark.touch()
    assert system.wait(run)["status"] == "completed"
    assert system.texts(run) == ["begun"]
    assert system.events(run).count("starting") == 1


async def _orders(nats: Nats, run: str) -> list[tuple[str, Order]]:
    """Return the orders that were given about the run."""
    subscription = await nats.jetstream().subscribe("tachograph.commands.>", ordered_consumer=True)
    found = []
    with contextlib.suppress(TimeoutError):
        while True:
            message = await subscription.next_msg(timeout=1.0 if found else SECONDS)
            order = msgspec.json.decode(message.data, type=Order)
            if str(order.run_id) == run:
                found.append((message.subject, order))
    return found


def test_termination_protection_keeps_the_slot_until_the_kill(system: System) -> None:
    run = system.python("print('done'); raise ValueError('too late')", protection=True)
    system.wait_for(run, "idle")
    crash(system.worker)
    idle = system.client.run(run)
    assert idle["status"] == "idle"
    assert idle["error"] is not None
    assert (idle["exit_code"], idle["error"]["type"], idle["error"]["message"]) == (1, "ValueError", "too late")
    system.client.kill(run)
    ended = system.wait(run)
    assert (ended["status"], ended["cause"], ended["exit_code"]) == ("killed", "killed_by_user", 1)
    assert ended["error"] == idle["error"]
    assert ended["synced"]
    assert system.texts(run) == ["done"]


@pytest.mark.slow
def test_a_protected_run_whose_worker_falls_silent_crashes_and_comes_back_idle(system: System) -> None:
    liveness = {"beat_seconds": 1, "unresponsive_seconds": 3, "crashed_seconds": 6}
    run = system.start("sh", "-c", "exit 3", protection=True, liveness=liveness)
    system.wait_for(run, "idle")
    worker = system.worker
    for end in ("idle", "killed"):
        frozen = worker.pid
        assert frozen is not None
        os.kill(frozen, signal.SIGSTOP)
        system.wait_for(run, "crashed")
        if end == "killed":
            system.client.kill(run)
        os.kill(frozen, signal.SIGCONT)
        system.wait_for(run, end)
    assert system.client.run(run)["exit_code"] == 3
    both = system.start("true", resources={"count": 2})
    assert system.wait(both)["status"] == "completed", "its slot is free"


def test_a_second_worker_on_the_same_state_is_refused(system: System) -> None:
    worker = system.worker
    second = subprocess.run(
        [sys.executable, "-m", "workers", "gpu"],
        env=worker.environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert second.returncode == 2
    assert "another worker runs on" in second.stderr
