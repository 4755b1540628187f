"""Rate cards, accounts and usage over HTTP; the projector counts."""

import asyncio
import csv
import io
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import httpx
import pyarrow.parquet as pq
import pytest

from events.database import open_pool
from events.keys import Keyring
from events.ledger import Ledger
from projections.rebuild import PROJECTIONS, rebuild
from tests.api import Api, Json, accepted, refused, until

ROLES = ("projector",)

GPU = {"accelerator": "a100", "count": 2}


@pytest.fixture
def tenant(api: Api) -> Iterator[httpx.Client]:
    with api.other_tenant() as client:
        yield client


def project_of(client: httpx.Client, name: str = "p") -> Json:
    return accepted(client.post("/projects", json={"name": name}), 201)


def ended(client: httpx.Client, project: Json, **body: object) -> Json:
    run = accepted(client.post(f"/projects/{project['id']}/runs", json=body), 201)
    accepted(client.post(f"/runs/{run['id']}/start", json={"pid": 1}))
    return accepted(client.post(f"/runs/{run['id']}/finish", json={"epoch": 1, "status": "completed"}))


def by_run(client: httpx.Client) -> dict[str, Json]:
    return {row["run_id"]: row for row in accepted(client.get("/usage/credits", params={"by": "run"}))["items"]}


def counted(client: httpx.Client, runs: list[Json]) -> dict[str, Json]:
    """Return what each run costs once the projector has seen their ends."""

    def look() -> dict[str, Json] | None:
        rows = by_run(client)
        done = all(rows.get(run["id"], {}).get("status") == run["status"] for run in runs)
        return rows if done else None

    return until(look, "the projector has counted the runs")


def test_a_fresh_organisation_pays_datature_prices_and_is_not_metered(tenant: httpx.Client):
    card = accepted(tenant.get("/organisation/rate-card"))
    assert card["preset"] == "datature"
    assert card["micro_credits_per_hour"] == {"cpu": 1_000_000, "*": 10_000_000}
    assert card["charged"] == ["running"]
    account = accepted(tenant.get("/organisation/credits"))
    assert account == {
        "metered": False,
        "granted_micro": 0,
        "adjusted_micro": 0,
        "consumed_micro": 0,
        "balance_micro": None,
    }


def test_a_run_is_charged_by_the_card_that_was_in_force_when_it_started(tenant: httpx.Client):
    project = project_of(tenant)
    run = accepted(tenant.post(f"/projects/{project['id']}/runs", json={"resources": GPU}), 201)
    accepted(tenant.post(f"/runs/{run['id']}/start", json={"pid": 1}))
    answer = tenant.put("/organisation/rate-card", json={"micro_credits_per_hour": {"a100": 10**12, "*": 0}})
    assert accepted(answer)["version"] == 2
    first = accepted(tenant.post(f"/runs/{run['id']}/finish", json={"epoch": 1, "status": "completed"}))
    second = ended(tenant, project, resources=GPU)
    rows = counted(tenant, [first, second])
    for one, price in ((first, 2 * 10_000_000), (second, 2 * 10**12)):
        shown = accepted(tenant.get(f"/runs/{one['id']}"))
        times = [datetime.fromisoformat(shown[name]) for name in ("started_at", "ended_at")]
        microseconds = (times[1] - times[0]) // timedelta(microseconds=1)
        exact = (price * microseconds + 1_800_000_000) // 3_600_000_000
        assert rows[one["id"]]["consumed_micro"] == exact
    assert rows[second["id"]]["consumed_micro"] > 0


