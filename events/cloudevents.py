"""Recorded events as CloudEvents 1.0, for subscribers, for the API and for export. Pure.

Lifecycle events are JSON documents with their data inside. Telemetry travels in binary mode: attributes in `ce-`
headers, the columnar batch as MessagePack in the body, with `content-encoding: lz4-block` where it is packed. Source:
CloudEvents 1.0.2, its JSON format and NATS binding.
"""

import math
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from events.codec import PACKED, TELEMETRY
from events.ledger import Recorded
from events.telemetry import STREAMS, LogColumns, MetricColumns

COLUMNS_MEDIA_TYPE: Final = "application/vnd.tachograph.columns+msgpack"
MAX_BODY_BYTES: Final = (1 << 20) - (64 << 10)
"""What a message may hold beside its headers: the server's default `max_payload` is 1 MiB for both."""

_json: Final = msgspec.json.Encoder()
_SUBJECTS: Final = {"run": "runs", "workflow": "workflows", "project": "projects", "key": "keys", "worker": "workers"}


def attributes(recorded: Recorded) -> dict[str, Any]:
    """Return the context attributes; absent ones are left out."""
    kind = recorded.type.split(".")[0]
    every = {
        "specversion": "1.0",
        "id": str(recorded.event_id),
        "source": f"/ledgers/{recorded.ledger_id}",
        "type": recorded.type,
        "subject": f"{_SUBJECTS.get(kind, kind + 's')}/{recorded.stream}",
        "time": recorded.occurred_at,
        "dataschema": None if recorded.type in TELEMETRY else _schema(recorded),
        "ledger": str(recorded.ledger_id),
        "position": recorded.position,
        "version": recorded.version,
        "actor": recorded.actor,
        "cause": recorded.cause,
        "epoch": recorded.epoch,
        "sender": recorded.source,
        "seq": recorded.seq,
        "part": recorded.part,
        "recordedat": recorded.recorded_at,
        "commitment": recorded.commitment.hex(),
    }
    return {name: value for name, value in every.items() if value is not None}


def _schema(recorded: Recorded) -> str:
    """Return where the service has the JSON Schema of an event's data; columns have none."""
    return f"/schema/events/{recorded.type}.v{recorded.schema_version}.json"


def document(recorded: Recorded) -> dict[str, Any]:
    """Return the whole event as a JSON-ready document; `data` is null once the payload is gone."""
    return {**attributes(recorded), "datacontenttype": "application/json", "data": data(recorded)}


def data(recorded: Recorded) -> Any:
    """Return an event's data as JSON-ready values, non-finite numbers as strings; None once it is gone."""
    if recorded.payload is None:
        return None
    event = recorded.event()
    if isinstance(event, MetricColumns):
        return metrics_document(event)
    if isinstance(event, LogColumns):
        return logs_document(event)
    fields: dict[str, Any] = msgspec.to_builtins(event)
    fields.pop("type")
    return fields


def metrics_document(batch: MetricColumns) -> dict[str, Any]:
    """Return a batch in the shape of the metrics body: series with step, value and time_us columns."""
    steps, values, times = batch.steps(), batch.values(), batch.times()
    stages = batch.stage_indices()
    series: dict[str, Any] = {}
    start = 0
    for name, count in zip(batch.names, batch.counts, strict=True):
        part = slice(start, start + count)
        columns: dict[str, Any] = {
            "step": steps[part].tolist(),
            "value": [finite(value) for value in values[part].tolist()],
            "time_us": times[part].tolist(),
        }
        if stages is not None:
            columns["stage"] = [batch.stages[index] for index in stages[part].tolist()]
        series[name] = columns
        start += count
    return {"series": series}


def logs_document(batch: LogColumns) -> dict[str, Any]:
    """Return a batch of lines in the shape of the logs body."""
    lines = zip(batch.times().tolist(), batch.streams().tolist(), batch.text, strict=True)
    return {"lines": [{"time_us": time_us, "stream": STREAMS[stream], "text": text} for time_us, stream, text in lines]}


def _referring(recorded: Recorded) -> dict[str, Any]:
    """Return the event without its data, and where to read that. Source: the CloudEvents extension dataref."""
    where = f"/api/v1/projects/{recorded.ledger_id}/events?after={recorded.position - 1}&limit=1"
    return {**attributes(recorded), "datacontenttype": "application/json", "dataref": where}


def finite(value: float) -> float | str:
    """Return a number as JSON can carry it: NaN and the infinities as strings."""
    if math.isnan(value):
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def message(recorded: Recorded) -> tuple[str, bytes, Mapping[str, str]]:
    """Return subject, body and headers under which an event is published."""
    stream = "telemetry" if recorded.type in TELEMETRY else "events"
    run = recorded.stream if recorded.type.startswith("run.") else "_"
    subject = f"tachograph.{stream}.{recorded.ledger_id}.{run}.{recorded.type}"
    headers = {"Nats-Msg-Id": str(recorded.event_id)}
    if stream == "events":
        headers["content-type"] = "application/cloudevents+json"
        body = _json.encode(document(recorded))
        return subject, body if len(body) <= MAX_BODY_BYTES else _json.encode(_referring(recorded)), headers
    for name, value in attributes(recorded).items():
        headers[f"ce-{name}"] = value if isinstance(value, str) else str(msgspec.to_builtins(value))
    headers["content-type"] = COLUMNS_MEDIA_TYPE
    if recorded.schema_version >= PACKED:
        headers["content-encoding"] = "lz4-block"
    return subject, recorded.payload or b"", headers
