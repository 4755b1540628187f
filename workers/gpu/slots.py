"""Who may use which accelerator of this machine: exclusive allotment, pure."""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from events.accelerators import ANY_GPU, serves


class Slot(msgspec.Struct, frozen=True):
    """One accelerator, or one place for a run without any.

    `id` is `gpu:<uuid or index>` or `cpu:<n>`, `kind` the model's name, `gpu` or `cpu`; `device` is what
    `CUDA_VISIBLE_DEVICES` takes, empty for a CPU slot.
    """

    id: str
    kind: str
    device: str = ""

    def serves(self, accelerator: str) -> bool:
        """Say whether a request for `accelerator` can be met here; `gpu` means any GPU."""
        return serves(self.kind, accelerator) or (accelerator == ANY_GPU and bool(self.device))


class SlotPool:
    """The machine's slots and their holders; a slot has one holder at most."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        self.slots = {slot.id: slot for slot in slots}
        self._holders: dict[str, str] = {}

    @property
    def free(self) -> int:
        """How many slots have no holder."""
        return len(self.slots) - sum(1 for slot in self._holders if slot in self.slots)

    def has(self, accelerator: str, count: int) -> bool:
        """Say whether the machine could ever serve the request."""
        return sum(1 for slot in self.slots.values() if slot.serves(accelerator)) >= count

    def allot(self, accelerator: str, count: int, holder: str) -> tuple[Slot, ...] | None:
        """Give `count` free slots to `holder`; None, and nothing is given, if there are not enough."""
        free = [s for s in self.slots.values() if s.id not in self._holders and s.serves(accelerator)]
        if count < 1 or len(free) < count:
            return None
        given = tuple(free[:count])
        self._holders.update({slot.id: holder for slot in given})
        return given

    def hold(self, ids: Iterable[str], holder: str) -> None:
        """Give these very slots to `holder`, who has them already: a run that is adopted after a restart."""
        self._holders.update(dict.fromkeys(ids, holder))

    def release(self, holder: str) -> None:
        """Take back all that `holder` has."""
        self._holders = {slot: by for slot, by in self._holders.items() if by != holder}


def visible_devices(slots: Iterable[Slot]) -> Mapping[str, str]:
    """Return the variables that show a program its own devices and no other."""
    return {"CUDA_VISIBLE_DEVICES": ",".join(slot.device for slot in slots if slot.device)}
