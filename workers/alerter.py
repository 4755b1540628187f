"""The alerter: rules that come about fire once an episode, and webhooks are told.

It reads every ledger by position with a cursor of its own. What a page leads to is decided by the page alone: a
firing's id follows from its rule and position, so that a page done again fires nothing twice; what is to be sent, what
is remembered and the cursor are written together. An event that cannot be read holds up its ledger: a dead letter.
"""

import contextlib
import logging
from collections.abc import Sequence
from typing import Final
from uuid import UUID

import asyncpg
import msgspec

from events.alerts import AlertFired, AlertRuleSet, EventHappens, MetricCondition, StatusBecomes, Watch, watch
from events.codec import METRICS, SYSTEM_METRICS, microseconds
from events.errors import CorruptHistory
from events.ids import derived
from events.ledger import Ledger, Recorded
from events.records import IMPORTER
from events.sql import load
from events.telemetry import MetricColumns
from events.transitions import TRANSITIONS
from projections import dead_letters, firings, runs, subscriptions
from projections.apply import WINDOW_POSITIONS, Connection
from projections.execute import Request, record
from projections.firings import Firing
from projections.subscriptions import Subscription
from workers.crashpoints import crash_point
from workers.deliveries import MAX_WAITING, Deliveries

log = logging.getLogger("tachograph.alerter")

READER: Final = "alerter"
ACTOR: Final = "system:alerter"
PAGE_EVENTS: Final = 200
UNASKED: Final = ("alert.fired", "run.deleted")
"""What is read of a ledger without rules and webhooks: alerts of other ledgers' rules, and what is to be forgotten."""

STATUS_OF: Final = {str(event.__struct_config__.tag): status for (_, event), status in TRANSITIONS.items()}
"""The status that an event brings, where it brings always the same."""


