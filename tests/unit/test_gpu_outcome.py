"""What an exit means."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from workers.gpu.outcome import classify, last_traceback, lost
from workers.gpu.records import Error, Exit, Kill, Said

TRACEBACK = """\
loading data
Traceback (most recent call last):
  File "train.py", line 9, in <module>
    main()
    ~~~~^^
  File "train.py", line 5, in main
    raise ValueError("bad shape: (3, 4)")
ValueError: bad shape: (3, 4)
"""

CUDA = """\
Traceback (most recent call last):
  File "train.py", line 1, in <module>
    x = torch.zeros(1 << 60)
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 4 EiB
"""

OLD_CUDA = CUDA.replace("torch.OutOfMemoryError", "RuntimeError")

KILL = Kill("killed_by_user", 10.0, requested_at_us=50)


@pytest.mark.parametrize(
    ("ended", "kill", "stderr", "status", "cause", "code", "error_type"),
    [
        (Exit(100, exit_code=0), None, "", "completed", "finished", 0, None),
        (Exit(100, exit_code=0), None, TRACEBACK, "completed", "finished", 0, None),
        (Exit(100, exit_code=3), None, "no data\n", "failed", "exit_code", 3, "ExitCode"),
        (Exit(100, exit_code=1), None, TRACEBACK, "failed", "exception", 1, "ValueError"),
        (Exit(100, exit_code=1), None, CUDA, "failed", "out_of_memory", 1, "torch.OutOfMemoryError"),
        (Exit(100, exit_code=1), None, OLD_CUDA, "failed", "out_of_memory", 1, "RuntimeError"),
        (Exit(100, signal=11), None, "", "failed", "exit_code", 139, "Signal"),
        (Exit(100, signal=9), None, "", "failed", "exit_code", 137, "Signal"),
        (Exit(100, signal=9, oom_kills=1), None, "", "failed", "out_of_memory", 137, "OutOfMemory"),
        (Exit(100, exit_code=137, oom_kills=1), None, "", "failed", "out_of_memory", 137, "OutOfMemory"),
        (Exit(100, exit_code=1, oom_kills=1), None, "", "failed", "exit_code", 1, "ExitCode"),
        (Exit(100, signal=15), KILL, "", "killed", "killed_by_user", 143, None),
        (Exit(100, exit_code=0), KILL, "", "killed", "killed_by_user", 0, None),
        (Exit(40, exit_code=0), KILL, "", "completed", "finished", 0, None),
        (Exit(100, signal=15), Kill("credits_exhausted", 1, 50), "", "killed", "credits_exhausted", 143, None),
        (Exit(100, spawn_error="no such file"), None, "", "failed", "prepare_failed", None, "PrepareFailed"),
        (Exit(100), KILL, "", "killed", "killed_by_user", None, None),
    ],
)
def test_exits_are_told_apart(ended, kill, stderr, status, cause, code, error_type) -> None:
    outcome = classify(ended, kill, stderr)
    assert (outcome.status, outcome.cause, outcome.exit_code) == (status, cause, code)
    assert (outcome.error.type if outcome.error else None) == error_type


def test_a_plain_exit_code_says_the_last_line_of_the_output() -> None:
    error = classify(Exit(1, exit_code=2), None, "usage: train\nmissing --data\n\n").error
    assert error is not None
    assert error.message == "exit code 2: missing --data"


def test_a_signal_is_named() -> None:
    error = classify(Exit(1, signal=signal.SIGSEGV), None, "").error
    assert error is not None
    assert error.message == "ended by SIGSEGV (11)"


def test_a_vanished_shim_is_a_failure_unless_the_run_was_being_killed() -> None:
    assert (lost(None).status, lost(None).cause) == ("failed", "worker_lost")
    assert (lost(KILL).status, lost(KILL).cause) == ("killed", "killed_by_user")


def test_a_traceback_gives_type_message_and_its_lines() -> None:
    error = last_traceback(TRACEBACK)
    assert error is not None
    assert (error.type, error.message) == ("ValueError", "bad shape: (3, 4)")
    assert error.traceback.startswith("Traceback (most recent call last):\n")
    assert error.traceback.endswith("ValueError: bad shape: (3, 4)")


def test_output_without_a_traceback_has_none() -> None:
    assert last_traceback("") is None
    assert last_traceback("Error: something\nexit\n") is None
    assert last_traceback("Traceback (most recent call last):\n") is None


def test_a_few_lines_after_the_traceback_do_not_hide_it_but_many_do() -> None:
    assert last_traceback(TRACEBACK + "\ncleaning up\nbye\n") is not None
    assert last_traceback(TRACEBACK + "\n" + "went on\n" * 100) is None


@pytest.mark.parametrize(("left", "said"), [(4096, " (its disk had 4096 bytes left)"), (1 << 20, ""), (None, "")])
def test_a_full_disk_is_said_of_a_run_that_failed(left: int | None, said: str) -> None:
    ended = classify(Exit(ended_at_us=1, exit_code=1, disk_free_bytes=left), None, "cannot write\n")
    assert (ended.cause, ended.error and ended.error.message) == ("exit_code", f"exit code 1: cannot write{said}")
    assert classify(Exit(ended_at_us=1, exit_code=0, disk_free_bytes=left), None, "").error is None


def test_a_long_traceback_is_bounded() -> None:
    frames = '  File "deep.py", line 1, in f\n    f()\n' * 500
    error = last_traceback(f"Traceback (most recent call last):\n{frames}RecursionError: too deep\n")
    assert error is not None
    assert error.type == "RecursionError"
    assert len(error.traceback.splitlines()) == 50


PROGRAMS = {
    "KeyError": "d = {}\nd['x']",
    "ZeroDivisionError": "try:\n    int('x')\nexcept ValueError:\n    1 / 0",
    "RuntimeError": "try:\n    int('x')\nexcept ValueError as error:\n    raise RuntimeError('outer') from error",
    "SyntaxError": "def f(:\n",
    "AssertionError": "assert False",
    "ModuleNotFoundError": "import nothing_of_this_name",
    "ExceptionGroup": "raise ExceptionGroup('several', [ValueError('a'), TypeError('b')])",
    "KeyboardInterrupt": "raise KeyboardInterrupt",
    "Odd": "class Odd(Exception): pass\nraise Odd('first\\nsecond')",
}


@pytest.mark.parametrize("expected", PROGRAMS)
def test_what_python_really_prints_is_understood(expected: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAMS[expected])
    printed = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=False).stderr
    error = last_traceback(printed)
    assert error is not None, printed
    assert error.type == expected
    assert error.traceback.splitlines()[0] in printed.splitlines()


def test_a_message_may_have_several_lines_and_a_chain_is_kept_whole() -> None:
    first = TRACEBACK.split("\n", 1)[1]
    error = last_traceback(
        f"{first}\nDuring handling of the above exception, another exception occurred:\n\n{first}more\n"
    )
    assert error is not None
    assert error.message == "bad shape: (3, 4)\nmore"
    assert error.traceback.count("Traceback (most recent") == 2


@pytest.mark.parametrize(
    ("ended", "said", "status", "cause", "code"),
    [
        (Exit(100, exit_code=0), Said("failed"), "failed", "exit_code", 0),
        (Exit(100, exit_code=1), Said("completed"), "completed", "finished", 1),
        (Exit(100, signal=signal.SIGSEGV), Said("completed"), "completed", "finished", 139),
        (Exit(100, exit_code=0), Said("failed", exit_code=7), "failed", "exit_code", 7),
        (Exit(100, exit_code=0), Said("killed"), "killed", "killed_by_user", 0),
        (Exit(100, exit_code=1), Said("failed", Error("ValueError", "no data")), "failed", "exception", 1),
        (Exit(100, exit_code=1), Said("failed", Error("MemoryError")), "failed", "out_of_memory", 1),
    ],
)
def test_what_a_program_said_of_its_end_counts_for_more_than_how_it_went(
    ended: Exit, said: Said, status: str, cause: str, code: int
) -> None:
    outcome = classify(ended, None, TRACEBACK, said)
    assert (outcome.status, outcome.cause, outcome.exit_code, outcome.error) == (status, cause, code, said.error)
    assert classify(ended, KILL, TRACEBACK, said).status == "killed"
