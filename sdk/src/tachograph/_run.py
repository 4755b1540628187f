"""A run, as the program that trains sees it."""

import math
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self, overload

from tachograph import _exit, _outcome
from tachograph._buffer import checked_name, step_number
from tachograph._client import Client
from tachograph._encoding import merge, plain
from tachograph._interrupt import Interrupt
from tachograph._recorder import Delivery, Recorder
from tachograph._sinks import Sink, disabled, finished, of_another_process
from tachograph._types import Failure, Json, Mode, RunResource

Status = Literal["completed", "finished", "failed", "killed", "interrupted"]

STATUSES: Final[Mapping[str, str]] = {
    "completed": "completed",
    "finished": "completed",
    "failed": "failed",
    "killed": "killed",
    "interrupted": "killed",
}
FINISH_SECONDS: Final = 15.0
STOPPED_SECONDS: Final = 5.0
"""How long finishing may take after a request to stop: a kill comes with a grace, 10 s by default."""

MAX_LINE: Final = 65_536
MAX_MESSAGE: Final = 8_000
MAX_TRACEBACK: Final = 32_000
NOTHING: Final = Delivery(True, 0, 0, 0, 0, 0, 0, None)


class Document(Mapping[str, Any]):
    """The run's configuration or summary: read it like a dictionary, call it to merge an update into it.

    An update is a merge patch (RFC 7396): nested dictionaries are merged, None removes a key. It is sent in
    the background. Reading shows what this process knows, for a run attached to with what the service had.
    """

    def __init__(self, name: str, send: Callable[[Json], None], load: Callable[[], Json]) -> None:
        self._name = name
        self._send = send
        self._load = load
        self._lock = threading.Lock()
        self._patch: Json = {}
        self._known: Json | None = None

    def __call__(self, update: Mapping[str, Any] | None = None, /, **more: Any) -> None:
        """Merge; raises `TypeError` naming a value that JSON cannot hold."""
        if update is not None and not isinstance(update, Mapping):
            raise TypeError(f"{self._name} takes a dictionary, not {type(update).__qualname__}")
        patch = plain({**(update or {}), **more}, self._name)
        with self._lock:
            self._send(patch)
            if self._known is None:
                merge(self._patch, patch, keep_null=True)
            else:
                merge(self._known, patch, keep_null=False)

    def update(self, update: Mapping[str, Any], /) -> None:
        """Merge, as a call does."""
        self(update)

    def __setitem__(self, key: str, value: Any) -> None:
        self({key: value})

    def __getitem__(self, key: str) -> Any:
        return self._document()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._document())

    def __len__(self) -> int:
        return len(self._document())

    def __repr__(self) -> str:
        return f"<{self._name} {self._document()!r}>"

    def _document(self) -> Json:
        with self._lock:
            if self._known is None:
                known = self._load()
                merge(known, self._patch, keep_null=False)
                self._known = known
            return self._known