class Alerter:
    """The background role; see the module."""

    name = "alerter"
    pause_seconds = 0.5
    gather_seconds = 0.2

    def __init__(self, ledger: Ledger, *, allow_private: bool = False) -> None:
        self._ledger = ledger
        self._deliveries = Deliveries(ledger, allow_private=allow_private)
        self._workflows: dict[UUID, UUID | None] = {}
        self._organisations: dict[UUID, UUID] = {}
        self._held: dict[UUID, int] = {}

    async def start(self) -> None:
        """Remember what we stood in front of."""
        letters = await dead_letters.held(self._ledger.pool, READER)
        self._held = {letter.ledger_id: letter.position for letter in letters}

    async def step(self) -> int:
        """Take a page of each ledger that is behind, and begin the deliveries that are due; returns how much it was."""
        behind = await self._ledger.pool.fetch(load("events.sql", "behind"), READER)
        passed = sum([await self._take(row["ledger_id"], row["position"], row["head"]) for row in behind])
        return passed + await self._deliveries.step()

    async def delivered(self) -> int:
        """Wait until no delivery is under way; returns to how many webhooks some were."""
        return await self._deliveries.idle()

    async def stop(self) -> None:
        """Break off the deliveries that are under way."""
        await self._deliveries.stop()

    async def _take(self, ledger_id: UUID, after: int, head: int) -> int:
        """Take a page of a ledger that ended at `head` when it was looked at; returns how many positions were passed.

        Whatever stands up to there was recorded before the rules and webhooks in force are read.
        """
        pool = self._ledger.pool
        rules = await subscriptions.of_project(pool, ledger_id, "alert_rule")
        hooks = await subscriptions.hooks_in_force(pool, ledger_id)
        head = min(head, after + WINDOW_POSITIONS)
        types = None if rules or hooks else UNASKED
        page, reached = await self._page(ledger_id, after, head, payloads=bool(rules), types=types)
        if reached == after:
            return 0
        fresh: dict[tuple[UUID, UUID], Watch] = {}
        organisation = await self._organisation(ledger_id)
        fired = 0
        for recorded in page:
            for rule in rules if recorded.actor != IMPORTER else ():
                if rule.set_at <= recorded.recorded_at and await self._in_scope(rule.rule(), recorded):
                    for firing in await self._fires(rule, recorded, fresh):
                        await self._fire(organisation, firing)
                        fired += 1
        crash_point("alerter.after_fire")
        sent = await self._addressed(page, ledger_id, organisation, hooks)
        if self._held.get(ledger_id, reached + 1) <= reached:
            del self._held[ledger_id]
            await dead_letters.resolve(pool, READER, ledger_id, reached)
        deleted = [recorded.stream for recorded in page if recorded.type == "run.deleted"]
        if fired:
            await firings.trim(pool, ledger_id)
        if not (fresh or deleted or sent):
            await pool.execute(load("events.sql", "move_cursor"), READER, ledger_id, reached)
            return reached - after
        async with pool.acquire() as connection, connection.transaction():
            await self._remember(connection, fresh)
            for run_id in deleted:
                await _forget(connection, run_id)
            await self._enqueue(connection, ledger_id, sent)
            await connection.execute(load("events.sql", "move_cursor"), READER, ledger_id, reached)
        return reached - after

    async def _organisation(self, ledger_id: UUID) -> UUID:
        known = self._organisations.get(ledger_id)
        if known is None:
            known = self._organisations[ledger_id] = await self._ledger.pool.fetchval(
                "select organisation_id from ledger.ledger where ledger_id = $1", ledger_id
            )
        return known

    async def _page(
        self, ledger_id: UUID, after: int, head: int, *, payloads: bool, types: Sequence[str] | None
    ) -> tuple[list[Recorded], int]:
        """Return the next page, of some types perhaps, and how far it goes; before an unreadable event it ends."""
        ledger = self._ledger
        with contextlib.suppress(CorruptHistory):
            page = await ledger.read(
                ledger_id, after=after, up_to=head, limit=PAGE_EVENTS, types=types, payloads=payloads
            )
            return page, page[-1].position if page else head
        whole: list[Recorded] = []
        reached = after
        for bare in await ledger.read(ledger_id, after=after, up_to=head, limit=PAGE_EVENTS, payloads=False):
            position = bare.position
            try:
                whole += await ledger.read(ledger_id, after=position - 1, up_to=position)
            except CorruptHistory as error:
                if await dead_letters.hold(ledger, READER, ledger_id, position, error) != "discarded":
                    self._held[ledger_id] = position
                    return whole, reached
                whole.append(bare)
            reached = position
        return whole, reached

    async def _in_scope(self, rule: AlertRuleSet, recorded: Recorded) -> bool:
        if rule.run is not None and rule.run != recorded.stream:
            return False
        if rule.workflow is None:
            return True
        if not recorded.type.startswith("run."):
            return False
        if recorded.stream not in self._workflows:
            stored = await runs.get(self._ledger.pool, recorded.stream)
            if len(self._workflows) > 100_000:
                self._workflows.clear()
            reference = None if stored is None else stored.run.workflow
            self._workflows[recorded.stream] = None if reference is None else reference.id
        return self._workflows[recorded.stream] == rule.workflow

    async def _fires(
        self, rule: Subscription, recorded: Recorded, fresh: dict[tuple[UUID, UUID], Watch]
    ) -> Sequence[Firing]:
        """Return what a rule makes of an event; `fresh` takes what is remembered."""
        condition = rule.rule().condition
        happened = False
        match condition:
            case EventHappens():
                happened = recorded.type in condition.types
            case StatusBecomes():
                happened = STATUS_OF.get(recorded.type) in condition.statuses
            case _:
                return await self._watched(rule, condition, recorded, fresh)
        return [_firing(rule, recorded, 0)] if happened else []

    async def _watched(
        self,
        rule: Subscription,
        condition: MetricCondition,
        recorded: Recorded,
        fresh: dict[tuple[UUID, UUID], Watch],
    ) -> Sequence[Firing]:
        if recorded.type not in {METRICS, SYSTEM_METRICS}:
            return []
        rule_id = rule.subscription_id
        if recorded.payload is None:
            log.warning("position %d was archived or erased before rule %s saw it", recorded.position, rule_id)
            return []
        try:
            batch: MetricColumns = recorded.event()
        except CorruptHistory as error:
            log.error("rule %s cannot see position %d: %s", rule_id, recorded.position, error)
            return []
        if condition.metric not in batch.names:
            return []
        key = (rule_id, recorded.stream)
        known = fresh.get(key) or await self._remembered(*key)
        found = []
        at_us = microseconds(recorded.recorded_at)
        for index, (step, value) in enumerate(_points(batch, condition.metric)):
            known, fires = watch(condition, known, step, value, at_us)
            if fires:
                found.append(_firing(rule, recorded, index, metric=condition.metric, step=step, value=repr(value)))
        fresh[key] = known
        return found

    async def _remembered(self, rule_id: UUID, run_id: UUID) -> Watch:
        state = await self._ledger.pool.fetchval(
            "select state from operation.alert_state where rule_id = $1 and run_id = $2", rule_id, run_id
        )
        return Watch() if state is None else msgspec.msgpack.decode(state, type=Watch)

    async def _fire(self, organisation: UUID, firing: Firing) -> None:
        """Keep a firing, then record it: what is delivered of the event finds it there."""
        event_id = firing.alert_id
        await firings.keep(self._ledger.pool, firing)
        fired = AlertFired(
            rule=firing.rule_id,
            project=firing.project_id,
            run=firing.run_id,
            position=firing.position,
            name=firing.name,
            step=firing.step,
        )
        request = Request(
            actor=ACTOR,
            event_id=event_id,
            body=event_id.bytes,
            named=True,
            occurred_at=await self._ledger.pool.fetchval("select clock_timestamp()"),
        )
        appended = await record(
            self._ledger,
            ledger_id=organisation,
            stream=event_id,
            expected_version=0,
            events=[fired],
            inline={},
            request=request,
        )
        if not appended.repeated:
            log.info("rule %s fired at position %d of project %s", fired.rule, fired.position, fired.project)

    async def _addressed(
        self, page: Sequence[Recorded], ledger_id: UUID, organisation: UUID, hooks: Sequence[Subscription]
    ) -> Sequence[tuple[Subscription, Recorded]]:
        """Return the webhooks that want an event: `hooks` of its project, and for an alert those of the alert's."""
        pairs: list[tuple[Subscription, Recorded]] = []
        for recorded in page:
            if ledger_id == organisation:
                if recorded.type != "alert.fired":
                    continue
                position = recorded.position
                (whole,) = await self._ledger.read(ledger_id, after=position - 1, up_to=position)
                hooks = await subscriptions.hooks_in_force(self._ledger.pool, whole.event().project)
            pairs += [
                (hook, recorded)
                for hook in hooks
                if hook.set_at <= recorded.recorded_at and recorded.type in hook.webhook().types
            ]
        return pairs

    async def _remember(self, connection: Connection, fresh: dict[tuple[UUID, UUID], Watch]) -> None:
        await connection.executemany(
            "insert into operation.alert_state (rule_id, run_id, state) values ($1, $2, $3)"
            " on conflict (rule_id, run_id) do update set state = excluded.state",
            [(*key, msgspec.msgpack.encode(state)) for key, state in fresh.items()],
        )

    async def _enqueue(
        self, connection: Connection, ledger_id: UUID, sent: Sequence[tuple[Subscription, Recorded]]
    ) -> None:
        await connection.execute(
            load("projections.sql", "enqueue_deliveries"),
            [derived(hook.subscription_id, ledger_id, event.position) for hook, event in sent],
            [hook.subscription_id for hook, _ in sent],
            ledger_id,
            [event.position for _, event in sent],
            [event.stream if event.type.startswith("run.") else None for _, event in sent],
            [event.type for _, event in sent],
        )
        if sent:
            hooks = list({hook.subscription_id for hook, _ in sent})
            await connection.execute(load("projections.sql", "bound_deliveries"), hooks, MAX_WAITING)


