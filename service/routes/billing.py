"""What an organisation may consume, and at which prices: its account and its rate card."""

from datetime import UTC, datetime
from typing import Final, Literal

import msgspec
from litestar import Response, Router, get, post, put
from litestar.params import JSONBody

from events.billing import (
    CHARGEABLE,
    MAX_TOTAL_MICRO,
    OTHERWISE,
    PRESETS,
    Account,
    CreditsAdjusted,
    CreditsGranted,
    RateCardSet,
)
from events.types import Status
from projections import billing, usage
from projections.billing import Entry
from service.access import ADMINISTER, READ, READ_ALL
from service.context import Http, Service
from service.paging import Page, Size, numbered, page
from service.problems import Invalid

MAX_KINDS: Final = 100
MAX_NAME_CHARACTERS: Final = 100
MAX_REASON_CHARACTERS: Final = 1_000
MAX_PRICE_MICRO: Final = 10**12


class RateCardBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A preset's name, or the prices of an hour by accelerator kind (`*`: any other) and the charged states."""

    preset: str | None = None
    micro_credits_per_hour: dict[str, int] | None = None
    charged: tuple[Status, ...] | None = None


class RateCardResource(msgspec.Struct, frozen=True):
    """The card that runs which start now are charged by."""

    version: int
    preset: str
    micro_credits_per_hour: dict[str, int]
    charged: tuple[Status, ...]
    presets: tuple[str, ...] = tuple(PRESETS)


class EntryBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Micro-credits to grant, or to adjust by (either way), and why."""

    kind: Literal["grant", "adjustment"]
    micro_credits: int
    reason: str = ""


class AccountResource(msgspec.Struct, frozen=True):
    """What may still be consumed, in micro-credits; `balance_micro` is None while nothing was ever granted."""

    metered: bool
    granted_micro: int
    adjusted_micro: int
    consumed_micro: int
    balance_micro: int | None


@get("/organisation/rate-card", needs=READ)
async def get_rate_card(request: Http, service: Service) -> RateCardResource:
    """The rate card in force."""
    return _card(await billing.account(service.pool, request.user.organisation_id))


@put("/organisation/rate-card", needs=ADMINISTER)
async def set_rate_card(request: Http, data: JSONBody[RateCardBody], service: Service) -> Response[RateCardResource]:
    """Put another card in force, for runs that start from now on; running ones keep theirs."""
    event = _card_event(data)
    organisation_id = request.user.organisation_id
    asked = await service.asked(request, organisation_id)
    appended = await billing.enter(service.ledger, organisation_id, event, asked)
    known = await billing.as_of(service.ledger, organisation_id, appended.version)
    return Response(_card(known), headers={"Tachograph-Position": str(appended.position)})


@get("/organisation/credits", needs=READ_ALL)
async def get_account(request: Http, service: Service) -> AccountResource:
    """What was granted, what is consumed by now, and what is left."""
    organisation_id = request.user.organisation_id
    known = await billing.account(service.pool, organisation_id)
    rows = await usage.by_workflow(service.pool, organisation_id, datetime.now(UTC))
    consumed = sum(row.consumed_micro for row in rows)
    return AccountResource(
        known.metered, known.granted_micro, known.adjusted_micro, consumed, known.balance_micro(consumed)
    )


@post("/organisation/credits", needs=ADMINISTER, status_code=201)
async def enter_credits(request: Http, data: JSONBody[EntryBody], service: Service) -> Response[Entry]:
    """Grant credits, or adjust what was granted."""
    _check_entry(data)
    event_type = CreditsGranted if data.kind == "grant" else CreditsAdjusted
    event = event_type(micro_credits=data.micro_credits, reason=data.reason)
    organisation_id = request.user.organisation_id
    asked = await service.asked(request, organisation_id)
    appended = await billing.enter(service.ledger, organisation_id, event, asked)
    version = appended.version or 1
    (entry,) = await billing.entries(service.ledger, organisation_id, after=version - 1, limit=1)
    return Response(entry, status_code=201, headers={"Tachograph-Position": str(appended.position)})


@get("/organisation/credits/entries", needs=READ_ALL)
async def list_entries(request: Http, service: Service, limit: Size = 100, cursor: str = "") -> Response[Page[Entry]]:
    """Grants, adjustments and rate cards, in order."""
    after = numbered(cursor)
    found = await billing.entries(service.ledger, request.user.organisation_id, after=after, limit=limit + 1)
    return page(request, found, limit, lambda last: str(last.version))


def _card(account: Account) -> RateCardResource:
    return RateCardResource(
        account.card_version, account.preset, account.card.micro_credits_per_hour, account.card.charged
    )


def _card_event(data: RateCardBody) -> RateCardSet:
    if (data.preset is None) == (data.micro_credits_per_hour is None):
        raise Invalid("name a preset, or give micro_credits_per_hour", path="$")
    if data.preset is not None:
        if data.preset not in PRESETS:
            raise Invalid(f"there is no preset {data.preset!r}; there are {', '.join(PRESETS)}", path="$.preset")
        if data.charged is not None:
            raise Invalid("a preset says itself which states are charged", path="$.charged")
        card = PRESETS[data.preset]
        return RateCardSet(micro_credits_per_hour=card.micro_credits_per_hour, charged=card.charged, preset=data.preset)
    prices = data.micro_credits_per_hour or {}
    charged = (Status.RUNNING,) if data.charged is None else tuple(dict.fromkeys(data.charged))
    _check_prices(prices)
    for index, status in enumerate(charged):
        if status not in CHARGEABLE:
            raise Invalid(
                f"{status} is no state that holds an accelerator; there are {', '.join(CHARGEABLE)}",
                path=f"$.charged[{index}]",
            )
    return RateCardSet(micro_credits_per_hour=prices, charged=charged)


def _check_prices(prices: dict[str, int]) -> None:
    if not 0 < len(prices) <= MAX_KINDS:
        raise Invalid(f"a card names 1 to {MAX_KINDS} kinds", path="$.micro_credits_per_hour", limit=MAX_KINDS)
    if OTHERWISE not in prices:
        raise Invalid("a card says with `*` what any other kind costs", path="$.micro_credits_per_hour")
    for kind, price in prices.items():
        path = f"$.micro_credits_per_hour.{kind[:MAX_NAME_CHARACTERS]}"
        if not 0 < len(kind) <= MAX_NAME_CHARACTERS or not kind.isprintable():
            raise Invalid(
                f"a kind's name is 1 to {MAX_NAME_CHARACTERS} printable characters",
                path=path,
                limit=MAX_NAME_CHARACTERS,
            )
        if not 0 <= price <= MAX_PRICE_MICRO:
            raise Invalid(f"an hour costs 0 to {MAX_PRICE_MICRO} micro-credits", path=path, limit=MAX_PRICE_MICRO)


def _check_entry(data: EntryBody) -> None:
    if data.kind == "grant" and not 0 < data.micro_credits <= MAX_TOTAL_MICRO:
        raise Invalid(f"a grant is 1 to {MAX_TOTAL_MICRO} micro-credits", path="$.micro_credits", limit=MAX_TOTAL_MICRO)
    if data.kind == "adjustment" and not 0 < abs(data.micro_credits) <= MAX_TOTAL_MICRO:
        raise Invalid(
            f"an adjustment is up to {MAX_TOTAL_MICRO} micro-credits either way, and not 0",
            path="$.micro_credits",
            limit=MAX_TOTAL_MICRO,
        )
    if len(data.reason) > MAX_REASON_CHARACTERS:
        raise Invalid(
            f"a reason has at most {MAX_REASON_CHARACTERS} characters", path="$.reason", limit=MAX_REASON_CHARACTERS
        )


ROUTES = Router(
    path="",
    route_handlers=[get_rate_card, set_rate_card, get_account, enter_credits, list_entries],
    tags=["credits"],
)