def test_totals_days_and_files_say_the_same(tenant: httpx.Client):
    accepted(tenant.put("/organisation/rate-card", json={"micro_credits_per_hour": {"*": 10**12}}))
    projects = [project_of(tenant, name) for name in ("one", "two")]
    workflow = accepted(tenant.post(f"/projects/{projects[0]['id']}/workflows", json={"name": "w"}), 201)
    runs = [
        ended(tenant, projects[0], resources=GPU, workflow=workflow["id"], estimate_seconds=3600),
        ended(tenant, projects[0], resources=GPU),
        ended(tenant, projects[1], resources=GPU),
    ]
    rows = list(counted(tenant, runs).values())
    whole = sum(row["consumed_micro"] for row in rows)
    assert whole > 0

    def usage(**parameters: object) -> list[Json]:
        found: list[Json] = tenant.get("/usage/credits", params=parameters).raise_for_status().json()
        return found

    (organisation,) = usage(by="organisation")
    assert (organisation["consumed_micro"], organisation["runs"]) == (whole, 3)
    assert organisation["estimate_micro"] - organisation["saved_micro"] == rows_of(rows, runs[0])["consumed_micro"]
    assert sum(row["consumed_micro"] for row in usage(by="project")) == whole
    assert sorted(row["runs"] for row in usage(by="project")) == [1, 2]
    assert sum(row["consumed_micro"] for row in usage(by="workflow")) == whole
    (of_workflow,) = usage(by="workflow", workflow=workflow["id"])
    assert of_workflow["consumed_micro"] == rows_of(rows, runs[0])["consumed_micro"]
    assert sum(row["consumed_micro"] for row in usage(by="day")) == whole
    assert usage(by="day", to="2020-01-01") == []
    text = tenant.get("/usage/credits", params={"by": "run", "format": "csv"}).text
    from_csv = {row["run_id"]: int(row["consumed_micro"]) for row in csv.DictReader(io.StringIO(text))}
    file = tenant.get("/usage/credits", params={"by": "run", "format": "parquet"}).content
    from_parquet = {row["run_id"]: row["consumed_micro"] for row in pq.read_table(io.BytesIO(file)).to_pylist()}
    assert from_csv == from_parquet == {row["run_id"]: row["consumed_micro"] for row in rows}


def rows_of(rows: list[Json], run: Json) -> Json:
    return next(row for row in rows if row["run_id"] == run["id"])


def test_a_running_run_costs_more_every_time_one_looks(tenant: httpx.Client):
    accepted(tenant.put("/organisation/rate-card", json={"micro_credits_per_hour": {"*": 10**12}}))
    project = project_of(tenant)
    run = accepted(tenant.post(f"/projects/{project['id']}/runs", json={"resources": GPU}), 201)
    run = accepted(tenant.post(f"/runs/{run['id']}/start", json={"pid": 1}))
    first = counted(tenant, [run])[run["id"]]
    second = by_run(tenant)[run["id"]]
    assert first["accruing"]
    assert second["consumed_micro"] > first["consumed_micro"] > 0
    today = datetime.now(UTC).date().isoformat()
    days = tenant.get("/usage/credits", params={"by": "day", "project": project["id"]}).raise_for_status().json()
    assert days[-1]["day"] >= today
    assert days[-1]["consumed_micro"] > second["consumed_micro"]


def test_grants_and_adjustments_make_a_balance_and_a_repetition_makes_none(api: Api, tenant: httpx.Client):
    grant = {"kind": "grant", "micro_credits": 10_000_000, "reason": "first month"}
    named = {"Idempotency-Key": "grant-1"}
    first = accepted(tenant.post("/organisation/credits", json=grant, headers=named), 201)
    fine = {"kind": "adjustment", "micro_credits": -4_000_000, "reason": "counted twice"}
    accepted(tenant.post("/organisation/credits", json=fine), 201)
    again = accepted(tenant.post("/organisation/credits", json=grant, headers=named), 201)
    assert again == first
    account = accepted(tenant.get("/organisation/credits"))
    assert (account["metered"], account["balance_micro"]) == (True, 6_000_000)
    entries = accepted(tenant.get("/organisation/credits/entries", params={"limit": 1}))
    assert entries["items"] == [first]
    following = accepted(tenant.get("/organisation/credits/entries", params={"cursor": entries["next_cursor"]}))
    assert [(one["micro_credits"], one["reason"]) for one in following["items"]] == [(-4_000_000, "counted twice")]
    accepted(tenant.put("/organisation/rate-card", json={"preset": "vessl"}))
    asyncio.run(rebuilt_is_live(api))


async def rebuilt_is_live(api: Api) -> None:
    async with await open_pool(api.database.url, name="rebuild", size=2) as pool:
        ledger = Ledger(pool, Keyring.from_file(api.home / "master.key"))
        found = await rebuild(ledger, api.database.owner_url, PROJECTIONS["tenancy"])
    assert found.differences == []


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"kind": "grant", "micro_credits": 0}, "$.micro_credits"),
        ({"kind": "grant", "micro_credits": -1}, "$.micro_credits"),
        ({"kind": "adjustment", "micro_credits": 0}, "$.micro_credits"),
        ({"kind": "grant", "micro_credits": 10**18 + 1}, "$.micro_credits"),
        ({"kind": "grant", "micro_credits": 1, "reason": "x" * 1_001}, "$.reason"),
        ({"kind": "gift", "micro_credits": 1}, "$.kind"),
        ({"kind": "grant", "micro_credits": 1.5}, "$.micro_credits"),
    ],
)
def test_an_impossible_entry_is_refused_by_its_path(tenant: httpx.Client, body: Json, path: str):
    problem = refused(tenant.post("/organisation/credits", json=body), 422)
    assert [error["path"] for error in problem["errors"]] == [path]
    assert accepted(tenant.get("/organisation/credits/entries"))["items"] == []


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, "$"),
        ({"preset": "gratis"}, "$.preset"),
        ({"preset": "vessl", "charged": ["running"]}, "$.charged"),
        ({"micro_credits_per_hour": {"cpu": 1}}, "$.micro_credits_per_hour"),
        ({"micro_credits_per_hour": {"*": -1}}, "$.micro_credits_per_hour.*"),
        ({"micro_credits_per_hour": {"*": 1}, "charged": ["queued"]}, "$.charged[0]"),
    ],
)
def test_an_impossible_rate_card_is_refused_by_its_path(tenant: httpx.Client, body: Json, path: str):
    problem = refused(tenant.put("/organisation/rate-card", json=body), 422)
    assert [error["path"] for error in problem["errors"]] == [path]
    assert accepted(tenant.get("/organisation/rate-card"))["version"] == 1


