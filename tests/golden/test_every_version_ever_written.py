"""Each event version that was ever written is read as what it was. Files here are added to, never changed."""

import json
from pathlib import Path

import msgspec
import pytest

from events import codec

FILES = sorted((Path(__file__).parent / "events").glob("*.json"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_stored_payload_is_read_as_what_it_was(file: Path) -> None:
    golden = json.loads(file.read_text())
    kind, _, version = file.stem.rpartition(".v")
    event = codec.decode(kind, int(version), bytes.fromhex(golden["payload"]))
    assert json.loads(msgspec.json.encode(event)) == golden["data"]


def test_every_current_version_has_its_file() -> None:
    current = {f"{kind}.v{event.schema_version}" for kind, event in codec.EVENT_TYPES.items()}
    current |= {f"{kind}.v1" for kind in codec.TELEMETRY}
    assert current <= {file.stem for file in FILES}


def test_an_unknown_type_or_version_is_refused() -> None:
    payload = bytes.fromhex(json.loads(FILES[0].read_text())["payload"])
    for kind, version in (("run.unheard_of", 1), ("run.created", 99)):
        with pytest.raises(codec.CorruptHistory, match="cannot be read"):
            codec.decode(kind, version, payload)
