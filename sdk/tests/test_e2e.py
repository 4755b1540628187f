"""The SDK against the whole system: real service, PostgreSQL, NATS, roles and a GPU worker."""

import math
import threading
from array import array
from pathlib import Path

import pytest

import tachograph
from tachograph._spool import read
from tachograph._sync import requests_in

QUICK = {"beat_seconds": 0.2, "unresponsive_seconds": 20.0, "crashed_seconds": 40.0}


def test_everything_that_is_logged_can_be_read(client, project, until, points):
    with tachograph.init(
        project, "first", config={"lr": 0.1}, path="vision\\digits", alias="best", tags=["a"], notes="hello"
    ) as run:
        run.set_primary_metric("acc", "max")
        for step in range(1, 301):
            stage = None if step <= 100 else f"epoch_{step // 100}"
            run.log({"acc": step / 300, "odd": math.nan if step % 2 else math.inf}, stage=stage)
        run.log({"alone": 1.0}, step=1_000)
        run.log_text("one\n\ntwo ☃")
        run.progress(3, 4, "epochs")
        run.config({"seed": 1})
        run.summary({"note": "done", "worst": math.nan})
    assert run.delivery.complete
    resource = client.run(run.id)
    assert (resource["status"], resource["cause"], resource["synced"]) == ("completed", "finished", True)
    assert (resource["name"], resource["path"], resource["alias"]) == ("first", "vision/digits", "best")
    assert resource["config"] == {"lr": 0.1, "seed": 1}
    assert resource["summary"] == {
        "note": "done",
        "worst": "NaN",
        "best_metric_name": "acc",
        "best_metric_mode": "max",
        "best_metric_value": 1.0,
        "best_metric_step": 300,
    }
    assert (resource["progress"]["done"], resource["progress"]["total"]) == (3.0, 4.0)
    assert points(run.id, "acc") == [(step, step / 300) for step in range(1, 301)]
    assert [str(value) for _, value in points(run.id, "odd")] == ["nan", "inf"] * 150
    assert len(client.chart(run.id, "acc", stage="epoch_1")[0]["x"]) == 99
    assert points(run.id, "alone") == [(1_000, 1.0)]
    assert [line["text"] for line in client.stream_logs(run.id)] == ["one", "", "two ☃"]
    until(lambda: {metric["name"] for metric in client.metrics(run.id)} == {"acc", "odd", "alone"})
    types = [event["type"] for event in client.events(run=run.id, limit=2)]
    assert types[:2] == ["run.created", "run.started"]
    assert types.count("run.completed") == 1
    assert [one["type"] for one in client.events(run=run.id, types=["run.created", "run.started"])] == types[:2]
    noted = client.audit(project)["head"]
    assert client.verify(project, head=noted)["verified"]
    assert client.verify()["verified"], "the organisation's own ledger"
    assert [one["id"] for one in client.runs(project, status="completed")] == [run.id]


def test_more_names_than_a_batch_holds(client, project, points):
    data = {f"layer/{number}": float(number) for number in range(12_000)}
    with tachograph.init(project) as run:
        run.log(data)
    assert run.delivery.complete
    assert points(run.id, "layer/11999") == [(1, 11_999.0)]


def test_a_kill_stops_the_program(client, project, script, system, until, points):
    program = script(
        f"""
        import time, tachograph
        with tachograph.init({project!r}, liveness={QUICK!r}) as run:
            run.log(x=1.0)
            print(run.id, flush=True)
            time.sleep(60)
        """,
        system.url,
        TACHOGRAPH_API_KEY=system.api_key,
    )
    run_id = program.stdout.readline().strip()
    assert client.kill(run_id, reason="enough")["kill_requested"]
    _, errors = program.communicate(timeout=120)
    assert "Stopped: killed_by_user" in errors or "stopped: killed_by_user" in errors
    run = client.wait(run_id, timeout_seconds=120)
    assert (run["status"], run["cause"]) == ("killed", "killed_by_user")
    assert points(run_id, "x") == [(1, 1.0)]
    with pytest.raises(tachograph.Conflict) as refused:
        client.kill(run_id)
    assert refused.value.state == "killed"
    assert "delete" in refused.value.allowed
    assert client.delete(run_id)["status"] == "deleted"
    with pytest.raises(tachograph.Gone):
        client.run(run_id)


