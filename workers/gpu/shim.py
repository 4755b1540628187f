"""Run a run's commands in order, outlive the agent, and leave their true exit on disk.

Started by the agent as `python -I -S shim.py <run directory> <lock fd>`, in a session of its own; its environment is
the program's. Only the standard library, and little of it: a run waits for this interpreter.

In the run directory it reads `commands.json` (a list of `{"argv", "directory"}`; each is started once the one in front
of it has ended well: with 0, or as the program said in `outcome.json`) and `kill.json` (grace), and writes
`stdout.log`, `stderr.log`, `started.json` and, last, `exit.json`, each JSON file by temporary file, fsync and rename.
The lock that it inherits is held until it ends: a free lock means no shim. SIGTERM means: end the program (SIGTERM to
its group, grace, SIGKILL to all that is left).
"""

# Importing pathlib would cost as much as all the rest.
# ruff: noqa: PTH104, PTH108, PTH109, PTH123, PTH208

import contextlib
import json
import os
import signal
import sys
import time

KILL_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
DEFAULT_GRACE_SECONDS = 10.0
LEFTOVER_GRACE_SECONDS = 1.0
KILL_AGAIN_SECONDS = 0.2
UNKILLABLE_SECONDS = 5.0
PR_SET_CHILD_SUBREAPER = 36
CANNOT_BE_STARTED = 127
"""What a shell says of a command that it cannot start; said here of one that others went before."""


