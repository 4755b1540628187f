"""What the planner remembers of tables is no copy of what users wrote."""

import asyncpg

from tests.servers import Database

HARMLESS = {
    "ledger.cursor.reader",
    "ledger.event.actor",
    "ledger.event.cause",
    "ledger.event.chain",
    "ledger.event.commitment",
    "ledger.event.source",
    "ledger.event.type",
    "ledger.head.chain",
    "ledger.ledger.kind",
    "ledger.telemetry.ciphertext",
    "ledger.telemetry.request",
    "ledger.telemetry.salt",
    "operation.dead_letter.decided_by",
    "operation.dead_letter.reader",
    "operation.dead_letter.state",
    "operation.dead_letter.type",
    "operation.delivery.state",
    "operation.delivery.type",
    "operation.import_job.actor",
    "operation.import_job.report",
    "operation.import_job.state",
    "operation.incident.kind",
    "operation.incident.outcome",
    "operation.role.instance",
    "operation.role.role",
    "operation.session.sha256",
    "operation.transport_tail.last_id",
    "operation.transport_tail.stream",
    "operation.waiting.reason",
    "operation.waiting.scope",
    "projection.api_key.prefix",
    "projection.api_key.role",
    "projection.api_key.sha256",
    "projection.artifact.kind",
    "projection.checkpoint.projection",
    "projection.purge.store",
    "projection.run.mode",
    "projection.run.status",
    "projection.run_credit.status",
    "projection.run_transition.actor",
    "projection.run_transition.cause",
    "projection.run_transition.event",
    "projection.run_transition.from_status",
    "projection.run_transition.to_status",
    "projection.segment.kind",
    "projection.segment.levels_sha256",
    "projection.segment.sha256",
    "projection.subscription.kind",
    "projection.sweep.status",
}
"""Words of ours, opaque ids, hashes, what is sealed. A new column is put here on purpose, or takes no statistics."""


async def test_no_column_that_may_hold_a_users_text_has_statistics(database: Database, owner: asyncpg.Connection):
    rows = await owner.fetch(
        "select n.nspname || '.' || c.relname || '.' || a.attname as name"
        " from pg_attribute a join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = c.relnamespace"
        " where n.nspname in ('ledger', 'projection', 'operation') and c.relkind in ('r', 'p') and not c.relispartition"
        " and a.attnum > 0 and not a.attisdropped and coalesce(a.attstattarget, -1) <> 0"
        " and a.atttypid = any('{text,bytea,jsonb,text[],varchar}'::regtype[])"
    )
    found = sorted({row["name"] for row in rows} - HARMLESS)
    assert not found, "\n".join(found)
