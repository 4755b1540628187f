"""A server that takes every connection and answers none: what waits is bounded, and nothing else waits."""

import os
import signal
from pathlib import Path

import pytest

from stack import Process
from tests.api import until
from tests.integration.gpu.system import COUNTING, Gates, System
from workers.gpu.agent import CALLS_PER_SLOT
from workers.gpu.process import processes_of
from workers.gpu.settings import CALL_SECONDS, PREPARATION_SECONDS, STOPPING_SECONDS

pytestmark = pytest.mark.slow

QUICK = {"beat_seconds": 2.0, "unresponsive_seconds": 8.0, "crashed_seconds": 9.0}
"""Shorter than the 10 s for which the worker waits for one answer, where `PATIENT` is set."""
PATIENT = {CALL_SECONDS: "10"}

SLEEPING = "import time; print('up'); time.sleep(600)"


def test_a_preparation_that_gets_no_answer_is_bounded(system: System, gates: Gates, model: str) -> None:
    with system.worker_with(**PATIENT, **{PREPARATION_SECONDS: "1.5"}):
        beside = sleeping(system)
        gates.api.freeze_at(b"/artifacts/base/w.bin")
        run = system.doubling(model)
        gates.until_shut()
        until(lambda: system.given_up(run), "the preparation is given up")
        lives_until_it_is_killed(system, gates, beside)
        ended = system.wait(run)
    assert (ended["status"], ended["cause"], ended["started_at"]) == ("failed", "prepare_failed", None)
    said = f"artifact:{model}/base: not done within 1.5 s ({PREPARATION_SECONDS}); at last: GET "
    assert said in ended["error"]["message"]


def test_outputs_that_nobody_takes_are_given_up(system: System, gates: Gates, model: str) -> None:
    with system.worker_with(**PATIENT, **{STOPPING_SECONDS: "1.5"}):
        beside = sleeping(system)
        gates.api.freeze_at(b"PUT /api/v1/")
        run = system.doubling(model)
        gates.until_shut()
        until(lambda: gates.asked("/report"), "the end is reported")
        lives_until_it_is_killed(system, gates, beside)
        ended = system.wait(run)
    assert (ended["status"], ended["exit_code"], ended["error"]["type"]) == ("failed", 0, "ExportFailed")
    assert f"not done within 1.5 s ({STOPPING_SECONDS}); at last: PUT " in ended["error"]["message"]


@pytest.mark.parametrize("request_", ["/artifacts/base/w.bin", "PUT /api/v1/"])
def test_a_kill_reaches_a_run_that_waits_for_an_answer(system: System, gates: Gates, model: str, request_: str) -> None:
    gates.api.freeze_at(request_.encode())
    run = system.doubling(model)
    gates.until_shut()
    system.client.kill(run, grace_seconds=600)
    if request_.startswith("PUT"):
        until(lambda: gates.asked("/report"), "the end is reported")
    else:
        until(lambda: system.given_up(run), "the preparation is given up")
    assert not gates.api.is_open
    assert threads(system.worker) <= most_threads()
    gates.api.open()
    ended = system.wait(run)
    assert (ended["status"], ended["cause"]) == ("killed", "killed_by_user")
    assert system.wait(system.start("true"))["status"] == "completed"


def test_a_claim_that_gets_no_answer_is_made_once(system: System, gates: Gates) -> None:
    gates.api.freeze_at(b"/claim")
    run = system.start("true")
    gates.until_shut()
    until(lambda: gates.asked("/claim") > 1, "it is claimed again")
    gates.api.open()
    ended = system.wait(run)
    assert (ended["status"], ended["epoch"]) == ("completed", 1)
    assert (system.events(run).count("starting"), system.events(run).count("started")) == (1, 1)


def test_a_service_that_stands_still_costs_no_line_and_no_run(system: System) -> None:
    run = system.python(COUNTING.format(lines=300, pause=0.01, code=0), liveness=QUICK)
    until(lambda: system.printed(run) > 20, "the first lines")
    unanswered = system.worker.log.read_text().count("no answer yet")
    pid = system.service.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        until(
            lambda: system.worker.log.read_text().count("no answer yet") > unanswered, "the worker has waited in vain"
        )
        assert threads(system.worker) <= most_threads()
    finally:
        os.kill(pid, signal.SIGCONT)
    assert system.wait(run)["status"] == "completed"
    assert system.texts(run) == [f"line {i}" for i in range(300)]
    assert system.texts(run, "stderr") == [f"err {i}" for i in range(300)]
    assert not {"unresponsive", "crashed"} & set(system.events(run))


def sleeping(system: System) -> str:
    """Start a run that asks for nothing, and whose heartbeats are missed soon."""
    run = system.python(SLEEPING, liveness=QUICK)
    until(lambda: system.printed(run), "the program runs")
    return run


def lives_until_it_is_killed(system: System, gates: Gates, run: str) -> None:
    """Check that a run was not missed while the gate was frozen, and can be killed before it opens."""
    system.client.kill(run, grace_seconds=5)
    until(lambda: not processes_of(run), "its processes are gone")
    assert not gates.api.is_open
    assert threads(system.worker) <= most_threads()
    gates.api.open()
    ended = system.wait(run)
    assert (ended["status"], ended["cause"]) == ("killed", "killed_by_user")
    assert not {"unresponsive", "crashed"} & set(system.events(run))


def threads(process: Process) -> int:
    return len(list(Path(f"/proc/{process.pid}/task").iterdir()))


def most_threads() -> int:
    """Count those for the calls of two slots and for the event loop, and a few of libraries."""
    return 8 + 2 * CALLS_PER_SLOT + min(32, (os.cpu_count() or 1) + 4) + 4
