"""Which queued run goes to which worker, and why the others wait. Pure.

Runs are looked at in the order of the queue. A run that must wait for slots or for a quota reserves them: later runs
that would take them wait behind it, so that small runs never starve a large one. A run that nothing could ever serve as
things are (no worker has such accelerators, a limit is below what it takes) reserves nothing.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Final
from uuid import UUID

import msgspec

from events.accelerators import serves
from events.types import Limits, Resources


class Reason(StrEnum):
    """Why a run waits."""

    NO_WORKER = "no_worker"
    WORKERS_AWAY = "workers_away"
    NO_FREE_SLOTS = "no_free_slots"
    ACTIVE_RUNS_LIMIT = "active_runs_limit"
    ACCELERATOR_LIMIT = "accelerator_limit"
    CREDITS_EXHAUSTED = "credits_exhausted"
    ORDERED = "ordered"


class Wait(msgspec.Struct, frozen=True):
    """Why a run waits; of a limit, whose it is, how much it allows and how much is in use."""

    reason: Reason
    scope: str | None = None
    bound: int | None = None
    in_use: int | None = None


class Queued(msgspec.Struct, frozen=True):
    """A run that waits for a worker."""

    run_id: UUID
    ledger_id: UUID
    organisation_id: UUID
    needed: Resources


class Host(msgspec.Struct, frozen=True):
    """A worker; `takes` new runs where it is alive and not draining."""

    worker_id: UUID
    organisation_id: UUID
    slots: Counter[str]
    takes: bool


class Bound(msgspec.Struct, frozen=True):
    """One limit: of whom, what it counts (an organisation's runs or a project's), and of which kind (None: runs)."""

    scope: str
    counts: UUID
    kind: str | None
    bound: int


UNUSABLE: Final = Wait(Reason.NO_WORKER)


def bounds_of(scope: str, counts: UUID, limits: Limits) -> list[Bound]:
    """Return limits one by one."""
    runs = [] if limits.max_active_runs is None else [Bound(scope, counts, None, limits.max_active_runs)]
    return runs + [Bound(scope, counts, kind, bound) for kind, bound in limits.accelerators.items()]


class Placement:
    """What is in use, and what the runs looked at so far have taken or keep for themselves."""

    def __init__(
        self, hosts: Iterable[Host], bounds: Mapping[UUID, Sequence[Bound]], exhausted: Collection[UUID] = ()
    ) -> None:
        """`bounds` are those of an organisation's runs, and those of a project's; `exhausted` have no credits left."""
        self._hosts: dict[UUID, list[Host]] = {}
        for host in hosts:
            self._hosts.setdefault(host.organisation_id, []).append(host)
        self._bounds = bounds
        self._exhausted = exhausted
        self._busy: dict[UUID, Counter[str]] = {}
        self._used: dict[UUID, Counter[str]] = {}
        self._runs: Counter[UUID] = Counter()
        self._kept: set[Bound] = set()

    def takes_up(self, organisation_id: UUID, ledger_id: UUID, kinds: Iterable[str], worker_id: UUID | None) -> None:
        """Count a run that holds slots of these kinds, of this worker."""
        kinds = tuple(kinds)
        for counts in (organisation_id, ledger_id):
            self._runs[counts] += 1
            self._used.setdefault(counts, Counter()).update(kinds)
        if worker_id is not None:
            self._busy.setdefault(worker_id, Counter()).update(kinds)

    def place(self, run: Queued) -> tuple[UUID, tuple[str, ...]] | Wait:
        """Return the worker for a run and the kinds that it will take there, or why the run waits."""
        if run.organisation_id in self._exhausted:
            return Wait(Reason.CREDITS_EXHAUSTED)
        needed = run.needed
        hosts = [h for h in self._hosts.get(run.organisation_id, ()) if _most(h.slots, needed) >= needed.count]
        if not hosts:
            return UNUSABLE
        passed = self._passed(run, (needed.accelerator,) * needed.count)
        if passed is not None:
            return passed
        taking = [host for host in hosts if host.takes]
        if not taking:
            return Wait(Reason.WORKERS_AWAY)
        roomy = sorted(taking, key=self._free(needed), reverse=True)
        for host in roomy:
            if self._free(needed)(host) < needed.count:
                break
            kinds = self._choose(host, needed)
            passed = self._passed(run, kinds)
            if passed is None:
                self.takes_up(run.organisation_id, run.ledger_id, kinds, host.worker_id)
                return host.worker_id, kinds
        if passed is not None:
            return passed
        self._busy.setdefault(roomy[0].worker_id, Counter()).update(self._choose(roomy[0], needed))
        return Wait(Reason.NO_FREE_SLOTS)

    def guess(self, worker_id: UUID, organisation_id: UUID, needed: Resources) -> tuple[str, ...]:
        """Return the kinds that a worker that was ordered to start a run will probably take."""
        host = next((h for h in self._hosts.get(organisation_id, ()) if h.worker_id == worker_id), None)
        return () if host is None else self._choose(host, needed)

    def _free(self, needed: Resources) -> Callable[[Host], int]:
        def free(host: Host) -> int:
            busy = self._busy.get(host.worker_id, Counter())
            return sum(
                max(0, count - busy[kind]) for kind, count in host.slots.items() if serves(kind, needed.accelerator)
            )

        return free

    def _choose(self, host: Host, needed: Resources) -> tuple[str, ...]:
        busy = self._busy.get(host.worker_id, Counter())
        free = [
            kind
            for kind, count in host.slots.items()
            if serves(kind, needed.accelerator)
            for _ in range(max(0, count - busy[kind]))
        ]
        return tuple(free[: needed.count])

    def _passed(self, run: Queued, kinds: Sequence[str]) -> Wait | None:
        """Return the first limit that the run would pass; it keeps what it could have within that limit."""
        for counts in (run.organisation_id, run.ledger_id):
            for bound in self._bounds.get(counts, ()):
                if bound.kind is None:
                    in_use, more, reason = self._runs[counts], 1, Reason.ACTIVE_RUNS_LIMIT
                else:
                    used = self._used.get(counts, Counter())
                    in_use = sum(count for kind, count in used.items() if serves(kind, bound.kind))
                    more = sum(serves(kind, bound.kind) for kind in kinds)
                    reason = Reason.ACCELERATOR_LIMIT
                if more and (in_use + more > bound.bound or bound in self._kept):
                    if more <= bound.bound:
                        self._kept.add(bound)
                    return Wait(reason, bound.scope, bound.bound, in_use)
        return None


def _most(slots: Counter[str], needed: Resources) -> int:
    return sum(count for kind, count in slots.items() if serves(kind, needed.accelerator))
