"""A history in every store, and ways to tamper with it."""

from datetime import UTC, datetime

import asyncpg
from nats.aio.client import Client

from events.commands import EditRun
from events.heads import SignedHead, Signer
from events.keys import Keyring
from events.ledger import Ledger
from projections.apply import advance
from projections.credits import Credits
from projections.execute import asked_by, execute
from projections.verification import Places, Report, audit
from tests.integration.telemetry import ACTOR, MASTER_KEY, World
from tests.servers import Database
from workers.relay import Relay

SEED = b"s" * 32
NOW = datetime(2026, 11, 21, 6, 0, 0, 123456, tzinfo=UTC)


class Audited:
    """A world with two runs, one of them archived, everything published."""

    def __init__(self, world: World, database: Database, client: Client) -> None:
        self.world = world
        self.database = database
        self.jetstream = client.jetstream()
        self.signer = Signer(SEED)

    async def fill(self) -> None:
        self.archived = await self.world.started_run()
        await self.world.metrics(self.archived, {"loss": ([1, 2], [1.0, 2.0])})
        await self.world.lines(self.archived, "one", "two")
        await self.publish()
        await self.world.archive()
        self.running = await self.world.started_run()
        await self.world.metrics(self.running, {"loss": ([1, 2], [1.0, 2.0])})
        await self.edit(tags=("a", "b"), notes="n")
        await self.publish()
        while await advance(self.world.ledger, Credits(), self.world.ledger_id):
            pass

    async def edit(self, **fields: object) -> None:
        world = self.world
        await execute(world.ledger, world.ledger_id, self.running, EditRun(**fields), asked_by(ACTOR))

    async def publish(self) -> None:
        relay = Relay(self.world.ledger, self.jetstream)
        await relay.start()
        while await relay.step():
            pass

    async def report(self, *heads: SignedHead, sample: int | None = None) -> Report:
        world = self.world
        for head in heads:
            head.expect(world.ledger_id, self.signer.public_key)
        places = Places(database_url=self.database.url, archive=world.store, jetstream=self.jetstream, sample=sample)
        return await audit(Ledger(world.pool, Keyring(MASTER_KEY)), world.ledger_id, places, heads=heads)

    async def head(self) -> SignedHead:
        position, chain = await self.world.ledger.head(self.world.ledger_id)
        return self.signer.sign(self.world.ledger_id, position, chain, NOW)

    async def tamper(self, statements: str) -> None:
        superuser = await asyncpg.connect(self.database.superuser_url)
        await superuser.execute(statements)
        await superuser.close()

    async def bad(self, *heads: SignedHead) -> tuple[int, str]:
        report = await self.report(*heads)
        assert not report.verified
        assert report.first_bad is not None
        return report.first_bad.position, report.first_bad.reason
