"""Sweeps in the whole system: a GPU worker runs the trials, their programs log, and the search goes by it."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from stack import Stack
from stack.ports import free_port
from tests.api import SECONDS, Json, Project, accepted, until

PROGRAM = """
import sys, tachograph
given = dict(argument.removeprefix("--").split("=") for argument in sys.argv[1:])
with tachograph.init() as run:
    for step in range(3):
        run.log({"loss": abs(float(given["x"]) - 0.25) + 1 - step / 2}, step=step)
    assert run.config["x"] == float(given["x"]), run.config
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    slots = {"TACHOGRAPH_WORKER_SLOTS": "2"}
    with Stack(tmp_path_factory.mktemp("sweeps"), free_port(), environment=slots) as stack:
        yield stack


@pytest.fixture
def project(stack: Stack, tmp_path: Path) -> Iterator[Project]:
    headers = {"Authorization": f"Bearer {stack.api_key}"}
    with httpx.Client(base_url=f"{stack.url}/api/v1", headers=headers, timeout=SECONDS) as client:
        yield Project(client, accepted(client.post("/projects", json={"name": tmp_path.name}), 201))


def sweep(project: Project, command: list[str], **body: object) -> str:
    """Start a sweep of a workflow with this command, and return its path."""
    recipe = {"name": "w", "command": command}
    accepted(project.api.post(f"/projects/{project.id}/workflows", json=recipe), 201)
    asked = {"workflow": "w", "parameters": {"x": {"min": 0.0, "max": 1.0}}, **body}
    return f"/sweeps/{accepted(project.api.post(f'/projects/{project.id}/sweeps', json=asked), 201)['id']}"


def trials(project: Project, path: str) -> list[Json]:
    items: list[Json] = accepted(project.api.get(f"{path}/trials"))["items"]
    return items


def test_a_bayesian_search_runs_to_its_end_and_knows_its_best_trial(project: Project) -> None:
    path = sweep(
        project,
        ["python", "-c", PROGRAM, "${args}"],
        method="bayes",
        metric={"name": "loss", "goal": "min"},
        max_runs=4,
        concurrency=2,
    )
    until(lambda: accepted(project.api.get(path))["status"] == "finished", "the sweep is finished")
    until(lambda: all(trial["step"] == 2 for trial in trials(project, path)), "what they logged is counted")
    found = trials(project, path)
    assert [(trial["number"], trial["status"]) for trial in found] == [(n, "completed") for n in range(1, 5)]
    for trial in found:
        assert trial["value"] == pytest.approx(abs(trial["parameters"]["x"] - 0.25))
    known = accepted(project.api.get(path))
    assert known["trials"] == {"made": 4, "by_status": {"completed": 4}}
    assert known["best"] == min(found, key=lambda trial: trial["value"])
    wanted = {"filter": f"sweep = '{known['id']}' AND trial > 1", "sort": "-trial"}
    listed = accepted(project.api.get(f"/projects/{project.id}/runs", params=wanted))["items"]
    assert [one["id"] for one in listed] == [trial["run"] for trial in reversed(found[1:])]


def test_a_cancellation_ends_the_programs(project: Project) -> None:
    command = ["python", "-c", "import time; time.sleep(600)"]
    path = sweep(project, command, method="random", max_runs=5, concurrency=3)

    def statuses() -> list[str]:
        return sorted(trial["status"] for trial in trials(project, path))

    until(lambda: statuses() == ["queued", "running", "running"], "two run, and one waits for a slot")
    accepted(project.api.post(f"{path}/cancel"))
    until(lambda: statuses() == ["killed"] * 3, "all are killed")
    for trial in trials(project, path):
        assert accepted(project.api.get(f"/runs/{trial['run']}"))["cause"] == "sweep_cancelled"
