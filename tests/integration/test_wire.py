"""Events as PostgreSQL receives them: what it reads is what was written."""

import os
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest

from events import codec, wire
from events.database import open_pool
from tests.servers import Database

FIRST, LAST = datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
LIFECYCLE = (2**31 - 1, "run.completed", 32_767, "key:ü", "succeeded"), (None, None, None), FIRST, bytes(range(32)), b""
BARE = (1, "run.created", 1, "", None), (None, None, None), LAST, None, bytes(600_000)
TELEMETRY = (
    (None, "run.metrics_logged", 2, "key:a", None),
    ("sdk", 2**63 - 1, 32_767),
    LAST,
    bytes(range(16)),
    b"sealed",
)
FIRST_BATCH = (None, "run.logged", 1, "key:a", None), ("", 0, 0), FIRST, None, b"sealed"


@pytest.mark.parametrize(
    ("described", "batch", "moment", "request_digest", "ciphertext"),
    [LIFECYCLE, BARE, TELEMETRY, FIRST_BATCH],
    ids=["lifecycle", "bare", "telemetry", "first batch"],
)
@pytest.mark.parametrize(
    ("causation_id", "epoch"), [(UUID(int=7), 2**31 - 1), (None, None)], ids=["caused", "uncaused"]
)
async def test_postgres_reads_the_columns_that_were_written(
    database: Database, described, batch, moment, request_digest, ciphertext, causation_id, epoch
):
    event_id, stream, correlation_id = uuid4(), uuid4(), uuid4()
    commitment, body, salt = os.urandom(32), os.urandom(32), os.urandom(16)
    row = wire.row(
        event_id.bytes,
        stream.bytes,
        *described,
        correlation_id.bytes,
        causation_id and causation_id.bytes,
        epoch,
        *batch,
        codec.microseconds(moment),
        commitment,
        body,
        salt,
        request_digest,
        ciphertext,
    )
    expected = (
        event_id,
        stream,
        *described,
        correlation_id,
        causation_id,
        epoch,
        *batch,
        moment,
        commitment,
        body,
        salt,
        request_digest,
        ciphertext,
    )
    async with await open_pool(database.url, name="test", size=1) as pool:
        alone = await pool.fetchrow("select e.* from (select ($1::ledger.sealed_event).*) e", row)
        assert tuple(alone) == expected
        together = await pool.fetch(
            "select * from unnest($1::ledger.sealed_event[]::ledger.proposed_event[])", [row, row]
        )
        assert [tuple(one) for one in together] == [expected, expected]
    assert len(expected) == wire.COLUMNS
