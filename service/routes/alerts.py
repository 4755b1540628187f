"""Alert rules and webhooks of a project."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

import msgspec
from litestar import Response, Router, delete, get, patch, post
from litestar.params import JSONBody
from msgspec import Meta

from events.alerts import (
    AlertRuleRemoved,
    AlertRuleSet,
    Condition,
    WebhookRemoved,
    WebhookSet,
)
from events.errors import NotFound, Rejected
from events.ids import derived, uuid7
from projections import firings, subscriptions
from projections.execute import record
from projections.firings import Firing
from projections.subscriptions import Delivery, Kind, Subscription
from projections.tenancy import Project
from service.access import READ, WRITE
from service.alert_conditions import check_address, check_condition, check_types
from service.bodies import Name
from service.context import Http, Service
from service.paging import Page, Size, opened, page, sealed
from service.problems import Invalid
from service.recipes import Body

Types = Annotated[tuple[str, ...], Meta(min_length=1, max_length=50)]


class NewAlert(Body, frozen=True):
    """A rule: when it fires, and for which runs of the project (all, a workflow's, or one)."""

    name: Name
    condition: Condition
    workflow: UUID | None = None
    run: UUID | None = None


class NewWebhook(Body, frozen=True):
    """An address, and the types of events that it is told; `alert.fired` for the project's alerts."""

    url: Annotated[str, Meta(max_length=2_000)]
    types: Types = ("alert.fired",)


class ChangedWebhook(Body, frozen=True):
    """Another address, or other types of events; what is left out stays."""

    url: Annotated[str, Meta(max_length=2_000)] | None = None
    types: Types | None = None


class AlertResource(msgspec.Struct, frozen=True):
    """A rule in force."""

    id: UUID
    name: str
    condition: Condition
    workflow: UUID | None
    run: UUID | None


class WebhookResource(msgspec.Struct, frozen=True):
    """A webhook; `secret` signs its deliveries and is shown when its address is set.

    One that an import brought is not `in_force`: of its address there is no more than the host until it is set.
    """

    id: UUID
    url: str
    types: tuple[str, ...]
    secret: str | None = None
    in_force: bool = True


class FiringResource(msgspec.Struct, frozen=True):
    """A rule that came about: for what, at which position of the project's ledger, and when that was recorded.

    A metric's value is a text, since it may be NaN.
    """

    id: UUID
    rule: UUID
    name: str
    run: UUID | None
    position: int
    at: datetime
    metric: str | None
    step: int | None
    value: str | None


class _Place(msgspec.Struct, frozen=True, array_like=True):
    at: datetime
    alert: UUID


class Listed(msgspec.Struct, frozen=True):
    """The latest deliveries, newest first."""

    items: list[Delivery]


async def _room(service: Service, project: Project, kind: Kind) -> None:
    if len(await subscriptions.of_project(service.pool, project.project_id, kind)) >= subscriptions.MAX_PER_PROJECT:
        raise Invalid(f"a project has at most {subscriptions.MAX_PER_PROJECT}", limit=subscriptions.MAX_PER_PROJECT)


async def _set(
    request: Http, service: Service, project: Project, kind: Kind, event: AlertRuleSet | WebhookSet
) -> tuple[UUID, int]:
    asked = await service.asked(request, project.project_id)
    if not asked.named:
        await _room(service, project, kind)
    identity = derived(asked.event_id, kind)
    appended = await record(
        service.ledger,
        ledger_id=project.organisation_id,
        stream=identity,
        expected_version=0,
        events=[event],
        inline=subscriptions.row(identity, event, version=1),
        request=asked,
    )
    return identity, appended.position


async def _known(
    request: Http, service: Service, project: str, identity: UUID, kind: Kind, *, removed: bool = False
) -> Subscription:
    known = await service.project(request, project)
    found = await subscriptions.get(service.pool, identity)
    if found is None or (found.project_id, found.kind) != (known.project_id, kind):
        raise _missing(kind, identity)
    if found.removed_at is not None and not removed:
        raise _missing(kind, identity)
    return found


def _missing(kind: Kind, identity: UUID) -> NotFound:
    return NotFound(f"this project has no {kind.replace('_', ' ')} {identity}")


def _secret(service: Service, webhook: UUID) -> str:
    return service.keyring.derive(f"webhook.{webhook}").hex()


async def _remove(request: Http, service: Service, found: Subscription) -> Response[None]:
    """Remove what is in force; the request that did so, named and sent again, is answered the same."""
    asked = await service.asked(request, found.subscription_id)
    if found.removed_at is not None:
        before = None
        if asked.named:
            before = await service.ledger.stored(found.organisation_id, asked.event_id, asked.body)
        if before is None:
            raise _missing(found.kind, found.subscription_id)
        return Response(None, status_code=204, headers={"Tachograph-Position": str(before.position)})
    event: AlertRuleRemoved | WebhookRemoved = WebhookRemoved(project=found.project_id)
    state: AlertRuleSet | WebhookSet
    if found.kind == "alert_rule":
        event, state = AlertRuleRemoved(project=found.project_id), found.rule()
    else:
        state = found.webhook()
    appended = await record(
        service.ledger,
        ledger_id=found.organisation_id,
        stream=found.subscription_id,
        expected_version=found.version,
        events=[event],
        inline=subscriptions.row(found.subscription_id, state, version=found.version + 1, removed_at="infinity"),
        request=asked,
    )
    return Response(None, status_code=204, headers={"Tachograph-Position": str(appended.position)})


def _alert(found: Subscription) -> AlertResource:
    rule = found.rule()
    return AlertResource(found.subscription_id, rule.name, rule.condition, rule.workflow, rule.run)


def _fired(kept: Firing) -> FiringResource:
    return FiringResource(
        id=kept.alert_id,
        rule=kept.rule_id,
        name=kept.name,
        run=kept.run_id,
        position=kept.position,
        at=kept.at,
        metric=kept.metric,
        step=kept.step,
        value=kept.value,
    )


@post("/projects/{project:str}/alerts", needs=WRITE, status_code=201)
async def create_alert(
    request: Http, data: JSONBody[NewAlert], service: Service, project: str
) -> Response[AlertResource]:
    """Set a rule; it sees what is recorded from now on, and fires once an episode."""
    known = await service.project(request, project)
    check_condition(data.condition)
    rule = AlertRuleSet(
        project=known.project_id, name=data.name, condition=data.condition, workflow=data.workflow, run=data.run
    )
    identity, position = await _set(request, service, known, "alert_rule", rule)
    resource = AlertResource(identity, data.name, data.condition, data.workflow, data.run)
    return Response(resource, status_code=201, headers={"Tachograph-Position": str(position)})


@get("/projects/{project:str}/alerts", needs=READ)
async def list_alerts(request: Http, service: Service, project: str) -> list[AlertResource]:
    """A project's rules, oldest first."""
    known = await service.project(request, project)
    return [_alert(one) for one in await subscriptions.of_project(service.pool, known.project_id, "alert_rule")]


@delete("/projects/{project:str}/alerts/{alert:uuid}", needs=WRITE, status_code=204)
async def remove_alert(request: Http, service: Service, project: str, alert: UUID) -> Response[None]:
    """Remove a rule."""
    return await _remove(request, service, await _known(request, service, project, alert, "alert_rule", removed=True))


@get("/projects/{project:str}/alerts/fired", needs=READ)
async def list_fired(
    request: Http,
    service: Service,
    project: str,
    rule: UUID | None = None,
    run: UUID | None = None,
    limit: Size = 100,
    cursor: str | None = None,
) -> Response[Page[FiringResource]]:
    """What rules fired, newest first; rules removed since are included, and runs deleted since are not."""
    known = await service.project(request, project)
    place = None if cursor is None else opened(cursor, _Place)
    found = await firings.of_project(
        service.pool,
        known.project_id,
        rule=rule,
        run=run,
        before=None if place is None else (place.at, place.alert),
        limit=limit + 1,
    )
    return page(request, [_fired(one) for one in found], limit, lambda last: sealed(_Place(last.at, last.id)))


@post("/projects/{project:str}/webhooks", needs=WRITE, status_code=201)
async def create_webhook(
    request: Http, data: JSONBody[NewWebhook], service: Service, project: str
) -> Response[WebhookResource]:
    """Have events sent to an address. The answer alone shows the secret that signs them."""
    known = await service.project(request, project)
    check_types(data.types, "$.types")
    check_address(data.url, "$.url")
    hook = WebhookSet(project=known.project_id, url=data.url, types=data.types)
    identity, position = await _set(request, service, known, "webhook", hook)
    resource = WebhookResource(identity, data.url, data.types, _secret(service, identity))
    return Response(resource, status_code=201, headers={"Tachograph-Position": str(position)})


@get("/projects/{project:str}/webhooks", needs=READ)
async def list_webhooks(request: Http, service: Service, project: str) -> list[WebhookResource]:
    """A project's webhooks, oldest first."""
    known = await service.project(request, project)
    found = await subscriptions.of_project(service.pool, known.project_id, "webhook")
    hooks = [(one.subscription_id, one.webhook()) for one in found]
    return [WebhookResource(identity, hook.url, hook.types, in_force=hook.in_force) for identity, hook in hooks]


@patch("/projects/{project:str}/webhooks/{webhook:uuid}", needs=WRITE)
async def change_webhook(
    request: Http, data: JSONBody[ChangedWebhook], service: Service, project: str, webhook: UUID
) -> Response[WebhookResource]:
    """Send elsewhere, or other events, from now on; this puts one that an import brought in force."""
    found = await _known(request, service, project, webhook, "webhook")
    before = found.webhook()
    if data.url is None and not before.in_force:
        raise Invalid("an import left all but the host of its address behind: give it", path="$.url")
    url, types = data.url or before.url, data.types or before.types
    check_address(url, "$.url")
    check_types(types, "$.types")
    hook = WebhookSet(project=found.project_id, url=url, types=types)
    asked = await service.asked(request, webhook)
    appended = await record(
        service.ledger,
        ledger_id=found.organisation_id,
        stream=webhook,
        expected_version=found.version,
        events=[hook],
        inline=subscriptions.row(webhook, hook, version=found.version + 1),
        request=asked,
    )
    resource = WebhookResource(webhook, url, types, _secret(service, webhook))
    return Response(resource, headers={"Tachograph-Position": str(appended.position)})


@delete("/projects/{project:str}/webhooks/{webhook:uuid}", needs=WRITE, status_code=204)
async def remove_webhook(request: Http, service: Service, project: str, webhook: UUID) -> Response[None]:
    """Send nothing more to an address."""
    return await _remove(request, service, await _known(request, service, project, webhook, "webhook", removed=True))


@post("/projects/{project:str}/webhooks/{webhook:uuid}/test", needs=WRITE, status_code=202)
async def test_webhook(request: Http, service: Service, project: str, webhook: UUID) -> Delivery:
    """Send a test event; the log of deliveries tells what came of it."""
    found = await _known(request, service, project, webhook, "webhook")
    if not found.webhook().in_force:
        raise Rejected("its address is still to be given", state="not in force", asked="test")
    waiting = await service.pool.fetchval(
        "select count(*) from operation.delivery where webhook_id = $1 and position = 0 and state = 'pending'", webhook
    )
    if waiting >= 10:
        raise Rejected("ten test deliveries wait already", state="waiting", asked="test")
    return await subscriptions.deliver_test(service.pool, uuid7(), found.subscription_id, found.organisation_id)


@get("/projects/{project:str}/webhooks/{webhook:uuid}/deliveries", needs=READ)
async def list_deliveries(request: Http, service: Service, project: str, webhook: UUID, limit: Size = 100) -> Listed:
    """What was sent, newest first: attempts, and what was answered last."""
    found = await _known(request, service, project, webhook, "webhook")
    return Listed(await subscriptions.deliveries(service.pool, found.subscription_id, limit))


ROUTES = Router(
    path="",
    route_handlers=[
        create_alert,
        list_alerts,
        remove_alert,
        list_fired,
        create_webhook,
        list_webhooks,
        change_webhook,
        remove_webhook,
        test_webhook,
        list_deliveries,
    ],
    request_max_body_size=64 << 10,
    tags=["alerts"],
)
