"""The list of a project's runs over HTTP: filters, orders, pages, groups, columns, and what is refused."""

from typing import Any

import httpx
import pytest

from tests.api import Api, Project, accepted, refused, until

ROLES = ("projector",)


def names(project: Project, **parameters: Any) -> list[str]:
    found = accepted(project.api.get(f"/projects/{project.id}/runs", params=parameters))["items"]
    return [one["name"] for one in found]


@pytest.fixture(scope="module")
def project(api: Api) -> Project:
    """Six runs of two workflows that are already searchable."""
    project = api.project()
    for name in ("digits", "words"):
        accepted(api.client.post(f"/projects/{project.id}/workflows", json={"name": name}), 201)
    for number in range(6):
        body = {
            "name": f"r{number}", "mode": "tracked", "workflow": "digits" if number < 4 else "words",
            "config": {"lr": 10.0**-number, "net": {"depth": number}}, "tags": ["even"] if number % 2 == 0 else ["odd"],
        }  # fmt: skip
        run = project.started(**body)
        accepted(project.log(run, 1, {"acc": {"step": [1, 2], "value": [number / 10, number / 20]}}), 202)
        accepted(api.client.post(f"/runs/{run['id']}/primary-metric", json={"name": "acc", "mode": "max"}))
        accepted(api.client.patch(f"/runs/{run['id']}", json={"summary": {"acc": number / 10}}))
        if number % 3 == 0:
            accepted(api.client.post(f"/runs/{run['id']}/finish", json={"epoch": 1, "status": "completed"}))
        if number == 5:
            accepted(api.client.post(f"/runs/{run['id']}/archive"))
    until(lambda: len(names(project, filter="metrics.acc.best >= 0 AND summary.acc >= 0", archived="any")) == 6, "seen")
    until(lambda: sum(count for _, count in groups(project, group="tags")) == 5, "the last one's archiving seen")
    return project


def groups(project: Project, **parameters: Any) -> list[tuple[Any, int]]:
    found = accepted(project.api.get(f"/projects/{project.id}/runs", params=parameters))["items"]
    return [(one["value"], one["runs"]) for one in found]


def test_runs_are_filtered_sorted_and_cut_over_http(project: Project) -> None:
    assert names(project) == ["r4", "r3", "r2", "r1", "r0"]
    assert names(project, archived="true") == ["r5"]
    assert names(project, filter="archived = true") == ["r5"]
    assert names(project, archived="any", tag="odd") == ["r5", "r3", "r1"]
    assert names(project, filter="config.lr < 0.05 AND summary.acc > 0.25") == ["r4", "r3"]
    assert names(project, filter="config.net.depth IN (1, 2)", sort="name") == ["r1", "r2"]
    assert names(project, sort="-metrics.acc.best", limit=2) == ["r4", "r3"]
    assert names(project, workflow="words", archived="any", sort="metrics.acc.last") == ["r4", "r5"]
    assert names(project, filter="workflow = 'digits' AND NOT tags = 'even'") == ["r3", "r1"]
    assert names(project, status="FINISHED", **{"as": "mlflow"}) == ["r3", "r0"]
    assert names(project, filter="status != 'running'", **{"as": "wandb"}) == ["r3", "r0"]
    shown = accepted(project.api.get(f"/projects/{project.id}/runs", params={"as": "mlflow", "sort": "name"}))["items"]
    assert [one["status"] for one in shown] == ["FINISHED", "RUNNING", "RUNNING", "FINISHED", "RUNNING"]
    one = accepted(project.api.get(f"/runs/{shown[1]['id']}", params={"as": "finetuner"}))
    assert one["status"] == "STARTED"


def test_chosen_columns_come_instead_of_whole_runs(project: Project) -> None:
    columns = "name,status,config.net,metrics.acc.best,metrics.acc.last,workflow,tags,config.none,duration"
    path = f"/projects/{project.id}/runs"
    row = accepted(project.api.get(path, params={"columns": columns, "sort": "name", "as": "vessl"}))["items"][3]
    assert row.pop("duration") >= 0
    assert row.pop("id")
    assert row == {
        "name": "r3", "status": "Completed", "config.net": {"depth": 3}, "metrics.acc.best": 0.3,
        "metrics.acc.last": 0.15, "workflow": "digits", "tags": ["odd"], "config.none": None,
    }  # fmt: skip


