"""Numbers that the environment tells are taken exactly, or refused by name; docs/settings.md has all variables."""

import re

import msgspec
import pytest

from events.settings import MOST, SettingsError, numbers
from projections.query import limits
from projections.storage import artifact_limits
from service.ingest import admission
from stack.process import ROOT
from workers.archive_policy import Policy

DOCUMENTED = (ROOT / "docs" / "settings.md").read_text()


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    rows: int = 7
    wait_seconds: float = 0.5


def test_what_is_not_said_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOUND_ROWS", "12")
    monkeypatch.setenv("BOUND_WAIT_SECONDS", "")
    assert numbers(Bounds, "BOUND") == Bounds(rows=12, wait_seconds=0.5)


def test_a_fraction_is_taken_where_one_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOUND_WAIT_SECONDS", "2.5")
    assert numbers(Bounds, "BOUND").wait_seconds == 2.5


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "many", "nan", "inf", str(MOST + 1), "9" * 400])
def test_what_is_no_whole_number_above_zero_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("BOUND_ROWS", text)
    with pytest.raises(SettingsError, match="BOUND_ROWS is a whole number above zero"):
        numbers(Bounds, "BOUND")


@pytest.mark.parametrize("text", ["0", "-0.1", "soon", "nan", "inf"])
def test_what_is_no_number_above_zero_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("BOUND_WAIT_SECONDS", text)
    with pytest.raises(SettingsError, match="BOUND_WAIT_SECONDS is a number above zero"):
        numbers(Bounds, "BOUND")


@pytest.mark.parametrize(
    ("prefix", "kind"),
    [
        ("TACHOGRAPH_ARCHIVE", Policy),
        ("TACHOGRAPH_INGEST", admission.Limits),
        ("TACHOGRAPH_MAX", artifact_limits.Limits),
        ("TACHOGRAPH_QUERY", limits.Limits),
    ],
)
def test_docs_settings_has_every_limit_with_its_default(prefix: str, kind: type[msgspec.Struct]) -> None:
    for field in msgspec.structs.fields(kind):
        name, default = f"{prefix}_{field.name.upper()}", field.default
        shown = f"{default:,}" if isinstance(default, int) else f"{default:g}"
        assert re.search(rf"^\| `{name}` \| {shown}( \(|  ?\|)", DOCUMENTED, re.MULTILINE), f"{name}: {shown}"


def test_docs_settings_has_every_variable_in_the_code() -> None:
    packages = ("events", "projections", "service", "workers", "stack", "sdk/src")
    sources = [path.read_text() for package in packages for path in sorted((ROOT / package).rglob("*.py"))]
    said = {name for text in sources for name in re.findall(r"\"(TACHOGRAPH_[A-Z_]*[A-Z])\"", text)}
    known = set(re.findall(r"`(TACHOGRAPH_[A-Z_]+)`", DOCUMENTED))
    prefixes = {"TACHOGRAPH_ARCHIVE", "TACHOGRAPH_INGEST", "TACHOGRAPH_MAX", "TACHOGRAPH_QUERY"}
    assert said - known - prefixes == set()
