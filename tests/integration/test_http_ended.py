"""What an ended run still shows: what it cost and saved, why it failed, and all it said, archived or not."""

from datetime import datetime, timedelta

import pytest

from tests.api import Json, Project, accepted, refused, until

ROLES = ("roles",)

ENDS = ["completed", "failed", "killed"]
ERROR = {"type": "ValueError", "message": "bad shape: (3, 4)", "traceback": "Traceback …\n  in train\nValueError: …"}
GPU_HOUR_MICRO = 10_000_000


def said(project: Project, **body: object) -> Json:
    """Return a running run that has logged points and lines."""
    run = project.started(**body)
    accepted(project.log(run, 1, {"loss": {"step": [1, 2, 3], "value": [0.5, "NaN", 0.25]}}), 202)
    accepted(project.write(run, 2, "epoch 1", "epoch 2", "loss is NaN"), 202)
    return run


def end(project: Project, run: Json, status: str) -> Json:
    """End a run; of the killed ones somebody asked for it."""
    path = f"/runs/{run['id']}"
    if status == "killed":
        accepted(project.api.post(f"{path}/kill", json={"grace_seconds": 600}))
    how = {"exit_code": 1, "cause": "exception", "error": ERROR} if status == "failed" else {}
    return accepted(project.api.post(f"{path}/finish", json={"epoch": 1, "status": status, **how}))


def readings(project: Project, run: Json) -> tuple[Json, list[str], list[float]]:
    """Return a run's settings, its lines, and the steps of its curve."""
    path = f"/runs/{run['id']}"
    (curve,) = accepted(project.api.get(f"{path}/chart", params={"metric": "loss"}))["series"]
    lines = accepted(project.api.get(f"{path}/logs", params={"limit": 100}))["lines"]
    return accepted(project.api.get(path))["config"], [line["text"] for line in lines], curve["x"]


@pytest.mark.parametrize("status", ENDS)
def test_time_used_is_paid_however_a_run_ended_and_the_rest_of_the_estimate_is_saved(project: Project, status: str):
    resources = {"accelerator": "a100", "count": 1}
    run = project.started(resources=resources, estimate_seconds=3_600)
    ended = end(project, run, status)
    assert ended["status"] == status
    took = (datetime.fromisoformat(ended["ended_at"]) - datetime.fromisoformat(ended["started_at"])) // timedelta(
        microseconds=1
    )
    consumed = (GPU_HOUR_MICRO * took + 1_800_000_000) // 3_600_000_000
    cost = {"consumed_micro": consumed, "estimate_micro": GPU_HOUR_MICRO, "saved_micro": GPU_HOUR_MICRO - consumed}
    assert consumed > 0
    assert ended["credits"] == cost

    def counted() -> Json | None:
        shown = accepted(project.api.get(f"/runs/{run['id']}"))["credits"]
        return cost if shown == cost else None

    until(counted, "the run shows the same")
    rows = accepted_rows(project, run)
    assert [{name: row[name] for name in cost} for row in rows] == [cost]
    accepted(project.api.delete(f"/runs/{run['id']}"))
    gone = refused(project.api.get(f"/runs/{run['id']}"), 410)
    assert gone["tombstone"]["credits"] == cost


def accepted_rows(project: Project, run: Json) -> list[Json]:
    answer = accepted(project.api.get("/usage/credits", params={"by": "run", "project": project.id}))
    return [row for row in answer["items"] if row["run_id"] == run["id"]]


def test_a_failed_run_shows_its_error_its_log_and_the_configuration_that_led_there(project: Project):
    run = said(project, config={"lr": 10.0, "model": {"depth": 3}})
    accepted(project.api.patch(f"/runs/{run['id']}", json={"config": {"lr": 20.0}}))
    ended = end(project, run, "failed")
    assert (ended["cause"], ended["exit_code"], ended["error"]) == ("exception", 1, ERROR)
    assert "view logs" in ended["actions"]
    settings = {"lr": 20.0, "model": {"depth": 3}}
    assert readings(project, run) == (settings, ["epoch 1", "epoch 2", "loss is NaN"], [1, 2, 3])
    assert "config" in refused(project.api.patch(f"/runs/{run['id']}", json={"config": {"lr": 0.1}}), 409)["detail"]
    assert accepted(project.api.get(f"/runs/{run['id']}"))["config"] == settings
    (listed,) = accepted(project.api.get(f"/projects/{project.id}/runs", params={"status": "failed"}))["items"]
    assert (listed["error"], listed["config"]) == (ERROR, settings)
    (last,) = [event for event in project.events(run) if event["type"] == "run.failed"]
    assert last["data"]["error"] == ERROR


@pytest.mark.parametrize("status", ENDS)
def test_what_an_ended_run_said_stays_archived_or_not_until_it_is_deleted(project: Project, status: str):
    run = said(project, config={"lr": 0.1})
    end(project, run, status)
    before = readings(project, run)
    assert before == ({"lr": 0.1}, ["epoch 1", "epoch 2", "loss is NaN"], [1, 2, 3])

    def in_parquet() -> bool:
        kinds = {one["data"]["kind"] for one in project.events(run) if one["type"] == "run.telemetry_archived"}
        return kinds == {"metrics", "logs"}

    until(in_parquet, "its telemetry is in Parquet")
    runs = f"/projects/{project.id}/runs"
    for archived in (True, False):
        shown = accepted(project.api.post(f"/runs/{run['id']}/archive", json={"archived": archived}))
        assert (shown["archived"], shown["status"]) == (archived, status)
        for asked, there in (({}, not archived), ({"archived": "true"}, archived), ({"archived": "any"}, True)):
            found = accepted(project.api.get(runs, params=asked))["items"]
            assert [one["id"] for one in found] == [run["id"]] * there
        assert readings(project, run) == before
    accepted(project.api.delete(f"/runs/{run['id']}"))
    for asked in ({}, {"archived": "any"}):
        assert accepted(project.api.get(runs, params=asked))["items"] == []


def test_a_run_shows_what_it_does_while_it_does_it(project: Project):
    run = project.started(resources={"accelerator": "a100", "count": 1}, estimate_seconds=3_600)
    cost = 0

    def costs_more() -> int | None:
        now: int = accepted(project.api.get(f"/runs/{run['id']}"))["credits"]["consumed_micro"]
        return now if now > cost else None

    for seq in range(1, 4):
        accepted(project.log(run, seq, {"loss": {"step": [seq], "value": [1 / seq]}}), 202)
        cost = until(costs_more, "it costs more")
        assert readings(project, run)[2] == list(range(1, seq + 1))
        (summary,) = until(lambda seq=seq: counted(project, run, seq), "the point is summed up")
        assert (summary["last"], summary["count"]) == (1 / seq, seq)


def counted(project: Project, run: Json, points: int) -> list[Json] | None:
    found = accepted(project.api.get(f"/runs/{run['id']}/metrics"))["metrics"]
    return found if sum(one["count"] for one in found) == points else None
