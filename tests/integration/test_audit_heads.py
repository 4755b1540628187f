"""An audit that is given signed heads: a cut tail and a rewritten ledger are seen; and how heads are exported."""

from collections.abc import Mapping
from pathlib import Path

import asyncpg
import pytest

from events import codec
from events.heads import HeadRefused, Signer, read_heads
from events.sql import load
from events.verification import COVERED
from tests.integration.audited import NOW, Audited
from tests.integration.telemetry import opened_world
from tests.servers import Database
from workers.heads import Heads

CUT = """
    delete from ledger.event where position > {0};
    delete from ledger.payload where position > {0};
    update ledger.head h set position = {0}, (chain, recorded_at) =
        (select e.chain, e.recorded_at from ledger.event e where e.ledger_id = h.ledger_id and e.position = {0})
"""


async def test_a_cut_tail_is_seen_by_its_head(audited: Audited) -> None:
    head = await audited.head()
    cut = head.position - 1
    await audited.tamper(
        CUT.format(cut) + f"; update ledger.stream set version = version - 1 where stream = '{audited.running}'"
    )
    position, reason = await audited.bad(head)
    assert position == cut + 1
    assert f"there were {head.position} events" in reason


async def test_a_ledger_rewritten_as_a_whole_is_seen_by_its_head(
    audited: Audited, database: Database, tmp_path: Path
) -> None:
    first = audited.signer.sign(
        audited.world.ledger_id, 1, await audited.world.pool.fetchval("select chain from event where position = 1"), NOW
    )
    head = await audited.head()
    await _rewritten(audited, dict.fromkeys(range(2, head.position + 1), ("actor", "key:nobody")))
    position, reason = await audited.bad(first, head)
    assert position == head.position
    assert "rewritten somewhere after position 1" in reason


async def test_a_rewritten_ledger_whose_chain_fits_has_no_gap_in_a_stream(audited: Audited) -> None:
    position, version = await audited.world.pool.fetchrow(
        "select position, version from event where stream = $1 and version is not null order by version desc limit 1",
        audited.running,
    )
    await _rewritten(audited, {position: ("version", version + 1)})
    await audited.tamper(f"update ledger.stream set version = {version + 1} where stream = '{audited.running}'")
    assert await audited.bad() == (position, f"version {version + 1} does not follow on its stream's last one")


async def _rewritten(audited: Audited, changes: Mapping[int, tuple[str, object]]) -> None:
    """Change a column of some events, by position, and make the chain fit, as whoever has all keys could."""
    ledger_id = audited.world.ledger_id
    superuser = await asyncpg.connect(audited.database.superuser_url)
    rows = await superuser.fetch(load("events.sql", "verify_page"), ledger_id, 0, 1 << 30, 1 << 30)
    chain = codec.EMPTY_CHAIN
    for row in rows:
        columns = list(row[:COVERED])
        if row["position"] in changes:
            column, value = changes[row["position"]]
            columns[list(row.keys()).index(column)] = value
            await superuser.execute(
                f"update ledger.event set {column} = $1 where position = $2", value, row["position"]
            )
        chain = codec.chain(chain, row["position"], row["recorded"], codec.body(ledger_id.bytes, *columns))
        await superuser.execute("update ledger.event set chain = $1 where position = $2", chain, row["position"])
    await superuser.execute("update ledger.head set chain = $1", chain)
    await superuser.close()


async def test_a_head_of_another_project_is_refused(audited: Audited, database: Database, tmp_path: Path) -> None:
    async with opened_world(database.url, tmp_path) as other:
        position, chain = await other.ledger.head(other.ledger_id)
        head = audited.signer.sign(other.ledger_id, position, chain, NOW)
        with pytest.raises(HeadRefused, match=f"of ledger {other.ledger_id}, not of {audited.world.ledger_id}"):
            await audited.report(head)


async def test_heads_are_exported_when_they_moved(
    audited: Audited, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    role = Heads(audited.world.ledger, tmp_path / "master.key", tmp_path / "heads", seconds=60, clock=lambda: now)
    await role.start()
    path = role.file(audited.world.ledger_id)
    for moment in (0.0, 1.0, 60.0):
        now = moment
        assert await role.step() == 0
        assert len(read_heads(path.read_bytes())) == 1
    await audited.edit(notes="more")
    now = 61.0
    await role.step()
    assert len(read_heads(path.read_bytes())) == 1
    now = 120.0
    await role.step()
    first, second = read_heads(path.read_bytes())
    assert second.position == first.position + 1
    audited.signer = Signer.beside(tmp_path / "master.key")
    assert (await audited.report(first, second)).head == second.position

    path.write_bytes(path.read_bytes() + b'{"ledger":"torn o')  # died while it wrote
    await audited.edit(notes="still more")
    await role.start()
    await role.step()
    assert [head.position for head in read_heads(path.read_bytes())] == [
        first.position, second.position, second.position + 1
    ]  # fmt: skip

    await audited.tamper("update ledger.event set chain = sha256(chain)")
    await audited.edit(notes="after tampering")
    now = 1_000.0
    await role.step()
    assert len(read_heads(path.read_bytes())) == 3
    assert "not signed" in caplog.text
