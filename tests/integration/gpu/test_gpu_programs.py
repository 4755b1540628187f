"""What a run's program is given, how it ends, and what is reported of it."""

from pathlib import Path
from typing import Any

import pytest

import tachograph
from tests.api import until
from tests.integration.gpu.system import System
from workers.gpu.process import processes_of


def test_a_run_completes_with_its_log_and_its_exit(system: System) -> None:
    run = system.python("import sys; print('out'); print('err', file=sys.stderr); print('no newline', end='')")
    ended = system.wait(run)
    assert (ended["status"], ended["cause"], ended["exit_code"]) == ("completed", "finished", 0)
    assert ended["synced"]
    assert system.texts(run) == ["out", "no newline"]
    assert system.texts(run, "stderr") == ["err"]
    happened = system.happened(run)
    assert happened == ["created", "starting", "preparation_reported", "started", "completed"]


def test_a_program_finds_its_run_and_nobody_elses_secrets(system: System) -> None:
    source = (
        "import os; print(os.environ['TACHOGRAPH_RUN_ID'], os.environ['TACHOGRAPH_EPOCH'], os.environ['LR'],"
        " os.environ['A_SECRET'], repr(os.environ['CUDA_VISIBLE_DEVICES']), 'TACHOGRAPH_API_KEY' in os.environ,"
        " 'TACHOGRAPH_NATS_URL' in os.environ)"
    )
    run = system.python(source, environment={"LR": "0.1"}, secrets=["A_SECRET"])
    assert system.wait(run)["status"] == "completed"
    assert system.texts(run) == [f"{run} 1 0.1 hush '' False False"]


def test_the_sdk_in_a_managed_program_attaches_to_its_run(system: System) -> None:
    source = (
        "import tachograph\n"
        "with tachograph.init() as run:\n"
        "    for step in range(20):\n"
        "        run.log({'loss': 1 / (step + 1)}, step=step)\n"
    )
    run = system.python(source)
    ended = system.wait(run)
    assert (ended["status"], ended["exit_code"]) == ("completed", 0)
    assert ended["mode"] == "managed"
    own = [one for one in system.client.metrics(run) if not one["name"].startswith("system/")]
    assert [(metric["name"], metric["last_step"]) for metric in own] == [("loss", 19)]


def test_an_exception_is_reported_with_its_traceback(system: System) -> None:
    run = system.python("def train():\n    raise ValueError('bad shape: (3, 4)')\ntrain()")
    ended = system.wait(run)
    assert (ended["status"], ended["cause"], ended["exit_code"]) == ("failed", "exception", 1)
    error = ended["error"]
    assert error is not None
    assert (error["type"], error["message"]) == ("ValueError", "bad shape: (3, 4)")
    assert "in train" in error["traceback"]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"command": ["/no/such/program"]}, "/no/such/program cannot be started: No such file or directory"),
        ({"command": ["true"], "secrets": ["NOT_THERE"]}, "NOT_THERE is not in the worker's environment"),
        ({"command": ["true"], "secrets": ["TACHOGRAPH_API_KEY"]}, "TACHOGRAPH_API_KEY is refused"),
    ],
)
def test_what_cannot_be_started_fails_with_the_reason(system: System, fields: dict[str, Any], why: str) -> None:
    run = system.client.create_run(system.project, **fields)["id"]
    ended = system.wait(run)
    assert (ended["status"], ended["cause"]) == ("failed", "prepare_failed")
    assert ended["error"] is not None
    assert why in ended["error"]["message"]
    assert "started" not in system.events(run)
    log = system.worker.log.read_text()
    assert why not in log, "the run's own text outlives it nowhere"
    assert f"run {run}: not started" in log


def test_a_killed_run_wraps_up_and_keeps_its_log(system: System) -> None:
    source = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('saved'), sys.exit(3)))\n"
        "print('up')\n"
        "time.sleep(600)\n"
    )
    run = system.python(source)
    until(lambda: system.printed(run), "the program runs")
    system.client.kill(run, grace_seconds=30, reason="enough")
    ended = system.wait(run)
    assert (ended["status"], ended["cause"], ended["exit_code"]) == ("killed", "killed_by_user", 3)
    assert system.texts(run) == ["up", "saved"]
    until(lambda: not processes_of(run), "its processes are gone")


def test_a_run_that_will_not_go_is_killed_with_all_it_started(system: System) -> None:
    script = "trap '' TERM; setsid sh -c 'trap \"\" TERM; sleep 600' & echo up; while :; do sleep 600; done"
    run = system.start("sh", "-c", script)
    until(lambda: system.printed(run), "the program runs")
    system.client.kill(run, grace_seconds=0.5)
    ended = system.wait(run)
    assert (ended["status"], ended["exit_code"]) == ("killed", 137)
    until(lambda: not processes_of(run), "its processes are gone")


