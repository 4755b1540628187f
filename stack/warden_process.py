"""Outlive the stack by a moment: when it is gone, however it went, stop what it had started, the last one first.

Run as `python -I -S warden_process.py`. On standard input, a line `+ <pid> <signal>` for each process started and
`- <pid>` for each that ended; end of input means that the stack is gone. Only the standard library, and little of
it. It signals the processes named and no others: what they started themselves is theirs to end or to leave.
"""

import os
import select
import signal
import sys
import time

PATIENCE_SECONDS = 2.0


class Ward:
    """One process to stop; held by a descriptor where there is such a thing, so that its number cannot mislead."""

    def __init__(self, pid: int, number: int) -> None:
        self.pid = pid
        self.number = number
        self.gone = False
        self.descriptor: int | None = None
        try:
            self.descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            self.gone = True
        except (AttributeError, OSError):  # not Linux, or a sandbox without it: the number has to do
            pass

    def signal(self, number: int) -> None:
        """Signal it, if it is still there."""
        try:
            if self.descriptor is not None:
                signal.pidfd_send_signal(self.descriptor, number)
            elif not self.gone:
                os.kill(self.pid, number)
        except ProcessLookupError:
            self.gone = True

    def ended(self, seconds: float) -> bool:
        """Wait for its end."""
        if self.descriptor is not None:
            return bool(select.select([self.descriptor], [], [], seconds)[0])
        give_up = time.monotonic() + seconds
        while not self.gone and time.monotonic() < give_up:
            self.signal(0)
            time.sleep(0.02)
        return self.gone

    def forget(self) -> None:
        """It has ended."""
        if self.descriptor is not None:
            os.close(self.descriptor)


def main() -> None:
    """Keep the list; at the end of input, work it off."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    wards: dict[int, Ward] = {}
    for line in sys.stdin:
        sign, pid, *rest = line.split()
        if sign == "+":
            wards[int(pid)] = Ward(int(pid), int(rest[0]))
        elif (gone := wards.pop(int(pid), None)) is not None:
            gone.forget()
    for ward in reversed(wards.values()):
        ward.signal(ward.number)
        if not ward.ended(PATIENCE_SECONDS):
            ward.signal(signal.SIGKILL)


if __name__ == "__main__":
    main()
