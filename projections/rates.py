"""The rate card: what an hour of an accelerator costs. It is pinned in a run's own event when the run starts."""

from typing import Final

from events.types import Rate, Resources

MICRO: Final = 1_000_000
ACCELERATOR_HOUR: Final = 10 * MICRO
CPU_SLOT_HOUR: Final = 1 * MICRO


def rate_for(resources: Resources) -> Rate:
    """Return the rate in force for what a run takes: 10 credits an accelerator-hour, 1 a CPU-slot-hour."""
    hour = CPU_SLOT_HOUR if resources.accelerator == "cpu" else ACCELERATOR_HOUR
    return Rate(micro_credits_per_hour=hour, count=resources.count)
