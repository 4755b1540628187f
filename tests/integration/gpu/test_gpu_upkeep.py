"""What happens to a worker from outside: its disk fills up, its network is cut, it is drained."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api import until
from tests.fault.places import Disk, Unavailable, small_disk
from tests.integration.gpu.system import Gates, System
from workers.gpu.process import processes_of

QUICK = {"beat_seconds": 2.0, "unresponsive_seconds": 8.0, "crashed_seconds": 12.0}
COUNTED = 500


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    try:
        with small_disk(tmp_path / "small", 16) as disk:
            yield disk
    except Unavailable as reason:
        pytest.skip(f"NO SMALL DISK HERE, A WORKER'S FULL DISK IS NOT TESTED: {reason}")


def counting(mark: Path, code: int) -> str:
    """A program that prints while it is cut off, and ends when it may."""
    return (
        "import os, sys, time\n"
        f"for i in range({COUNTED}):\n"
        "    print('line', i)\n"
        "    time.sleep(0.01)\n"
        f"while not os.path.exists({str(mark)!r}): time.sleep(0.02)\n"
        "print('end')\n"
        f"sys.exit({code})\n"
    )


def test_a_full_disk_is_said_and_costs_no_line_that_was_printed(
    system: System, gates: Gates, disk: Disk, tmp_path: Path
) -> None:
    rest, more, last = tmp_path / "rest", tmp_path / "more", tmp_path / "last"
    source = (
        "import os, sys, time\n"
        "print('line 0')\n"
        f"while not os.path.exists({str(rest)!r}): time.sleep(0.02)\n"
        f"for i in range(1, {COUNTED}): print('line', i)\n"
        f"while not os.path.exists({str(more)!r}): time.sleep(0.02)\n"
        "try:\n"
        "    print('x' * 5_000)\n"
        "except OSError as error:\n"
        f"    open({str(tmp_path / 'said')!r}, 'w').write(error.strerror)\n"
        f"while not os.path.exists({str(last)!r}): time.sleep(0.02)\n"
        "sys.exit(3)\n"
    )
    with system.worker_with(TACHOGRAPH_HOME=str(disk.path)):
        gates.api.shut_at(b"/logs")
        run = system.python(source)
        until(lambda: not gates.api.is_open, "the first line is to be sent")
        rest.touch()
        output = disk.path / "worker" / "runs" / run / "stdout.log"
        until(lambda: output.read_text().count("\n") == COUNTED, "all is printed")
        disk.fill()
        gates.api.open()
        until(lambda: system.texts_so_far(run) == [f"line {i}" for i in range(COUNTED)], "all lines are stored")
        more.touch()
        until((tmp_path / "said").exists, "the program learns that its disk is full")
        waiting = system.start("echo", "later")
        last.touch()
        until(lambda: not [pid for pid in processes_of(run) if is_program(pid)], "the program ends")
        assert system.client.run(waiting)["status"] in {"queued", "starting"}
        disk.free()
        ended = system.wait(run)
        assert (ended["status"], ended["exit_code"], ended["synced"]) == ("failed", 3, True)
        assert "bytes left)" in ended["error"]["message"]
        assert [line for line in system.texts(run) if line.startswith("line")] == [f"line {i}" for i in range(COUNTED)]
        assert system.texts(run, "log") == ["the worker's disk takes no more: No space left on device"]
        assert (system.wait(waiting)["status"], system.texts(waiting)) == ("completed", ["later"])


def is_program(pid: int) -> bool:
    """Tell a program from its shim."""
    try:
        return b"shim.py" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.slow
@pytest.mark.parametrize("ends", ["meanwhile", "afterwards"])
def test_a_worker_whose_network_is_cut_loses_its_runs_and_gets_them_back_with_every_line(
    system: System, gates: Gates, tmp_path: Path, ends: str
) -> None:
    mark = tmp_path / "go"
    run = system.python(counting(mark, code=5), liveness=QUICK)
    until(lambda: system.printed(run) > 20, "the first lines")
    gates.shut()
    if ends == "meanwhile":
        mark.touch()
    system.wait_for(run, "crashed")
    assert system.client.run(run)["cause"] == "worker_lost"
    until(lambda: bool(processes_of(run)) == (ends == "afterwards"), "the program goes on, or has gone")
    gates.open()
    if ends == "afterwards":
        system.wait_for(run, "running")
        mark.touch()
    until(lambda: system.client.run(run)["status"] == "failed", "the true end")
    ended = system.client.run(run)
    assert (ended["cause"], ended["exit_code"], ended["epoch"], ended["synced"]) == ("exit_code", 5, 1, True)
    assert system.texts(run) == [*(f"line {i}" for i in range(COUNTED)), "end"]
    told = [event for event in system.happened(run) if event in {"started", "crashed", "recovered", "failed"}]
    assert told == ["started", "crashed", "recovered", "failed"]


def test_a_drained_worker_ends_what_it_has_and_takes_nothing_new(system: System, tmp_path: Path) -> None:
    mark = tmp_path / "go"
    held = system.start("sh", "-c", f"echo up; while [ ! -e {mark} ]; do sleep 0.02; done; echo done")
    until(lambda: system.printed(held), "the program runs")
    worker = system.client.run(held)["worker"]
    drained = system.client.request("POST", f"/workers/{worker}/drain", {"reason": "new disks"})
    assert drained["drained_at"] is not None
    queued = system.start("echo", "after")
    try:
        reason = "workers_away"
        until(lambda: (system.client.run(queued)["waiting"] or {}).get("reason") == reason, "the other run waits")
        mark.touch()
        assert (system.wait(held)["status"], system.texts(held)) == ("completed", ["up", "done"])
        registered = system.worker.log.read_text().count(", slots: ")
        system.worker.stop(10.0)
        system.worker.start()
        until(lambda: system.worker.log.read_text().count(", slots: ") > registered, "the worker is back")
        assert system.client.run(queued)["status"] == "queued"
        assert "starting" not in system.events(queued)
    finally:
        system.client.request("POST", f"/workers/{worker}/resume")
    assert (system.wait(queued)["status"], system.texts(queued)) == ("completed", ["after"])


def test_a_protected_run_stores_its_outputs_keeps_its_slot_and_ends_when_it_is_killed(system: System) -> None:
    run = system.start(
        "sh", "-c", "echo 7 > kept; echo done",
        protection=True,
        export_volumes=[{"place": "volume:data/protected", "path": "kept"}],
    )  # fmt: skip
    system.wait_for(run, "idle")
    assert (system.volume / "protected").read_text() == "7\n"
    others = [system.start("sh", "-c", "sleep 0.2") for _ in range(3)]
    assert [system.wait(one)["status"] for one in others] == ["completed"] * 3
    assert system.client.run(run)["status"] == "idle"
    until(lambda: system.client.request("GET", "/usage")["active_runs"] == 1, "the idle run alone holds a slot")
    system.client.kill(run)
    ended = system.wait(run)
    assert (ended["status"], ended["cause"], ended["synced"]) == ("killed", "killed_by_user", True)
    assert system.happened(run)[-5:] == ["started", "stopping", "idled", "kill_requested", "killed"]
    until(lambda: system.client.request("GET", "/usage")["active_runs"] == 0, "its slot is free")
