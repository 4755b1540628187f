"""A server that the worker does not reach while a run is prepared or stops: it waits, bounded, and loses nothing."""

import pytest

from tests.api import until
from tests.integration.gpu.system import Gates, System, crash
from workers.gpu.process import processes_of
from workers.gpu.settings import PREPARATION_SECONDS, STOPPING_SECONDS

OUTLASTING = 6
"""Attempts that take longer than the 2 s for which any other call is repeated before somebody looks at it again."""


@pytest.mark.slow
@pytest.mark.parametrize("request_", ["/artifacts?", "PUT /api/v1/runs/"])
def test_a_server_that_comes_back_finds_the_run_waiting(
    system: System, gates: Gates, model: str, request_: str
) -> None:
    gates.api.shut_at(request_.encode())
    run = system.doubling(model)
    gates.until_shut()
    until(lambda: gates.asked(request_) >= OUTLASTING, "a long outage")
    gates.api.open()
    ended = system.wait(run)
    assert (ended["status"], ended["error"]) == ("completed", None)
    (saved,) = system.client.artifacts(run)
    assert (saved["name"], saved["bytes"]) == ("result/w.bin", 256 * 8_000)
    assert system.events(run).count("started") == 1


def test_a_kill_ends_the_waiting(system: System, gates: Gates, model: str) -> None:
    gates.api.shut_at(b"/artifacts/base/w.bin")
    run = system.doubling(model)
    gates.until_shut()
    system.client.kill(run, grace_seconds=600)
    until(lambda: system.given_up(run), "the preparation is given up, with the gate still shut")
    gates.api.open()
    ended = system.wait(run)
    assert (ended["status"], ended["cause"], ended["started_at"]) == ("killed", "killed_by_user", None)
    assert "started" not in system.events(run)


def test_a_preparation_is_bounded(system: System, gates: Gates, model: str) -> None:
    with system.worker_with(**{PREPARATION_SECONDS: "1.5"}):
        gates.api.shut_at(b"/artifacts/base/w.bin")
        run = system.doubling(model)
        gates.until_shut()
        until(lambda: system.given_up(run), "the preparation is given up")
        gates.api.open()
        ended = system.wait(run)
    assert (ended["status"], ended["cause"], ended["started_at"]) == ("failed", "prepare_failed", None)
    said = f"artifact:{model}/base: not done within 1.5 s ({PREPARATION_SECONDS}); at last: GET "
    assert said in ended["error"]["message"]


def test_a_restarted_worker_goes_on_with_the_deadline_of_a_preparation(
    system: System, gates: Gates, model: str
) -> None:
    gates.api.shut_at(b"/artifacts/base/w.bin")
    run = system.doubling(model)
    gates.until_shut()
    system.worker.kill()
    age(system, run, "preparing_since_us")
    gates.api.open()
    system.worker.start()
    ended = system.wait(run)
    assert (ended["status"], ended["cause"], ended["started_at"]) == ("failed", "prepare_failed", None)
    assert f"not done within 600 s ({PREPARATION_SECONDS})" in ended["error"]["message"]


@pytest.mark.slow
@pytest.mark.parametrize("away", [True, False])
def test_a_restarted_worker_goes_on_with_the_deadline_of_stopping_and_tries_for_a_tenth_of_it(
    system: System, gates: Gates, model: str, *, away: bool
) -> None:
    with system.worker_with(**{STOPPING_SECONDS: "100"}):
        gates.api.shut_at(b"PUT /api/v1/")
        run = system.doubling(model)
        gates.until_shut()
        system.worker.kill()
        age(system, run, "stopping_since_us")
        gates.api.open()
        if away:
            gates.api.shut_at(b"PUT /api/v1/")
        system.worker.start()
        if away:
            gates.until_shut()
            until(lambda: gates.asked("/report"), "the end is reported")
            gates.api.open()
        ended = system.wait(run)
    assert ended["status"] == ("failed" if away else "completed")
    if away:
        assert f"not done within 100 s ({STOPPING_SECONDS})" in ended["error"]["message"]
    assert len(list(system.client.artifacts(run))) == (not away)


def age(system: System, run: str, since: str) -> None:
    """Have something begun an hour earlier."""
    directory = system.directory(run)
    record = directory.load()
    assert record is not None
    setattr(record, since, getattr(record, since) - 3_600_000_000)
    directory.save(record)


