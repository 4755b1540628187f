"""Raise `Stopped` in the main thread: for SIGTERM, and when another thread asks for it.

The raise happens in a signal handler, as Ctrl-C does: it ends a `sleep` or a blocking read, and never comes
between two steps of C code. Where no handler of ours is in place (`init` was called outside the main thread,
or the program set its own handler since), the exception is set asynchronously: at the next step of Python
code.
"""

import ctypes
import logging
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

from tachograph._errors import Stopped

log = logging.getLogger("tachograph")

Handler = Callable[[int, FrameType | None], Any]

REPEATED_SECONDS: Final = 2.0
"""A launcher and the process group both pass SIGTERM on; within this time it is one request."""


class Interrupt:
    """The signal handlers of one run.

    Handlers that were there before are called first: where one returns normally (a framework that notes the
    signal and ends at its next step), the program is left to end by itself. `on_request` is called before
    anything is raised, mostly inside a signal handler: it must take no lock.
    """

    def __init__(self, on_request: Callable[[str], None]) -> None:
        self._on_request = on_request
        self._cause: str | None = None
        self._previous: dict[int, Any] = {}
        self._active = True
        self._ending = False
        self._terminate_later = False
        self._terminated_at = float("-inf")
        self._term: Final[Handler] = self._on_term  # one bound method each, to be recognised as ours
        self._int: Final[Handler] = self._on_int

    def install(self) -> None:
        """Set the handlers, in the main thread; elsewhere nothing happens."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number, handler in ((signal.SIGTERM, self._term), (signal.SIGINT, self._int)):
            previous = signal.getsignal(number)
            if number == signal.SIGTERM and previous is signal.SIG_IGN:
                continue  # the program chose to outlive SIGTERM
            self._previous[number] = previous
            signal.signal(number, handler)

    def hold(self) -> None:
        """Raise nothing any more: the run is being finished, and SIGTERM waits until that is done."""
        self._ending = True

    def remove(self) -> None:
        """Put back what was there; under a handler that was set over ours, ours only passes signals on."""
        self._active = False
        if threading.current_thread() is threading.main_thread():
            for number, handler in ((signal.SIGTERM, self._term), (signal.SIGINT, self._int)):
                if number in self._previous and signal.getsignal(number) is handler:
                    previous = self._previous[number]
                    signal.signal(number, signal.SIG_DFL if previous is None else previous)
        if self._terminate_later:
            self._terminate_later = False
            signal.raise_signal(signal.SIGTERM)

    def stop(self, cause: str) -> None:
        """Raise `Stopped` in the main thread; for any other thread to call."""
        main = threading.main_thread()
        if not self._active or self._ending or main.ident is None:
            return
        self._cause = cause
        if signal.getsignal(signal.SIGINT) is self._int:
            if hasattr(signal, "pthread_kill"):
                signal.pthread_kill(main.ident, signal.SIGINT)
            else:
                signal.raise_signal(signal.SIGINT)
            return
        self._on_request(cause)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(main.ident), ctypes.py_object(Stopped))

    def _on_int(self, number: int, frame: FrameType | None) -> None:
        cause, self._cause = self._cause, None
        if cause is not None and self._active:
            if self._ending:
                return
            self._on_request(cause)
            raise Stopped(cause)
        previous = self._previous.get(number)
        if callable(previous):
            previous(number, frame)
        elif previous is signal.SIG_DFL:
            signal.default_int_handler(number, frame)

    def _on_term(self, number: int, frame: FrameType | None) -> None:
        previous = self._previous.get(number)
        if not self._active:
            if callable(previous):
                previous(number, frame)
                return
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
            return
        now = time.monotonic()
        if now - self._terminated_at < REPEATED_SECONDS:
            return
        if self._ending:
            # Asked for the first time only now: it takes effect once the run is finished, within its bound of time.
            self._terminate_later = self._terminated_at == float("-inf")
            return
        self._terminated_at = now
        self._on_request("terminated")
        if callable(previous):
            previous(number, frame)
            return
        raise Stopped("terminated")
