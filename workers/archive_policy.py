"""When telemetry goes to Parquet, in files of what size, and what is kept how long."""

from collections.abc import Sequence
from datetime import timedelta
from itertools import accumulate, takewhile
from typing import Final

import msgspec

from events.settings import numbers
from projections.archive.manifest import Segment


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """Archive when a run ended, when `hot_bytes` of it wait, or when the oldest is `age_seconds` old.

    A file takes at most `file_bytes` and `file_batches` of payload, which bounds the archiver's memory. Once there are
    `merge_files` small ones (of a run that has ended, two), they become one of at most `merge_bytes`, and are removed
    `linger_seconds` later, when no reader is under way to them any more.
    `keep_seconds` is how long a partition stays after its hour, `orphan_seconds` how old a file without a
    manifest row gets, or a part of no artifact, `upload_seconds` how long an upload waits to be continued,
    `tail_seconds` how often the ledgers are looked at, and `upkeep_seconds` how often partitions and orphans are.
    Each is `TACHOGRAPH_ARCHIVE_<NAME>` in the environment.
    """

    hot_bytes: int = 4 << 20
    age_seconds: float = 60.0
    file_bytes: int = 32 << 20
    file_batches: int = 8_192
    merge_files: int = 8
    merge_bytes: int = 128 << 20
    linger_seconds: float = 600.0
    keep_seconds: float = 2 * 3_600.0
    orphan_seconds: float = 3_600.0
    upload_seconds: float = 86_400.0
    tail_seconds: float = 0.5
    upkeep_seconds: float = 3_600.0

    @property
    def keep(self) -> timedelta:
        """How long a partition stays after its hour."""
        return timedelta(seconds=self.keep_seconds)


SMALL_BYTES: Final = 64 << 10
LARGER: Final = 8
"""How many times as large the files of one size are as those of the next smaller one."""
MERGED_AT_ONCE: Final = 64


def to_merge(files: Sequence[Segment], policy: Policy, *, ended: bool) -> Sequence[Segment]:
    """Return neighbours among a run's files, given in order, that are due to become one; none if there are not enough.

    The newest ones of about one size are, the smallest size first, so that each point is written again only when its
    file grows by far: the others together have at least an eighth of the largest.
    """
    least = 2 if ended else policy.merge_files
    full = policy.merge_bytes // 2
    limit = SMALL_BYTES
    while True:
        newest = _newest(files, min(limit, full))
        chosen = _fitting(newest, policy.merge_bytes)
        sizes = [file.bytes for file in chosen]
        enough = least if len(chosen) == len(newest) else 2  # no more fit
        if len(chosen) >= enough and (sum(sizes) - max(sizes)) * LARGER >= max(sizes):
            return chosen
        if limit >= full or len(newest) == len(files):
            return ()
        limit *= LARGER


def _newest(files: Sequence[Segment], most_bytes: int) -> Sequence[Segment]:
    """Return the last files, of which none is larger."""
    count = sum(1 for _ in takewhile(lambda file: file.bytes <= most_bytes, reversed(files)))
    return files[len(files) - count :]


def _fitting(files: Sequence[Segment], most_bytes: int) -> Sequence[Segment]:
    """Return the first files that together make one of at most so many bytes."""
    totals = accumulate(file.bytes for file in files)
    count = sum(1 for _ in takewhile(lambda total: total <= most_bytes, totals))
    return files[: min(count, MERGED_AT_ONCE)]


def from_environment() -> Policy:
    """Read the policy's variables. Raises `SettingsError` naming the one that is no number above zero."""
    return numbers(Policy, "TACHOGRAPH_ARCHIVE")
