"""Which queued run goes where, and why the others wait."""

from collections import Counter
from uuid import UUID

import pytest

from events.types import Limits, Resources
from workers.placement import Host, Placement, Queued, Reason, Wait, bounds_of

ORG, OTHER, P1, P2 = (UUID(int=n) for n in range(1, 5))


def run(number: int, accelerator: str = "gpu", count: int = 1, *, project: UUID = P1, org: UUID = ORG) -> Queued:
    return Queued(UUID(int=100 + number), project, org, Resources(accelerator=accelerator, count=count))


def host(number: int, *, takes: bool = True, org: UUID = ORG, **slots: int) -> Host:
    return Host(UUID(int=10 + number), org, Counter({k.replace("_", ":"): n for k, n in slots.items()}), takes)


def reasons(placement: Placement, *queue: Queued) -> list[Reason | int]:
    placed = [placement.place(one) for one in queue]
    return [one.reason if isinstance(one, Wait) else one[0].int - 10 for one in placed]


def test_a_large_run_is_not_starved_by_the_small_ones_behind_it() -> None:
    placement = Placement([host(1, cuda=4)], {})
    placement.takes_up(ORG, P1, ["cuda"] * 2, UUID(int=11))
    assert reasons(placement, run(1, count=4), run(2), run(3)) == [Reason.NO_FREE_SLOTS] * 3


def test_what_a_waiting_run_cannot_use_goes_to_those_behind_it() -> None:
    placement = Placement([host(1, cuda=2, cpu=1), host(2, cuda=1)], {})
    placement.takes_up(ORG, P1, ["cuda"], UUID(int=11))
    assert reasons(placement, run(1, count=2), run(2), run(3, "cpu")) == [Reason.NO_FREE_SLOTS, 2, 1]


@pytest.mark.parametrize(
    ("needed", "why"),
    [
        (("rocm", 1), Reason.NO_WORKER),
        (("cuda", 3), Reason.NO_WORKER),
        (("cuda:h200", 1), Reason.WORKERS_AWAY),
    ],
)
def test_a_run_that_nobody_can_serve_says_so_and_keeps_nothing(needed: tuple[str, int], why: Reason) -> None:
    placement = Placement([host(1, cuda_a100=2), host(2, takes=False, cuda_h200=1), host(3, org=OTHER, rocm=9)], {})
    assert reasons(placement, run(1, *needed), run(2)) == [why, 1]


def test_limits_of_each_scope_hold_and_say_whose_they_are() -> None:
    bounds = {
        ORG: [*bounds_of("plan", ORG, Limits(max_active_runs=3)), *bounds_of("organisation", ORG, Limits())],
        P1: bounds_of("project", P1, Limits(accelerators={"cuda": 1})),
    }
    placement = Placement([host(1, cuda_h200=8, cpu=8)], bounds)
    placement.takes_up(ORG, P1, ["cuda:h200"], UUID(int=11))
    assert placement.place(run(1)) == Wait(Reason.ACCELERATOR_LIMIT, "project", 1, 1)
    assert reasons(placement, run(2, "cpu"), run(3, project=P2)) == [1, 1]
    assert placement.place(run(4, "cpu")) == Wait(Reason.ACTIVE_RUNS_LIMIT, "plan", 3, 3)


def test_a_run_above_its_limit_for_ever_does_not_hold_up_the_others() -> None:
    placement = Placement([host(1, cuda=8)], {ORG: bounds_of("plan", ORG, Limits(accelerators={"gpu": 2}))})
    assert reasons(placement, run(1, count=3), run(2)) == [Reason.ACCELERATOR_LIMIT, 1]


def test_a_run_that_waits_for_a_limit_is_not_overtaken_under_that_limit() -> None:
    placement = Placement([host(1, cuda=8)], {ORG: bounds_of("plan", ORG, Limits(accelerators={"gpu": 2}))})
    placement.takes_up(ORG, P1, ["cuda"], UUID(int=11))
    assert reasons(placement, run(1, count=2), run(2)) == [Reason.ACCELERATOR_LIMIT] * 2


def test_where_one_kind_has_reached_its_limit_another_that_serves_is_taken() -> None:
    bounds = {ORG: bounds_of("plan", ORG, Limits(accelerators={"cuda:h200": 0}))}
    placement = Placement([host(1, cuda_h200=8), host(2, cuda_a100=1)], bounds)
    assert reasons(placement, run(1, "cuda"), run(2, "cuda")) == [2, Reason.ACCELERATOR_LIMIT]
