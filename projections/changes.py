"""Commands on streams that are no runs: read the state, decide, append; again if another process was faster."""

from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeVar
from uuid import UUID

from events.errors import NotFound, VersionConflict
from events.ledger import Appended, Ledger
from events.organisation import OrganisationChanged, PlanChanged
from projections import tenancy
from projections.execute import Request, record
from projections.runs import Reader
from projections.tenancy import Organisation

ATTEMPTS: Final = 20


class Stored(Protocol):
    """What a projection keeps of one stream."""

    @property
    def ledger_id(self) -> UUID:
        """The ledger that the stream is in."""


S = TypeVar("S", bound=Stored)
T = TypeVar("T")


async def in_turn(ledger: Ledger, stream: UUID, attempt: Callable[[], Awaitable[T]]) -> T:
    """Return what `attempt` comes to in its turn at a stream; it is made anew when another process was faster.

    Raises what `attempt` raises, `VersionConflict` only after `ATTEMPTS` rounds, `Busy` when the turn does not come.
    """
    async with ledger.turns.of(stream):
        for _ in range(ATTEMPTS):
            try:
                return await attempt()
            except VersionConflict:
                continue
        raise VersionConflict(f"others changed {stream} {ATTEMPTS} times meanwhile")


async def carry_out(
    ledger: Ledger,
    stream: UUID,
    request: Request,
    *,
    get: Callable[[Reader, UUID], Awaitable[S | None]],
    append: Callable[[S], Awaitable[Appended | None]],
    at_version: Callable[[Ledger, UUID, UUID, int | None], Awaitable[S]],
) -> tuple[S, int]:
    """Change a stream by what `append` decides on its state, and return the state after it with its ledger position.

    `append` returns None where nothing has to change. A named request that was recorded before gives the first answer
    again. Raises `NotFound`, and what `append` and `in_turn` raise.
    """

    async def attempt() -> tuple[S, int]:
        known = await get(ledger.pool, stream)
        if known is None:
            raise NotFound(f"there is no {stream}")
        recorded = await ledger.stored(known.ledger_id, request.event_id, request.body) if request.named else None
        recorded = recorded or await append(known)
        if recorded is None:
            return known, (await ledger.head(known.ledger_id))[0]
        return await at_version(ledger, known.ledger_id, stream, recorded.version), recorded.last

    return await in_turn(ledger, stream, attempt)


async def change_organisation(
    ledger: Ledger, organisation_id: UUID, event: OrganisationChanged | PlanChanged, request: Request
) -> tuple[Organisation, int]:
    """Append a change of the organisation, and return it as it is then, with the ledger position of the change.

    Raises `VersionConflict` where another change came first, and what `record` raises.
    """
    known = await tenancy.organisation(ledger.pool, organisation_id)
    appended = await record(
        ledger,
        ledger_id=organisation_id,
        stream=organisation_id,
        expected_version=known.version,
        events=[event],
        inline=tenancy.changed_organisation(known, event, known.version + 1),
        request=request,
    )
    return await tenancy.organisation(ledger.pool, organisation_id), appended.position
