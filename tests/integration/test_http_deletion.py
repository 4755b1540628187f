"""With the roles running: charts before and after archiving are the same, and what is deleted is gone for good."""

import io
import math
from typing import Any

import asyncpg
import httpx
import pyarrow.compute
import pyarrow.parquet

from tests.api import Api, Json, Project, accepted, refused, until

ROLES = ("roles",)

MARK = "a sentence that must be gone: 7c1b9f"


def logged(project: Project, **body: Any) -> Json:
    """Return a running run with curves (of awkward numbers) and lines."""
    run = project.started(**body)
    for seq in range(1, 40, 2):
        steps = list(range(seq * 50, seq * 50 + 50))
        values: list[Any] = [((step * 7_919) % 1_000) / 7 for step in steps]
        values[seq] = ["NaN", "Infinity", "-Infinity"][seq % 3]
        series = {"loss": {"step": steps, "value": values}, "acc": {"step": steps[::-1], "value": values}}
        accepted(project.log(run, seq, series, stage=f"epoch {seq // 10}"), 202)
        accepted(project.write(run, seq + 1, *(f"{MARK} {seq}.{line}" for line in range(7))), 202)
    return run


def readings(api: Api, run: Json) -> list[Json]:
    path = f"/runs/{run['id']}"
    charts: list[dict[str, Any]] = [
        {"metric": ["loss", "acc"], "buckets": 20_000},
        {"metric": ["loss"], "buckets": 7},
        {"metric": ["acc"], "x": "time"},
        {"metric": ["loss"], "x": "relative", "buckets": 10},
        {"metric": ["loss", "acc"], "from": 300, "to": 900, "buckets": 100},
        {"metric": ["loss"], "stage": "epoch 2"},
    ]
    logs: list[dict[str, Any]] = [{"limit": 1_000}, {"tail": 3}, {"search": "5.3"}, {"stream": "log", "limit": 10}]
    return [accepted(api.client.get(f"{path}/chart", params=one))["series"] for one in charts] + [
        accepted(api.client.get(f"{path}/logs", params=one)) for one in logs
    ]


def archived(project: Project, run: Json) -> list[Json] | None:
    """Return the archive events of a run once metrics and logs are both in Parquet."""
    events = [event for event in project.events(run) if event["type"] == "run.telemetry_archived"]
    return events if {event["data"]["kind"] for event in events} == {"metrics", "logs"} else None


def test_charts_and_logs_are_the_same_before_and_after_archiving(api: Api, project: Project):
    run = logged(project)
    before = readings(api, run)
    assert archived(project, run) is None
    accepted(api.client.post(f"/runs/{run['id']}/finish", json={"epoch": 1, "status": "completed"}))
    assert readings(api, run) == before
    events = until(lambda: archived(project, run), "the run's telemetry is in Parquet")
    assert sum(event["data"]["rows"] for event in events) == 20 * 100 + 20 * 7
    for event in events:
        assert (api.home / "parquet" / event["data"]["path"]).stat().st_size == event["data"]["bytes"]
    assert readings(api, run) == before
    assert project.verified()["verified"]


def test_metric_summaries_follow(api: Api, project: Project):
    run = logged(project)
    path = f"/runs/{run['id']}"
    accepted(api.client.post(f"{path}/primary-metric", json={"name": "loss", "mode": "max"}))

    def counted() -> dict[str, Json] | None:
        found = {one["name"]: one for one in accepted(api.client.get(f"{path}/metrics"))["metrics"]}
        return found if [one["count"] for one in found.values()] == [1_000, 1_000] else None

    summaries = until(counted, "both metrics are summarised")
    loss = summaries["loss"]
    assert (loss["first_step"], loss["last_step"]) == (50, 1_999)
    assert (loss["max"], loss["min"], loss["best"]) == ("Infinity", "-Infinity", "Infinity")
    assert loss["nan_count"] == 6 or loss["nan_count"] == 7


def saved(api: Api, offers: list[Json]) -> dict[str, httpx.Response]:
    """Fetch what is offered from where that says."""
    return {offer["what"]: api.client.get(f"{api.url}{offer['href']}") for offer in offers}


