"""Managed runs and sweeps from the SDK, against the whole system: their programs are children of a real GPU worker."""

import math
import sys
from pathlib import Path

import pytest

import tachograph

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "train_digits.py"


def managed(client, project: str, *arguments: str) -> str:
    client.ensure_project(project)
    command = [sys.executable, str(EXAMPLE), *arguments]
    return client.create_run(project, command=command, config={"lr": 0.1}, resources={"accelerator": "cpu"})["id"]


def test_a_managed_run_trains_a_classifier(client, project, until):
    run = client.wait(managed(client, project, "--epochs", "3"), timeout_seconds=120)
    assert (run["status"], run["exit_code"], run["error"]) == ("completed", 0, None)
    assert run["config"]["lr"] == 0.1
    assert run["summary"]["val/accuracy"] > 0.85
    assert run["progress"]["done"] == 3.0
    (loss,) = client.chart(run["id"], "train/loss", buckets=10_000)
    assert loss["points"] == 3 * math.ceil(1437 / 32)
    assert loss["last"][-1] < loss["first"][0] / 2
    until(lambda: any("epoch   3" in line["text"] for line in client.stream_logs(run["id"], stream="stdout")))


def test_a_managed_run_that_raises_fails_with_its_traceback(client, project):
    run = client.wait(managed(client, project, "--epochs", "3", "--fail-at", "1"), timeout_seconds=120)
    assert (run["status"], run["cause"]) == ("failed", "exception")
    assert run["error"]["type"] == "RuntimeError"
    assert "asked to fail after epoch 1" in run["error"]["traceback"]
    assert client.chart(run["id"], "val/accuracy")[0]["points"] == 1


def test_a_managed_run_that_is_killed_keeps_what_it_had(client, project, until):
    run_id = managed(client, project, "--epochs", "100", "--seconds-per-epoch", "1")
    until(lambda: (client.run(run_id)["progress"] or {}).get("done", 0) >= 1)
    client.kill(run_id)
    run = client.wait(run_id, timeout_seconds=120)
    assert (run["status"], run["cause"]) == ("killed", "killed_by_user")
    assert client.chart(run_id, "val/accuracy")[0]["points"] >= 1


def test_a_managed_run_that_is_killed_hard_keeps_what_it_had_logged(client, project, tmp_path, points):
    """As the kernel does that runs out of memory: the last batch has not been made yet."""
    program = tmp_path / "killed.py"
    program.write_text(
        """
import os, signal, time, tachograph
from tachograph._sync import left_behind
run = tachograph.init()
for step in range(3_000):
    run.log(x=step, step=step)
    time.sleep(0.0005)
run.log(last=1.0)
for _ in range(2_000):  # where it is not seen there, it was delivered already
    if any(b"last" in path.read_bytes() for path in left_behind()):
        break
    time.sleep(0.001)
os.kill(os.getpid(), signal.SIGKILL)
"""
    )
    client.ensure_project(project)
    run_id = client.create_run(project, command=[sys.executable, str(program)])["id"]
    run = client.wait(run_id, timeout_seconds=120)
    assert (run["status"], run["synced"]) == ("failed", True)
    assert points(run_id, "x") == [(step, float(step)) for step in range(3_000)]
    assert [value for _, value in points(run_id, "last")] == [1.0]


def test_another_process_may_attach_to_a_managed_run_too(client, project, tmp_path, points):
    """Two programs of one command, each with batches numbered from 1."""
    program = tmp_path / "part.py"
    program.write_text("import sys, tachograph\ntachograph.init().log({sys.argv[1]: 1.0})\n")
    client.ensure_project(project)
    command = ["sh", "-c", f"{sys.executable} {program} a && {sys.executable} {program} b; exit 3"]
    run_id = client.create_run(project, command=command)["id"]
    run = client.wait(run_id, timeout_seconds=120)
    assert (run["status"], run["exit_code"]) == ("failed", 3)
    assert points(run_id, "a") == [(1, 1.0)]
    assert points(run_id, "b") == [(1, 1.0)]


TRIAL = """
import sys, tachograph
layers = int(sys.argv[1].partition("=")[2])
with tachograph.init() as run:
    run.log({"loss": abs(layers - 3)})
"""


def test_a_sweep_finds_the_best_of_its_trials(client, project):
    client.ensure_project(project)
    client.create_workflow(project, "train", command=[sys.executable, "-c", TRIAL, "${args}"])
    sweep = client.create_sweep(
        project,
        workflow="train",
        method="grid",
        parameters={"layers": {"min": 2, "max": 4}},
        metric={"name": "loss", "goal": "min"},
        concurrency=2,
    )
    done = client.wait_for_sweep(sweep["id"], timeout_seconds=60)
    assert (done["status"], done["trials"]) == ("finished", {"made": 3, "by_status": {"completed": 3}})
    best = done["best"]
    assert best is not None
    assert (best["number"], best["parameters"], best["value"]) == (2, {"layers": 3}, 0.0)
    trials = list(client.trials(sweep["id"]))
    assert [(trial["number"], trial["status"]) for trial in trials] == [(n, "completed") for n in (1, 2, 3)]
    assert best in trials
    with pytest.raises(tachograph.Conflict):
        client.stop_sweep(sweep["id"])


def test_a_sweep_is_paused_resumed_stopped_and_cancelled(client, project):
    client.ensure_project(project)
    client.create_workflow(project, "wait", command=["sleep", "60"])
    parameters = {"seed": {"min": 1, "max": 100}}
    sweep = client.create_sweep(project, workflow="wait", method="random", parameters=parameters, max_runs=50)["id"]
    said = [ask(sweep)["status"] for ask in (client.pause_sweep, client.resume_sweep, client.stop_sweep)]
    assert said == ["paused", "running", "stopped"]
    client.cancel_sweep(sweep)
    done = client.wait_for_sweep(sweep, timeout_seconds=60)
    assert (done["status"], set(done["trials"]["by_status"]) - {"killed"}) == ("cancelled", set())
    assert [one["id"] for one in client.sweeps(project)] == [sweep]
    with pytest.raises(tachograph.Invalid, match=r"\$\.parameters\.lr: a parameter has a `value`"):
        client.create_sweep(project, workflow="wait", method="grid", parameters={"lr": {"min": 1}})
