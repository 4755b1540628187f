"""The thread that delivers the outbox: one request after the other, each until it is through or refused."""

import logging
import threading
import time
from typing import Final

from tachograph._errors import Conflict, Error, Forbidden, Gone, NotFound, Problem, Unauthorized
from tachograph._frames import Request
from tachograph._http import Transport, backoff, transient
from tachograph._outbox import Outbox

log = logging.getLogger("tachograph")

ATTEMPT_SECONDS: Final = 15.0
HURRY_SECONDS: Final = 1.0
"""The longest wait between attempts once the run is finishing."""

LOST: Final = (Conflict, Gone, NotFound)
"""The run takes nothing more from this attempt: it ended, was superseded or deleted."""

LOCKED_OUT: Final = (Unauthorized, Forbidden)
"""The key is refused; with another one the data can still be delivered."""


class Sender:
    """Delivers `outbox` in order.

    After an answer that ends it, `halted` is set: nothing more is sent. Data that another key could deliver
    stays in the outbox.
    """

    def __init__(self, transport: Transport, outbox: Outbox) -> None:
        self.halted: Problem | None = None
        self.points_delivered = 0
        self.lines_delivered = 0
        self.points_refused = 0
        self.lines_refused = 0
        self._transport = transport
        self._outbox = outbox
        self._hurry = threading.Event()
        self._deadline = float("inf")
        self._unreachable = False
        self._said_refused = False
        self._thread = threading.Thread(target=self._loop, name="tachograph-sender", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def hurry(self, deadline: float) -> None:
        """Wait less between attempts, and begin none after `time.monotonic()` passes `deadline`."""
        self._deadline = deadline
        self._hurry.set()

    def halt(self, problem: Problem) -> None:
        """Send nothing more, for the reason that the service gave."""
        if self.halted is not None:
            return
        self.halted = problem
        if isinstance(problem, LOCKED_OUT):
            log.warning("tachograph: the service refuses the key, nothing more is sent: %s", problem)
            self._outbox.close()
            return
        left = self._outbox.discard()
        self._outbox.close()
        self.points_refused += left.points
        self.lines_refused += left.lines
        log.warning("tachograph: the run takes no more data from this process: %s", problem)

    def _loop(self) -> None:
        while (request := self._outbox.head()) is not None:
            self._deliver(request)

    def _deliver(self, request: Request) -> None:
        attempt = 0
        while self.halted is None and (left := self._deadline - time.monotonic()) > 0:
            attempt += 1
            try:
                self._transport.send(
                    request.method,
                    request.path,
                    request.content,
                    request.headers,
                    min(ATTEMPT_SECONDS, left),
                )
            except Error as error:
                if not self._survives(error, request):
                    return
                self._pause(attempt, error)
            else:
                self._delivered(request)
                return
        self._outbox.close()

    def _delivered(self, request: Request) -> None:
        self.points_delivered += request.points
        self.lines_delivered += request.lines
        self._outbox.drop(request)
        if self._unreachable:
            self._unreachable = False
            log.warning("tachograph: the service answers again; sending what has waited")

    def _survives(self, error: Error, request: Request) -> bool:
        """Whether to try again."""
        if transient(error):
            if not self._unreachable and not self._hurry.is_set():
                self._unreachable = True
                log.warning("tachograph: cannot deliver now, training goes on and data waits: %s", error)
            return True
        assert isinstance(error, Problem)
        if isinstance(error, LOCKED_OUT) or _ends_it(error, request):
            self.halt(error)
            return False
        self.points_refused += request.points
        self.lines_refused += request.lines
        self._outbox.drop(request)
        if not self._said_refused:
            self._said_refused = True
            log.warning("tachograph: the service refused %s: %s", request.path.rpartition("/")[2], error)
        return False

    def _pause(self, attempt: int, error: Error) -> None:
        wait = backoff(attempt, error)
        if self._hurry.is_set():
            time.sleep(min(wait, HURRY_SECONDS, max(0.0, self._deadline - time.monotonic())))
        elif self._hurry.wait(wait):
            time.sleep(0.05)


def _ends_it(error: Error, request: Request) -> bool:
    """Whether the run is lost to this attempt: a telemetry batch is refused for what the run is now."""
    if isinstance(error, Conflict) and str(error.body.get("type")).endswith("id-reused"):
        return False
    return isinstance(error, LOST) and request.path.endswith(("/metrics", "/logs"))
