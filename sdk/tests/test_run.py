"""A run in the program that trains: what its calls do, and what they refuse."""

import argparse
import logging
import math
import os
import threading
import time

import pytest

import tachograph
from tachograph._init import normal_path


@pytest.fixture
def run(peer):
    run = tachograph.init("digits", url=peer.url, api_key="tg_x")
    yield run
    run.finish()


def test_init_creates_and_starts_a_tracked_run(peer):
    config = argparse.Namespace(lr=0.1, layers=(1, 2))
    run = tachograph.init("digits", "first", url=peer.url, api_key="tg_x", config=config, path="a\\b", tags=["x"])
    run.finish()
    calls = [(seen.method, seen.path) for seen in peer.seen]
    assert calls == [
        ("GET", "/api/v1/projects/digits"),
        ("POST", "/api/v1/projects/run-1/runs"),
        ("POST", "/api/v1/runs/run-1/start"),
        ("POST", "/api/v1/runs/run-1/finish"),
    ]
    assert peer.seen[1].body == {
        "mode": "tracked",
        "name": "first",
        "config": {"lr": 0.1, "layers": [1, 2]},
        "path": "a/b",
        "tags": ["x"],
    }
    assert peer.seen[2].body["pid"] == os.getpid()
    assert peer.seen[2].body["host"]["python"]


def test_init_creates_the_project_if_it_is_missing(peer):
    def answer(seen):
        missing = seen.method == "GET" and "/projects/" in seen.path
        return (404, {"title": "Not Found", "status": 404}) if missing else (200, {})

    peer.answer = answer
    tachograph.init("new", url=peer.url, api_key="tg_x").finish()
    assert peer.seen[1].path == "/api/v1/projects"
    assert peer.seen[1].body == {"name": "new"}


def test_an_external_id_that_is_there_is_taken_over(peer):
    def answer(seen):
        taken = seen.path.endswith("/runs")
        return (409, {"title": "Conflict", "status": 409, "detail": "exists"}) if taken else (200, {"epoch": 2})

    peer.answer = answer
    run = tachograph.init("p", external_id="mine", url=peer.url, api_key="tg_x")
    assert run.epoch == 2
    run.finish()
    assert "/api/v1/runs/ext%3Arun-1%3Amine" in [seen.path for seen in peer.seen]


def test_a_managed_run_is_attached_to_without_asking(peer, monkeypatch):
    for name, value in {"URL": peer.url, "RUN_ID": "run-7", "RUN_TOKEN": "tgr_t", "EPOCH": "3"}.items():
        monkeypatch.setenv(f"TACHOGRAPH_{name}", value)
    run = tachograph.init(config={"lr": 0.2}, tags=["a"])
    assert not peer.seen
    run.log({"loss": 1.0})
    assert run.finish("failed").complete
    assert (run.id, run.epoch, run.managed) == ("run-7", 3, True)
    assert {seen.headers["authorization"] for seen in peer.seen} == {"Bearer tgr_t"}
    (metrics,) = peer.to("/metrics")
    assert metrics.body["epoch"] == 3
    assert metrics.body["source"].startswith("sdk-")
    (finish,) = peer.to("/finish")
    assert finish.body["last_seq"] == {metrics.body["source"]: 1}
    assert not peer.to("/heartbeat")
    patch = next(seen.body for seen in peer.seen if seen.method == "PATCH")
    assert patch == {"config": {"lr": 0.2}, "tags": ["a"]}


def test_the_end_of_a_managed_run_is_its_workers_unless_told(peer, monkeypatch):
    for name, value in {"URL": peer.url, "RUN_ID": "run-7", "RUN_TOKEN": "tgr_t"}.items():
        monkeypatch.setenv(f"TACHOGRAPH_{name}", value)
    with tachograph.init() as run:
        run.log(loss=1.0)
    assert len(peer.to("/metrics")) == 1
    assert not peer.to("/finish")
    with pytest.raises(ZeroDivisionError), tachograph.init():
        _ = 1 / 0
    assert peer.to("/finish")[0].body["error"]["type"] == "ZeroDivisionError"


def test_log_takes_a_dictionary_keywords_or_both(peer, run):
    run.log({"a": 1.0}, b=2.0)
    run.log(c=3.0, step=7, stage="epoch_1")
    run.log({"step": 5.0})
    run.log({})
    run.log()
    run.finish()
    assert peer.points() == {"a": [(1, 1.0)], "b": [(1, 2.0)], "c": [(7, 3.0)], "step": [(8, 5.0)]}


@pytest.mark.parametrize("data", [[1.0], "loss", 3.0, []])
def test_log_refuses_what_is_no_dictionary(run, data):
    with pytest.raises(TypeError, match="dictionary"):
        run.log(data)


@pytest.mark.parametrize("step", [1.5, "1"])
def test_a_step_is_an_integer(run, step):
    with pytest.raises(TypeError, match="step must be an integer"):
        run.log({"x": 1.0}, step=step)


