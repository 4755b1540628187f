"""`python -m service schemas [--check]`: write the generated descriptions.

A JSON Schema per event version, OpenAPI for HTTP, AsyncAPI for the subjects, and the state machine's tables.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from events.bus import STREAMS
from events.cloudevents import COLUMNS_MEDIA_TYPE
from events.codec import EVENT_TYPES, TELEMETRY
from events.settings import Settings
from service import VERSION, openapi
from service.app import create_app
from service.commands import state_table
from service.commands.migrate import ROOT

DIRECTORY: Final = ROOT / "schemas"


PACKED_BODY: Final = (
    "Columns as in events/telemetry.py. With `content-encoding: lz4-block` the body is 4 bytes of size, little-endian,"
    " and one LZ4 block: `lz4.block.decompress` of the Python package lz4 takes it as it is."
)


def main(arguments: Sequence[str]) -> int:
    """Write the files, or with `--check` compare them; returns the exit status."""
    match arguments:
        case []:
            return write()
        case ["--check"]:
            return check()
        case _:
            print("usage: python -m service schemas [--check]", file=sys.stderr)
            return 2


def generated() -> dict[Path, str]:
    """Return every generated file's text by its path."""
    files = {
        DIRECTORY / "events" / f"{name}.v{kind.schema_version}.json": _event(kind) for name, kind in EVENT_TYPES.items()
    }
    files[DIRECTORY / "openapi.json"] = _json(_openapi())
    files[DIRECTORY / "asyncapi.yaml"] = _json(_asyncapi())
    files[ROOT / "docs" / "state-machine.md"] = state_table.document()
    return files


def write() -> int:
    """Write the files."""
    for path, text in generated().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return 0


def check() -> int:
    """Compare with what is checked in; says what differs."""
    expected = generated()
    stale = [path for path, text in expected.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    stale += [path for path in (DIRECTORY / "events").glob("*.json") if path not in expected]
    for path in stale:
        print(f"{path.relative_to(ROOT)} is not what the code says; run: python -m service schemas", file=sys.stderr)
    return 1 if stale else 0


def _json(document: Any) -> str:
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def _event(kind: type[msgspec.Struct]) -> str:
    return _json(msgspec.json.schema(kind))


def _openapi() -> dict[str, Any]:
    nowhere = Path("/nonexistent")
    app = create_app(
        Settings(
            home=nowhere,
            host="127.0.0.1",
            port=8765,
            database_url="",
            owner_database_url=None,
            nats_url="",
            master_key=nowhere,
            parquet=nowhere,
            archive_cache=nowhere,
            archive_cache_bytes=1,
        ),
        openapi=openapi.CONFIG,
    )
    return openapi.complete(app)


def _asyncapi() -> dict[str, Any]:
    """Return the AsyncAPI document; JSON is YAML."""
    messages = {
        name: {
            "name": name,
            "contentType": "application/cloudevents+json",
            "payload": {"$ref": f"./events/{name}.v{kind.schema_version}.json"},
        }
        for name, kind in EVENT_TYPES.items()
    }
    for name in TELEMETRY:
        messages[name] = {
            "name": name,
            "contentType": COLUMNS_MEDIA_TYPE,
            "description": PACKED_BODY,
        }
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Tachograph", "version": VERSION},
        "channels": {
            "events": {
                "address": "tachograph.events.{ledger}.{run}.{type}",
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in EVENT_TYPES},
            },
            "telemetry": {
                "address": "tachograph.telemetry.{ledger}.{run}.{type}",
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in TELEMETRY},
            },
            "commands": {"address": "tachograph.commands.{worker}"},
            "heartbeats": {"address": "tachograph.heartbeats.{sender}"},
        },
        "components": {"messages": messages},
        "x-streams": [{"name": one.name, "subjects": one.subjects} for one in STREAMS],
    }
