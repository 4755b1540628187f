"""Alert rules and webhooks of projects: an inline projection, its queries, and what was sent."""

from datetime import datetime
from typing import Final, Literal, TypeVar
from uuid import UUID

import msgspec

from events.alerts import AlertRuleSet, WebhookSet
from events.commit import InlineRow
from events.database import as_struct
from projections.runs import Reader
from projections.tenancy import Rows

MAX_PER_PROJECT: Final = 100
MAX_DELIVERIES: Final = 1_000
"""How many ended deliveries of a webhook are kept."""

Kind = Literal["alert_rule", "webhook"]
T = TypeVar("T", AlertRuleSet, WebhookSet)


class Subscription(msgspec.Struct, frozen=True):
    """A rule or a webhook with its address; `removed_at` is None while it is in force."""

    subscription_id: UUID
    organisation_id: UUID
    project_id: UUID
    kind: Kind
    version: int
    state: bytes
    set_at: datetime
    removed_at: datetime | None

    def rule(self) -> AlertRuleSet:
        """Return the alert rule."""
        return msgspec.msgpack.decode(self.state, type=AlertRuleSet)

    def webhook(self) -> WebhookSet:
        """Return the webhook."""
        return msgspec.msgpack.decode(self.state, type=WebhookSet)


class Delivery(msgspec.Struct, frozen=True):
    """One event for one webhook: whether it arrived, and what was answered last."""

    delivery_id: UUID
    webhook_id: UUID
    ledger_id: UUID
    position: int
    run_id: UUID | None
    type: str
    state: str
    attempts: int
    next_at: datetime
    status: int | None
    error: str | None
    created_at: datetime
    ended_at: datetime | None


def row(
    subscription_id: UUID,
    event: AlertRuleSet | WebhookSet,
    *,
    version: int,
    set_at: str = "infinity",
    removed_at: str | None = None,
) -> Rows:
    """Return the row of a rule or webhook."""
    columns = {
        "subscription_id": subscription_id,
        "project_id": event.project,
        "kind": "alert_rule" if isinstance(event, AlertRuleSet) else "webhook",
        "version": version,
        "state": msgspec.msgpack.encode(event),
        "set_at": set_at,
        "removed_at": removed_at,
    }
    return {"projection.project_subscription": [InlineRow(0, msgspec.Raw(msgspec.json.encode(columns)))]}


async def of_project(reader: Reader, project_id: UUID, kind: Kind) -> list[Subscription]:
    """Return a project's rules or webhooks in force, oldest first."""
    rows = await reader.fetch(
        "select * from subscription where project_id = $1 and kind = $2 and removed_at is null"
        " order by set_at, subscription_id",
        project_id,
        kind,
    )
    return [as_struct(Subscription, found) for found in rows]


async def hooks_in_force(reader: Reader, project_id: UUID) -> list[Subscription]:
    """Return a project's webhooks that are sent what happens; an imported one waits for its address."""
    return [hook for hook in await of_project(reader, project_id, "webhook") if hook.webhook().in_force]


async def get(reader: Reader, subscription_id: UUID) -> Subscription | None:
    """Return a rule or webhook, in force or not."""
    found = await reader.fetchrow("select * from subscription where subscription_id = $1", subscription_id)
    return None if found is None else as_struct(Subscription, found)


async def deliveries(reader: Reader, webhook_id: UUID, limit: int) -> list[Delivery]:
    """Return the latest deliveries of a webhook."""
    rows = await reader.fetch(
        "select * from operation.delivery where webhook_id = $1 order by created_at desc, delivery_id limit $2",
        webhook_id,
        limit,
    )
    return [as_struct(Delivery, found) for found in rows]


async def deliver_test(reader: Reader, delivery_id: UUID, webhook_id: UUID, organisation_id: UUID) -> Delivery:
    """Have a test delivery made."""
    found = await reader.fetchrow(
        "insert into operation.delivery (delivery_id, webhook_id, ledger_id, position, type, state)"
        " values ($1, $2, $3, 0, 'webhook.test', 'pending') returning *",
        delivery_id,
        webhook_id,
        organisation_id,
    )
    return as_struct(Delivery, found)
