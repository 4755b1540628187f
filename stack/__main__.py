"""`python -m stack up`: the system in the foreground until Ctrl-C or SIGTERM."""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from stack.errors import ProcessFailed, StackError
from stack.system import Stack


def up(home: Path, port: int) -> int:
    """Run the system until told to stop; returns the exit status."""
    stopping = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        stopping.set()
        if not ready:
            raise KeyboardInterrupt

    ready = False
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    stack = Stack(home, port, say=_say)
    try:
        stack.start()
    except KeyboardInterrupt:
        return 0
    ready = True
    failure: ProcessFailed | None = None
    if not stopping.is_set():
        _say(f"Tachograph is ready at {stack.url}")
        _say(f"The API key is in {_shown(stack.home.credentials)}, logs are in {_shown(stack.home.logs)}")
    while not stopping.wait(0.5):
        if (failure := stack.failure()) is not None:
            break
        stack.rotate_logs()
    _say("Stopping")
    stack.stop()
    if failure is not None:
        raise failure
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    commands = argparse.ArgumentParser(prog="python -m stack", description="The whole system on one machine.")
    commands.add_argument(
        "--home",
        type=Path,
        default=Path(os.environ.get("TACHOGRAPH_HOME") or ".tachograph"),
        help="where all data is (TACHOGRAPH_HOME, default .tachograph)",
    )
    commands.add_argument(
        "--port",
        type=_port,
        default=os.environ.get("TACHOGRAPH_PORT") or "8765",
        help="of the HTTP API (TACHOGRAPH_PORT, default 8765)",
    )
    which = commands.add_subparsers(dest="command", required=True)
    which.add_parser("up", help="run it in the foreground until Ctrl-C")
    which.add_parser("demo", help="show the main job from start to end, then exit")
    return commands


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; returns the exit status: 2 for what cannot be started, 1 for what broke."""
    given = parser().parse_args(arguments)
    try:
        if given.command == "demo":
            from stack import demo  # noqa: PLC0415 (what it draws with is not for `up` to load)

            return int(demo.main(given.home, given.port))
        return up(given.home, given.port)
    except ProcessFailed as error:
        print(f"tachograph: {error}", *(f"  {line}" for line in error.last_lines), sep="\n", file=sys.stderr)
        return 1
    except StackError as error:
        print(f"tachograph: {error}", file=sys.stderr)
        return 2


def _say(line: str) -> None:
    print(line, flush=True)


def _shown(path: Path) -> str:
    """Return the path as short as it can be said from here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 1 << 16:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port number")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
