"""Verification names the first record that is not what was recorded, and is content with what was rightly erased."""

import tracemalloc
from collections.abc import AsyncIterator
from itertools import count
from uuid import UUID

import asyncpg
import pytest

from events import codec, run_events
from events import commands as c
from events import types as t
from events.errors import NotFound
from events.ids import uuid7
from events.verification import PAGE_EVENTS, Verification, verify
from tests.integration.histories import Project, lines, opened_project, points
from tests.servers import Database


@pytest.fixture
async def project(database: Database) -> AsyncIterator[Project]:
    """A project with nine events: itself, a run that started, three batches, lines, an edit, an end, a tag."""
    async with opened_project(database.url) as opened:
        run_id = await opened.started()
        for count in (1, 2, 3):
            await opened.log(run_id, points(count))
        await opened.log(run_id, lines("one", "two"))
        for command in (c.EditRun(notes="n"), c.EndRun(epoch=1, status=t.Status.COMPLETED), c.EditRun(tags=("x",))):
            await opened.do(run_id, command)
        yield opened


async def verified(project: Project) -> Verification:
    return await verify(project.ledger, project.ledger_id)


async def test_an_untouched_ledger_is_verified(project: Project) -> None:
    steps: list[tuple[int, int]] = []
    found = await verify(project.ledger, project.ledger_id, progress=lambda at, end: steps.append((at, end)))
    assert found == Verification(verified=True, position=10, first_bad=None, checked=10, erased=0, archived=0)
    assert steps == [(10, 10)]


async def test_an_empty_ledger_is_verified(project: Project) -> None:
    ledger_id = uuid7()
    await project.ledger.open(ledger_id, uuid7(), "project")
    assert (await verify(project.ledger, ledger_id)).verified


async def test_an_unknown_ledger_is_not_found(project: Project) -> None:
    with pytest.raises(NotFound):
        await verify(project.ledger, uuid7())


CHAIN = "columns do not lead to its chain value"
PAYLOAD = "payload was altered"


def flipped(table: str, column: str, bit: int, position: int | None = None) -> str:
    """Return the statement that flips one bit."""
    where = "" if position is None else f" where position = {position}"
    return f"update {table} set {column} = set_bit({column}, {bit}, 1 - get_bit({column}, {bit})){where}"


