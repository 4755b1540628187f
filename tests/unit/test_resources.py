"""Runs as the API shows them."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import msgspec

from events.run import NO_RUN, Run
from projections.runs import StoredRun
from service.resources import Credits, RunResource, WaitingResource, run_resource

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def test_every_field_of_a_run_stands_under_its_own_name() -> None:
    apart = {"status", "kill", "progress", "started_at", "ended_at"}
    shared = [name for name in Run.__struct_fields__ if name in RunResource.__struct_fields__ and name not in apart]
    told = {name: f"told of {name}" for name in shared}
    run = msgspec.structs.replace(NO_RUN, **told, started_at=NOW - timedelta(hours=1), ended_at=NOW)
    stored = StoredRun(ledger_id=uuid4(), run_id=uuid4(), position=7, run=run)
    credits_, waiting = Credits(consumed_micro=3), WaitingResource(position=1, reason=None, detail="")
    shown = run_resource(stored, credits_, NOW, synced=True, waiting=waiting)
    assert {name: getattr(shown, name) for name in told} == told
    own = {
        "id": stored.run_id, "project_id": stored.ledger_id, "position": 7, "training_seconds": 3600.0,
        "credits": credits_, "waiting": waiting, "synced": True, "reproductions": None, "progress": None,
        "kill_requested": False, "reason": None, "started_at": run.started_at, "ended_at": NOW, "status": run.status,
    }  # fmt: skip
    assert {name: getattr(shown, name) for name in own} == own
    assert told.keys() | own.keys() | {"actions"} == set(RunResource.__struct_fields__)