@pytest.mark.slow
@pytest.mark.parametrize("request_", ["/artifacts/base/w.bin", "PUT /api/v1/runs/"])
def test_a_refused_key_is_waited_for_and_costs_no_run(system: System, gates: Gates, model: str, request_: str) -> None:
    gates.api.shut_at(request_.encode())
    run = system.doubling(model)
    gates.until_shut()
    refusals = said(system, "revoked")
    with system.locked_out():
        gates.api.open()
        until(lambda: said(system, "revoked") > refusals, "the worker's key is refused")
    ended = system.wait(run)
    assert (ended["status"], ended["error"]) == ("completed", None)
    assert len(list(system.client.artifacts(run))) == 1


@pytest.mark.slow
def test_a_refused_key_is_waited_for_as_long_as_a_server_that_is_away(system: System, gates: Gates, model: str) -> None:
    with system.worker_with(**{PREPARATION_SECONDS: "20"}):
        gates.api.shut_at(b"/artifacts/base/w.bin")
        run = system.doubling(model)
        gates.until_shut()
        with system.locked_out():
            gates.api.open()
            until(lambda: system.given_up(run), "the preparation is given up")
        ended = system.wait(run)
    assert (ended["status"], ended["cause"]) == ("failed", "prepare_failed")
    assert f"not done within 20 s ({PREPARATION_SECONDS}); at last: " in ended["error"]["message"]
    assert "revoked" in ended["error"]["message"]


def said(system: System, words: str) -> int:
    """Count what the worker has logged."""
    return system.worker.log.read_text().count(words)


def test_stopping_is_bounded(system: System, gates: Gates, model: str) -> None:
    with system.worker_with(**{STOPPING_SECONDS: "1.5"}):
        gates.api.shut_at(b"PUT /api/v1/")
        run = system.doubling(model)
        gates.until_shut()
        until(lambda: gates.asked("/report"), "the end is reported")
        gates.api.open()
        ended = system.wait(run)
    assert (ended["status"], ended["exit_code"], ended["error"]["type"]) == ("failed", 0, "ExportFailed")
    said = f"w.bin to artifact:result/w.bin: not done within 1.5 s ({STOPPING_SECONDS}); at last: PUT "
    assert said in ended["error"]["message"]


def test_a_run_killed_before_its_worker_knows_that_it_has_it_is_never_prepared(
    system: System, gates: Gates, model: str
) -> None:
    gates.api.shut_at(b"/claim", answered=True)
    run = system.doubling(model)
    system.wait_for(run, "starting")
    gates.until_shut()
    system.client.kill(run, grace_seconds=600)
    gates.api.open()
    ended = system.wait(run)
    assert (ended["status"], ended["cause"], ended["epoch"]) == ("killed", "killed_by_user", 1)
    assert not {"started", "artifact_saved"} & set(system.events(run))


@pytest.mark.parametrize("answered", [False, True])
def test_a_worker_killed_at_its_claim_has_the_run_once(
    system: System, gates: Gates, model: str, *, answered: bool
) -> None:
    gates.api.shut_at(b"/claim", answered=answered)
    run = system.doubling(model)
    gates.until_shut()
    crash(system.worker)
    assert system.client.run(run)["status"] == ("starting" if answered else "queued")
    gates.api.open()
    ended = system.wait(run)
    assert (ended["status"], ended["epoch"]) == ("completed", 1)
    assert (system.events(run).count("starting"), system.events(run).count("started")) == (1, 1)


def test_a_worker_killed_while_it_prepares_a_run_begins_anew(system: System, gates: Gates, model: str) -> None:
    gates.api.shut_at(b"/artifacts/base/w.bin")
    run = system.doubling(model, "ls -A in; exit 7")
    gates.until_shut()
    (system.directory(run).work / "in").mkdir(exist_ok=True)
    (system.directory(run).work / "in" / "half").touch()
    crash(system.worker)
    gates.api.open()
    ended = system.wait(run)
    assert (ended["status"], ended["exit_code"], ended["epoch"]) == ("failed", 7, 1)
    assert system.texts(run) == ["w.bin"]
    assert system.events(run).count("started") == 1
    until(lambda: not processes_of(run), "its processes are gone")


def test_a_worker_killed_while_a_run_stops_stores_the_rest_and_tells_the_true_exit(
    system: System, gates: Gates, model: str
) -> None:
    gates.api.shut_at(b"PUT /api/v1/runs/")
    run = system.doubling(model, "cp in/w.bin w.bin; exit 7")
    gates.until_shut()
    crash(system.worker)
    gates.api.open()
    ended = system.wait(run)
    assert (ended["status"], ended["cause"], ended["exit_code"], ended["epoch"]) == ("failed", "exit_code", 7, 1)
    assert [one["name"] for one in system.client.artifacts(run)] == ["result/w.bin"]
    assert (system.events(run).count("started"), system.events(run).count("stopping")) == (1, 1)
    assert not processes_of(run)
