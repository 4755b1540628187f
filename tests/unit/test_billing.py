"""An organisation's account and the rate card, by the pure fold."""

import pytest

from events.billing import (
    MAX_TOTAL_MICRO,
    PRESETS,
    Account,
    BillingEvent,
    CreditsAdjusted,
    CreditsGranted,
    RateCardSet,
    evolve,
)
from events.errors import Rejected
from events.types import Rate, Resources, Status


def account(*events: BillingEvent) -> Account:
    state = Account()
    for event in events:
        state = evolve(state, event)
    return state


def test_nothing_limits_an_organisation_that_was_never_granted_anything() -> None:
    assert account().balance_micro(5_000_000) is None
    card = PRESETS["vessl"]
    assert account(RateCardSet(**card_fields(card), preset="vessl")).balance_micro(1) is None


def card_fields(card: object) -> dict[str, object]:
    return {name: getattr(card, name) for name in ("micro_credits_per_hour", "charged")}


def test_what_is_left_is_granted_and_adjusted_less_consumed() -> None:
    state = account(
        CreditsGranted(micro_credits=10_000_000),
        CreditsAdjusted(micro_credits=-500_000),
        CreditsGranted(micro_credits=1),
    )
    assert (state.version, state.granted_micro, state.adjusted_micro) == (3, 10_000_001, -500_000)
    assert state.balance_micro(2_500_000) == 7_000_001
    assert state.balance_micro(10_000_000) == -499_999


def test_an_account_that_would_leave_its_bounds_is_refused() -> None:
    full = account(CreditsGranted(micro_credits=MAX_TOTAL_MICRO))
    with pytest.raises(Rejected, match="at most"):
        evolve(full, CreditsGranted(micro_credits=1))
    with pytest.raises(Rejected, match="at most"):
        evolve(full, CreditsAdjusted(micro_credits=-MAX_TOTAL_MICRO - 1))


def test_an_accelerator_hour_costs_ten_credits_and_a_cpu_slot_hour_one() -> None:
    assert account().rate(Resources(accelerator="a100", count=2)) == Rate(micro_credits_per_hour=10_000_000, count=2)
    assert account().rate(Resources()) == Rate(micro_credits_per_hour=1_000_000, count=1)


def test_a_new_card_has_another_version_and_its_own_prices_and_states() -> None:
    prices = {"cpu": 7, "h100": 30, "*": 20}
    state = account(RateCardSet(micro_credits_per_hour=prices, charged=(Status.STARTING, Status.RUNNING)))
    assert [state.rate(Resources(accelerator=kind)).micro_credits_per_hour for kind in ("cpu", "h100", "a100")] == [
        7,
        30,
        20,
    ]
    assert state.rate(Resources()).charged == (Status.STARTING, Status.RUNNING)
    assert state.rate(Resources()).card_version == 2
    assert account(RateCardSet(**card_fields(PRESETS["vessl"]), preset="vessl")).card.charged == (
        Status.STARTING,
        Status.RUNNING,
        Status.IDLE,
    )