def test_text_becomes_lines_with_their_time(peer, run, capsys):
    run.log_text("one\n\ntwo\r\n")
    run.log_text("x" * 70_000)
    run.finish()
    lines = [line for seen in peer.to("/logs") for line in seen.body["lines"]]
    assert [line["text"] for line in lines[:3]] == ["one", "", "two"]
    assert [len(line["text"]) for line in lines[3:]] == [65_536, 70_000 - 65_536]
    assert {line["stream"] for line in lines} == {"log"}
    assert all(abs(line["time_us"] / 1e6 - time.time()) < 600 for line in lines)
    assert capsys.readouterr().out == ""


def test_config_and_summary_are_read_and_merged(peer, run):
    assert run.config["lr"] == 0.1
    run.config["seed"] = 1
    run.config({"deep": {"a": 1, "b": 2}})
    run.config.update({"deep": {"a": None}, "lr": None})
    assert dict(run.config) == {"seed": 1, "deep": {"b": 2}}
    run.summary({"acc": 0.9}, best=math.nan)
    assert run.summary["best"] == "NaN"
    with pytest.raises(TypeError, match=r"summary\.bad"):
        run.summary({"bad": object()})
    run.finish()
    patches = [seen.body for seen in peer.seen if seen.method == "PATCH"]
    config = {name: value for patch in patches for name, value in patch.get("config", {}).items()}
    assert config["lr"] is None
    assert [patch["summary"] for patch in patches if "summary" in patch] == [{"acc": 0.9, "best": "NaN"}]


@pytest.mark.parametrize(
    ("said", "sent"),
    [
        ("finished", "completed"),
        ("completed", "completed"),
        ("interrupted", "killed"),
        ("killed", "killed"),
        ("failed", "failed"),
    ],
)
def test_finish_normalises_the_status(peer, run, said, sent):
    run.finish(said)
    assert peer.to("/finish")[0].body["status"] == sent


def test_an_unknown_status_is_refused_and_the_run_stays_open(peer, run):
    with pytest.raises(ValueError, match="status must be one of"):
        run.finish("done")
    run.log(x=1.0)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda run: run.progress("x"), "done must be a number"),
        (lambda run: run.progress(math.nan), "done must be a number from 0 on"),
        (lambda run: run.progress(-1), "done must be a number from 0 on"),
        (lambda run: run.progress(1, 0), "total must be above 0"),
        (lambda run: run.set_primary_metric(3), "the primary metric's name must be a string"),
        (lambda run: run.summary([1]), "summary takes a dictionary"),
    ],
)
def test_what_the_service_would_refuse_is_refused_at_once(peer, run, call, says):
    with pytest.raises((TypeError, ValueError), match=says):
        call(run)
    assert run.finish().complete
    assert [seen.path.rpartition("/")[2] for seen in peer.seen[-2:]] == ["start", "finish"]


def test_a_service_that_is_not_there_yet_is_waited_for_and_that_is_said(peer, caplog):
    answers = iter([None, (503, {})])
    peer.answer = lambda seen: next(answers, (200, {}))
    tachograph.init("p", url=peer.url, api_key="tg_x").finish()
    assert caplog.text.count("cannot begin yet") == 1


def test_writes_after_finish_are_refused(peer, run):
    run.finish()
    for write in (
        lambda: run.log({"x": 1.0}),
        lambda: run.log_text("x"),
        lambda: run.summary({"x": 1}),
        lambda: run.config({"x": 1}),
        lambda: run.progress(1),
        lambda: run.set_primary_metric("x"),
    ):
        with pytest.raises(tachograph.RunFinished, match="it was finished"):
            write()
    assert run.finish("failed") == run.delivery
    assert len(peer.to("/finish")) == 1


def test_the_context_manager_tells_how_it_went(peer):
    def open_run():
        return tachograph.init("p", url=peer.url, api_key="tg_x")

    with open_run():
        pass
    with pytest.raises(ValueError, match="boom"), open_run():
        raise ValueError("boom")
    with pytest.raises(KeyboardInterrupt), open_run():
        raise KeyboardInterrupt
    with pytest.raises(SystemExit), open_run():
        raise SystemExit(3)
    with pytest.raises(SystemExit), open_run():
        raise SystemExit
    ends = [seen.body for seen in peer.to("/finish")]
    assert [(end["status"], end.get("exit_code")) for end in ends] == [
        ("completed", None),
        ("failed", None),
        ("killed", None),
        ("failed", 3),
        ("completed", 0),
    ]
    assert ends[1]["error"]["type"] == "ValueError"
    assert ends[1]["error"]["message"] == "boom"
    assert 'raise ValueError("boom")' in ends[1]["error"]["traceback"]


def test_an_exception_that_cannot_be_shown_still_ends_the_run(peer, run):
    class Broken(Exception):
        def __str__(self):
            raise RuntimeError("no")

    with pytest.raises(Broken), run:
        raise Broken
    assert "cannot be shown" in peer.to("/finish")[0].body["error"]["message"]


