"""The thread that says that the process lives, and hears when it should stop."""

import logging
import random
import threading
from collections.abc import Callable
from typing import Final
from urllib.parse import quote

import msgspec

from tachograph._errors import Conflict, Error, Gone, NotFound, Problem
from tachograph._http import Transport
from tachograph._types import Heartbeat as Answer

log = logging.getLogger("tachograph")


class Heartbeat:
    """Beats for a tracked run every `period_seconds`.

    `on_stop` gets the cause, once, when the service asks the process to stop; `on_end` the problem, once,
    when the run is no longer this attempt's. Both are called in the heartbeat's thread, and a beat that fails
    in passing is followed by the next one.
    """

    def __init__(
        self,
        transport: Transport,
        run_id: str,
        epoch: int,
        period_seconds: float,
        *,
        on_stop: Callable[[str], None],
        on_end: Callable[[Problem], None],
    ) -> None:
        self._transport: Final = transport
        self._path = f"/api/v1/runs/{quote(run_id, safe='')}/heartbeat"
        self._content = msgspec.json.encode({"epoch": epoch})
        self._period_seconds = period_seconds
        self._on_stop = on_stop
        self._on_end = on_end
        self._asked = False
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="tachograph-heartbeat", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Beat no more; a beat under way is not waited for."""
        self._done.set()

    def step(self) -> bool:
        """Beat once; False when there is no point in beating again."""
        try:
            answer = self._transport.send(
                "POST",
                self._path,
                self._content,
                {"Content-Type": "application/json"},
                min(10.0, max(1.0, 2 * self._period_seconds)),
            )
        except (Conflict, Gone, NotFound) as problem:
            if not self._done.is_set():
                self._on_end(problem)
            return False
        except Error as error:
            log.debug("tachograph: a heartbeat failed: %s", error)
            return True
        beat = msgspec.json.decode(answer.content, type=Answer)
        if beat["stop"] and not self._asked and not self._done.is_set():
            self._asked = True
            self._on_stop(beat["stop_cause"] or "asked to stop")
        return True

    def _loop(self) -> None:
        spread = random.Random()  # noqa: S311 (spreading load, no secret)
        while not self._done.wait(self._period_seconds * spread.uniform(0.9, 1.0)):
            if not self.step():
                return
