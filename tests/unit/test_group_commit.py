"""Group commit: what may go together goes together, and one caller's trouble is nobody else's."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID, uuid4

import asyncpg
import pytest

from events import commit
from events.commit import GroupCommit, Prepared, Verdict
from events.errors import Busy, Unavailable

LEDGER = uuid4()


def lifecycle(stream: UUID, event_id: UUID | None = None) -> Prepared:
    return Prepared(
        stream=stream,
        first_id=event_id or uuid4(),
        expected=0,
        epoch=0,
        gate=0,
        wrapped_key=None,
        source=None,
        seq=None,
        events=[b""],
        inline={},
        size=100,
    )


def telemetry(stream: UUID, seq: int, size: int = 100) -> Prepared:
    return Prepared(
        stream=stream,
        first_id=uuid4(),
        expected=None,
        epoch=1,
        gate=0,
        wrapped_key=None,
        source="sdk",
        seq=seq,
        events=[b""],
        inline={},
        size=size,
    )


class Database:
    """Takes groups one at a time, and fails as it is told."""

    def __init__(self, *failures: Exception) -> None:
        self.groups: list[list[Prepared]] = []
        self.failures = list(failures)
        self.poisoned: set[UUID] = set()

    async def commit(self, _: UUID, group: Sequence[Prepared]) -> list[Verdict]:
        self.groups.append(list(group))
        await asyncio.sleep(0)
        if self.failures:
            raise self.failures.pop(0)
        if any(one.stream in self.poisoned for one in group):
            raise asyncpg.UniqueViolationError("taken")
        return [Verdict(1, 1, datetime.now(UTC)) for _ in group]


async def submit_all(commits: GroupCommit, *proposals: Prepared) -> list[Verdict | BaseException]:
    return await asyncio.gather(*(commits.submit(one) for one in proposals), return_exceptions=True)


async def test_what_arrives_during_a_commit_goes_into_the_next_one_together() -> None:
    database = Database()
    commits = GroupCommit(LEDGER, database.commit)
    first = asyncio.create_task(commits.submit(telemetry(uuid4(), 1)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await submit_all(commits, *(telemetry(uuid4(), 1) for _ in range(20)))
    await first
    assert [len(group) for group in database.groups] == [1, 20]


async def test_telemetry_stands_first_and_a_stream_has_one_lifecycle_proposal_a_group() -> None:
    database = Database()
    stream = uuid4()
    await submit_all(
        GroupCommit(LEDGER, database.commit),
        lifecycle(stream),
        telemetry(stream, 1),
        lifecycle(stream),
        telemetry(stream, 2),
    )
    kinds = [[one.seq for one in group] for group in database.groups]
    assert kinds == [[1, 2, None], [None]]


async def test_the_same_id_or_key_never_stands_twice_in_a_group() -> None:
    database = Database()
    stream, event_id = uuid4(), uuid4()
    await submit_all(
        GroupCommit(LEDGER, database.commit),
        telemetry(stream, 1),
        telemetry(stream, 1),
        lifecycle(uuid4(), event_id),
        lifecycle(uuid4(), event_id),
    )
    assert [len(group) for group in database.groups] == [2, 2]


async def test_one_callers_violation_fails_nobody_else() -> None:
    database = Database()
    culprit = lifecycle(uuid4())
    database.poisoned.add(culprit.stream)
    others = [lifecycle(uuid4()) for _ in range(5)]
    results = await submit_all(GroupCommit(LEDGER, database.commit), *others[:2], culprit, *others[2:])
    assert isinstance(results[2], asyncpg.UniqueViolationError)
    assert all(isinstance(result, Verdict) for index, result in enumerate(results) if index != 2)


async def test_a_broken_connection_sends_the_same_group_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "RETRY_SECONDS", (0.0, 0.0))
    database = Database(ConnectionResetError(), asyncpg.InterfaceError("closed"))
    (verdict,) = await submit_all(GroupCommit(LEDGER, database.commit), telemetry(uuid4(), 1))
    assert isinstance(verdict, Verdict)
    assert database.groups[0] == database.groups[1] == database.groups[2]


async def test_a_database_that_stays_away_is_said_to_be_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "RETRY_SECONDS", (0.0,))
    database = Database(ConnectionResetError(), ConnectionResetError())
    (result,) = await submit_all(GroupCommit(LEDGER, database.commit), telemetry(uuid4(), 1))
    assert isinstance(result, Unavailable)


async def test_more_than_the_bound_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "MAX_WAITING_BYTES", 1_000)
    commits = GroupCommit(LEDGER, Database().commit)
    results = await submit_all(commits, *(telemetry(uuid4(), 1, size=400) for _ in range(4)))
    assert [type(result) for result in results] == [Verdict, Verdict, Busy, Busy]


async def test_a_cancelled_caller_leaves_the_others_alone() -> None:
    database = Database()
    commits = GroupCommit(LEDGER, database.commit)
    leaving = asyncio.create_task(commits.submit(telemetry(uuid4(), 1)))
    staying = asyncio.create_task(commits.submit(telemetry(uuid4(), 1)))
    await asyncio.sleep(0)
    leaving.cancel()
    assert isinstance(await staying, Verdict)
    await commits.drained()
    assert len(database.groups[0]) == 2


class Clock:
    """Goes on by what commits and callers are said to take."""

    def __init__(self, commit_seconds: float) -> None:
        self.commit_seconds = commit_seconds
        self.now = 0.0

    async def commit(self, _: UUID, group: Sequence[Prepared]) -> list[Verdict]:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        self.now += self.commit_seconds
        return [Verdict(1, 1, datetime.now(UTC)) for _ in group]


async def groups_of(callers: int, clock: Clock, rounds: int = 6, slower: float | None = None) -> list[int]:
    """Return the groups' sizes of callers who each take a second to come back, again and again."""
    sizes: list[int] = []

    async def commit(ledger_id: UUID, group: Sequence[Prepared]) -> list[Verdict]:
        sizes.append(len(group))
        if slower is not None and len(sizes) > rounds:
            clock.commit_seconds = slower
        return await clock.commit(ledger_id, group)

    commits = GroupCommit(LEDGER, commit, clock=lambda: clock.now)

    async def call() -> None:
        for seq in range(rounds):
            clock.now += 1
            await commits.submit(telemetry(uuid4(), seq))

    await asyncio.gather(*(call() for _ in range(callers)))
    return sizes


async def test_callers_who_come_and_go_together_go_in_halves_where_postgres_is_quick() -> None:
    assert await groups_of(16, Clock(commit_seconds=12)) == [16, *[8] * 10]


async def test_callers_who_come_and_go_together_stay_so_where_a_commit_takes_long() -> None:
    assert await groups_of(16, Clock(commit_seconds=32)) == [16] * 6


async def test_few_callers_are_not_halved() -> None:
    assert await groups_of(15, Clock(commit_seconds=1)) == [15] * 6


async def test_halves_meet_again_once_commits_take_long() -> None:
    sizes = await groups_of(16, Clock(commit_seconds=12), rounds=8, slower=100)
    assert sizes[1:8] == [8] * 7
    assert 16 in sizes[8:]
    assert sum(sizes) == 16 * 8
