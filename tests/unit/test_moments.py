"""How moments of the past are named, and told apart."""

from datetime import UTC, datetime

import pytest

from service.moments import At, Position, Version, parse
from service.problems import Invalid


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("12", Version(12)),
        ("version:12", Version(12)),
        ("20260131", Version(20_260_131)),
        ("position:4711", Position(4_711)),
        ("2026-01-31T12:00:00Z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31T12:00:00+02:00", datetime(2026, 1, 31, 10, tzinfo=UTC)),
        ("2026-01-31T12:00:00 02:00", datetime(2026, 1, 31, 10, tzinfo=UTC)),  # a plus sign of a URL
        ("2026-01-31T12:00:00.000001", datetime(2026, 1, 31, 12, 0, 0, 1, tzinfo=UTC)),
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
    ],
)
def test_versions_positions_and_times_are_told_apart(text: str, named: At) -> None:
    assert parse(text) == named


@pytest.mark.parametrize(
    "text",
    [
        "", "0", "-1", "position:", "position:0", "position:-1", "position:x", "position:1_000", "version:", ":1",
        "Position:1", "event:1", "yesterday", "2026-13-01", "0001-01-01T00:00:00+23:59", "9" * 5_000, "position:٣",
        f"position:{1 << 62}", str(1 << 31), "²",
    ],
)  # fmt: skip
def test_anything_else_is_refused_with_what_it_may_be(text: str) -> None:
    with pytest.raises(Invalid, match="version"):
        parse(text)
