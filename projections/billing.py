"""An organisation's account: an inline projection of its own ledger, its entries, and its balance."""

from datetime import datetime
from uuid import UUID

import msgspec

from events import billing
from events.billing import Account, BillingEvent
from events.commit import InlineRow
from events.errors import CreditsExhausted
from events.ledger import Appended, Ledger
from projections import usage
from projections.changes import in_turn
from projections.execute import Request, record
from projections.runs import Reader
from projections.tenancy import Rows


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of an account, and the totals after it, in micro-credits; `kind` is the event's type."""

    version: int
    kind: str
    micro_credits: int
    reason: str
    preset: str
    actor: str
    recorded_at: datetime
    granted_micro: int
    adjusted_micro: int


def row(organisation_id: UUID, account: Account) -> Rows:
    """Return the row of an account."""
    columns = {
        "account_id": billing.stream(organisation_id),
        "version": account.version,
        "state": msgspec.msgpack.encode(account),
    }
    return {"projection.project_account": [InlineRow(0, msgspec.Raw(msgspec.json.encode(columns)))]}


async def account(reader: Reader, organisation_id: UUID) -> Account:
    """Return an organisation's account as it stands; one that nothing happened to is empty and not metered."""
    state = await reader.fetchval("select state from account where organisation_id = $1", organisation_id)
    return Account() if state is None else msgspec.msgpack.decode(state, type=Account)


async def balance_micro(reader: Reader, organisation_id: UUID, now: datetime) -> int | None:
    """Return what an organisation may still consume, live accrual taken off; None where nothing limits it."""
    known = await account(reader, organisation_id)
    if not known.metered:
        return None
    used = await usage.by_workflow(reader, organisation_id, now)
    return known.balance_micro(sum(one.consumed_micro for one in used))


async def check_balance(reader: Reader, organisation_id: UUID, now: datetime) -> None:
    """Refuse where nothing is left to consume. Raises `CreditsExhausted`."""
    balance = await balance_micro(reader, organisation_id, now)
    if balance is not None and balance <= 0:
        raise CreditsExhausted(balance)


async def exhausted(reader: Reader, now: datetime) -> set[UUID]:
    """Return the organisations that have consumed all that they were granted."""
    found = set()
    for row in await reader.fetch("select organisation_id, state from account"):
        known: Account = msgspec.msgpack.decode(row["state"], type=Account)
        if known.metered and (await balance_micro(reader, row["organisation_id"], now) or 0) <= 0:
            found.add(row["organisation_id"])
    return found


async def enter(ledger: Ledger, organisation_id: UUID, event: BillingEvent, request: Request) -> Appended:
    """Record an entry on the account as it stands; the same named request again is the same entry.

    Raises `Rejected` where the account would leave its bounds, and what `in_turn` raises.
    """
    stream = billing.stream(organisation_id)

    async def attempt() -> Appended:
        known = await account(ledger.pool, organisation_id)
        return await record(
            ledger,
            ledger_id=organisation_id,
            stream=stream,
            expected_version=known.version,
            events=[event],
            inline=row(organisation_id, billing.evolve(known, event)),
            request=request,
        )

    return await in_turn(ledger, stream, attempt)


async def as_of(ledger: Ledger, organisation_id: UUID, version: int | None) -> Account:
    """Return an account folded from the ledger up to a version."""
    state = Account()
    for recorded in await ledger.read_stream(organisation_id, billing.stream(organisation_id), up_to=version):
        state = billing.evolve(state, recorded.event())
    return state


async def entries(ledger: Ledger, organisation_id: UUID, *, after: int, limit: int) -> list[Entry]:
    """Return an account's entries in order, after a version."""
    state = Account()
    found = []
    stream = billing.stream(organisation_id)
    for recorded in await ledger.read_stream(organisation_id, stream, up_to=after + limit):
        event: BillingEvent = recorded.event()
        state = billing.evolve(state, event)
        if state.version > after:
            entry = Entry(
                version=state.version,
                kind=recorded.type,
                micro_credits=getattr(event, "micro_credits", 0),
                reason=getattr(event, "reason", ""),
                preset=getattr(event, "preset", ""),
                actor=recorded.actor,
                recorded_at=recorded.recorded_at,
                granted_micro=state.granted_micro,
                adjusted_micro=state.adjusted_micro,
            )
            found.append(entry)
    return found
