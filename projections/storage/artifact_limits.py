"""How much may be stored: limits on artifacts, told by the environment."""

from typing import Final

import msgspec

from events import settings
from events.errors import LedgerError

GIB: Final = 1 << 30


class QuotaExceeded(LedgerError):
    """There is no room for more; `limit` is the bound, in what `detail` names."""

    def __init__(self, detail: str, *, limit: int) -> None:
        super().__init__(detail)
        self.limit = limit


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The most that is taken.

    Bytes of one artifact, artifacts and unfinished uploads of a run, bytes of all artifacts of a project, and of an
    organisation.
    """

    artifact_bytes: int = 128 * GIB
    run_artifacts: int = 10_000
    run_uploads: int = 64
    project_bytes: int = 1_024 * GIB
    organisation_bytes: int = 4_096 * GIB


def from_environment() -> Limits:
    """Read `TACHOGRAPH_MAX_ARTIFACT_BYTES`, `…_MAX_RUN_ARTIFACTS` and so on. Raises `SettingsError`."""
    return settings.numbers(Limits, "TACHOGRAPH_MAX")
