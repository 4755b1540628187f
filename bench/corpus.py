"""The points that are logged here, as the ledger, an HTTP body and COPY take them. The same ones every time."""

import math
from collections.abc import Callable
from typing import Any, Final
from uuid import UUID

import msgspec
import numpy as np
import pyarrow as pa

from bench.curves import curve, names, steps
from events.telemetry import MetricColumns

START_US: Final = 1_790_000_000_000_000
STEP_US: Final = 50_000


def arrow(document: Any) -> bytes:
    """Return a body of metrics as an Arrow IPC stream, one row a point."""
    every = document["series"].values()
    lengths = [len(series["step"]) for series in every]
    metric = pa.DictionaryArray.from_arrays(
        np.repeat(np.arange(len(lengths), dtype=np.int32), lengths), list(document["series"])
    )
    columns = {name: np.concatenate([series[name] for series in every]) for name in ("step", "value", "time_us")}
    table = pa.table({"metric": metric, **columns})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    written: bytes = sink.getvalue().to_pybytes()
    return written


MEDIA: Final[dict[str, tuple[str, Callable[[Any], bytes]]]] = {
    "JSON": ("application/json", msgspec.json.encode),
    "MessagePack": ("application/msgpack", msgspec.msgpack.encode),
    "Arrow": ("application/vnd.apache.arrow.stream", arrow),
}
"""How a body can be written."""


def batch(metrics: int, first_step: int, points: int) -> MetricColumns:
    """Return a batch of `points` points of each metric."""
    step = np.concatenate([steps(series, first_step, points) for series in range(metrics)])
    return MetricColumns(
        names=names(metrics),
        counts=(points,) * metrics,
        step=step.tobytes(),
        value=np.concatenate([curve(series, first_step, points) for series in range(metrics)]).tobytes(),
        time_us=(START_US + step * STEP_US).tobytes(),
    )


def body(media: str, seq: int, metrics: int, first_step: int, points: int) -> bytes:
    """Return an HTTP body of `points` points of each metric, with their times."""
    series = {}
    for index, name in enumerate(names(metrics)):
        step = steps(index, first_step, points)
        values = curve(index, first_step, points).tolist()
        if media == "JSON":
            values = [spelled(value) for value in values]
        series[name] = {"step": step.tolist(), "time_us": (START_US + step * STEP_US).tolist(), "value": values}
    return MEDIA[media][1]({"epoch": 1, "seq": seq, "series": series})


def spelled(value: float) -> float | str:
    """Return a value as a body of ours has it: JSON knows no NaN and no infinity, so they are words."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def rows(run_id: UUID, metrics: int, first_step: int, points: int) -> bytes:
    """Return the same points as COPY's text, one row a point: run, metric, step, time in microseconds, value."""
    return "".join(
        f"{run_id}\t{name}\t{at}\t{START_US + at * STEP_US}\t{value!r}\n"
        for index, name in enumerate(names(metrics))
        for at, value in zip(
            steps(index, first_step, points).tolist(), curve(index, first_step, points).tolist(), strict=True
        )
    ).encode()


def log_batch(run_id: str, metrics: int, first_step: int, points: int) -> bytes:
    """Return the same points as a body of MLflow's log-batch."""
    return msgspec.json.encode(
        {
            "run_id": run_id,
            "metrics": [
                {"key": name, "value": spelled(value), "timestamp": (START_US + at * STEP_US) // 1000, "step": at}
                for index, name in enumerate(names(metrics))
                for at, value in zip(
                    steps(index, first_step, points).tolist(), curve(index, first_step, points).tolist(), strict=True
                )
            ],
        }
    )
