"""What an exit means: status, cause and error of a run, pure."""

import re
import signal
from typing import Final, Literal

import msgspec

from workers.gpu.records import Error, Exit, Kill, Said

TRACEBACK_LINES: Final = 50
MESSAGE_CHARACTERS: Final = 2000
TRACEBACK_CHARACTERS: Final = 16_000
FULL_DISK_BYTES: Final = 1 << 20
TRAILING_LINES: Final = 15
"""How much a program may still print after its traceback (atexit handlers) for it to count as its end."""

_HEADER = re.compile(r"^\s*(?:[|+] ?)*\s*(?:Exception Group )?Traceback \(most recent call last\):\s*$")
_FRAME = re.compile(r'^\s*(?:\| ?)*\s*File ".*", line \d+')
_EXCEPTION = re.compile(r"^(?:\s*\| )?(?P<type>[A-Za-z_][\w.]*(?:<locals>[\w.]*)?)(?:: ?(?P<message>.*))?$")
_OUT_OF_MEMORY = re.compile(r"(^|\.)(MemoryError|OutOfMemoryError)$")

Status = Literal["completed", "failed", "killed"]


class Outcome(msgspec.Struct, frozen=True):
    """How a run ended, in the server's words. A signal's exit code is 128 + its number, as shells say it."""

    status: Status
    cause: str
    exit_code: int | None = None
    error: Error | None = None


def classify(exit_: Exit, kill: Kill | None, stderr: str, said: Said | None = None) -> Outcome:
    """Say how a program ended.

    `kill` is the order that was in force, `stderr` the end of its output; what the program `said` of its end counts for
    more than the exit code, which may be of what is torn down after it.
    """
    if exit_.spawn_error and not exit_.ran:
        return prepare_failed(exit_.spawn_error)
    code = exit_.exit_code if exit_.signal is None else 128 + exit_.signal
    if kill is not None and kill.requested_at_us <= exit_.ended_at_us:
        return Outcome("killed", kill.cause, code)
    if said is not None:
        return _as_said(said, code)
    if code == 0:
        return Outcome("completed", "finished", 0)
    failed = _failed(exit_, code, stderr)
    if exit_.disk_free_bytes is None or exit_.disk_free_bytes >= FULL_DISK_BYTES or failed.error is None:
        return failed
    message = (
        f"{failed.error.message} (its disk had {exit_.disk_free_bytes} bytes left)"  # what it printed may be cut off
    )
    return msgspec.structs.replace(failed, error=msgspec.structs.replace(failed.error, message=message))


def _as_said(said: Said, code: int | None) -> Outcome:
    code = code if said.exit_code is None else said.exit_code
    match said.status:
        case "completed":
            return Outcome("completed", "finished", code)
        case "killed":
            return Outcome("killed", "killed_by_user", code)
        case "failed" if said.error is None:
            return Outcome("failed", "exit_code", code)
        case "failed":
            return Outcome(
                "failed", "out_of_memory" if _is_out_of_memory(said.error) else "exception", code, said.error
            )


def _failed(exit_: Exit, code: int | None, stderr: str) -> Outcome:
    if exit_.oom_kills and code == 128 + signal.SIGKILL:
        message = "the kernel killed the program: the machine or its memory limit had no memory left"
        return Outcome("failed", "out_of_memory", code, Error("OutOfMemory", message))
    if exit_.spawn_error:
        return Outcome("failed", "exit_code", code, Error("CommandNotStarted", exit_.spawn_error))
    error = last_traceback(stderr)
    if error is not None:
        return Outcome("failed", "out_of_memory" if _is_out_of_memory(error) else "exception", code, error)
    if exit_.signal is not None:
        return Outcome("failed", "exit_code", code, Error("Signal", f"ended by {_signal_name(exit_.signal)}"))
    return Outcome("failed", "exit_code", code, Error("ExitCode", _exit_message(code, stderr)))


