"""What browsers and proxies may keep of a chart, and for how long."""

from datetime import UTC, datetime, timedelta

import pytest

from events.ids import uuid7
from events.run import Run
from events.types import Status
from projections.charts.run_points import Newest
from projections.runs import StoredRun
from service.charts.caching import control

NOW = datetime(2026, 3, 1, tzinfo=UTC)
LONG_AGO = NOW - timedelta(hours=2)
ARCHIVED, HOT = Newest(7, hot=False), Newest(7, hot=True)


def run(status: Status, ended_at: datetime | None) -> StoredRun:
    return StoredRun(ledger_id=uuid7(), run_id=uuid7(), position=1, run=Run(status=status, ended_at=ended_at))


@pytest.mark.parametrize(
    ("one", "newest", "closed"),
    [
        (run(Status.COMPLETED, LONG_AGO), ARCHIVED, True),
        (run(Status.FAILED, LONG_AGO), ARCHIVED, True),
        (run(Status.KILLED, LONG_AGO), ARCHIVED, True),
        (run(Status.COMPLETED, LONG_AGO), HOT, False),
        (run(Status.COMPLETED, NOW), ARCHIVED, False),
        (run(Status.CRASHED, LONG_AGO), ARCHIVED, False),
        (run(Status.RUNNING, None), ARCHIVED, False),
    ],
)
def test_only_what_ended_long_ago_and_is_archived_is_kept_unasked(
    one: StoredRun,
    newest: Newest,
    closed: bool,  # noqa: FBT001
) -> None:
    expected = "private, max-age=86400" if closed else "private, no-cache"
    assert control([one], [newest], NOW) == expected
    ended = run(Status.COMPLETED, LONG_AGO)
    assert control([ended, one], [ARCHIVED, newest], NOW) == expected