def test_what_a_deletion_takes_is_offered_first_and_nothing_of_it_afterwards(api: Api, project: Project):
    run = logged(project, config={"lr": 0.1})
    path = f"/runs/{run['id']}"
    model = bytes(range(256)) * 100
    accepted(api.client.put(f"{path}/artifacts/best/w.bin", content=model, params={"kind": "model"}), 201)
    problem = refused(api.client.delete(path), 409)
    assert [offer["what"] for offer in problem["save_first"]] == ["artifacts", "metrics", "configuration"]
    accepted(api.client.post(f"{path}/finish", json={"epoch": 1, "status": "completed"}))

    def counted() -> Json | None:
        found = accepted(api.client.get(f"{path}/deletion"))
        return found if found["save_first"][1]["objects"] == 2_000 else None

    shown = until(counted, "all points are summed up")
    assert (shown["possible"], shown["state"]) == (True, "completed")
    assert "cannot be recovered" in shown["detail"]
    assert (shown["save_first"][0]["objects"], shown["save_first"][0]["bytes"]) == (1, len(model))
    kept = saved(api, shown["save_first"])
    (listed,) = accepted(kept["artifacts"])["items"]
    assert api.client.get(f"{path}/artifacts/{listed['name']}").content == model
    table = pyarrow.parquet.read_table(io.BytesIO(kept["metrics"].content))
    losses = table.filter(pyarrow.compute.field("metric") == "loss").column("value").to_pylist()
    assert (table.num_rows, losses[0], sum(map(math.isnan, losses))) == (2_000, ((50 * 7_919) % 1_000) / 7, 7)
    assert accepted(kept["configuration"])["config"] == {"lr": 0.1}

    accepted(api.client.delete(path))
    refused(api.client.get(f"{path}/deletion"), 410)
    for answer in saved(api, shown["save_first"]).values():
        refused(answer, 410)


def purged(api: Api, run: Json) -> Json | None:
    problem = refused(api.client.get(f"/runs/{run['id']}"), 410)
    return problem if problem["tombstone"]["receipt"] else None


async def test_a_deleted_run_leaves_a_tombstone_and_a_receipt_and_nothing_else(api: Api, project: Project):
    run = logged(project, notes=MARK, config={"secret": MARK}, name=MARK)
    kept = project.finished()
    path = f"/runs/{run['id']}"
    accepted(api.client.post(f"{path}/finish", json={"epoch": 1, "status": "completed"}))
    until(lambda: archived(project, run), "the run's telemetry is in Parquet")
    parquet = [api.home / "parquet" / event["data"]["path"] for event in archived(project, run) or []]
    types = [event["type"] for event in project.events(run)]
    gone = api.client.request("DELETE", path, json={"reason": "asked to"})
    assert accepted(gone)["status"] == "deleted"
    assert gone.headers["tachograph-position"] == str(gone.json()["position"])
    problem = until(lambda: purged(api, run), "the purge is done")
    tombstone = problem["tombstone"]
    assert tombstone["deleted_by"] == accepted(api.client.get("/me"))["actor"]
    assert (tombstone["reason"], tombstone["id"]) == ("asked to", run["id"])
    assert tombstone["receipt"]["parquet"]["objects"] == len(parquet)
    assert tombstone["receipt"]["postgres"]["bytes"] > 0
    assert tombstone["receipt"]["jetstream"]["objects"] >= len(types)
    assert MARK not in str(problem)
    assert not [file for file in parquet if file.exists()]

    after = project.events(run)
    assert [event["type"] for event in after] == [*types, "run.deleted", "run.purged"]
    assert [event["data"] for event in after[:-2]] == [None] * len(types)
    assert after[-2]["data"]["reason"] == "asked to"
    report = project.verified()
    assert (report["verified"], report["position"]) == (True, project.head()["position"])
    assert report["erased"] >= len(types)

    for reading in ("", "/metrics", "/logs", "/chart?metric=loss", "/stream", "?at=1"):
        assert MARK not in str(refused(api.client.get(f"{path}{reading}"), 410))
    for verb, body in (("kill", {}), ("start", {}), ("finish", {"epoch": 1, "status": "failed"}), ("archive", {})):
        refused(api.client.post(f"{path}/{verb}", json=body), 410)
    for seq in (1, 1_000, 1_001):
        problem = refused(project.log(run, seq, {"a": {"step": [1], "value": [1.0]}}), 410)
        assert problem["tombstone"]["id"] == run["id"]
    assert accepted(api.client.get(f"{path}/transitions"))["transitions"][-1]["to_status"] == "deleted"
    assert accepted(api.client.delete(path))["status"] == "deleted"
    listed = accepted(api.client.get(f"/projects/{project.id}/runs"))["items"]
    assert [one["id"] for one in listed] == [kept["id"]]
    project.create(name=MARK)

    connection = await asyncpg.connect(api.database.owner_url)
    # What is left is the deletion and its receipt, which are sealed under the project's key.
    for table, left in (("ledger.payload", 2), ("ledger.telemetry", 0), ("ledger.data_key", 0)):
        rows = await connection.fetchval(f"select count(*) from {table} where stream = $1", run["id"])
        assert (table, rows) == (table, left)
    await connection.close()
