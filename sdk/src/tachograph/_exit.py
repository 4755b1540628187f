"""How the process ends, for runs that nobody finished: nothing is guessed that can be known.

`sys.exit` and `sys.excepthook` are wrapped to note the code and the exception. A noted code counts only if
the program really ended by an exception: the outermost frame says whether it returned or was unwound.
"""

import atexit
import builtins
import dis
import logging
import os
import sys
import threading
from types import FrameType, TracebackType
from typing import Any, Final, NoReturn, Protocol

from tachograph._errors import Stopped

log = logging.getLogger("tachograph")

_UNSEEN: Final = object()
_RETURNS: Final = frozenset({"RETURN_VALUE", "RETURN_CONST"})


class Open(Protocol):
    """A run that is not finished yet."""

    def process_ended(self, error: BaseException | None, exit_code: int) -> None:
        """Finish: the program ended so."""

    def process_forked(self) -> None:
        """Do nothing from now on: this is a child process, and the run is its parent's."""


class _Ending:
    def __init__(self) -> None:
        self.runs: list[Open] = []
        self.error: BaseException | None = None
        self.code: Any = _UNSEEN
        self.outermost: FrameType | None = None
        self.installed = False

    def install(self) -> None:
        self.installed = True
        frames = sys._current_frames()  # noqa: SLF001 (the documented way)
        frame = frames.get(threading.main_thread().ident or 0)
        while frame is not None:
            self.outermost, frame = frame, frame.f_back
        hook, leave = sys.excepthook, sys.exit

        def excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
            self.error = error
            if isinstance(error, Stopped) and self.runs:
                sys.stderr.write(f"tachograph: the run was stopped: {error}\n")
            else:
                hook(kind, error, trace)

        def exit_(status: Any = None, /) -> NoReturn:
            self.code = status
            leave(status)

        sys.excepthook = excepthook
        sys.exit = exit_
        for name in ("exit", "quit"):
            if (quitter := getattr(builtins, name, None)) is not None:
                setattr(builtins, name, _noting(self, quitter))
        atexit.register(self.ended)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.forked)

    def forked(self) -> None:
        for run in self.runs:
            run.process_forked()
        self.runs = []

    def ended(self) -> None:
        error, code = None, 0
        if self._unwound():
            error, code = self.error, 1
            if error is None and self.code is not _UNSEEN:
                code = exit_code(self.code)
            elif error is None and self.runs:
                code = 0
                log.warning("tachograph: the program raised SystemExit itself, so its code is taken to be 0")
        for run in list(self.runs):
            run.process_ended(error, code)

    def _unwound(self) -> bool:
        if self.outermost is None:
            return True
        at = self.outermost.f_lasti
        names = [step.opname for step in dis.get_instructions(self.outermost.f_code) if step.offset == at]
        return not names or names[0] not in _RETURNS


_ending = _Ending()


def watch(run: Open) -> None:
    """Have the run finished when the process ends."""
    if not _ending.installed:
        _ending.install()
    _ending.runs.append(run)


def forget(run: Open) -> None:
    """The run was finished otherwise."""
    if run in _ending.runs:
        _ending.runs.remove(run)


def exit_code(status: Any) -> int:
    """Return the code that a process ends with after `sys.exit(status)`."""
    if status is None:
        return 0
    return status & 0xFF if isinstance(status, int) else 1


def _noting(ending: _Ending, quitter: Any) -> Any:
    class Quitter:
        def __repr__(self) -> str:
            return repr(quitter)

        def __call__(self, status: Any = None) -> Any:
            ending.code = status
            return quitter(status)

    return Quitter()
