"""An organisation's account: what it was granted, and the rate card in force. Pure.

Everything is integer micro-credits. An organisation that was never granted anything is not metered: its runs cost, and
nothing stops them. From its first grant on, what it may still consume is granted + adjusted - consumed.
"""

from collections.abc import Mapping
from typing import Any, Final, assert_never
from uuid import UUID

import msgspec
from msgspec.structs import replace

from events.errors import Rejected
from events.ids import derived
from events.types import Event, Rate, Resources, Status, Value

MICRO: Final = 1_000_000
MAX_TOTAL_MICRO: Final = 10**18
"""What an account adds up to at most, so that every sum of it fits into 64 bits."""

OTHERWISE: Final = "*"
"""Stands in a rate card for every accelerator kind that it does not name."""

CHARGEABLE: Final = (Status.STARTING, Status.RUNNING, Status.STOPPING, Status.IDLE)


class RateCard(Value, frozen=True):
    """What an hour of one accelerator of a kind costs, and in which states of its run. `cpu` is a CPU slot."""

    micro_credits_per_hour: dict[str, int] = msgspec.field(
        default_factory=lambda: {"cpu": MICRO, OTHERWISE: 10 * MICRO}
    )
    charged: tuple[Status, ...] = (Status.RUNNING,)


PRESETS: Final[Mapping[str, RateCard]] = {
    "datature": RateCard(),
    "vessl": RateCard(charged=(Status.STARTING, Status.RUNNING, Status.IDLE)),
}
"""Cards by name: charged from the run's start, or for everything that holds the accelerator."""


class RateCardSet(Event, frozen=True, tag="rate_card.set"):
    """Another rate card for runs that start from now on; `preset` is the name it was chosen by."""

    micro_credits_per_hour: dict[str, int]
    charged: tuple[Status, ...]
    preset: str = ""


class CreditsGranted(Event, frozen=True, tag="credits.granted"):
    """Credits were added to what the organisation may consume."""

    micro_credits: int
    reason: str = ""


class CreditsAdjusted(Event, frozen=True, tag="credits.adjusted"):
    """What the organisation may consume was corrected, either way."""

    micro_credits: int
    reason: str = ""


BillingEvent = RateCardSet | CreditsGranted | CreditsAdjusted


class Account(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an account's events add up to, at `version`."""

    version: int = 0
    granted_micro: int = 0
    adjusted_micro: int = 0
    metered: bool = False
    card: RateCard = RateCard()
    card_version: int = 1
    preset: str = "datature"

    def balance_micro(self, consumed_micro: int) -> int | None:
        """Return what may still be consumed; None where nothing limits it."""
        return self.granted_micro + self.adjusted_micro - consumed_micro if self.metered else None

    def rate(self, resources: Resources) -> Rate:
        """Return the price in force for what a run takes, to be pinned in its own event."""
        prices = self.card.micro_credits_per_hour
        hour = prices.get(resources.accelerator, prices.get(OTHERWISE, 0))
        return Rate(
            micro_credits_per_hour=hour,
            count=resources.count,
            charged=self.card.charged,
            card_version=self.card_version,
        )


def stream(organisation_id: UUID) -> UUID:
    """Return the stream of an organisation's account, in the organisation's own ledger."""
    return derived(organisation_id, "account")


def evolve(account: Account, event: BillingEvent) -> Account:
    """Fold one event into the state. Raises `Rejected` where the total would leave its bounds."""
    version = account.version + 1
    match event:
        case RateCardSet():
            card = RateCard(micro_credits_per_hour=event.micro_credits_per_hour, charged=event.charged)
            changes: dict[str, Any] = {
                "card": card,
                "card_version": account.card_version + 1,
                "preset": event.preset,
            }
        case CreditsGranted():
            changes = {"granted_micro": account.granted_micro + event.micro_credits, "metered": True}
        case CreditsAdjusted():
            changes = {"adjusted_micro": account.adjusted_micro + event.micro_credits, "metered": True}
        case _:
            assert_never(event)
    moved = replace(account, version=version, **changes)
    if max(abs(moved.granted_micro), abs(moved.adjusted_micro)) > MAX_TOTAL_MICRO:
        raise Rejected(f"an account holds at most {MAX_TOTAL_MICRO} micro-credits", state="full", asked="credits")
    return moved