def not_exported(ended: Outcome, reason: str) -> Outcome:
    """The program completed, and its outputs could not be stored: what was wanted of it is not there."""
    return Outcome("failed", "exception", ended.exit_code, Error("ExportFailed", reason[:MESSAGE_CHARACTERS]))


def prepare_failed(message: str) -> Outcome:
    """The program could not be started."""
    return Outcome("failed", "prepare_failed", None, Error("PrepareFailed", message))


def lost(kill: Kill | None) -> Outcome:
    """The shim vanished without a word: the machine went down, or somebody killed it."""
    if kill is not None:
        return Outcome("killed", kill.cause)
    message = "the machine restarted or the run's supervising process was killed; the exit code is unknown"
    return Outcome("failed", "worker_lost", None, Error("WorkerLost", message))


def killed_without_program(kill: Kill) -> Outcome:
    """The kill came when the program was gone already, or not there yet."""
    return Outcome("killed", kill.cause)


def last_traceback(stderr: str) -> Error | None:
    """Return the Python traceback that the output ends with, if it does: type, message and its last lines."""
    lines = stderr.rstrip().splitlines()
    start = next((i for i in range(len(lines) - 1, -1, -1) if _HEADER.match(lines[i])), None)
    if start is None:
        return _syntax_error(lines)
    for index in range(start + 1, len(lines)):
        found = _EXCEPTION.match(lines[index])
        if found and _indented(lines[index - 1]):
            return _error(lines, found, index, _first_of_chain(lines, start))
    return None


def _syntax_error(lines: list[str]) -> Error | None:
    """A syntax error of the program itself has frames and no header."""
    for index in range(len(lines) - 1, 0, -1):
        found = _EXCEPTION.match(lines[index])
        if found and found["type"] in {"SyntaxError", "IndentationError", "TabError"}:
            start = next((i for i in range(index - 1, -1, -1) if _FRAME.match(lines[i])), index)
            return _error(lines, found, index, start)
    return None


def _error(lines: list[str], found: re.Match[str], index: int, first: int) -> Error | None:
    """Build the error whose exception line is `index`; its message may go on over further lines."""
    end = index + 1
    while end < len(lines) and end - index <= TRAILING_LINES and lines[end].strip():
        end += 1
    if len(lines) - index > TRAILING_LINES + TRACEBACK_LINES:
        return None
    message = "\n".join([found["message"] or "", *lines[index + 1 : end]]).strip()
    shown = lines[max(first, end - TRACEBACK_LINES) : end]
    return Error(found["type"], message[:MESSAGE_CHARACTERS], "\n".join(shown)[-TRACEBACK_CHARACTERS:])


def _first_of_chain(lines: list[str], start: int) -> int:
    """Go back over "During handling of …" and "The above exception was …" to the first traceback of a chain."""
    while True:
        before = start - 1
        while before >= 0 and not lines[before].strip():
            before -= 1
        if before < 0 or not lines[before].startswith(("During handling of", "The above exception was")):
            return start
        earlier = next((i for i in range(before, -1, -1) if _HEADER.match(lines[i])), None)
        if earlier is None:
            return start
        start = earlier


def _is_out_of_memory(error: Error) -> bool:
    """Tell Python's, PyTorch's and other CUDA libraries' ways of saying it."""
    return bool(_OUT_OF_MEMORY.search(error.type)) or "out of memory" in error.message.lower()


def _indented(line: str) -> bool:
    return line.startswith((" ", "\t", "|")) or not line.strip()


def _signal_name(number: int) -> str:
    try:
        return f"{signal.Signals(number).name} ({number})"
    except ValueError:
        return f"signal {number}"


def _exit_message(code: int | None, stderr: str) -> str:
    said = next((line.strip() for line in reversed(stderr.splitlines()) if line.strip()), "")
    message = f"exit code {code}" + (f": {said}" if said else "")
    return message[:MESSAGE_CHARACTERS]