def test_what_a_deletion_would_take_is_told_before(client, project, tmp_path, until):
    (tmp_path / "w.bin").write_bytes(b"weights")
    with tachograph.init(project) as run:
        run.log(x=1.0)
        run.log(x=2.0)
        client.save_artifact(run.id, tmp_path / "w.bin", kind="model")
        told = client.deletion(run.id)
        assert (told["run"], told["state"], told["possible"]) == (run.id, "running", False)
        assert "cannot delete a run that is running" in told["detail"]
    until(lambda: client.deletion(run.id)["save_first"][1]["objects"] == 2)
    told = client.deletion(run.id)
    assert (told["state"], told["possible"]) == ("completed", True)
    artifacts, metrics, configuration = told["save_first"]
    assert (artifacts["what"], artifacts["objects"], artifacts["bytes"]) == ("artifacts", 1, len(b"weights"))
    assert (metrics["what"], configuration["what"]) == ("metrics", "configuration")
    assert client.run(run.id)["status"] == "completed", "nothing was deleted by asking"
    client.delete(run.id)
    with pytest.raises(tachograph.Gone):
        client.deletion(run.id)
    with pytest.raises(tachograph.NotFound):
        client.deletion(project)


def test_a_new_process_takes_a_run_over_and_the_old_one_is_refused(client, project, until, caplog, points):
    old = tachograph.init(project, external_id="mine", liveness=QUICK)
    old.log(x=1.0)
    until(lambda: client.chart(old.id, "x")[0]["points"] == 1)
    new = tachograph.init(project, external_id="mine")
    assert (new.id, new.epoch) == (old.id, old.epoch + 1)
    until(lambda: "is not the run's latest attempt" in caplog.text)
    old.log(x=2.0)
    new.log(x=3.0, step=2)
    assert not old.finish("failed").complete
    assert new.finish().complete
    assert client.run(new.id)["status"] == "completed"
    assert points(new.id, "x") == [(1, 1.0), (2, 3.0)]
    with pytest.raises(tachograph.Conflict):
        tachograph.init(project, run_id=new.id)


def test_a_service_that_is_killed_meanwhile_costs_no_point(client, project, system, until, points):
    run = tachograph.init(project, finish_seconds=60)
    service = system.processes["service"]
    for number in range(60):
        run.log(x=float(number), step=number)
        if number % 20 == 10:
            until(lambda: not run._recorder.buffer._points)
            service.crash()
    assert run.finish().complete
    assert points(run.id, "x") == [(number, float(number)) for number in range(60)]
    assert client.run(run.id)["synced"]
    assert client.verify(project)["verified"]


def test_what_a_program_left_behind_arrives_after_the_end(client, project, system, until, points):
    run = tachograph.init(project, finish_seconds=3)
    run.log(x=1.0)
    until(lambda: client.chart(run.id, "x")[0]["points"] == 1)
    service = system.processes["service"]
    service.stop()
    try:
        run.log(x=2.0)
        delivery = run.finish("failed", "out of luck")
        assert (delivery.complete, delivery.points_left) == (False, 1)
    finally:
        service.start()
    until(lambda: _answers(client))
    synced = tachograph.sync()
    assert (synced.files, synced.refused) == (1, 0)
    assert points(run.id, "x") == [(1, 1.0), (2, 2.0)]
    resource = client.run(run.id)
    assert (resource["status"], resource["synced"]) == ("failed", True)
    assert resource["error"]["message"] == "out of luck"
    assert tachograph.sync().files == 0


def test_what_a_killed_program_logged_arrives_after_it_was_declared_crashed(
    client, project, system, script, until, tmp_path, points
):
    program = script(
        f"""
        import sys, tachograph
        liveness = {{"beat_seconds": 0.2, "unresponsive_seconds": 2.0, "crashed_seconds": 5.0}}
        run = tachograph.init({project!r}, liveness=liveness)
        run.log(x=0.0, step=0)
        print(run.id, flush=True)
        sys.stdin.readline()
        for step in range(1, 100):
            run.log(x=float(step), step=step)
        print("logged", flush=True)
        sys.stdin.readline()
        """,
        system.url,
        TACHOGRAPH_API_KEY=system.api_key,
    )
    run_id = program.stdout.readline().strip()
    until(lambda: client.chart(run_id, "x")[0]["points"] == 1)
    service = system.processes["service"]
    service.stop()
    try:
        program.stdin.write("\n")
        program.stdin.flush()
        assert program.stdout.readline() == "logged\n"
        (journal,) = (tmp_path / "home" / "spool").glob("*.spool")
        until(lambda: _points_in(journal) == 99)
        program.kill()
        program.communicate(timeout=120)
    finally:
        service.start()
    until(lambda: _answers(client))
    until(lambda: client.run(run_id)["status"] == "crashed")
    assert tachograph.sync().refused == 0
    assert points(run_id, "x") == [(step, float(step)) for step in range(100)]
    assert client.run(run_id)["status"] == "crashed"
    assert tachograph.sync().files == 0


