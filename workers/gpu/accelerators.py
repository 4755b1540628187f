"""What this machine has: GPUs by NVML where there is a driver, CPU slots otherwise."""

import importlib
import logging
from collections.abc import Sequence
from types import ModuleType

import msgspec

from events.accelerators import ANY_GPU, CPU
from workers.gpu.slots import Slot

logger = logging.getLogger(__name__)

DEFAULT_CPU_SLOTS = 2


class Gpu(msgspec.Struct, frozen=True):
    """A GPU as the driver tells it; `uuid` is empty where the driver gives none."""

    index: int
    uuid: str
    name: str


def probe() -> tuple[Gpu, ...]:
    """Ask the driver for its GPUs; none without a driver or without its library."""
    try:
        pynvml = importlib.import_module("pynvml")
    except ImportError:
        logger.info("no NVML binding is installed: no GPUs")
        return ()
    try:
        pynvml.nvmlInit()
    except (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded):
        logger.info("no GPU driver: no GPUs")
        return ()
    except pynvml.NVMLError as error:
        logger.warning("the GPU driver does not answer, GPUs are not offered: %s", error)
        return ()
    try:
        return tuple(_describe(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount()))
    except pynvml.NVMLError as error:
        logger.warning("the GPUs cannot be listed and are not offered: %s", error)
        return ()
    finally:
        pynvml.nvmlShutdown()


def slots_of(gpus: Sequence[Gpu], visible: str | None, cpu_slots: int | None) -> tuple[Slot, ...]:
    """Return the slots to offer.

    `visible` is the worker's own `CUDA_VISIBLE_DEVICES`, which NVML ignores and we obey; `cpu_slots` None means
    two, besides whatever GPUs there are.
    """
    shown = [gpu for gpu in gpus if visible is None or _is_visible(gpu, visible)]
    if cpu_slots is None:
        cpu_slots = DEFAULT_CPU_SLOTS
    return (
        *(Slot(f"gpu:{gpu.uuid or gpu.index}", gpu.name or ANY_GPU, gpu.uuid or str(gpu.index)) for gpu in shown),
        *(Slot(f"cpu:{index}", CPU) for index in range(cpu_slots)),
    )


def _is_visible(gpu: Gpu, visible: str) -> bool:
    wanted = [entry.strip() for entry in visible.split(",") if entry.strip()]
    return any(entry == str(gpu.index) or (gpu.uuid and gpu.uuid.startswith(entry)) for entry in wanted)


def _describe(pynvml: ModuleType, index: int) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    uuid, name = pynvml.nvmlDeviceGetUUID(handle), pynvml.nvmlDeviceGetName(handle)
    return Gpu(index, _text(uuid), _text(name))


def _text(value: str | bytes) -> str:
    """Older drivers' bindings answer bytes."""
    return value.decode() if isinstance(value, bytes) else value