class Program:
    """The program and everything it started: how to see it, signal it and wait for it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.exit_code: int | None = None
        self.signal: int | None = None

    def reap(self) -> bool:
        """Collect the dead; True once the program itself is among them.

        The program stays a zombie until `bury`, so that its process group's number cannot be reused while the
        group is still being killed.
        """
        while True:
            try:
                dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return True
            if dead is None:
                return False
            if dead.si_pid == self.pid:
                if dead.si_code == os.CLD_EXITED:
                    self.exit_code = dead.si_status
                else:
                    self.signal = dead.si_status
                return True
            os.waitpid(dead.si_pid, 0)

    def bury(self) -> None:
        """Collect the program and whatever else has died."""
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass

    def signal_group(self, number: int) -> None:
        """Signal the program's process group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def signal_others(self, number: int) -> None:
        """Signal every living descendant that left the program's group."""
        for pid in living_descendants(os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                if os.getpgid(pid) != self.pid:
                    os.kill(pid, number)


def living_descendants(root: int) -> list[int]:
    """Return the processes below `root` that are no zombies (as the subreaper, we inherit every orphan)."""
    children: dict[int, list[int]] = {}
    zombies = set()
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                state, parent = file.read().rpartition(b")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state in (b"Z", b"X"):
            zombies.add(int(name))
        children.setdefault(int(parent), []).append(int(name))
    found, pending = [], [root]
    while pending:
        below = children.get(pending.pop(), [])
        pending += below
        found += [pid for pid in below if pid not in zombies]
    return found


def write(name: str, content: dict[str, object]) -> None:
    """Write a JSON file so that it is either whole or not there."""
    temporary = f"{name}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(fd, json.dumps(content).encode())
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(temporary, name)
    fd = os.open(".", os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_exit(content: dict[str, object]) -> None:
    """Write `exit.json`, waiting for room on a full disk; give up only if the directory was taken away."""
    while True:
        try:
            write("exit.json", content)
        except FileNotFoundError:
            return
        except OSError as error:
            complain(f"cannot write exit.json, trying again: {error}")
            time.sleep(1.0)
        else:
            return


def complain(what: str) -> None:
    """Say it in `shim.log`; a disk too full even for that must not end the shim."""
    with contextlib.suppress(OSError):
        os.write(2, f"{what}\n".encode())


def oom_kills() -> int:
    """Return how many processes of our control group the kernel has killed for memory, 0 where unknown."""
    groups = {}
    with contextlib.suppress(OSError), open("/proc/self/cgroup") as file:
        for line in file:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            groups[controllers] = path.rstrip("/")
    for path in (
        f"/sys/fs/cgroup{groups.get('', '')}/memory.events",
        "/sys/fs/cgroup/memory.events",
        f"/sys/fs/cgroup/memory{groups.get('memory', '')}/memory.oom_control",
        "/sys/fs/cgroup/memory/memory.oom_control",
    ):
        try:
            with open(path) as file:
                for line in file:
                    if line.startswith("oom_kill "):
                        return int(line.split()[1])
        except OSError:
            continue
    return 0


def disk_free_bytes() -> int | None:
    """Return what is left where the program runs, None where that is unknown."""
    try:
        found = os.statvfs("work")
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def become_subreaper() -> None:
    """Inherit orphaned descendants instead of losing them to init."""
    import ctypes  # noqa: PLC0415 (slow to import, and only of use here)

    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        complain("cannot become a child subreaper")


def spawn(command: list[str], inner: str) -> int:
    """Start a program in `work/` or a directory in it, in a process group of its own, its output appended to files;
    return its pid. Raises OSError if it cannot be executed.
    """
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    directory = os.getcwd()
    try:
        os.chdir(f"work/{inner}")
        return os.posix_spawnp(
            command[0],
            command,
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, f"{directory}/stdout.log", append, 0o600),
                (os.POSIX_SPAWN_OPEN, 2, f"{directory}/stderr.log", append, 0o600),
            ],
            setpgroup=0,
            setsigmask=(),
            # Python ignores SIGPIPE and SIGXFSZ, and what is ignored stays ignored across exec.
            setsigdef=(*KILL_SIGNALS, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGQUIT, signal.SIGCHLD),
        )
    finally:
        os.chdir(directory)


def grace_seconds() -> float:
    """Return the grace that the agent asked for."""
    try:
        with open("kill.json") as file:
            return float(json.load(file)["grace_seconds"])
    except (OSError, ValueError, KeyError):
        return DEFAULT_GRACE_SECONDS


def watch(program: Program, signals: tuple[signal.Signals, ...]) -> float | None:
    """Wait until the program ends, ending it when told to; return the deadline of its grace if it was told."""
    deadline: float | None = None
    while not program.reap():
        if deadline is None:
            arrived: signal.struct_siginfo | None = signal.sigwaitinfo(signals)
        else:
            arrived = signal.sigtimedwait(signals, max(0.0, deadline - time.monotonic()))
        if arrived is not None and arrived.si_signo in KILL_SIGNALS:
            wanted = time.monotonic() + grace_seconds()
            if deadline is None:
                program.signal_group(signal.SIGTERM)
            deadline = wanted if deadline is None else min(deadline, wanted)
        if deadline is not None and time.monotonic() >= deadline:
            program.signal_group(signal.SIGKILL)
            program.signal_others(signal.SIGKILL)
            deadline = time.monotonic() + KILL_AGAIN_SECONDS
    return deadline


def end_leftovers(program: Program, signals: tuple[signal.Signals, ...], deadline: float | None) -> None:
    """End what the program left behind: SIGTERM, what is left of the grace, SIGKILL."""
    if living_descendants(os.getpid()):
        program.signal_others(signal.SIGTERM)
        if deadline is None:  # else the group has had its SIGTERM, and a second one may mean "at once" to it
            program.signal_group(signal.SIGTERM)
            deadline = time.monotonic() + LEFTOVER_GRACE_SECONDS
        wait_for_descendants(signals, deadline)
        give_up = time.monotonic() + UNKILLABLE_SECONDS
        while living_descendants(os.getpid()) and time.monotonic() < give_up:
            program.signal_group(signal.SIGKILL)
            program.signal_others(signal.SIGKILL)
            wait_for_descendants(signals, time.monotonic() + KILL_AGAIN_SECONDS)
    program.bury()


def wait_for_descendants(signals: tuple[signal.Signals, ...], deadline: float) -> None:
    """Wait until no descendant lives, at most until `deadline`."""
    while living_descendants(os.getpid()) and time.monotonic() < deadline:
        signal.sigtimedwait(signals, 0.02)


def main(directory: str, lock_fd: int) -> None:
    """Run the commands one after the other and record how the last of them went."""
    os.set_inheritable(lock_fd, False)
    signals = (*KILL_SIGNALS, signal.SIGCHLD)
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    os.chdir(directory)
    become_subreaper()
    with open("commands.json") as file:
        first, *others = json.load(file)
    oom_before = oom_kills()
    began_at_us = time.time_ns() // 1000
    ended = run(0, first, signals)
    for number, command in enumerate(others, 1):
        if ended["spawn_error"] or ended["told_to_end"] or not ended_well(ended["exit_code"]):
            break
        ended = run(number, command, signals)
    write_exit({**ended, "started_at_us": began_at_us, "oom_kills": max(0, oom_kills() - oom_before)})


def ended_well(exit_code: object) -> bool:
    """Say whether the next command may start; what the one before it said of its end is not said of the next."""
    try:
        with open("outcome.json") as file:
            said = json.load(file)["status"]
    except (OSError, ValueError, LookupError, TypeError):
        return exit_code == 0
    if said == "completed":
        os.unlink("outcome.json")
    return bool(said == "completed")


def run(number: int, command: dict[str, list[str] | str], signals: tuple[signal.Signals, ...]) -> dict[str, object]:
    """Run one command to its end, with all that it leaves behind; return how it went."""
    argv, inner = list(command["argv"]), str(command["directory"])
    started_at_us = time.time_ns() // 1000
    try:
        pid = spawn(argv, inner)
    except OSError as error:
        what = f"{argv[0]} in {inner}" if inner else argv[0]
        reason = f"{what} cannot be started: {error.strerror or error}"
        return {
            "command": number,
            "spawn_error": reason,
            "exit_code": CANNOT_BE_STARTED if number else None,
            "signal": None,
            "ended_at_us": started_at_us,
            "told_to_end": False,
        }
    program = Program(pid)
    if number == 0:
        write_started(pid, started_at_us)
    deadline = watch(program, signals)
    ended_at_us = time.time_ns() // 1000
    free_bytes = disk_free_bytes()
    end_leftovers(program, signals, deadline)
    return {
        "command": number,
        "spawn_error": "",
        "exit_code": program.exit_code,
        "signal": program.signal,
        "ended_at_us": ended_at_us,
        "told_to_end": deadline is not None,
        "disk_free_bytes": free_bytes,
    }


def write_started(pid: int, started_at_us: int) -> None:
    """Tell the agent that the program runs; a full disk must not end the program."""
    try:
        write("started.json", {"pid": pid, "shim_pid": os.getpid(), "started_at_us": started_at_us})
    except OSError as error:
        complain(f"cannot write started.json: {error}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