TAMPERINGS: dict[str, tuple[str, int, str]] = {
    "who": ("update ledger.event set actor = 'key:other' where position = 3", 3, CHAIN),
    "what": ("update ledger.event set type = 'run.idled' where position = 3", 3, CHAIN),
    "why": ("update ledger.event set cause = 'exception' where position = 9", 9, CHAIN),
    "when": (
        "update ledger.event set occurred_at = occurred_at + interval '1 microsecond' where position = 4",
        4,
        CHAIN,
    ),
    "recorded later": (
        "update ledger.event set recorded_at = recorded_at + interval '1 microsecond' where position = 2",
        2,
        CHAIN,
    ),
    "recorded earlier": (
        "update ledger.event set recorded_at = recorded_at - interval '1 day' where position = 8",
        8,
        "before",
    ),
    "recorded never": ("update ledger.event set recorded_at = 'infinity' where position = 10", 10, CHAIN),
    "recorded long after": ("update ledger.event set recorded_at = '294276-12-31Z' where position = 10", 10, CHAIN),
    "happened long after": ("update ledger.event set occurred_at = '294276-12-31Z' where position = 4", 4, CHAIN),
    "happened long ago": ("update ledger.event set occurred_at = '4713-01-01Z BC' where position = 4", 4, CHAIN),
    "happened never": ("update ledger.event set occurred_at = '-infinity' where position = 4", 4, CHAIN),
    "which run": (f"update ledger.event set stream = '{UUID(int=7)}' where position = 5", 5, CHAIN),
    "attempt": ("update ledger.event set epoch = 2 where position = 5", 5, CHAIN),
    "seq": ("update ledger.event set seq = seq + 100 where position = 5", 5, CHAIN),
    "id": (f"update ledger.event set event_id = '{UUID(int=7)}' where position = 6", 6, CHAIN),
    "version": ("update ledger.event set version = 9 where position = 10", 10, CHAIN),
    "commitment": (
        flipped("ledger.event", "commitment", 9, 3),
        3,
        CHAIN,
    ),
    "chain": (flipped("ledger.event", "chain", 0, 7), 7, CHAIN),
    "payload": (
        flipped("ledger.payload", "ciphertext", 130, 8),
        8,
        PAYLOAD,
    ),
    "telemetry": (
        flipped("ledger.telemetry", "ciphertext", 130, 6),
        6,
        PAYLOAD,
    ),
    "salt": (
        flipped("ledger.payload", "salt", 3, 2),
        2,
        "commits to",
    ),
    "payload gone": ("delete from ledger.payload where position = 3", 3, "missing"),
    "telemetry gone": ("delete from ledger.telemetry where position = 5", 5, "missing"),
    "key gone": ("delete from ledger.data_key where stream <> ledger_id", 2, "key to it is not"),
    "first cut off": ("delete from ledger.event where position = 1", 1, "next event is at position 2"),
    "middle cut out": ("delete from ledger.event where position in (4, 5)", 4, "next event is at position 6"),
    "tail cut off": ("delete from ledger.event where position > 8", 9, "missing"),
    "all cut off": ("delete from ledger.event", 1, "missing"),
    "head": (flipped("ledger.head", "chain", 0), 10, "head"),
    "head set back": (
        "update ledger.head set position = 9, chain = (select chain from ledger.event where position = 9)",
        10,
        "beyond the head",
    ),
    "swapped rows": (
        """
        update ledger.event set position = -position where position in (4, 5);
        update ledger.event set position = 9 + position where position < 0
        """,
        4,
        CHAIN,
    ),
    "swapped payloads": (
        """
        update ledger.payload set position = -position where position in (2, 3);
        update ledger.payload set position = 5 + position where position < 0
        """,
        2,
        PAYLOAD,
    ),
    "a payload more": (
        "insert into ledger.payload select ledger_id, 5, stream, salt, null, ciphertext from ledger.payload limit 1",
        5,
        "a batch of telemetry has a payload",
    ),
    "a payload in front": (
        "insert into ledger.payload select ledger_id, 0, stream, salt, null, ciphertext from ledger.payload limit 1",
        10,
        "a payload at position 0, which no event has",
    ),
    "a payload beyond": (
        "insert into ledger.payload select ledger_id, 11, stream, salt, null, ciphertext from ledger.payload limit 1",
        10,
        "a payload at position 11, which no event has",
    ),
    "a deletion made up": (
        """
        insert into ledger.event
        select ledger_id, 11, gen_random_uuid(), stream, 6, 'run.deleted', 1, actor, null, null, null, null, null, null,
               null, now(), recorded_at, commitment, chain
        from ledger.event where position = 10;
        delete from ledger.payload where position = 3;
        update ledger.head set position = 11
        """,
        11,
        CHAIN,
    ),
}


COLUMNS: dict[str, str] = {
    "event_id": "gen_random_uuid()",
    "stream": "gen_random_uuid()",
    "version": "version + 1000",
    "type": "type || 'x'",
    "schema_version": "schema_version + 1",
    "actor": "actor || 'x'",
    "cause": "coalesce(cause, '') || 'x'",
    "correlation_id": "gen_random_uuid()",
    "causation_id": "gen_random_uuid()",
    "epoch": "coalesce(epoch, 0) + 1",
    "source": "source || 'x'",
    "seq": "seq + 1000",
    "part": "(part + 1)::smallint",
    "occurred_at": "occurred_at + interval '1 microsecond'",
    "recorded_at": "recorded_at + interval '1 microsecond'",
    "commitment": "set_bit(commitment, 77, 1 - get_bit(commitment, 77))",
    "chain": "set_bit(chain, 255, 1 - get_bit(chain, 255))",
}
NAMED_BY_POSITION = {"ledger_id", "position"}


@pytest.mark.parametrize("column", COLUMNS)
async def test_every_column_of_every_event_is_covered(
    project: Project, database: Database, owner: asyncpg.Connection, column: str
) -> None:
    """Lifecycle (3) and telemetry (5), each where it has a value of that column, or may be given one."""
    columns = await owner.fetch(
        "select attname from pg_attribute where attrelid = 'ledger.event'::regclass and attnum > 0"
    )
    assert {row["attname"] for row in columns} == COLUMNS.keys() | NAMED_BY_POSITION
    superuser = await asyncpg.connect(database.superuser_url)
    changed = 0
    for position in (3, 5):
        update = superuser.transaction()
        await update.start()
        before = await superuser.fetchval(f"select {column} from ledger.event where position = {position}")
        after = await superuser.fetchval(
            f"update ledger.event set {column} = {COLUMNS[column]} where position = {position} returning {column}"
        )
        if before == after:
            await update.rollback()
            continue
        await update.commit()
        changed += 1
        found = await verified(project)
        assert found.first_bad is not None
        assert (found.first_bad.position, CHAIN in found.first_bad.reason) == (position, True)
        await superuser.execute(f"update ledger.event set {column} = $1 where position = {position}", before)
        assert (await verified(project)).verified
    assert changed > 0
    await superuser.close()


