"""The GPU worker in the whole system: real programs, real service, real NATS, and faults in between."""

import contextlib
import socket
import subprocess
import sys
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from nats.aio.client import Client as Nats

import tachograph
from events import bus
from events.beats import Order
from stack import Stack
from workers.gpu.process import Shim, processes_of
from workers.gpu.records import RunDirectory

SECONDS = 60.0
COUNTING = """
import sys, time
for i in range({lines}):
    print("line", i)
    print("err", i, file=sys.stderr)
    time.sleep({pause})
sys.exit({code})
"""


def wait_until(happened: Callable[[], object], what: str, seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"{what}: not in time"
        time.sleep(0.05)


class System:
    """The running stack and what the tests ask of it."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.client = tachograph.Client(stack.url, stack.api_key)
        self.volume = Path(stack.processes["gpu"].environment["TACHOGRAPH_WORKER_VOLUMES"].removeprefix("data="))
        self.project = self.client.create_project(f"gpu-{uuid.uuid4()}")["id"]

        self.runs: list[str] = []

    def start(self, *command: str, **fields: Any) -> str:
        run = self.client.create_run(self.project, command=list(command), **fields)["id"]
        self.runs.append(run)
        return run

    def python(self, source: str, **fields: Any) -> str:
        return self.start("python", "-c", source, **fields)

    def wait(self, run: str) -> tachograph.RunResource:
        return self.client.wait(run, timeout_seconds=SECONDS)

    def wait_for(self, run: str, status: str) -> None:
        wait_until(lambda: self.client.run(run)["status"] == status, f"run {run} {status}")

    def texts(self, run: str, stream: str = "stdout") -> list[str]:
        return [line["text"] for line in self.client.stream_logs(run, stream=stream)]

    def printed(self, run: str) -> int:
        return len(self.client.logs(run, stream="stdout", limit=1000)["lines"])

    def events(self, run: str) -> list[str]:
        return [event["type"].split("run.")[-1] for event in self.client.events(run=run)]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    volume = tmp_path_factory.mktemp("volume")
    environment = {
        "TACHOGRAPH_WORKER_SLOTS": "2",
        "TACHOGRAPH_WORKER_METRICS_SECONDS": "0.2",
        "TACHOGRAPH_WORKER_VOLUMES": f"data={volume}",
        "A_SECRET": "hush",
        "AWS_SECRET_ACCESS_KEY": "the object store's",
        "CUDA_VISIBLE_DEVICES": "",
    }
    with Stack(tmp_path_factory.mktemp("gpu-worker"), port, environment=environment) as stack:
        yield stack


@pytest.fixture
def system(running: Stack) -> Iterator[System]:
    system = System(running)
    with system.client:
        yield system
    for run in system.runs:
        Shim(RunDirectory(running.home.path), run).sweep()


def test_a_run_completes_with_its_log_and_its_exit(system: System) -> None:
    run = system.python("import sys; print('out'); print('err', file=sys.stderr); print('no newline', end='')")
    ended = system.wait(run)
    assert (ended["status"], ended["cause"], ended["exit_code"]) == ("completed", "finished", 0)
    assert ended["synced"]
    assert system.texts(run) == ["out", "no newline"]
    assert system.texts(run, "stderr") == ["err"]
    happened = [event for event in system.events(run) if event != "logs_written"]
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


def test_a_killed_run_wraps_up_and_keeps_its_log(system: System) -> None:
    source = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('saved'), sys.exit(3)))\n"
        "print('up')\n"
        "time.sleep(600)\n"
    )
    run = system.python(source)
    wait_until(lambda: system.printed(run), "the program runs")
    system.client.kill(run, grace_seconds=30, reason="enough")
    ended = system.wait(run)
    assert (ended["status"], ended["cause"], ended["exit_code"]) == ("killed", "killed_by_user", 3)
    assert system.texts(run) == ["up", "saved"]
    wait_until(lambda: not processes_of(run), "its processes are gone")


def test_a_run_that_will_not_go_is_killed_with_all_it_started(system: System) -> None:
    script = "trap '' TERM; setsid sh -c 'trap \"\" TERM; sleep 600' & echo up; while :; do sleep 600; done"
    run = system.start("sh", "-c", script)
    wait_until(lambda: system.printed(run), "the program runs")
    system.client.kill(run, grace_seconds=0.5)
    ended = system.wait(run)
    assert (ended["status"], ended["exit_code"]) == ("killed", 137)
    wait_until(lambda: not processes_of(run), "its processes are gone")


def test_a_worker_killed_again_and_again_loses_and_doubles_nothing(system: System) -> None:
    run = system.python(COUNTING.format(lines=900, pause=0.004, code=6))
    for seen in (100, 300, 500):
        wait_until(lambda seen=seen: system.printed(run) > seen, f"{seen} lines")
        restarts = system.stack.processes["gpu"].restarts
        system.stack.processes["gpu"].crash()
        wait_until(lambda restarts=restarts: system.stack.processes["gpu"].restarts > restarts, "a new worker")
    ended = system.wait(run)
    assert (ended["status"], ended["cause"], ended["exit_code"]) == ("failed", "exit_code", 6)
    assert ended["epoch"] == 1
    assert system.texts(run) == [f"line {i}" for i in range(900)]
    assert system.texts(run, "stderr") == [f"err {i}" for i in range(900)]
    assert system.events(run).count("started") == 1


def test_a_run_that_ended_without_a_worker_is_reported_by_the_next_one(system: System, tmp_path: Path) -> None:
    mark = tmp_path / "go"
    source = (
        "import os, sys, time\n"
        "print('a')\n"
        f"while not os.path.exists({str(mark)!r}): time.sleep(0.02)\n"
        "print('b')\n"
        "sys.exit(9)\n"
    )
    run = system.python(source)
    wait_until(lambda: system.printed(run), "the program runs")
    worker = system.stack.processes["gpu"]
    assert worker.stop(3.0), "the worker did not stop in time"
    assert processes_of(run)
    mark.touch()
    wait_until(lambda: not processes_of(run), "the program ends")
    worker.start()
    ended = system.wait(run)
    assert (ended["status"], ended["exit_code"]) == ("failed", 9)
    assert system.texts(run) == ["a", "b"]


def test_a_run_killed_while_its_worker_was_away_is_ended_by_the_next_one(system: System) -> None:
    run = system.python("import time; print('up'); time.sleep(600)")
    wait_until(lambda: system.printed(run), "the program runs")
    worker = system.stack.processes["gpu"]
    assert worker.stop(3.0)
    system.client.kill(run, grace_seconds=1)
    worker.start()
    assert system.wait(run)["status"] == "killed"
    wait_until(lambda: not processes_of(run), "its processes are gone")


@pytest.mark.slow
def test_a_worker_whose_attempt_was_given_up_ends_its_process(system: System) -> None:
    run = system.python("import time; print('up'); time.sleep(600)")
    wait_until(lambda: system.printed(run), "the program runs")
    worker = system.stack.processes["gpu"]
    assert worker.stop(3.0)
    system.client.kill(run, grace_seconds=0)
    assert system.wait(run)["status"] == "killed"
    assert processes_of(run)
    worker.start()
    wait_until(lambda: not processes_of(run), "the zombie is gone")
    assert system.client.run(run)["status"] == "killed"


def test_a_service_that_is_away_costs_no_line(system: System) -> None:
    run = system.python(COUNTING.format(lines=300, pause=0.01, code=0))
    wait_until(lambda: system.printed(run) > 20, "the first lines")
    service = system.stack.processes["service"]
    for _ in range(2):
        restarts = service.restarts
        service.crash()
        wait_until(lambda restarts=restarts: service.restarts > restarts, "a new service")
        wait_until(lambda: _answers(system), "the service answers")
    assert system.wait(run)["status"] == "completed"
    assert system.texts(run) == [f"line {i}" for i in range(300)]
    assert system.texts(run, "stderr") == [f"err {i}" for i in range(300)]


def _answers(system: System) -> bool:
    try:
        system.client.request("GET", "/usage", retry_seconds=0.5)
    except tachograph.Error:
        return False
    return True


def test_more_runs_than_slots_wait_for_their_turn(system: System) -> None:
    source = "import os, time\nprint(os.environ['TACHOGRAPH_RUN_ID'], flush=True)\ntime.sleep(0.5)"
    runs = [system.python(source) for _ in range(5)]
    most = 0
    deadline = time.monotonic() + SECONDS
    while any(system.client.run(run)["status"] not in tachograph.FINAL for run in runs):
        assert time.monotonic() < deadline
        most = max(most, sum(1 for run in runs if any(_is_program(pid) for pid in processes_of(run))))
        time.sleep(0.02)
    assert 1 <= most <= 2
    assert [system.client.run(run)["status"] for run in runs] == ["completed"] * 5
    assert [system.texts(run) for run in runs] == [[run] for run in runs]


def _is_program(pid: int) -> bool:
    """Tell the program from its shim."""
    try:
        return b"shim.py" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_the_worker_takes_orders_again_after_nats_was_away(system: System) -> None:
    nats = system.stack.nats.process
    assert nats is not None
    restarts = nats.restarts
    nats.crash()
    wait_until(lambda: nats.restarts > restarts, "a new NATS")
    run = system.python("print('after')")
    assert system.wait(run)["status"] == "completed"


async def test_an_order_that_comes_again_starts_nothing_twice(system: System, tmp_path: Path) -> None:
    mark = tmp_path / "go"
    run = system.start("sh", "-c", f"echo begun; while [ ! -e {mark} ]; do sleep 0.02; done")
    wait_until(lambda: system.printed(run), "the program runs")
    nats = await bus.connect(system.stack.nats.url("roles"), name="test")
    orders = await _orders(nats, run)
    assert [order.kind for _, order in orders] == ["start"]
    subject, order = orders[0]
    another = msgspec.structs.replace(order, command_id=uuid.uuid4())
    late = msgspec.structs.replace(order, deadline=datetime.now(UTC) - timedelta(seconds=1))
    for again in (order, another, late, order):
        await nats.jetstream().publish(subject, msgspec.json.encode(again))
    await nats.jetstream().publish(subject, b"{nonsense")
    await nats.close()
    after = system.python("print('after')")
    assert system.wait(after)["status"] == "completed"
    mark.touch()
    assert system.wait(run)["status"] == "completed"
    assert system.texts(run) == ["begun"]
    assert system.events(run).count("starting") == 1


async def _orders(nats: Nats, run: str) -> list[tuple[str, Order]]:
    """Return the orders that were given about the run."""
    subscription = await nats.jetstream().subscribe("tachograph.commands.>", ordered_consumer=True)
    found = []
    with contextlib.suppress(TimeoutError):
        while True:
            message = await subscription.next_msg(timeout=1.0)
            order = msgspec.json.decode(message.data, type=Order)
            if str(order.run_id) == run:
                found.append((message.subject, order))
    return found


def test_termination_protection_keeps_the_slot_until_the_kill(system: System) -> None:
    run = system.start("sh", "-c", "echo done", protection=True)
    system.wait_for(run, "idle")
    worker = system.stack.processes["gpu"]
    restarts = worker.restarts
    worker.crash()
    wait_until(lambda: worker.restarts > restarts, "a new worker")
    assert system.client.run(run)["status"] == "idle"
    system.client.kill(run)
    ended = system.wait(run)
    assert (ended["status"], ended["cause"]) == ("killed", "killed_by_user")
    assert ended["synced"]
    assert system.texts(run) == ["done"]


def test_a_second_worker_on_the_same_state_is_refused(system: System) -> None:
    worker = system.stack.processes["gpu"]
    second = subprocess.run(
        [sys.executable, "-m", "workers", "gpu"],
        env=worker.environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert second.returncode == 2
    assert "another worker runs on" in second.stderr


def sh(source: str, directory: str = "") -> dict[str, Any]:
    return {"argv": ["sh", "-c", source], "working_directory": directory}


def test_commands_run_in_order_with_volumes_in_and_out(system: System) -> None:
    volume = system.volume
    (volume / "words").write_text("one two three")
    run = system.client.create_run(
        system.project,
        commands=[sh("mkdir out; wc -w < data/words > out/count"), sh("cat count; cp count copy", "out")],
        import_volumes=[{"place": "volume:data", "path": "data"}],
        export_volumes=[{"place": "volume:data/results", "path": "out"}],
    )["id"]
    system.runs.append(run)
    ended = system.wait(run)
    assert (ended["status"], ended["exit_code"], ended["synced"]) == ("completed", 0, True)
    assert system.texts(run) == ["3"]
    assert (volume / "results" / "copy").read_text() == "3\n"
    happened = [event for event in system.events(run) if not event.endswith(("written", "logged"))]
    assert happened == ["created", "starting", *["preparation_reported"] * 2, "started", "stopping", "completed"]


def test_a_later_command_that_fails_ends_the_run_and_what_is_there_is_kept(system: System) -> None:
    run = system.client.create_run(
        system.project,
        commands=[sh("echo half > half"), sh("echo broken >&2; exit 4"), sh("echo never")],
        export_volumes=[{"place": "volume:data/half", "path": "half"}],
    )["id"]
    system.runs.append(run)
    ended = system.wait(run)
    assert (ended["status"], ended["cause"], ended["exit_code"]) == ("failed", "exit_code", 4)
    assert ended["error"]["message"] == "exit code 4: broken"
    assert (system.volume / "half").read_text() == "half\n"
    assert system.texts(run) == []


def test_a_run_whose_inputs_are_not_there_fails_before_its_start(system: System) -> None:
    run = system.start("true", import_volumes=[{"place": "volume:elsewhere", "path": "data"}])
    ended = system.wait(run)
    assert (ended["status"], ended["cause"], ended["started_at"]) == ("failed", "prepare_failed", None)
    assert "offers no volume 'elsewhere'; it offers data" in ended["error"]["message"]


def test_a_run_that_completed_without_its_output_has_failed(system: System) -> None:
    run = system.start("true", export_volumes=[{"place": "volume:data/x", "path": "missing"}])
    ended = system.wait(run)
    assert (ended["status"], ended["exit_code"], ended["error"]["type"]) == ("failed", 0, "ExportFailed")
    assert "missing is not there" in ended["error"]["message"]


def test_a_run_is_killed_while_its_outputs_are_being_stored(system: System) -> None:
    volume = system.volume
    run = system.start(
        "truncate", "-s", "1T", "large", export_volumes=[{"place": "volume:data/large", "path": "large"}]
    )
    system.wait_for(run, "stopping")
    system.client.kill(run)
    ended = system.wait(run)
    assert (ended["status"], ended["cause"]) == ("killed", "killed_by_user")
    wait_until(lambda: not [path for path in volume.iterdir() if "large" in path.name], "the half copy is gone")


def test_a_run_says_what_it_uses_of_the_machine(system: System) -> None:
    run = system.python("import time; x = bytearray(40_000_000); time.sleep(2.5)")
    ended = system.wait(run)
    assert ended["synced"]
    wait_until(lambda: system.client.metrics(run), "the figures are summed up")
    found = {one["name"]: one for one in system.client.metrics(run)}
    assert found["system/memory_bytes"]["max"] > 40_000_000
    assert found["system/processes"]["max"] >= 2
    assert found["system/cpu_percent"]["count"] >= 3
    assert found["system/cpu_percent"]["first_step"] == 0


def test_a_run_takes_code_and_models_of_other_runs_and_leaves_its_own(system: System, tmp_path: Path) -> None:
    source = system.client.create_run(system.project, mode="tracked")["id"]
    with zipfile.ZipFile(tmp_path / "code.zip", "w") as archive:
        archive.writestr(
            "train.py",
            "import pathlib\nmodel = pathlib.Path('models/base/w.bin').read_bytes()\n"
            "pathlib.Path('out').mkdir()\npathlib.Path('out/w.bin').write_bytes(model * 2)\n",
        )
    (tmp_path / "w.bin").write_bytes(bytes(range(256)) * 40_000)
    system.client.save_artifact(source, tmp_path / "code.zip", kind="code")
    system.client.save_artifact(source, tmp_path / "w.bin", name="base/w.bin", kind="model")
    run = system.start(
        "python", "train.py",
        code=f"artifact:{source}/code.zip",
        import_volumes=[{"place": f"artifact:{source}/base", "path": "models/base"}],
        export_volumes=[{"place": "artifact:result", "path": "out"}],
    )  # fmt: skip
    ended = system.wait(run)
    assert (ended["status"], ended["error"]) == ("completed", None)
    (saved,) = system.client.artifacts(run)
    assert (saved["name"], saved["bytes"]) == ("result/w.bin", 256 * 80_000)
    again = system.client.download_artifact(run, "result/w.bin", tmp_path / "back.bin")
    assert again.read_bytes() == (tmp_path / "w.bin").read_bytes() * 2
    happened = [event for event in system.events(run) if not event.endswith(("written", "logged"))]
    assert happened[-4:] == ["started", "stopping", "artifact_saved", "completed"]


def test_a_download_goes_on_where_it_was_cut_and_a_wrong_name_is_said(system: System, tmp_path: Path) -> None:
    run = system.client.create_run(system.project, mode="tracked")["id"]
    content = bytes(range(256)) * 20_000
    (tmp_path / "a.bin").write_bytes(content)
    system.client.save_artifact(run, tmp_path / "a.bin", caption="a file")
    cut = []

    def once(done: int, total: int) -> None:
        assert total == len(content)
        if not cut:
            cut.append(done)
            raise tachograph.ConnectionFailed("the connection was cut")

    assert system.client.download_artifact(run, "a.bin", tmp_path / "b.bin", progress=once).read_bytes() == content
    assert len(cut) == 1
    with pytest.raises(tachograph.NotFound, match="no artifact"):
        system.client.download_artifact(run, "c.bin", tmp_path / "c.bin")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin", "b.bin"]


def test_code_that_is_gone_is_said(system: System) -> None:
    source = system.client.create_run(system.project, mode="tracked")["id"]
    ended = system.wait(system.start("true", code=f"artifact:{source}/code.zip"))
    assert (ended["status"], ended["cause"]) == ("failed", "prepare_failed")
    assert "no artifact 'code.zip'" in ended["error"]["message"]


def test_no_run_gets_the_object_stores_credentials(system: System) -> None:
    ended = system.wait(system.start("true", secrets=["AWS_SECRET_ACCESS_KEY"]))
    assert (ended["status"], ended["cause"]) == ("failed", "prepare_failed")
    assert "AWS_SECRET_ACCESS_KEY is not in the worker's environment" in ended["error"]["message"]
