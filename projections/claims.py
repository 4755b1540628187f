"""A worker's claim of a run: the append checks the quotas in the same transaction, under the organisation's row lock.

The check is `sql/check_quota.sql`. When it refuses a claim, the appends that were grouped with it are made a second
time, so the scheduler orders no start for which it sees no room.
"""

from typing import Final
from uuid import UUID

import asyncpg
import msgspec

from events.accelerators import serves
from events.commands import ClaimRun
from events.commit import InlineRow
from events.errors import QuotaReached
from events.ledger import Ledger
from projections.execute import Outcome, Request, execute

PASSED: Final = "TQ001"
"""The SQL state by which `check_quota` refuses."""


class _Passed(msgspec.Struct):
    scope: str
    kind: str | None
    bound: int
    in_use: int


async def claim(ledger: Ledger, ledger_id: UUID, run_id: UUID, command: ClaimRun, request: Request) -> Outcome:
    """Carry out a claim and return the run after it.

    Raises `QuotaReached` where the plan, the organisation or the project has no room, and what `execute` raises.
    """
    row = msgspec.Raw(msgspec.json.encode({"kinds": command.kinds}))
    try:
        return await execute(
            ledger, ledger_id, run_id, command, request, guard={"projection.check_quota": [InlineRow(0, row)]}
        )
    except asyncpg.PostgresError as error:
        if error.sqlstate != PASSED:
            raise
        passed = msgspec.json.decode(error.detail, type=_Passed)
        raise QuotaReached(
            passed.scope, passed.kind, passed.bound, passed.in_use - _own(passed.kind, command)
        ) from None


def _own(kind: str | None, command: ClaimRun) -> int:
    """Return how much of what is in use is the refused claim's own."""
    return 1 if kind is None else sum(serves(one, kind) for one in command.kinds)
