"""Each event version that was ever written is read as what it was. Files here are added to, never changed.

`run.created.v1.2` is version 1 again, with the fields that have come since.
"""

import json
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest

from events import codec
from events.types import Event

FILES = sorted((Path(__file__).parent / "events").glob("*.json"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_stored_payload_is_read_as_what_it_was(file: Path) -> None:
    golden = json.loads(file.read_text())
    kind, version = of(file)
    event = codec.decode(kind, version, bytes.fromhex(golden["payload"]))
    assert stated(json.loads(msgspec.json.encode(event)), golden["data"]) == golden["data"]


def of(file: Path) -> tuple[str, int]:
    kind, _, version = file.stem.rpartition(".v")
    return kind, int(version.partition(".")[0])


def stated(read: Any, golden: Any) -> Any:
    """Return what is read without the fields that came later."""
    if isinstance(read, dict) and isinstance(golden, dict):
        return {name: stated(value, golden[name]) for name, value in read.items() if name in golden}
    return read


def test_every_current_version_has_its_file() -> None:
    current = {f"{kind}.v{event.schema_version}" for kind, event in codec.EVENT_TYPES.items()}
    current |= {f"{kind}.v{codec.PACKED}" for kind in codec.TELEMETRY}
    assert current <= {file.stem for file in FILES}


def test_every_field_is_in_a_file_of_its_events_version() -> None:
    written: dict[tuple[str, int], set[str]] = {}
    for file in FILES:
        written.setdefault(of(file), set()).update(json.loads(file.read_text())["data"])
    for kind, event in codec.EVENT_TYPES.items():
        assert set(event.__struct_encode_fields__) <= written[kind, event.schema_version], kind


class Noted(Event, frozen=True, tag="test.noted"):
    """Version 1 had one `text`, version 2 lines of it, version 3 says who wrote them."""

    schema_version: ClassVar[int] = 3
    lines: tuple[str, ...]
    author: str


def test_an_older_version_is_brought_up_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    upcasters = {
        ("test.noted", 1): lambda noted: {"type": noted["type"], "lines": noted["text"].splitlines()},
        ("test.noted", 2): lambda noted: noted | {"author": "unknown"},
    }
    monkeypatch.setattr(codec, "UPCASTERS", upcasters)
    monkeypatch.setattr(codec, "EVENT_TYPES", {**codec.EVENT_TYPES, "test.noted": Noted})
    monkeypatch.setattr(codec, "LifecycleEvent", codec.LifecycleEvent | Noted)
    monkeypatch.setattr(codec, "_decoders", {**codec._decoders, "test.noted": msgspec.msgpack.Decoder(Noted)})
    pack = msgspec.msgpack.encode
    now = Noted(lines=("a", "b"), author="unknown")
    assert codec.decode("test.noted", 1, pack({"type": "test.noted", "text": "a\nb"})) == now
    assert codec.decode("test.noted", 2, pack({"type": "test.noted", "lines": ["a", "b"]})) == now
    assert codec.decode("test.noted", 3, codec.encode(now)) == now
    for version in (0, 4):
        with pytest.raises(codec.CorruptHistory, match="cannot be read"):
            codec.decode("test.noted", version, codec.encode(now))
    del upcasters["test.noted", 2]
    with pytest.raises(codec.CorruptHistory, match="cannot be read"):
        codec.decode("test.noted", 1, pack({"type": "test.noted", "text": "a"}))


def test_an_unknown_type_or_version_is_refused() -> None:
    payload = bytes.fromhex(json.loads(FILES[0].read_text())["payload"])
    for kind, version in (("run.unheard_of", 1), ("run.created", 99)):
        with pytest.raises(codec.CorruptHistory, match="cannot be read"):
            codec.decode(kind, version, payload)