class Run:
    """A run that this process records; made by `tachograph.init`, safe for many threads.

    `log`, `log_text`, `summary`, `config`, `progress` and `set_primary_metric` only note what to send: they
    wait for no network and raise nothing on its account. Used as a context manager, it ends completed, or
    failed with the exception, or killed by Ctrl-C and `Stopped`; a run that nobody finishes ends with the
    process. The end of a managed run is its worker's to report, once its commands have ended and its outputs are
    stored: what `finish` says is left for it there, and without a word the exit code tells.
    """

    id: Final[str]
    epoch: Final[int]
    managed: Final[bool]

    def __init__(
        self,
        run_id: str,
        *,
        epoch: int = 0,
        managed: bool = False,
        outcome: Path | None = None,
        resource: RunResource | None = None,
        client: Client | None = None,
        recorder: Recorder | None = None,
        beat_seconds: float | None = None,
        finish_seconds: float = FINISH_SECONDS,
    ) -> None:
        self.id = run_id
        self.epoch = epoch
        self.managed = managed
        self._outcome = outcome
        self.delivery: Delivery | None = None
        self._resource = resource
        self._client = client
        self._recorder = recorder
        self._finish_seconds = finish_seconds
        self._sink: Sink = recorder.buffer if recorder is not None else disabled()
        self._finished = False
        self._finishing = threading.RLock()
        self._stop_cause: str | None = None
        self.config: Final = Document(
            "config", lambda patch: self._sink.change("config", patch), self._loader("config")
        )
        self.summary: Final = Document(
            "summary", lambda patch: self._sink.change("summary", patch), self._loader("summary")
        )
        self._interrupt = Interrupt(self._note_stop)
        if recorder is not None:
            recorder.start()
            self._interrupt.install()
            if beat_seconds is not None:
                recorder.beat(beat_seconds, self._interrupt.stop)
            _exit.watch(self)

    def __repr__(self) -> str:
        kind = "disabled" if self._recorder is None else "managed" if self.managed else "tracked"
        return f"<tachograph.Run {self.id} {kind}{' finished' if self._finished else ''}>"

    @property
    def enabled(self) -> bool:
        """False for a run made while Tachograph was switched off: its calls do nothing."""
        return self._recorder is not None

    @property
    def name(self) -> str:
        """The run's name; a managed run asks the service for it, once."""
        if self._resource is None and self._client is not None:
            self._resource = self._client.run(self.id)
        return self.id if self._resource is None else self._resource["name"]

    @property
    def stop_requested(self) -> bool:
        """Whether the run was asked to stop; a program that catches `Stopped` can look here."""
        return self._stop_cause is not None

    @overload
    def log(
        self, data: Mapping[str, Any], step: int | None = None, stage: str | None = None, **metrics: Any
    ) -> None: ...
    @overload
    def log(self, data: None = None, step: int | None = None, stage: str | None = None, **metrics: Any) -> None: ...
    def log(
        self,
        data: Mapping[str, Any] | None = None,
        step: int | None = None,
        stage: str | None = None,
        **metrics: Any,
    ) -> None:
        """Record numbers: a dictionary, keywords, or both.

        A number is whatever `float()` takes but text: NumPy and PyTorch scalars too; NaN and infinities are
        kept. Without `step` the last one counts on, by 1 from 1; an explicit one is taken as it is. `stage`
        groups points (`epoch_1`). Raises `TypeError` naming a value that is no number, and then records
        nothing.
        """
        if metrics:
            data = {**data, **metrics} if data else metrics
        elif not data:
            if data is None or isinstance(data, Mapping):
                return
            raise TypeError(f"log() takes a dictionary of numbers, not {data!r}")
        elif type(data) is not dict and not isinstance(data, Mapping):
            raise TypeError(f"log() takes a dictionary of numbers, not {type(data).__qualname__}")
        if step is not None and type(step) is not int:
            step = step_number(step)
        self._sink.add(data, step, stage)

    def log_text(self, text: str) -> None:
        """Record text in the run's log, each line with the time, and not on the terminal."""
        if not isinstance(text, str):
            raise TypeError(f"log_text() takes a string, not {type(text).__qualname__}")
        lines = text.encode("utf-8", "replace").decode().split("\n")
        if len(lines) > 1 and not lines[-1]:
            lines.pop()
        self._sink.add_lines("log", [part for line in lines for part in _cut(line.rstrip("\r"))])

    def set_primary_metric(self, name: str, mode: Mode = "max") -> None:
        """Name the metric that tells the best point; its best value goes into the summary at the end."""
        if mode not in {"min", "max"}:
            raise ValueError(f"mode must be 'min' or 'max', not {mode!r}")
        self._sink.set_primary_metric(checked_name(name, "the primary metric's name"), mode)

    def progress(self, done: float, total: float | None = None, unit: str | None = None) -> None:
        """Report how far the program is; the service computes the remaining time.

        Raises `ValueError` for a `done` below 0 and a `total` of 0 or below.
        """
        report: Json = {"done": _amount(done, "done")}
        if total is not None:
            report["total"] = _amount(total, "total")
            if not report["total"]:
                raise ValueError("total must be above 0: leave it out where it is not known")
        if unit is not None:
            report["unit"] = str(unit)
        self._sink.set_progress(report)

    def finish(
        self,
        status: Status = "completed",
        error: BaseException | str | None = None,
        *,
        exit_code: int | None = None,
    ) -> Delivery:
        """End the run and deliver what is left, within the run's `finish_seconds`.

        What the service did not take by then is kept on disk, and said. Calling it again changes nothing;
        other calls raise `RunFinished` from now on. A managed run ends when its program does, as said here.
        """
        if status not in STATUSES:
            raise ValueError(f"status must be one of {', '.join(STATUSES)}, not {status!r}")
        end: Json = {"status": STATUSES[status]}
        if error is not None:
            end["error"] = failure(error)
        if exit_code is not None:
            end["exit_code"] = exit_code
        left = self._outcome is not None and _outcome.leave(self._outcome, end)
        return self._close(None if left else {"epoch": self.epoch, **end})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, SystemExit):
            self._end(None, _exit.exit_code(error.code))
        elif isinstance(error, GeneratorExit):
            self._end(None, None)
        else:
            self._end(error, None)

    def process_ended(self, error: BaseException | None, exit_code: int) -> None:
        """Finish, as the process ends without having done so."""
        self._end(error, exit_code)

    def process_forked(self) -> None:
        """Become inert: this is a child process, and numbers of batches are its parent's to give."""
        self._sink = of_another_process(self.id)
        self._finished = True
        self._finishing = threading.RLock()
        if self._recorder is not None:
            self._recorder.abandon()
        self._interrupt.remove()

    def _end(self, error: BaseException | None, exit_code: int | None) -> None:
        """Finish with a status that follows from how the program went on; `exit_code` is None where unknown."""
        stopped = self._stop_cause is not None or isinstance(error, KeyboardInterrupt)
        if self.managed and (stopped or error is None):
            self._close(None)  # the worker sees the exit code, and knows why it sent a signal
        elif stopped:
            self.finish("killed")
        elif error is not None:
            self.finish("failed", error, exit_code=exit_code)
        elif exit_code:
            self.finish("failed", exit_code=exit_code)
        else:
            self.finish("completed", exit_code=exit_code)

    def _close(self, end: Json | None) -> Delivery:
        with self._finishing:
            if self._finished or self._recorder is None:
                self._finished = True
                return self.delivery or NOTHING
            self._finished = True
            self._interrupt.hold()
            self._sink = finished(self.id)
            seconds = min(self._finish_seconds, STOPPED_SECONDS) if self.stop_requested else self._finish_seconds
            try:
                self.delivery = self._recorder.close(end, seconds)
            finally:
                _exit.forget(self)
                self._interrupt.remove()
            return self.delivery

    def _note_stop(self, cause: str) -> None:
        self._stop_cause = cause

    def _loader(self, field: Literal["config", "summary"]) -> Callable[[], Json]:
        def load() -> Json:
            if self._client is None:
                return {}
            if self._resource is None:
                self._resource = self._client.run(self.id)
            known: Json = {}
            merge(known, self._resource[field], keep_null=False)
            return known

        return load


def _amount(value: Any, what: str) -> float:
    if isinstance(value, str) or (not hasattr(value, "__float__") and not hasattr(value, "__index__")):
        raise TypeError(f"{what} must be a number, not {value!r:.80}")
    number = float(value)
    if not 0 <= number < math.inf:
        raise ValueError(f"{what} must be a number from 0 on, not {value!r:.80}")
    return number


def _cut(line: str) -> list[str]:
    """Return a line in pieces that the service takes."""
    if len(line) <= MAX_LINE:
        return [line]
    return [line[start : start + MAX_LINE] for start in range(0, len(line), MAX_LINE)]


def failure(error: BaseException | str) -> Failure:
    """Return an error as the service stores it."""
    if isinstance(error, str):
        return {"type": "Error", "message": error[:MAX_MESSAGE], "traceback": ""}
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    try:
        message = str(error)
    except Exception as broken:  # noqa: BLE001 (the exception's own code, and the run must still end)
        message = f"<its message cannot be shown: {broken!r}>"
    trace = "".join(traceback.format_exception(error))
    return {"type": name, "message": message[:MAX_MESSAGE], "traceback": trace[-MAX_TRACEBACK:]}
