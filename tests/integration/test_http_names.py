"""Names over HTTP: unique, memorable, kept, and found again."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest

from events.errors import Rejected
from events.ids import uuid7
from events.run_events import RunCreated
from events.run_names import names
from events.types import Mode
from projections.execute import asked_by
from projections.new_runs import open_run
from tests.api import Api, Json, Project, accepted, refused
from tests.integration.histories import opened_project
from tests.servers import Database


def test_many_runs_created_at_once_have_names_of_their_own(api: Api, project: Project):
    path = f"/projects/{project.id}/runs"
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: accepted(api.client.post(path, json={}), 201), range(64)))
    assert len({run["name"] for run in found}) == 64
    assert all(len(run["name"].split("-")) == 3 for run in found)


def test_a_run_is_found_by_its_name(api: Api, project: Project):
    path = f"/projects/{project.name}/runs/by-name"
    for name in ("plain", "a/b: c", "é №1"):
        run = project.create(name=name)
        found = accepted(api.client.get(path, params={"name": name}))
        assert found == accepted(api.client.get(f"/runs/{run['id']}"))
    refused(api.client.get(path, params={"name": "nobody"}), 404)
    refused(api.client.get(path, params={"name": "' or true --"}), 404)
    refused(api.client.get(path), 400)
    with api.other_tenant() as other:
        refused(other.get(path, params={"name": "plain"}), 404)
    gone = project.finished(name="gone")
    accepted(api.client.delete(f"/runs/{gone['id']}"))
    refused(api.client.get(path, params={"name": "gone"}), 404)
    again = project.create(name="gone")
    assert accepted(api.client.get(path, params={"name": "gone"}))["id"] == again["id"]


def test_a_run_keeps_its_name_and_is_told_why(api: Api, project: Project):
    run = project.create(name="first")
    problem = refused(api.client.patch(f"/runs/{run['id']}", json={"name": "second", "notes": "n"}), 409)
    assert problem["asked"] == "rename"
    assert "alias" in problem["detail"]
    same = accepted(api.client.patch(f"/runs/{run['id']}", json={"name": "first", "notes": "n"}))
    assert (same["name"], same["notes"]) == ("first", "n")


def test_the_refusal_of_a_taken_name_says_which(api: Api, project: Project):
    project.create(name="taken", external_id="mine")
    path = f"/projects/{project.id}/runs"
    for body, field in (({"name": "taken"}, "name"), ({"external_id": "mine"}, "external_id")):
        for headers in ({}, {"Idempotency-Key": "k" + field}):
            problem = refused(api.client.post(path, json=body, headers=headers), 409)
            assert problem["detail"].startswith(f"{field} '")
    assert project.head()["position"] == 2


@pytest.mark.parametrize(
    "name", ["", " a", "a ", "a/b", "a:b", "a\\b", ".", "..", "a\n", "01890000-0000-7000-8000-000000000001", "x" * 251]
)
def test_a_project_has_no_name_under_which_it_is_not_found(api: Api, project: Project, name: str):
    for answer in (
        api.client.post("/projects", json={"name": name}),
        api.client.patch(f"/projects/{project.id}", json={"name": name}),
    ):
        assert refused(answer, 422)["errors"][0]["path"] == "$.name"


@pytest.mark.parametrize("name", ["", " a", "a ", "/a", "a\n", "01890000-0000-7000-8000-000000000001", "x" * 221])
def test_a_workflow_has_no_name_under_which_it_is_not_found(api: Api, project: Project, name: str):
    path = f"/projects/{project.id}/workflows"
    assert refused(api.client.post(path, json={"name": name}), 422)["errors"][0]["path"] == "$.name"


def test_a_workflow_with_the_longest_name_gives_its_runs_names_that_are_no_longer_than_names_are(
    api: Api, project: Project
):
    accepted(api.client.post(f"/projects/{project.id}/workflows", json={"name": "x" * 220}), 201)
    run: Json = project.create(workflow="x" * 220)
    assert len(run["name"]) <= 250


async def test_a_name_of_ours_gives_way_while_it_is_taken(database: Database):
    wanted = [name for name, _ in names(None, Random(7))]
    async with opened_project(database.url) as project:

        async def opened() -> str:
            created = RunCreated(name="", session_id="", mode=Mode.TRACKED)
            outcome = await open_run(
                project.ledger,
                project.ledger_id,
                uuid7(),
                created,
                asked_by("test"),
                workflow=None,
                chance=Random(7),  # the worst: all are given the same names in the same order
            )
            return outcome.run.name

        assert sorted(await asyncio.gather(*(opened() for _ in range(8)))) == sorted(wanted[:8])
        for expected in wanted[8:]:
            assert await opened() == expected
        with pytest.raises(Rejected, match="choose one"):
            await opened()