def _points_in(journal: Path) -> int:
    with journal.open("rb") as file:
        found = read(file)
        return sum(request.points for request in requests_in(*found)) if found is not None else 0


def _answers(client) -> bool:
    try:
        return bool(client.request("GET", "/me", retry_seconds=0))
    except tachograph.Error:
        return False


def test_a_stream_shows_what_happens(client, project):
    run = tachograph.init(project)
    seen = []

    def follow() -> None:
        for event in client.stream(run=run.id, after=0):
            seen.append(event)
            if event.type == "run.completed":
                return

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    run.log(x=1.0)
    run.finish()
    thread.join(120)
    types = [event.type for event in seen]
    assert types == ["run.created", "run.started", "run.metrics_logged", "run.completed"]
    assert [event.position for event in seen] == sorted(event.position for event in seen)


def test_bad_requests_are_told_apart(client, project, system):
    with pytest.raises(tachograph.NotFound):
        client.project("nobody's")
    with pytest.raises(tachograph.Unauthorized), tachograph.Client(system.url, "tg_wrong") as stranger:
        stranger.usage()
    client.create_project(project)
    with pytest.raises(tachograph.Conflict):
        client.create_project(project)
    with pytest.raises(tachograph.Invalid) as invalid:
        client.create_run(project, mode="managed")
    assert invalid.value.errors
    with tachograph.init(project) as run, pytest.raises(tachograph.Conflict) as refused:
        client.delete(run.id)
    assert refused.value.state == "running"
    assert "kill" in refused.value.allowed


def test_curves_of_several_runs_and_of_groups_are_columns(client, project, until):
    runs = []
    for lr in (0.1, 0.2, 0.2):
        with tachograph.init(project, config={"lr": lr}) as run:
            for step in range(1, 101):
                run.log({"loss": lr * step, "odd": math.nan if step % 2 else math.inf}, step=step)
        runs.append(run.id)
    chart = client.charts(project, ["loss", "odd"], runs=runs)
    assert [(one["run"], one["metric"]) for one in chart["series"]] == [
        (run, m) for run in runs for m in ("loss", "odd")
    ]
    loss, odd = chart["series"][:2]
    assert loss["x"] == array("q", range(1, 101))
    assert loss["mean"] == array("d", (0.1 * step for step in range(1, 101)))
    assert (odd["nan"], odd["posinf"]) == (array("q", [1, 0] * 50), array("q", [0, 1] * 50))
    assert math.isnan(odd["mean"][0])
    until(lambda: client.charts(project, "loss", filter="config.lr = 0.1")["series"])
    (narrow,) = client.charts(
        project, "loss", filter="config.lr = 0.1", start=11, stop=50, buckets=4, smooth="ema:0.5", yscale="log"
    )["series"]
    assert narrow["count"] == array("q", [10] * 4)
    assert len(narrow["smoothed"]) == len(narrow["nonpositive"]) == 4
    assert client.charts(project, "loss", runs=runs[:1], x="relative")["series"][0]["x"].typecode == "d"
    groups = client.group_charts(project, "loss", runs=runs, group="config.lr", buckets=10)
    assert [(one["group"], one["members"]) for one in groups["series"]] == [(0.2, 2), (0.1, 1)]
    assert groups["series"][0]["runs"] == array("q", [2] * 10)
    table = client.chart_table(project, "loss", runs=runs)
    assert table.column_names[:3] == ["run", "metric", "x"]
    assert table["mean"].to_pylist() == [value for one in chart["series"][::2] for value in one["mean"]]
    assert len(client.chart_table(project, "loss", runs=runs, group="status", buckets=7)) == 7
    with pytest.raises(tachograph.Invalid, match="either `runs` or `filter`"):
        client.charts(project, "loss")


def test_a_live_chart_has_every_point_once(client, project):
    with tachograph.init(project) as first, tachograph.init(project) as second:
        seen = {first.id: [], second.id: []}
        first.log({"loss": 0.0}, step=0)
        charts = client.stream_charts(project, "loss", runs=[first.id, second.id], poll_seconds=0.05)
        positions = []
        for number, chart in enumerate(charts):
            positions.append(chart["position"])
            for one in chart["series"]:
                seen[one["run"]] += one["x"]
            if number < 3:
                second.log({"loss": 1.0}, step=number)
                first.log({"loss": 1.0}, step=10 - number)
            elif number == 3:
                first.finish()
                second.finish()
    assert positions == sorted(set(positions))
    assert sorted(seen[first.id]) == [0, 8, 9, 10]
    assert sorted(seen[second.id]) == [0, 1, 2]