def test_more_runs_than_slots_wait_for_their_turn(system: System, tmp_path: Path) -> None:
    mark = tmp_path / "go"
    source = (
        "import os, time\n"
        "print(os.environ['TACHOGRAPH_RUN_ID'], flush=True)\n"
        f"while not os.path.exists({str(mark)!r}): time.sleep(0.02)"
    )
    runs = [system.python(source) for _ in range(5)]

    def programs() -> int:
        return sum(1 for run in runs if any(_is_program(pid) for pid in processes_of(run)))

    until(lambda: programs() == 2, "as many run as there are slots")
    assert sum(system.client.run(run)["status"] == "queued" for run in runs) == 3
    mark.touch()

    def all_ended() -> bool:
        assert programs() <= 2
        return all(system.client.run(run)["status"] in tachograph.FINAL for run in runs)

    until(all_ended, "all have had their turn")
    assert [system.client.run(run)["status"] for run in runs] == ["completed"] * 5
    assert [system.texts(run) for run in runs] == [[run] for run in runs]


def _is_program(pid: int) -> bool:
    """Tell the program from its shim."""
    try:
        return b"shim.py" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_run_says_what_it_uses_of_the_machine(system: System, tmp_path: Path) -> None:
    mark = tmp_path / "go"
    run = system.python(
        f"import os, time; x = bytearray(40_000_000)\nwhile not os.path.exists({str(mark)!r}): time.sleep(0.02)"
    )

    def figures() -> dict[str, tachograph.MetricSummary]:
        return {one["name"]: one for one in system.client.metrics(run)}

    until(lambda: figures().get("system/cpu_percent", {"count": 0})["count"] >= 3, "figures come while it runs")
    mark.touch()
    assert system.wait(run)["synced"]
    found = figures()
    assert found["system/memory_bytes"]["max"] > 40_000_000
    assert found["system/processes"]["max"] >= 2
    assert found["system/cpu_percent"]["first_step"] == 0


def test_no_run_gets_the_object_stores_credentials(system: System) -> None:
    ended = system.wait(system.start("true", secrets=["AWS_SECRET_ACCESS_KEY"]))
    assert (ended["status"], ended["cause"]) == ("failed", "prepare_failed")
    assert "AWS_SECRET_ACCESS_KEY is not in the worker's environment" in ended["error"]["message"]


FINISHES = """
import os, sys, tachograph
with open('model', 'w') as file:
    file.write('weights')
run = tachograph.init()
run.log({'loss': 0.5}, step=1)
run.finish(*sys.argv[1:2], error=sys.argv[2] if len(sys.argv) > 2 else None)
print('after the end', flush=True)
os._exit(3)
"""


@pytest.mark.parametrize(
    ("said", "status", "cause", "message"),
    [
        ((), "completed", "finished", None),
        (("completed",), "completed", "finished", None),
        (("failed", "it diverged"), "failed", "exception", "it diverged"),
        (("failed",), "failed", "exit_code", None),
        (("interrupted",), "killed", "killed_by_user", None),
    ],
)
def test_what_a_program_says_of_its_end_holds_once_it_is_gone_and_its_outputs_are_stored(
    system: System, said: tuple[str, ...], status: str, cause: str, message: str | None
) -> None:
    run = system.start("python", "-c", FINISHES, *said, export_volumes=[{"place": "artifact:model", "path": "model"}])
    ended = system.wait(run)
    assert (ended["status"], ended["cause"], ended["exit_code"]) == (status, cause, 3)
    assert (ended["error"] or {}).get("message") == message
    assert [one["name"] for one in system.client.artifacts(run)] == ["model"]
    assert system.texts(run) == ["after the end"]
    assert "stopping" in system.happened(run)


def test_the_next_command_starts_only_after_one_that_ended_well(system: System) -> None:
    fine = "import tachograph; tachograph.init().finish(); raise SystemExit(3)"
    bad = "import tachograph; tachograph.init().finish('failed', 'no data')"
    commands = [["python", "-c", fine], ["python", "-c", bad], ["python", "-c", "print('never')"]]
    run = system.start(commands=[{"argv": argv} for argv in commands])
    ended = system.wait(run)
    assert ended["error"] is not None
    assert (ended["status"], ended["cause"], ended["error"]["message"]) == ("failed", "exception", "no data")
    assert system.texts(run) == []
    last = system.start(commands=[{"argv": argv} for argv in (commands[0], ["python", "-c", "raise SystemExit(4)"])])
    ended = system.wait(last)
    assert (ended["status"], ended["cause"], ended["exit_code"]) == ("failed", "exit_code", 4)
