"""A history as people read it: a line for each event, coloured on a terminal, log lines below theirs."""

import unicodedata
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from events import cloudevents
from events.codec import TELEMETRY
from events.telemetry import STREAMS, LogColumns, MetricColumns
from projections.replay import Step

SHOWN_SERIES: Final = 4
SHOWN_CHARACTERS: Final = 160

_GREEN, _RED, _AMBER, _BLUE, _GRAY, _BOLD = "32", "31", "33", "34", "90", "1"
_COLOURS: Final = {
    "run.completed": _GREEN,
    "run.recovered": _GREEN,
    "run.failed": _RED,
    "run.crashed": _RED,
    "run.killed": _GRAY,
    "run.deleted": _GRAY,
    "run.purged": _GRAY,
    "run.kill_requested": _AMBER,
    "run.unresponsive": _AMBER,
    "run.starting": _BLUE,
    "run.started": _BLUE,
}

_json: Final = msgspec.json.Encoder()


def as_json(step: Step) -> bytes:
    """Return a step as a line: the CloudEvent, `restored` if it came from Parquet, `state` if it changed a run's."""
    line = cloudevents.document(step.recorded)
    if step.restored:
        line["restored"] = True
    if step.run is not None:
        line["state"] = {"status": step.run.status, "version": step.run.version, "epoch": step.run.epoch}
    return _json.encode(line) + b"\n"


def as_text(step: Step, *, coloured: bool) -> bytes:
    """Return a step as lines of UTF-8."""
    return "".join(f"{line}\n" for line in _lines(step, coloured=coloured)).encode(errors="replace")


def _lines(step: Step, *, coloured: bool) -> Iterator[str]:
    """Yield a step's lines. What users wrote loses its control characters, so that it cannot steer a terminal."""
    recorded = step.recorded
    when = recorded.recorded_at.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    head = f"{when} {recorded.position:>8} {str(recorded.stream)[-8:]}"
    kind = f"{recorded.type:<24}"
    if coloured:
        head = _in(_GRAY, head)
        kind = _in(_COLOURS.get(recorded.type, _GRAY if recorded.type in TELEMETRY else _BOLD), kind)
    state = "" if step.run is None else f" {step.run.status}"
    yield f"{head} {kind}{state} {_said(step)}".rstrip()
    if recorded.type == "run.logs_written" and recorded.payload is not None:
        batch: LogColumns = recorded.event()
        for stream, text in zip(batch.streams().tolist(), batch.text, strict=True):
            line = f"    {STREAMS[stream]} │ {plain(text)}"
            yield _in(_RED, line) if coloured and STREAMS[stream] == "stderr" else line


def _in(colour: str, text: str) -> str:
    return f"\x1b[{colour}m{text}\x1b[0m"


def _said(step: Step) -> str:
    recorded = step.recorded
    if recorded.payload is None:
        return "(erased)"
    event = recorded.event()
    origin = " (from Parquet)" if step.restored else ""
    match event:
        case MetricColumns():
            return f"{event.points} points: {_series(event)}{origin}"
        case LogColumns():
            return f"{event.points} lines{origin}"
        case _:
            fields = {name: value for name, value in msgspec.to_builtins(event).items() if name != "type" and value}
            said = ", ".join(f"{name}={_short(value)}" for name, value in fields.items())
            return plain(said[:SHOWN_CHARACTERS] + ("…" if len(said) > SHOWN_CHARACTERS else ""))


def _short(value: Any) -> str:
    return value if isinstance(value, str) else _json.encode(value).decode()


def _series(batch: MetricColumns) -> str:
    """Say each of the first series with its last value and step."""
    said, end = [], 0
    for name, count in zip(batch.names[:SHOWN_SERIES], batch.counts, strict=False):
        end += count
        said.append(f"{plain(name)}={batch.values()[end - 1]:.6g}@{batch.steps()[end - 1]}")
    return ", ".join(said) + (f" and {len(batch.names) - SHOWN_SERIES} more" if len(batch.names) > SHOWN_SERIES else "")


def plain(text: str) -> str:
    """Return text on one line with control characters shown as dots."""
    if text.isprintable():
        return text
    return "".join("·" if unicodedata.category(one).startswith("C") else one for one in text)