BATCHES: dict[str, str] = {
    "once more at another time": "t.stream, t.position, t.recorded_at + interval '1 second'",
    "of another stream": "gen_random_uuid(), t.position, t.recorded_at",
    "of a position that has none": "t.stream, 3, t.recorded_at",
    "beyond the head": "t.stream, 12, t.recorded_at",
}


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("page", [1, 1_000])
async def test_a_batch_of_no_event_is_named(
    project: Project, database: Database, monkeypatch: pytest.MonkeyPatch, name: str, page: int
) -> None:
    monkeypatch.setattr("events.verification.PAGE_BATCHES", page)
    assert (await verified(project)).verified
    superuser = await asyncpg.connect(database.superuser_url)
    position = await superuser.fetchval(
        f"insert into ledger.telemetry select t.ledger_id, {BATCHES[name]}, t.salt, t.request, t.ciphertext"
        " from ledger.telemetry t where t.position = 5 returning position"
    )
    await superuser.close()
    found = await verified(project)
    assert found.first_bad is not None
    assert (found.first_bad.position, found.first_bad.reason) == (
        position, "there is a batch of telemetry of no event at this position"
    )  # fmt: skip


@pytest.mark.parametrize("name", TAMPERINGS)
async def test_tampering_is_named(project: Project, database: Database, name: str) -> None:
    statements, position, reason = TAMPERINGS[name]
    superuser = await asyncpg.connect(database.superuser_url)
    await superuser.execute(statements)
    await superuser.close()
    found = await verified(project)
    assert not found.verified
    assert found.first_bad is not None
    assert found.first_bad.position == position
    assert reason in found.first_bad.reason
    assert found.checked <= found.position <= position


async def test_what_was_erased_is_covered_by_its_deletion(project: Project) -> None:
    await project.erased(project.runs[0])
    found = await verified(project)
    assert found.verified
    assert (found.checked, found.erased, found.archived) == (12, 9, 0)


async def test_what_was_archived_is_covered_by_its_positions(project: Project, owner: asyncpg.Connection) -> None:
    run_id = project.runs[0]
    archived = run_events.RunTelemetryArchived(
        segment=uuid7(), kind="metrics", path="p", rows=5, first_position=4, last_position=5, sha256="", bytes=1
    )
    await project.do(run_id, c.RecordArchive(archived=archived))
    assert (await verified(project)).archived == 0
    await owner.execute("delete from ledger.telemetry where position in (4, 5)")
    found = await verified(project)
    assert found.verified
    assert (found.archived, found.erased) == (2, 0)
    await owner.execute("delete from ledger.telemetry where position = 7")  # a batch of lines: another kind
    found = await verified(project)
    assert found.first_bad is not None
    assert found.first_bad.position == 7


async def test_versions_are_checked_across_pages(project: Project, owner: asyncpg.Connection) -> None:
    run_id = project.runs[0]
    for start in range(PAGE_EVENTS // 100):
        for number in range(100):
            await project.log(run_id, points(1 + (start + number) % 3))
    await project.do(run_id, c.EditRun(notes="late"))
    found = await verified(project)
    assert found.verified
    assert found.checked == PAGE_EVENTS + 11


async def test_memory_is_bounded_whatever_the_ledgers_length(project: Project) -> None:
    """A ledger of four times the length takes no more of it: what is read ahead and kept is bounded by pages."""

    seqs = count(1_000)

    async def grown(batches: int) -> int:
        sizes = 20 * [codec.encode(points(50))]
        run_id = project.runs[0]
        for _ in range(batches):
            await project.ledger.append(project.telemetry(run_id, seq=next(seqs), payloads=sizes))
        tracemalloc.start()
        found = await verified(project)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert found.verified
        return peak

    short = await grown(2 * PAGE_EVENTS // 20)
    long = await grown(6 * PAGE_EVENTS // 20)
    assert long < 1.2 * short
