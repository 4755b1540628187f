"""No row of a ledger, and none of an organisation, is altered, made up or put back without an audit naming it."""

from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple
from uuid import UUID

import asyncpg
import pytest

from events.database import open_pool
from events.keys import Keyring
from events.ledger import Ledger
from projections.archive.stores import Directory
from projections.credits import Credits
from projections.rebuild import INLINE
from projections.refold import KEYS
from projections.verification import Places, Report, audit
from service.commands.bootstrap import ORGANISATION
from tests.golden.history import MASTER_KEY, History
from tests.servers import Database

OUTSIDE: Final[Mapping[str, str]] = {
    "ledger.created_at": "tells when it was opened, which its first event tells too",
    "payload.request": "recognises a request that is sent again",
    "telemetry.request": "recognises a request that is sent again",
    "archived_request.*": "recognises a request that is sent again",
    "cursor.*": "how far readers have come; what they missed is missing in JetStream, or in a rebuilt projection",
    "event.*": "see test_verify.py",
}
"""What an audit does not look at in the schema `ledger`, as docs/audit.md says."""

ALTERED: Final[Mapping[str, str]] = {
    "uuid": "gen_random_uuid()",
    "int2": "{0} + 1",
    "int4": "{0} + 1",
    "int8": "{0} + 1000",
    "timestamptz": "{0} + interval '1 hour'",
    "text": "case {0} when 'project' then 'organisation' else 'project' end",
    "bytea": "set_byte({0}, 3, get_byte({0}, 3) # 1)",
}


class Tampering(NamedTuple):
    """Statements that alter a table's rows, and what the audit of a project, or of its organisation, then says."""

    table: str
    statements: str
    reason: str
    project: bool = False


TAMPERINGS: Final[Mapping[str, Tampering]] = {
    "an API key made up": Tampering(
        "projection.api_key",
        "insert into projection.api_key select gen_random_uuid(), organisation_id, label, prefix, 'x', issued_at"
        " from projection.api_key limit 1",
        "api_key of {}: a row that no event leads to",
    ),
    "an API key back": Tampering(
        "projection.api_key", "update projection.api_key set sha256 = sha256 || 'x'", "sha256 differ"
    ),
    "a worker made up": Tampering(
        "projection.worker",
        "insert into projection.worker select gen_random_uuid(), organisation_id, version, 'x', host, slots,"
        " registered_at from projection.worker limit 1",
        "worker of {}: a row that no event leads to",
    ),
    "a project made up": Tampering(
        "projection.project",
        "insert into projection.project (project_id, organisation_id, version, name, description, created_at)"
        " select gen_random_uuid(), organisation_id, 1, 'x', '', created_at from projection.project limit 1",
        "project of {}: a row that no event leads to",
    ),
    "a webhook made up": Tampering(
        "projection.subscription",
        "insert into projection.subscription select gen_random_uuid(), organisation_id, project_id, kind, version,"
        " state, set_at from projection.subscription limit 1",
        "subscription of {}: a row that no event leads to",
    ),
    "a webhook elsewhere": Tampering(
        "projection.subscription",
        "update projection.subscription set state = set_byte(state, 9, 7) where kind = 'webhook'",
        "state differ from a fresh fold",
    ),
    "an alert rule off": Tampering(
        "projection.subscription", "update projection.subscription set removed_at = now()", "removed_at differ"
    ),
    "the ledger's row gone": Tampering(
        "ledger.ledger",
        f"delete from ledger.ledger where ledger_id = '{ORGANISATION}'",
        "the row in ledger.ledger is gone",
    ),
    "an organisation's ledger of another": Tampering(
        "ledger.ledger",
        f"update ledger.ledger set organisation_id = gen_random_uuid() where ledger_id = '{ORGANISATION}'",
        "the row in ledger.ledger says organisation of {}, its events organisation of {}",
    ),
    "a project moved to another organisation": Tampering(
        "ledger.ledger, projection.project, projection.demand",
        "update ledger.ledger set organisation_id = ledger_id where kind = 'project'; update projection.project set"
        " organisation_id = project_id; update projection.demand set organisation_id = ledger_id",
        "organisation_id differ from a fresh fold",
        project=True,
    ),
    "a key to nothing": Tampering(
        "ledger.data_key",
        f"insert into ledger.data_key select ledger_id, gen_random_uuid(), wrapped from ledger.data_key"
        f" where ledger_id = '{ORGANISATION}' limit 1",
        "which does not exist",
    ),
    "the key of a purged run put back": Tampering(
        "ledger.data_key",
        "insert into ledger.data_key select e.ledger_id, e.stream, '\\x00' from ledger.event e"
        " where type = 'run.purged'",
        "the key of it is there",
        project=True,
    ),
    "a payload of a purged run put back": Tampering(
        "ledger.payload",
        "insert into ledger.payload select e.ledger_id, e.position, e.stream, '\\x00', null, '\\x00'"
        " from ledger.event e join ledger.event p using (ledger_id, stream)"
        " where p.type = 'run.purged' and e.type = 'run.created'",
        "a payload of it is there",
        project=True,
    ),
    "a batch of a purged run put back": Tampering(
        "ledger.telemetry",
        "insert into ledger.telemetry select e.ledger_id, e.stream, e.position, '2020-01-01', '\\x00', null, '\\x00'"
        " from ledger.event e join ledger.event p using (ledger_id, stream)"
        " where p.type = 'run.purged' and e.seq is not null",
        "telemetry of it is there",
        project=True,
    ),
    "what covers an archive altered": Tampering(
        "ledger.payload, ledger.telemetry",
        "update ledger.payload set ciphertext = set_byte(ciphertext, 20, get_byte(ciphertext, 20) # 1) where position ="
        " (select min(position) from ledger.event where type = 'run.telemetry_archived' and stream not in"
        " (select stream from ledger.event where type = 'run.deleted')); delete from ledger.telemetry",
        "its payload was altered",
        project=True,
    ),
    "telemetry let in again": Tampering(
        "ledger.stream",
        "update ledger.stream set gate = 1 where gate = 0 and stream in (select run_id from projection.run)",
        "says gate 1, its events 0",
        project=True,
    ),
    "telemetry kept out": Tampering(
        "ledger.stream", "update ledger.stream set gate = 0 where gate = 1", "says gate 0, its events 1", project=True
    ),
    "an attempt of no run": Tampering(
        "ledger.stream",
        "update ledger.stream set epoch = 1 where stream = ledger_id",
        "says epoch 1, its events 0",
        project=True,
    ),
}


