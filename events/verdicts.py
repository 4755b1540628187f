"""What became of each proposal of a group: a database answer as the result or the error of one caller."""

from collections.abc import Sequence
from itertools import repeat
from typing import Final
from uuid import UUID

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from events.commit import Prepared, Verdict
from events.errors import Erased, Fenced, NotFound, Rejected, VersionConflict
from events.keys import DataKey
from events.records import Appended, Proposal
from events.repetition import same_batch, same_request

STORED: Final = "select * from ledger.stored($1, $2, $3, $4, $5, $6, $7)"
"""Asks for ledger, stream, whether lifecycle, first event's id, epoch, source and seq."""

EPOCH: Final = "select epoch from ledger.stream where ledger_id = $1 and stream = $2"


async def verdicts_of(
    connection: PoolConnectionProxy, ledger_id: UUID, group: Sequence[Prepared], outcome: asyncpg.Record | None
) -> list[Verdict]:
    """Return what became of each proposal of a group; asks where a duplicate stands, and who is later.

    Raises `NotFound`.
    """
    if outcome is None:
        raise NotFound("there is no such ledger")
    last, recorded_at, refusals = outcome
    found = []
    for one, refusal in zip(group, refusals or repeat(None, len(group)), strict=True):
        before, stored, epoch = last, None, None
        if refusal is None:
            last += len(one.events)
        elif refusal == "duplicate":
            first = (one.stream, one.seq is None, one.first_id, one.epoch, one.source, one.seq)
            stored = await connection.fetchrow(STORED, ledger_id, *first)
        elif refusal == "fenced":
            epoch = await connection.fetchval(EPOCH, ledger_id, one.stream)
        found.append(Verdict(before + 1, last, recorded_at, refusal, stored, epoch))
    return found


def repeated(stored: asyncpg.Record, proposal: Proposal, key: DataKey | None) -> Appended:
    """Return where a proposal that was recorded before stands. Raises `IdReused`, or `Erased`."""
    if proposal.seq is None:
        same_request(stored["salt"], stored["request"], proposal.request)
    else:
        same_batch(stored["salt"], stored["request"], proposal.request, key)
    return as_appended(stored)


def as_appended(row: asyncpg.Record) -> Appended:
    """Return a row of `ledger.stored` as the answer to a repetition."""
    return Appended(row["at"], row["last"], row["recorded_at"], row["version"], repeated=True)


def judged(verdict: Verdict, proposal: Proposal) -> Appended:
    """Return where a proposal stands, or raise why it was refused."""
    match verdict.refusal:
        case None:
            expected = proposal.expected_version
            version = None if expected is None else expected + len(proposal.drafts)
            return Appended(verdict.first, verdict.last, verdict.recorded_at, version, repeated=False)
        case "conflict":
            raise VersionConflict(f"decided on version {proposal.expected_version}, which is not the latest")
        case "fenced":
            raise Fenced(f"epoch {proposal.epoch} is not the run's latest attempt ({verdict.epoch})")
        case "closed":
            raise Rejected("the run has not started", state="queued", asked="log", allowed=("start",))
        case "erased":
            raise Erased("the run was deleted")
        case _:
            raise NotFound("there is no such run")