def test_groups_have_counts_and_pages(project: Project) -> None:
    assert groups(project, group="workflow") == [("digits", 4), ("words", 1)]
    assert groups(project, group="tags", archived="any") == [("even", 3), ("odd", 3)]
    assert groups(project, group="status", **{"as": "wandb"}) == [("running", 3), ("finished", 2)]
    assert groups(project, group="config.net.depth", filter="config.net.depth > 2") == [(3.0, 1), (4.0, 1)]
    path = f"/projects/{project.id}/runs"
    first = accepted(project.api.get(path, params={"group": "config.net.depth", "limit": 2}))
    second = accepted(
        project.api.get(path, params={"group": "config.net.depth", "limit": 9, "cursor": first["next_cursor"]})
    )
    assert [one["value"] for one in [*first["items"], *second["items"]]] == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_pages_of_a_sorted_list_follow_their_links(project: Project) -> None:
    path, seen = f"/projects/{project.id}/runs", []
    answer = project.api.get(path, params={"sort": "tags,-summary.acc", "limit": 2, "filter": "config.lr > 0"})
    while True:
        seen += [one["name"] for one in accepted(answer)["items"]]
        if "next" not in answer.links:
            break
        answer = project.api.get(httpx.URL(str(project.api.base_url)).join(answer.links["next"]["url"]))
    assert seen == ["r4", "r2", "r0", "r3", "r1"]


INJECTIONS = (
    "' OR 1=1 --", "x'; DROP TABLE projection.run; --", "1) OR (1=1", "name = 'a' UNION SELECT * FROM ledger.data_key",
    "config.`a'; delete from run; --` = 1 OR", "$1", "pg_sleep(10) = 1", "name = 'a' /* */", "config.a = (select 1)",
)  # fmt: skip


@pytest.mark.parametrize("text", INJECTIONS)
def test_injections_are_refused_with_a_position(project: Project, text: str) -> None:
    problem = refused(project.api.get(f"/projects/{project.id}/runs", params={"filter": text}), 422)
    (error,) = problem["errors"]
    assert error["path"] == "filter"
    assert isinstance(error["position"], int)
    for parameter in ("sort", "group", "columns"):
        problem = refused(project.api.get(f"/projects/{project.id}/runs", params={parameter: text}), 422)
        assert problem["errors"][0]["path"] == parameter


@pytest.mark.parametrize("value", ["'; drop table run; --", "a' or 'a'='a", "%';select pg_sleep(9)--", "\\"])
def test_hostile_values_are_only_values(project: Project, value: str) -> None:
    quoted = value.replace("'", "''")
    for field in ("name", "config.`" + value.replace("`", "``") + "`", "workflow", "external_id", "tags"):
        assert names(project, filter=f"{field} = '{quoted}' OR {field} IN ('{quoted}', 'b')") == []
    assert names(project, tag=value) == []
    assert names(project, sort="config.`" + value.replace("`", "``") + "`,name") == ["r0", "r1", "r2", "r3", "r4"]


def test_what_cannot_be_listed_says_why(project: Project) -> None:
    path = f"/projects/{project.id}/runs"

    def problem(**parameters: Any) -> dict[str, Any]:
        return refused(project.api.get(path, params=parameters), 422)

    assert "wandb, mlflow" in problem(**{"as": "kubeflow"})["detail"]
    assert "word of mlflow" in problem(status="SCHEDULED")["detail"]
    assert problem(archived="maybe")["errors"]
    assert "no workflow" in problem(workflow="nothing")["detail"]
    cursor = accepted(project.api.get(path, params={"limit": 1}))["next_cursor"]
    assert "another order" in problem(cursor=cursor, sort="name")["detail"]
    for forged in ("x", "AAAA", cursor[:-4], "lZLA"):
        assert problem(cursor=forged)["errors"][0]["path"] == "cursor"


def test_a_new_run_is_in_the_list_at_once(api: Api) -> None:
    project = api.project()
    for _ in range(5):
        run = project.create()
        assert names(project)[0] == run["name"]
        accepted(api.client.post(f"/runs/{run['id']}/kill"))
        assert names(project, status="killed", sort="-created_at")[0] == run["name"]


def test_a_refusal_says_state_request_and_the_way_out(api: Api, project: Project) -> None:
    run = project.started()
    problem = refused(api.client.delete(f"/runs/{run['id']}"), 409)
    assert (problem["state"], problem["asked"]) == ("running", "delete")
    assert problem["allowed"] == ["monitor", "kill", "reproduce"]
    assert "kill it, wait until it is killed, then delete it" in problem["detail"]
    accepted(api.client.post(f"/runs/{run['id']}/finish", json={"epoch": 1, "status": "completed"}))
    accepted(api.client.delete(f"/runs/{run['id']}"))
    problem = refused(api.client.post(f"/runs/{run['id']}/kill"), 410)
    assert (problem["state"], problem["allowed"]) == ("deleted", ["view transitions"])
    assert problem["asked"].endswith("/kill")
