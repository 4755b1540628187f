"""How programs end, each in a process of its own, and what the service is told about it."""

import json
import signal
import sys
import threading
import time

import pytest

ENDINGS = {
    "pass": (0, "completed", 0),
    "sys.exit(0)": (0, "completed", 0),
    "sys.exit(3)": (3, "failed", 3),
    "sys.exit('message')": (1, "failed", 1),
    "exit(4)": (4, "failed", 4),
    "1 / 0": (1, "failed", 1),
    "raise SystemExit": (0, "completed", 0),
    "import argparse; argparse.ArgumentParser().parse_args(['--no'])": (2, "failed", 2),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_run_that_nobody_finished_ends_as_its_process_does(script, peer, ending):
    program = script(f"import sys, tachograph\nrun = tachograph.init('p')\nrun.log(x=1.0)\n{ending}\n", peer.url)
    _, errors = program.communicate(timeout=120)
    code, status, told = ENDINGS[ending]
    assert program.returncode == code, errors
    (finish,) = peer.to("/finish")
    assert (finish.body["status"], finish.body.get("exit_code")) == (status, told)
    assert peer.points() == {"x": [(1, 1.0)]}
    if ending == "1 / 0":
        assert finish.body["error"]["type"] == "ZeroDivisionError"
        assert finish.body["error"]["traceback"] in errors


def test_an_exit_that_was_caught_is_no_end(script, peer):
    program = script(
        """
        import sys, tachograph
        run = tachograph.init("p")
        try:
            sys.exit(5)
        except SystemExit:
            pass
        """,
        peer.url,
    )
    program.communicate(timeout=120)
    assert peer.to("/finish")[0].body["status"] == "completed"


def wait_for_output(program, text: str) -> None:
    for line in program.stdout:
        if text in line:
            return
    pytest.fail(f"{text!r} was never printed: {program.stderr.read()}")


WAITING = """
    import sys, time, tachograph
    run = tachograph.init("p")
    run.log(x=1.0)
    try:
        print("ready", flush=True)
        time.sleep(60)
    except tachograph.Stopped as stopped:
        print("stopped:", stopped, flush=True)
        raise
"""

IN_A_LOOP = """
    import sys, time, tachograph
    run = tachograph.init("p")
    print("ready", flush=True)
    stops = 0
    deadline = time.monotonic() + 100
    while stops == 0 and time.monotonic() < deadline:
        try:
            while time.monotonic() < deadline:
                run.log(x=1.0)
        except tachograph.Stopped:
            stops += 1
    time.sleep(0.5)
    print("stops:", stops, run.stop_requested, flush=True)
"""


def stopping(seen):
    if seen.path.endswith("/heartbeat"):
        return (200, {"stop": True, "stop_cause": "killed_by_user"})
    return (200, {"liveness": {"beat_seconds": 0.1}})


def test_a_stop_from_the_service_ends_a_program_that_sleeps(script, peer):
    peer.answer = stopping
    program = script(WAITING, peer.url)
    output, errors = program.communicate(timeout=120)
    assert "stopped: killed_by_user" in output
    assert program.returncode == 1
    assert errors == "tachograph: the run was stopped: killed_by_user\n"
    assert peer.to("/finish")[0].body["status"] == "killed"


def test_a_stop_comes_once(script, peer):
    peer.answer = stopping
    program = script(IN_A_LOOP, peer.url)
    output, errors = program.communicate(timeout=120)
    assert "stops: 1 True" in output, errors
    assert len(peer.to("/heartbeat")) > 2
    assert peer.to("/finish")[0].body["status"] == "killed"


def test_a_stop_reaches_the_main_thread_from_a_run_of_another(script, peer):
    peer.answer = stopping
    program = script(
        """
        import threading, time, tachograph
        thread = threading.Thread(target=tachograph.init, args=("p",))
        thread.start()
        thread.join()
        deadline = time.monotonic() + 100
        try:
            while time.monotonic() < deadline:
                time.sleep(0.01)
        except tachograph.Stopped:
            print("stopped", flush=True)
        """,
        peer.url,
    )
    output, errors = program.communicate(timeout=120)
    assert "stopped" in output, errors
    assert peer.to("/finish")[0].body["status"] == "killed"


def test_a_run_that_was_killed_while_nobody_asked_stops_its_program(script, peer):
    def answer(seen):
        if seen.path.endswith("/heartbeat"):
            return (409, {"title": "Conflict", "status": 409, "detail": "the run is killed", "state": "killed"})
        return (200, {"liveness": {"beat_seconds": 0.1}})

    peer.answer = answer
    program = script(WAITING, peer.url)
    output, _ = program.communicate(timeout=120)
    assert "stopped: killed" in output
    assert not peer.to("/finish")


def test_sigterm_ends_a_tracked_run_as_killed(script, peer):
    program = script(WAITING, peer.url)
    wait_for_output(program, "ready")
    program.send_signal(signal.SIGTERM)
    program.send_signal(signal.SIGTERM)  # a launcher and the process group both pass it on
    output, errors = program.communicate(timeout=120)
    assert "stopped: terminated" in output, errors
    assert peer.to("/finish")[0].body["status"] == "killed"
    assert peer.points() == {"x": [(1, 1.0)]}


def test_sigterm_while_a_run_is_finishing_waits_until_that_is_done(script, peer, until):
    program = script(
        "import tachograph\nrun = tachograph.init('p')\nrun.log(x=1.0)\nrun.finish()\nprint('not reached')", peer.url
    )
    going = threading.Event()

    def answer(seen):
        if seen.path.endswith("/metrics"):
            program.send_signal(signal.SIGTERM)
            going.wait(0.3)
        return (200, {})

    peer.answer = answer
    output, _ = program.communicate(timeout=120)
    assert program.returncode == -signal.SIGTERM
    assert output == ""
    assert peer.to("/finish")[0].body["status"] == "completed"


def test_sigterm_lets_a_managed_run_deliver_and_leaves_the_end_to_the_worker(script, peer):
    program = script(WAITING, peer.url, TACHOGRAPH_RUN_ID="run-7", TACHOGRAPH_RUN_TOKEN="tgr_t", TACHOGRAPH_EPOCH="1")
    wait_for_output(program, "ready")
    program.send_signal(signal.SIGTERM)
    program.communicate(timeout=120)
    assert peer.points() == {"x": [(1, 1.0)]}
    assert not peer.to("/finish")


@pytest.mark.parametrize("there", [True, False])
def test_what_a_managed_run_says_of_its_end_is_left_for_its_worker(script, peer, tmp_path, there):
    outcome = tmp_path / "outcome.json" if there else tmp_path / "nowhere" / "outcome.json"
    managed = {"TACHOGRAPH_RUN_ID": "run-7", "TACHOGRAPH_RUN_TOKEN": "tgr_t", "TACHOGRAPH_EPOCH": "1"}
    for error in ("None", "'no data'", "None"):  # as several processes of one run
        text = f"""
            import tachograph
            run = tachograph.init()
            run.log(x=1.0)
            run.finish("failed" if {error} else "completed", {error}, exit_code=1)
        """
        program = script(text, peer.url, TACHOGRAPH_OUTCOME=str(outcome), **managed)
        _, errors = program.communicate(timeout=120)
        assert program.returncode == 0, errors
    assert len(peer.points()["x"]) == 3
    if there:
        said = {"type": "Error", "message": "no data", "traceback": ""}
        assert json.loads(outcome.read_bytes()) == {"status": "failed", "error": said, "exit_code": 1}
        assert list(tmp_path.glob("outcome*")) == [outcome]
    assert [seen.body["status"] for seen in peer.to("/finish")] == (
        [] if there else ["completed", "failed", "completed"]
    )


def test_a_handler_of_the_programs_own_decides_what_sigterm_does(script, peer):
    program = script(
        """
        import signal, time, tachograph
        asked = []
        signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
        with tachograph.init("p") as run:
            print("ready", flush=True)
            deadline = time.monotonic() + 100
            while not asked and time.monotonic() < deadline:
                time.sleep(0.01)
            print("wrapping up", run.stop_requested, flush=True)
        print(signal.getsignal(signal.SIGTERM).__name__, flush=True)
        """,
        peer.url,
    )
    wait_for_output(program, "ready")
    program.send_signal(signal.SIGTERM)
    output, errors = program.communicate(timeout=120)
    assert "wrapping up True" in output, errors
    assert "<lambda>" in output
    assert peer.to("/finish")[0].body["status"] == "killed"


def test_ctrl_c_ends_a_run_as_killed(script, peer):
    program = script(
        "import time, tachograph\nrun = tachograph.init('p')\nprint('ready', flush=True)\ntime.sleep(60)", peer.url
    )
    wait_for_output(program, "ready")
    program.send_signal(signal.SIGINT)
    _, errors = program.communicate(timeout=120)
    assert "KeyboardInterrupt" in errors
    assert peer.to("/finish")[0].body["status"] == "killed"


def test_a_child_that_is_terminated_dies_as_it_did_before(script, peer):
    program = script(
        """
        import multiprocessing, time, tachograph

        fork = multiprocessing.get_context("fork")
        ready = fork.Event()

        def work():
            ready.set()
            time.sleep(100)

        if __name__ == "__main__":
            with tachograph.init("p") as run:
                child = fork.Process(target=work)
                child.start()
                ready.wait(100)
                child.terminate()
                child.join(100)
                print("code", child.exitcode, flush=True)
        """,
        peer.url,
    )
    output, errors = program.communicate(timeout=120)
    assert f"code {-signal.SIGTERM}" in output, errors
    assert [seen.body["status"] for seen in peer.to("/finish")] == ["completed"]


def test_a_hard_kill_tells_nothing(script, peer, until):
    program = script(WAITING, peer.url)
    wait_for_output(program, "ready")
    until(lambda: peer.to("/metrics"))
    program.kill()
    program.communicate(timeout=120)
    assert not peer.to("/finish")


def test_a_service_that_is_gone_does_not_hold_the_program_long(script, peer, tmp_path):
    program = script(
        """
        import sys, tachograph
        run = tachograph.init("p", finish_seconds=4)
        print("ready", flush=True)
        for line in sys.stdin:
            run.log(x=1.0)
        """,
        peer.url,
    )
    wait_for_output(program, "ready")
    peer.answer = lambda seen: None
    peer.close()
    started = time.monotonic()
    _, errors = program.communicate("one\ntwo\n", timeout=120)
    assert time.monotonic() - started < 50
    assert program.returncode == 0, errors
    assert "2 points" in errors
    assert "tachograph.sync() delivers it" in errors
    assert len(list((tmp_path / "home" / "spool").glob("*.spool"))) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX shells only")
def test_sigint_that_is_ignored_stays_ignored(script, peer):
    program = script(
        """
        import os, signal, time
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        import tachograph
        with tachograph.init("p") as run:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)
        print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)
        """,
        peer.url,
    )
    output, errors = program.communicate(timeout=120)
    assert output == "True\n", errors
    assert peer.to("/finish")[0].body["status"] == "completed"
