"""When telemetry goes to Parquet, in files of what size, and what is kept how long."""

import os
from datetime import timedelta

import msgspec

from events.settings import SettingsError


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """Archive when a run ended, when `hot_bytes` of it wait, or when the oldest is `age_seconds` old.

    A file takes at most `file_bytes` and `file_batches` of payload, which bounds the archiver's memory.
    `keep_seconds` is how long a partition stays after its hour, `orphan_seconds` how old a file without a
    manifest row gets, or a part of no artifact, `upload_seconds` how long an upload waits to be continued,
    `tail_seconds` how often the ledgers are looked at, and `upkeep_seconds` how often partitions and orphans are.
    Each is `TACHOGRAPH_ARCHIVE_<NAME>` in the environment.
    """

    hot_bytes: int = 4 << 20
    age_seconds: float = 60.0
    file_bytes: int = 32 << 20
    file_batches: int = 8_192
    keep_seconds: float = 2 * 3_600.0
    orphan_seconds: float = 3_600.0
    upload_seconds: float = 86_400.0
    tail_seconds: float = 0.5
    upkeep_seconds: float = 3_600.0

    @property
    def keep(self) -> timedelta:
        """How long a partition stays after its hour."""
        return timedelta(seconds=self.keep_seconds)


def from_environment() -> Policy:
    """Read the policy's variables. Raises `SettingsError` naming the one that is no number above zero."""
    given = {}
    for field in msgspec.structs.fields(Policy):
        name = f"TACHOGRAPH_ARCHIVE_{field.name.upper()}"
        text = os.environ.get(name)
        if text:
            try:
                given[field.name] = msgspec.convert(text, field.type, strict=False)
            except msgspec.ValidationError:
                raise SettingsError(f"{name} is a number, not {text!r}") from None
            if not given[field.name] > 0:
                raise SettingsError(f"{name} is more than zero, not {text}")
    return Policy(**given)