@pytest.mark.parametrize(
    ("parameters", "path"),
    [
        ({"by": "run", "from": "2026-01-01"}, "from"),
        ({"by": "day", "from": "2026-02-01", "to": "2026-01-01"}, "from"),
        ({"by": "day", "from": "2000-01-01", "to": "2026-01-01"}, "from"),
        ({"by": "day", "workflow": "01890000-0000-7000-8000-000000000001"}, "workflow"),
    ],
)
def test_an_impossible_question_is_refused_by_its_parameter(tenant: httpx.Client, parameters: Json, path: str):
    problem = refused(tenant.get("/usage/credits", params=parameters), 422)
    assert [error["path"] for error in problem["errors"]] == [path]


def test_a_claim_is_refused_once_the_credits_are_used_up_and_one_that_was_taken_is_not(tenant: httpx.Client):
    project = project_of(tenant)
    worker = accepted(tenant.post("/workers", json={"name": "w", "slots": [{"id": "cpu:0", "kind": "cpu"}]}), 201)
    accepted(tenant.post("/organisation/credits", json={"kind": "grant", "micro_credits": 1}), 201)
    runs = [accepted(tenant.post(f"/projects/{project['id']}/runs", json={"command": ["true"]}), 201) for _ in range(2)]
    claims = [
        {"worker": worker["id"], "slots": ["cpu:0"], "command_id": f"01890000-0000-7000-8000-00000000000{index}"}
        for index in range(2)
    ]
    first = accepted(tenant.post(f"/runs/{runs[0]['id']}/claim", json=claims[0]))
    accepted(tenant.post("/organisation/credits", json={"kind": "adjustment", "micro_credits": -1}), 201)
    assert accepted(tenant.post(f"/runs/{runs[0]['id']}/claim", json=claims[0])) == first
    problem = refused(tenant.post(f"/runs/{runs[1]['id']}/claim", json=claims[1]), 409)
    assert "balance is 0 micro-credits" in problem["detail"]
    assert accepted(tenant.get(f"/runs/{runs[1]['id']}"))["status"] == "queued"


def test_a_worker_is_drained_and_taken_back(api: Api, tenant: httpx.Client):
    project = project_of(tenant)
    worker = accepted(tenant.post("/workers", json={"name": "w", "slots": [{"id": "cpu:0", "kind": "cpu"}]}), 201)
    run = accepted(tenant.post(f"/projects/{project['id']}/runs", json={"command": ["true"]}), 201)
    claim = {"worker": worker["id"], "slots": ["cpu:0"], "command_id": "01890000-0000-7000-8000-000000000000"}
    drained = accepted(tenant.post(f"/workers/{worker['id']}/drain", json={"reason": "new disks"}))
    assert drained["drained_at"] is not None
    assert accepted(tenant.post(f"/workers/{worker['id']}/drain")) == drained
    again = accepted(tenant.post("/workers", json={"name": "w", "slots": [{"id": "cpu:0", "kind": "cpu"}]}), 201)
    assert again["drained_at"] == drained["drained_at"]
    assert "drained" in refused(tenant.post(f"/runs/{run['id']}/claim", json=claim), 409)["detail"]
    accepted(tenant.put("/organisation/plan", json={"plan": "x", "plan_limits": {}, "kill_when_exhausted": True}))
    asyncio.run(rebuilt_is_live(api))
    assert accepted(tenant.post(f"/workers/{worker['id']}/resume"))["drained_at"] is None
    assert accepted(tenant.post(f"/runs/{run['id']}/claim", json=claim))["run_id"] == run["id"]
    refused(api.client.post(f"/workers/{worker['id']}/drain", json={}), 404)
