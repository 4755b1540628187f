"""A server that the worker does not reach while a run is prepared or stops: it waits, bounded, and loses nothing."""

from pathlib import Path

import pytest

from tests.integration.gpu.system import Gates, System, crash, until
from workers.gpu.process import processes_of
from workers.gpu.settings import PREPARATION_SECONDS, STOPPING_SECONDS

OUTLASTING = 9
"""Attempts that take longer than the 10 s for which any other call is repeated before somebody looks at it again."""


@pytest.fixture
def model(system: System, tmp_path: Path) -> str:
    """A run that has left a model."""
    run = system.client.create_run(system.project, mode="tracked")["id"]
    (tmp_path / "w.bin").write_bytes(bytes(range(256)) * 4_000)
    system.client.save_artifact(run, tmp_path / "w.bin", name="base/w.bin", kind="model")
    return run


def doubling(system: System, model: str, command: str = "cat in/w.bin in/w.bin > w.bin") -> str:
    """A run that brings a model in and takes another out."""
    return system.start(
        "sh", "-c", command,
        import_volumes=[{"place": f"artifact:{model}/base", "path": "in"}],
        export_volumes=[{"place": "artifact:result/w.bin", "path": "w.bin"}],
    )  # fmt: skip


def until_shut(gates: Gates) -> None:
    until(lambda: not gates.api.is_open, "the worker asks for what it will not get")


def asked(gates: Gates, request: str) -> int:
    return sum(request.encode() in said for said in gates.api.turned_away)


@pytest.mark.slow
@pytest.mark.parametrize("request_", ["/artifacts?", "PUT /api/v1/runs/"])
def test_a_server_that_comes_back_finds_the_run_waiting(
    system: System, gates: Gates, model: str, request_: str
) -> None:
    gates.api.shut_at(request_.encode())
    run = doubling(system, model)
    until_shut(gates)
    until(lambda: asked(gates, request_) >= OUTLASTING, "a long outage")
    gates.api.open()
    ended = system.wait(run)
    assert (ended["status"], ended["error"]) == ("completed", None)
    (saved,) = system.client.artifacts(run)
    assert (saved["name"], saved["bytes"]) == ("result/w.bin", 256 * 8_000)
    assert system.events(run).count("started") == 1


def test_a_kill_ends_the_waiting(system: System, gates: Gates, model: str) -> None:
    gates.api.shut_at(b"/artifacts/base/w.bin")
    run = doubling(system, model)
    until_shut(gates)
    system.client.kill(run, grace_seconds=600)
    until(lambda: system.directory(run).exit() is not None, "the preparation is given up, with the gate still shut")
    gates.api.open()
    ended = system.wait(run)
    assert (ended["status"], ended["cause"], ended["started_at"]) == ("killed", "killed_by_user", None)
    assert "started" not in system.events(run)


def test_a_preparation_is_bounded(system: System, gates: Gates, model: str) -> None:
    with system.worker_with(**{PREPARATION_SECONDS: "1.5"}):
        gates.api.shut_at(b"/artifacts/base/w.bin")
        run = doubling(system, model)
        until_shut(gates)
        until(lambda: system.directory(run).exit() is not None, "the preparation is given up")
        gates.api.open()
        ended = system.wait(run)
    assert (ended["status"], ended["cause"], ended["started_at"]) == ("failed", "prepare_failed", None)
    said = f"artifact:{model}/base: not done within 1.5 s ({PREPARATION_SECONDS}); at last: GET "
    assert said in ended["error"]["message"]


def test_stopping_is_bounded(system: System, gates: Gates, model: str) -> None:
    with system.worker_with(**{STOPPING_SECONDS: "1.5"}):
        gates.api.shut_at(b"PUT /api/v1/")
        run = doubling(system, model)
        until_shut(gates)
        until(lambda: asked(gates, "/report"), "the end is reported")
        gates.api.open()
        ended = system.wait(run)
    assert (ended["status"], ended["exit_code"], ended["error"]["type"]) == ("failed", 0, "ExportFailed")
    said = f"w.bin to artifact:result/w.bin: not done within 1.5 s ({STOPPING_SECONDS}); at last: PUT "
    assert said in ended["error"]["message"]


def test_a_run_killed_before_its_worker_knows_that_it_has_it_is_never_prepared(
    system: System, gates: Gates, model: str
) -> None:
    gates.api.shut_at(b"/claim", answered=True)
    run = doubling(system, model)
    system.wait_for(run, "starting")
    until_shut(gates)
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
    run = doubling(system, model)
    until_shut(gates)
    crash(system.worker)
    assert system.client.run(run)["status"] == ("starting" if answered else "queued")
    gates.api.open()
    ended = system.wait(run)
    assert (ended["status"], ended["epoch"]) == ("completed", 1)
    assert (system.events(run).count("starting"), system.events(run).count("started")) == (1, 1)


def test_a_worker_killed_while_it_prepares_a_run_begins_anew(system: System, gates: Gates, model: str) -> None:
    gates.api.shut_at(b"/artifacts/base/w.bin")
    run = doubling(system, model, "ls -A in; exit 7")
    until_shut(gates)
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
    run = doubling(system, model, "cp in/w.bin w.bin; exit 7")
    until_shut(gates)
    crash(system.worker)
    gates.api.open()
    ended = system.wait(run)
    assert (ended["status"], ended["cause"], ended["exit_code"], ended["epoch"]) == ("failed", "exit_code", 7, 1)
    assert [one["name"] for one in system.client.artifacts(run)] == ["result/w.bin"]
    assert (system.events(run).count("started"), system.events(run).count("stopping")) == (1, 1)
    assert not processes_of(run)
