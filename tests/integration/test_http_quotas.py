"""Plans, the queue and usage over HTTP; an operator's close; attempts that were superseded."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from events.ids import uuid7
from tests.api import Api, Json, Project, accepted, refused, serving
from tests.servers import NatsServer, PostgresServer


@pytest.fixture(scope="module")
def api(
    postgres_server: PostgresServer, nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Api]:
    parent: Path = tmp_path_factory.mktemp("quotas")
    with serving(postgres_server, nats_server, parent) as api:
        yield api


@pytest.fixture
def tenant(api: Api) -> Iterator[httpx.Client]:
    """A client of an organisation that nobody else uses."""
    with api.other_tenant() as client:
        yield client


def project(client: httpx.Client) -> Project:
    return Project(client, accepted(client.post("/projects", json={"name": f"p-{uuid7()}"}), 201))


def worker(client: httpx.Client, *kinds: str) -> str:
    slots = [{"id": f"{kind}:{index}", "kind": kind} for index, kind in enumerate(kinds)]
    registered: str = accepted(client.post("/workers", json={"name": f"w-{uuid7()}", "slots": slots}), 201)["id"]
    return registered


def claim(client: httpx.Client, run: Json, worker_id: str, *slots: str, **fields: object) -> httpx.Response:
    body = {"worker": worker_id, "command_id": str(uuid7()), "slots": slots, **fields}
    return client.post(f"/runs/{run['id']}/claim", json=body)


def test_a_plan_bounds_claims_in_all_projects_and_usage_shows_it(tenant: httpx.Client):
    first, second = project(tenant), project(tenant)
    w = worker(tenant, "cuda:h200", "cuda:h200", "cpu")
    body = {"plan": "small", "plan_limits": {"max_active_runs": 3, "accelerators": {"cuda": 1}}}
    plan = accepted(tenant.put("/organisation/plan", json=body))
    assert (plan["plan"], plan["version"]) == ("small", 2)
    assert accepted(tenant.get("/organisation/plan")) == plan
    gpu = {"command": ["true"], "resources": {"accelerator": "cuda", "count": 1}}
    runs = [first.create(**gpu), second.create(**gpu)]
    accepted(claim(tenant, runs[0], w, "cuda:h200:0"))
    problem = refused(claim(tenant, runs[1], w, "cuda:h200:1"), 409)
    assert problem["type"].endswith(":quota-reached")
    assert (problem["scope"], problem["accelerator"], problem["limit"], problem["in_use"]) == ("plan", "cuda", 1, 1)
    usage = accepted(tenant.get("/usage"))
    assert (usage["active_runs"], usage["queued_runs"], usage["limit_active_runs"], usage["slots"]) == (1, 1, 3, 3)
    assert usage["accelerators"] == [
        {"kind": "cpu", "slots": 1, "in_use": 0},
        {"kind": "cuda:h200", "slots": 2, "in_use": 1},
    ]
    assert [(q["scope"], q["accelerator"], q["limit"], q["in_use"]) for q in usage["quotas"]] == [
        ("plan", None, 3, 1),
        ("plan", "cuda", 1, 1),
    ]


def test_a_project_may_have_limits_of_its_own(tenant: httpx.Client):
    limited = project(tenant)
    w = worker(tenant, "cpu", "cpu")
    accepted(tenant.patch(f"/projects/{limited.id}", json={"limits": {"max_active_runs": 1}}))
    accepted(tenant.patch(f"/projects/{limited.id}", json={"description": "the limits stay"}))
    runs = [limited.create(command=["true"]) for _ in range(2)]
    accepted(claim(tenant, runs[0], w, "cpu:0"))
    assert refused(claim(tenant, runs[1], w, "cpu:1"), 409)["scope"] == "project"
    (quota,) = [q for q in accepted(tenant.get("/usage"))["quotas"] if q["project_id"]]
    assert (quota["project_id"], quota["limit"], quota["in_use"]) == (limited.id, 1, 1)


@pytest.mark.parametrize(
    "limits",
    [{"max_active_runs": -1}, {"max_active_runs": 10**7}, {"accelerators": {"gpu": -1}}, {"accelerators": {"": 1}}],
)
def test_absurd_limits_are_refused(tenant: httpx.Client, limits: Json):
    refused(tenant.put("/organisation/plan", json={"plan": "x", "plan_limits": limits}), 422)
    refused(tenant.patch(f"/projects/{project(tenant).id}", json={"limits": limits}), 422)
    assert accepted(tenant.get("/organisation/plan"))["plan"] == "default"


def test_a_queued_run_says_its_place_and_a_claimed_one_does_not(tenant: httpx.Client):
    one = project(tenant)
    low, high = one.create(command=["true"]), one.create(command=["true"], priority=9)
    shown = {run["id"]: run["waiting"] for run in accepted(tenant.get(f"/projects/{one.id}/runs"))["items"]}
    assert {id_: waiting["position"] for id_, waiting in shown.items()} == {high["id"]: 1, low["id"]: 2}
    assert accepted(tenant.get(f"/runs/{low['id']}"))["waiting"]["detail"] == "the scheduler has not looked at it yet"
    queue = accepted(tenant.get("/queue"))["queue"]
    assert [(entry["run_id"], entry["priority"]) for entry in queue] == [(high["id"], 9), (low["id"], 0)]
    accepted(claim(tenant, high, worker(tenant, "cpu"), "cpu:0"))
    assert accepted(tenant.get(f"/runs/{high['id']}"))["waiting"] is None
    assert accepted(tenant.get(f"/runs/{low['id']}"))["waiting"]["position"] == 1


def test_a_slot_of_another_kind_and_an_old_order_claim_nothing(tenant: httpx.Client):
    run = project(tenant).create(command=["true"], resources={"accelerator": "gpu", "count": 1})
    w = worker(tenant, "cpu", "cuda:h200")
    assert refused(claim(tenant, run, w, "cpu:0"), 422)["errors"][0]["path"] == "$.slots[0]"
    assert "by now" in refused(claim(tenant, run, w, "cuda:h200:1", epoch=4), 409)["detail"]
    assert accepted(claim(tenant, run, w, "cuda:h200:1", epoch=0))["epoch"] == 1


def test_an_operator_closes_a_run_with_a_reason_and_its_process_is_refused(tenant: httpx.Client):
    one = project(tenant)
    run = one.started()
    refused(tenant.post(f"/runs/{run['id']}/close", json={}), 422)
    refused(tenant.post(f"/runs/{run['id']}/close", json={"reason": ""}), 422)
    closed = accepted(tenant.post(f"/runs/{run['id']}/close", json={"reason": "its machine burned down"}))
    assert (closed["status"], closed["cause"]) == ("killed", "closed_by_operator")
    assert one.events(run)[-1]["data"]["reason"] == "its machine burned down"
    assert "must stop" in refused(tenant.post(f"/runs/{run['id']}/heartbeat", json={"epoch": 1}), 409)["detail"]
    refused(one.log(run, 1, {"a": {"step": [1], "value": [1.0]}}), 409)
    refused(tenant.post(f"/runs/{run['id']}/close", json={"reason": "again"}), 409)


def test_a_new_process_takes_over_and_the_old_one_is_told_to_stop(tenant: httpx.Client):
    one = project(tenant)
    run = one.started()
    again = accepted(tenant.post(f"/runs/{run['id']}/start", json={"pid": 2}))
    assert again["epoch"] == 2
    problem = refused(tenant.post(f"/runs/{run['id']}/heartbeat", json={"epoch": 1}), 409)
    assert problem["type"].endswith(":fenced")
    refused(one.log(run, 1, {"a": {"step": [1], "value": [1.0]}}), 409)
    body = {"epoch": 1, "status": "completed"}
    refused(tenant.post(f"/runs/{run['id']}/finish", json=body), 409)
    assert accepted(tenant.post(f"/runs/{run['id']}/heartbeat", json={"epoch": 2}))["stop"] is False


@pytest.mark.parametrize(
    "liveness",
    [
        {"unresponsive_seconds": 0.5},
        {"crashed_seconds": 1},
        {"crashed_seconds": 8 * 86_400},
        {"beat_seconds": 20},
        {"unresponsive_seconds": 50},
    ],
)
def test_periods_that_cannot_be_kept_are_refused(tenant: httpx.Client, liveness: Json):
    refused(tenant.post(f"/projects/{project(tenant).id}/runs", json={"liveness": liveness}), 422)