def _firing(
    rule: Subscription,
    recorded: Recorded,
    index: int,
    *,
    metric: str | None = None,
    step: int | None = None,
    value: str | None = None,
) -> Firing:
    """Return what a rule fires for an event, or for the point at an index of it; always under the same id."""
    return Firing(
        alert_id=derived("alert.fired", rule.subscription_id, rule.project_id, recorded.position, index),
        rule_id=rule.subscription_id,
        project_id=rule.project_id,
        run_id=recorded.stream if recorded.type.startswith("run.") else None,
        position=recorded.position,
        at=recorded.recorded_at,
        name=rule.rule().name,
        metric=metric,
        step=step,
        value=value,
    )


def _points(batch: MetricColumns, metric: str) -> Sequence[tuple[int, float]]:
    """Return one metric's points of a batch."""
    start = 0
    found: list[tuple[int, float]] = []
    for name, count in zip(batch.names, batch.counts, strict=True):
        if name == metric:
            part = slice(start, start + count)
            found += zip(batch.steps()[part].tolist(), batch.values()[part].tolist(), strict=True)
        start += count
    return found


async def _forget(connection: Connection | asyncpg.Connection, run_id: UUID) -> None:
    """Forget a deleted run: what its rules remember and fired, and what was sent of it."""
    await connection.execute("delete from operation.alert_state where run_id = $1", run_id)
    await connection.execute("delete from operation.alert_firing where run_id = $1", run_id)
    await connection.execute("delete from operation.delivery where run_id = $1", run_id)