class Audited:
    """A project and an organisation that have lived, and a superuser who cannot read their payloads."""

    def __init__(self, database: Database, history: History, superuser: asyncpg.Connection, root: Path) -> None:
        self.superuser = superuser
        self.project = history.ledger_id
        self.running = history.runs["running"]
        self._pool = history.pool
        self._places = Places(database_url=database.url, archive=Directory(root))

    async def report(self, ledger_id: UUID, master_key: bytes = MASTER_KEY) -> Report:
        return await audit(Ledger(self._pool, Keyring(master_key)), ledger_id, self._places)

    async def reasons(self, *ledgers: UUID) -> list[str]:
        reports = [await self.report(ledger_id) for ledger_id in ledgers]
        return [report.first_bad.reason for report in reports if report.first_bad is not None]

    async def tampered(self, tables: Sequence[str], statements: str, *ledgers: UUID) -> list[str]:
        """Tamper, audit, and put the tables back; returns what was said."""
        for number, table in enumerate(tables):
            await self.superuser.execute(f"create temp table kept_{number} as table {table}")
        await self.superuser.execute(statements)
        found = await self.reasons(*ledgers)
        for number, table in enumerate(tables):
            kept = f"kept_{number}"
            await self.superuser.execute(f"delete from {table}; insert into {table} table {kept}; drop table {kept}")
        return found


@pytest.fixture
async def audited(database: Database, tmp_path: Path) -> AsyncIterator[Audited]:
    pool = await open_pool(database.url, name="test")
    superuser = await asyncpg.connect(database.superuser_url)
    await superuser.execute("set session_replication_role = replica")  # foreign keys do not stop them
    history = History(pool, tmp_path / "parquet")
    await history.live()
    yield Audited(database, history, superuser, tmp_path / "parquet")
    await history.ledger.drained()
    await superuser.close()
    await pool.close()


async def test_every_column_of_a_ledgers_tables_is_named_or_said_to_be_outside(audited: Audited) -> None:
    columns = await audited.superuser.fetch(
        "select c.relname as table, a.attname as name, t.typname as type from pg_attribute a"
        " join pg_class c on c.oid = a.attrelid join pg_type t on t.oid = a.atttypid"
        " where c.relnamespace = 'ledger'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition"
        " and a.attnum > 0 and not a.attisdropped order by c.relname, a.attnum"
    )
    escaped = set()
    for table, name, kind in columns:
        if OUTSIDE.keys() & {f"{table}.{name}", f"{table}.*"}:
            continue
        one = f"ctid = (select max(ctid) from ledger.{table})"
        if table == "telemetry":  # a batch that is still nowhere else
            one = f"position = (select max(position) from ledger.telemetry where stream = '{audited.running}')"
        altered = ALTERED[kind].format(f'"{name}"')
        statement = f'update ledger.{table} set "{name}" = {altered} where {one}'
        found = await audited.tampered((f"ledger.{table}",), statement, audited.project, ORGANISATION)
        if not found:
            escaped.add(f"{table}.{name}")
    assert escaped == set()
    assert await audited.reasons(audited.project, ORGANISATION) == []


async def test_every_row_beside_the_chain_is_named(audited: Audited) -> None:
    for name, tampering in TAMPERINGS.items():
        ledger_id = audited.project if tampering.project else ORGANISATION
        said = await audited.tampered(tampering.table.split(", "), tampering.statements, ledger_id)
        assert len(said) == 1, name
        for words in tampering.reason.split("{}"):
            assert words in said[0], name
    assert await audited.reasons(audited.project, ORGANISATION) == []
    report = await audited.report(audited.project, b"o" * 32)
    assert report.first_bad is not None
    assert (report.first_bad.position, "does not open under this master key" in report.first_bad.reason) == (1, True)


def test_every_table_of_what_appends_project_is_compared() -> None:
    inline = {table for projection in (*INLINE.values(), Credits()) for table in projection.tables}
    assert set(KEYS) == inline