def test_the_end_is_told_though_data_is_stuck(peer, caplog):
    """A batch that cannot be delivered does not keep the end back; the numbers say what is missing."""
    peer.answer = lambda seen: (503, {}) if seen.path.endswith("/metrics") else (200, {})
    run = tachograph.init("p", url=peer.url, api_key="tg_x", finish_seconds=3.5)
    run.log(x=1.0)
    delivery = run.finish()
    assert (delivery.points_left, delivery.complete) == (1, False)
    assert peer.to("/finish")[0].body["last_seq"] == {"sdk": 1}
    peer.answer = lambda seen: (200, {})
    assert tachograph.sync(url=peer.url, api_key="tg_x").delivered == 1


def test_switched_off_nothing_happens(monkeypatch, tmp_path):
    tachograph.set_enabled(False)
    try:
        with tachograph.init("p", config={"lr": 1}) as run:
            run.log({"x": object()}, step=1)
            run.log_text("x")
            run.summary({"x": 1})
            run.progress(1, 2)
            run.set_primary_metric("x", "min")
        assert not run.enabled
        assert run.config["lr"] == 1
        assert run.finish().complete
    finally:
        tachograph.set_enabled(True)
    assert not (tmp_path / "home").exists()


def test_without_a_key_the_places_are_named():
    with pytest.raises(tachograph.NotConfigured, match=r"TACHOGRAPH_API_KEY.*credentials\.json"):
        tachograph.init()


def test_credentials_come_from_the_home_but_go_only_to_their_service(peer, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "credentials.json").write_text(f'{{"url": "{peer.url}/", "api_key": "tg_stored"}}')
    tachograph.init("p").finish()
    assert {seen.headers["authorization"] for seen in peer.seen} == {"Bearer tg_stored"}
    with pytest.raises(tachograph.NotConfigured):
        tachograph.Client("http://elsewhere.example")
    (home / "credentials.json").write_text("{")
    with pytest.raises(tachograph.NotConfigured, match="cannot be read"):
        tachograph.Client()


@pytest.mark.parametrize(
    ("given", "stored"),
    [(None, "default"), ("/", "/"), ("a/b", "a/b"), ("\\a\\b\\", "a/b"), (" a // b ", "a/b"), ("a b", "a b")],
)
def test_paths_are_normalised(given, stored):
    assert normal_path(given) == stored


@pytest.mark.parametrize("path", ["", "  ", "..", "a/../b", "./a", "~", "C:\\x", "a\0b", "a/" * 150])
def test_paths_that_lead_elsewhere_are_refused(path):
    with pytest.raises(ValueError, match="path"):
        normal_path(path)


def test_a_child_process_does_not_write_to_its_parents_run(peer, run):
    run.log(x=1.0)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        run.log(x=2.0)
        run.summary({"child": True})
        run.finish("failed")
        os.write(write, b"done")
        os._exit(0)
    os.close(write)
    assert os.read(read, 10) == b"done"
    os.close(read)
    os.waitpid(pid, 0)
    run.log(x=3.0)
    run.finish()
    assert peer.points() == {"x": [(1, 1.0), (2, 3.0)]}
    assert [seen.body["status"] for seen in peer.to("/finish")] == ["completed"]


def test_a_fork_while_another_thread_logs_leaves_no_lock_behind(peer, run):
    stop = threading.Event()

    def log() -> None:
        while not stop.is_set():
            run.log(x=1.0)

    thread = threading.Thread(target=log)
    thread.start()
    try:
        for _ in range(20):
            pid = os.fork()
            if pid == 0:
                run.log(x=2.0)
                run.finish()
                os._exit(7)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    finally:
        stop.set()
        thread.join()
    run.finish()


def test_a_superseded_attempt_stops_sending_and_goes_on_training(peer, until, caplog):
    def answer(seen):
        if seen.path.endswith("/heartbeat"):
            return (409, {"title": "Conflict", "status": 409, "detail": "epoch 1 is stale", "state": "running"})
        return (200, {"liveness": {"beat_seconds": 0.05}})

    peer.answer = answer
    run = tachograph.init("p", url=peer.url, api_key="tg_x")
    until(lambda: "epoch 1 is stale" in caplog.text)
    run.log(x=1.0)
    delivery = run.finish()
    assert not peer.to("/finish")
    assert not peer.to("/metrics")
    assert delivery.points_dropped == 1
    assert len(peer.to("/heartbeat")) == 1
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 2


def test_a_signal_handler_may_finish_a_run_in_the_middle_of_a_log(peer):
    """`__float__` runs while the buffer is locked, as a signal handler may."""
    run = tachograph.init("p", url=peer.url, api_key="tg_x", finish_seconds=60)

    class Interrupted:
        def __float__(self) -> float:
            run.finish("killed")
            return 2.0

    run.log({"a": 1.0, "b": 1.0})
    started = time.monotonic()
    run.log({"a": 2.0, "b": Interrupted()})
    assert time.monotonic() - started < 30
    assert peer.to("/finish")[0].body["status"] == "killed"
    assert peer.points() == {"a": [(1, 1.0)], "b": [(1, 1.0)]}


def test_a_status_has_a_name_in_other_systems():
    assert tachograph.state_as("crashed", "wandb") == "crashed"
    assert tachograph.state_as("killed", "vessl") == "Terminated"
