"""What can go wrong on one machine, each with one line that says what to do.

StackError           the system cannot be started as asked: a taken port, a home in use or not writable
└── ProcessFailed    a process of the system ended again and again; carries the last lines of its log
"""

from collections.abc import Sequence


class StackError(Exception):
    """The system cannot be started as asked; the message is one line for the person at the console."""


class ProcessFailed(StackError):
    """A process of the system cannot be kept running."""

    def __init__(self, message: str, last_lines: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.last_lines = tuple(last_lines)
