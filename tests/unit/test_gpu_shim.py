"""The shim with real processes: true exits, true kills, and nothing left behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api import until
from workers.gpu.process import LaunchFailed, Shim, processes_of
from workers.gpu.records import Command, Exit, Kill, RunDirectory

PYTHON = sys.executable
KILL = Kill("killed_by_user", 0.3, 0)


class Launched:
    """A directory and the shim on it; every run has an id of its own, by which its processes are found."""

    def __init__(self, path: Path) -> None:
        self.run_id = f"test-{path.name}-{os.getpid()}"
        self.directory = RunDirectory(path / "run")
        self.directory.create()
        self.shim = Shim(self.directory, self.run_id)

    def launch(self, *command: str, **environment: str) -> None:
        self.launch_all(Command(command), **environment)

    def launch_all(self, *commands: Command, **environment: str) -> None:
        self.shim.launch(commands, {"PATH": os.environ["PATH"], "TACHOGRAPH_RUN_ID": self.run_id, **environment})

    def exit(self) -> Exit:
        until(lambda: not self.shim.lives(), "the shim is gone")
        ended = self.directory.exit()
        assert ended is not None
        return ended

    def output(self) -> str:
        return self.directory.stdout.read_text()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Launched]:
    launched = Launched(tmp_path)
    yield launched
    launched.shim.sweep()
    until(lambda: not launched.shim.lives(), "the shim is gone")


def test_a_program_runs_in_its_directory_and_its_exit_is_recorded(run: Launched) -> None:
    run.launch(PYTHON, "-c", "import os, sys; print(os.getcwd()); print('oops', file=sys.stderr); sys.exit(7)")
    ended = run.exit()
    assert (ended.exit_code, ended.signal, ended.spawn_error) == (7, None, "")
    assert 0 < ended.started_at_us <= ended.ended_at_us
    assert run.output().strip() == str(run.directory.work)
    assert run.directory.stderr.read_text() == "oops\n"


def test_a_program_is_found_on_the_path_of_its_own_environment(run: Launched) -> None:
    run.launch("sh", "-c", "echo $GREETING", GREETING="hello")
    assert run.exit().exit_code == 0
    assert run.output() == "hello\n"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_signal_is_recorded(run: Launched, number: signal.Signals) -> None:
    run.launch(PYTHON, "-c", f"import os; os.kill(os.getpid(), {int(number)})")
    assert run.exit().signal == number


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (["/no/such/program"], "cannot be started: No such file or directory"),
        (["no-such-program-anywhere"], "cannot be started: No such file or directory"),
        (["/etc/passwd"], "Permission denied"),
        ([], "no command"),
        (["nul\0byte"], "null byte"),
    ],
)
def test_a_command_that_cannot_be_executed_says_why(run: Launched, command: list[str], why: str) -> None:
    with pytest.raises(LaunchFailed, match=why):
        run.launch(*command)
    until(lambda: not run.shim.lives(), "the shim is gone")
    assert run.directory.started() is None


def test_signals_that_python_ignores_are_not_ignored_by_the_program(run: Launched) -> None:
    run.launch("sh", "-c", "kill -PIPE $$; echo survived")
    assert run.exit().signal == signal.SIGPIPE


def test_kill_lets_the_program_wrap_up(run: Launched) -> None:
    program = (
        "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(5)); print('up', flush=True); time.sleep(60)"
    )
    run.launch(PYTHON, "-c", program)
    until(lambda: "up" in run.output(), "the program is up")
    run.shim.end(Kill("killed_by_user", 30.0, 0))
    assert run.exit().exit_code == 5


def test_kill_ends_a_program_that_will_not(run: Launched) -> None:
    program = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    run.launch(PYTHON, "-c", program)
    until(lambda: "up" in run.output(), "the program is up")
    run.shim.end(KILL)
    run.shim.end(KILL)
    assert run.exit().signal == signal.SIGKILL


def test_kill_reaches_children_also_those_in_a_session_of_their_own(run: Launched) -> None:
    run.launch("sh", "-c", "sleep 61 & setsid sh -c 'trap \"\" TERM; sleep 62; sleep 63' & echo up; wait")
    until(lambda: "up" in run.output() and len(processes_of(run.run_id)) >= 5, "its processes are there")
    run.shim.end(KILL)
    run.exit()
    assert processes_of(run.run_id) == []


def test_no_orphan_is_left_when_the_program_ends_by_itself(run: Launched) -> None:
    run.launch("sh", "-c", "(setsid sleep 61 &) ; (setsid setsid sleep 62 &) ; exit 4")
    assert run.exit().exit_code == 4
    assert processes_of(run.run_id) == []


def test_zombies_of_the_program_are_reaped_while_it_runs(run: Launched) -> None:
    run.launch("sh", "-c", "(sh -c 'exit 0' &); (sh -c 'exit 0' &); echo up; sleep 0.3; exit 3")
    until(lambda: "up" in run.output(), "the program is up")
    assert run.exit().exit_code == 3


LAUNCHER = """
import sys, os
sys.path.insert(0, {root!r})
from pathlib import Path
from workers.gpu.process import Shim
from workers.gpu.records import Command, RunDirectory
directory = RunDirectory(Path({path!r}))
Shim(directory, "x").launch([Command(tuple({command!r}))], dict(os.environ, TACHOGRAPH_RUN_ID={run_id!r}))
print("launched", flush=True)
sys.stdin.read()
"""


def test_the_shim_outlives_a_launcher_that_is_killed_and_tells_the_next_one_the_true_exit(run: Launched) -> None:
    mark = run.directory.path / "go"
    program = (
        f"import os, sys, time\nwhile not os.path.exists({str(mark)!r}): time.sleep(0.02)\nprint('b'); sys.exit(9)"
    )
    command = [PYTHON, "-c", f"print('a', flush=True)\n{program}"]
    root = Path(__file__).parents[2]
    source = LAUNCHER.format(root=str(root), path=str(run.directory.path), command=command, run_id=run.run_id)
    with subprocess.Popen([PYTHON, "-c", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as launcher:
        assert launcher.stdout is not None
        assert launcher.stdout.readline() == b"launched\n"
        launcher.kill()
    successor = Shim(run.directory, run.run_id)
    assert successor.lives()
    with pytest.raises(LaunchFailed, match="already"):
        successor.launch([Command(tuple(command))], {})
    mark.touch()
    until(lambda: not successor.lives(), "the shim is gone")
    ended = run.directory.exit()
    assert ended is not None
    assert ended.exit_code == 9
    assert run.output() == "a\nb\n"


def test_a_successor_can_kill_what_it_did_not_start(run: Launched) -> None:
    run.launch("sleep", "60")
    Shim(run.directory, run.run_id).end(KILL)
    assert run.exit().signal == signal.SIGTERM


def test_without_its_shim_a_program_is_still_found_and_swept(run: Launched) -> None:
    run.launch("sh", "-c", "setsid sleep 60 & sleep 60")
    until(lambda: len(processes_of(run.run_id)) >= 4, "its processes are there")
    started = run.directory.started()
    assert started is not None
    os.kill(started.shim_pid, signal.SIGKILL)
    until(lambda: not run.shim.lives(), "the shim is gone")
    assert run.directory.exit() is None
    assert run.shim.sweep() >= 2
    assert processes_of(run.run_id) == []


def test_commands_run_one_after_the_other_each_in_its_directory(run: Launched) -> None:
    (run.directory.work / "inner").mkdir()
    run.launch_all(
        Command(("sh", "-c", "pwd; echo one > first")),
        Command(("sh", "-c", "pwd; cat ../first"), "inner"),
    )
    ended = run.exit()
    assert (ended.exit_code, ended.command) == (0, 1)
    assert run.output().splitlines() == [str(run.directory.work), str(run.directory.work / "inner"), "one"]


def test_a_command_that_fails_is_the_last(run: Launched) -> None:
    run.launch_all(*(Command(("sh", "-c", f"echo {code}; exit {code}")) for code in (0, 3, 0)))
    ended = run.exit()
    assert (ended.exit_code, ended.command) == (3, 1)
    assert run.output() == "0\n3\n"


def test_a_later_command_that_cannot_be_started_is_a_failure_of_a_program_that_ran(run: Launched) -> None:
    run.launch_all(Command(("true",)), Command(("true",), "nowhere"), Command(("true",)))
    ended = run.exit()
    assert (ended.exit_code, ended.command, ended.ran) == (127, 1, True)
    assert ended.spawn_error == "true in nowhere cannot be started: No such file or directory"


def test_no_command_is_started_after_an_order_to_end(run: Launched) -> None:
    run.launch_all(
        Command(("sh", "-c", "trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done")), Command(("echo", "next"))
    )
    until(lambda: run.directory.stdout.exists() and run.output() == "up\n", "the program is up")
    run.shim.end(KILL)
    ended = run.exit()
    assert (ended.exit_code, ended.command) == (0, 0)
    assert run.output() == "up\n"
