"""What a run's processes and devices use of the machine, every few seconds, as points in the namespace `system/`.

CPU, memory and disk are those of the run's whole process tree (its shim and all below it); network is the machine's,
which counts it for nobody in particular; GPU figures are those of the devices that the run was allotted.
"""

import asyncio
import importlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import psutil

from workers.gpu.records import RunDirectory, now_us, read, write_atomically

logger = logging.getLogger(__name__)

FIRST_SECONDS: Final = 1.0
"""When the first sample is taken, so that a short run has one too."""
KEPT_SAMPLES: Final = 360
"""How many samples wait for a server that is away; then the oldest go, and that is said."""
SOURCE: Final = "worker-system"
STATE: Final = "system.json"

Series = dict[str, dict[str, list[Any]]]


class Sent(msgspec.Struct, frozen=True):
    """`system.json`: the last batch that was or may have been sent, and the step that the next sample has."""

    seq: int
    next_step: int
    series: Series | None = None


class Meter:
    """Reads the figures of one run. The first reading has no rates: they are between two readings."""

    def __init__(self, root_pid: int, devices: Iterable[str], work: Path) -> None:
        self._root_pid = root_pid
        self._devices = tuple(devices)
        self._work = work
        self._before: tuple[float, Mapping[str, float]] | None = None
        self._ended_cpu_seconds = 0.0
        self._cpu: dict[int, float] = {}

    def read(self) -> dict[str, float]:
        """Return the figures now; what cannot be read is missing."""
        now = time.monotonic()
        figures, counters = self._tree()
        network = psutil.net_io_counters()
        if network is not None:
            counters |= {
                "system/network_received_bytes_per_second": float(network.bytes_recv),
                "system/network_sent_bytes_per_second": float(network.bytes_sent),
            }
        if self._before is not None:
            then, earlier = self._before
            seconds = max(now - then, 1e-6)
            for name, value in counters.items():
                if name in earlier:
                    figures[name] = max(0.0, value - earlier[name]) / seconds
            if (cores := figures.pop("system/cpu_cores", None)) is not None:
                figures["system/cpu_percent"] = 100.0 * cores
        self._before = (now, counters)
        figures["system/disk_free_bytes"] = float(psutil.disk_usage(str(self._work)).free)
        figures |= gpu_figures(self._devices)
        return figures

    def _tree(self) -> tuple[dict[str, float], dict[str, float]]:
        """Return the tree's levels, and its counters: CPU-seconds (of the dead too, as far as seen) and bytes."""
        memory = written = fetched = 0.0
        processes = 0
        cpu: dict[int, float] = {}
        for process in _tree_of(self._root_pid):
            try:
                with process.oneshot():
                    times = process.cpu_times()
                    cpu[process.pid] = times.user + times.system
                    memory += process.memory_info().rss
                    processes += 1
                    counters = process.io_counters()
                    fetched += counters.read_bytes
                    written += counters.write_bytes
            except (psutil.NoSuchProcess, psutil.AccessDenied, NotImplementedError):
                continue
        self._ended_cpu_seconds += sum(seconds for pid, seconds in self._cpu.items() if pid not in cpu)
        self._cpu = cpu
        figures = {"system/memory_bytes": memory, "system/processes": float(processes)}
        counters_ = {
            "system/cpu_cores": sum(cpu.values()) + self._ended_cpu_seconds,
            "system/disk_read_bytes_per_second": fetched,
            "system/disk_written_bytes_per_second": written,
        }
        return figures, counters_


def _tree_of(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def gpu_figures(devices: Iterable[str]) -> dict[str, float]:
    """Return what the driver says of these devices (UUIDs or indexes), in their order; nothing without a driver."""
    chosen = tuple(devices)
    if not chosen:
        return {}
    try:
        pynvml = importlib.import_module("pynvml")
        pynvml.nvmlInit()
    except ImportError:
        return {}
    except Exception as error:  # noqa: BLE001 (the binding's errors are its own; figures are not worth a failure)
        logger.debug("no figures of GPUs: %s", error)
        return {}
    figures: dict[str, float] = {}
    try:
        for number, device in enumerate(chosen):
            figures |= _of_device(pynvml, number, device)
    finally:
        pynvml.nvmlShutdown()
    return figures


def _of_device(pynvml: Any, number: int, device: str) -> dict[str, float]:
    prefix = f"system/gpu_{number}"
    find = pynvml.nvmlDeviceGetHandleByIndex if device.isdecimal() else pynvml.nvmlDeviceGetHandleByUUID
    try:
        handle = find(int(device) if device.isdecimal() else device)
    except pynvml.NVMLError as error:
        logger.debug("no figures of GPU %s: %s", device, error)
        return {}
    readings: Mapping[str, Callable[[], float]] = {
        "utilisation_percent": lambda: pynvml.nvmlDeviceGetUtilizationRates(handle).gpu,
        "memory_bytes": lambda: pynvml.nvmlDeviceGetMemoryInfo(handle).used,
        "memory_total_bytes": lambda: pynvml.nvmlDeviceGetMemoryInfo(handle).total,
        "temperature_celsius": lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU),
        "power_watts": lambda: pynvml.nvmlDeviceGetPowerUsage(handle) / 1000,
    }
    figures = {}
    for name, reading in readings.items():
        try:
            figures[f"{prefix}/{name}"] = float(reading())
        except pynvml.NVMLError:
            continue  # not every device knows everything
    return figures


class SystemMetrics:
    """Samples a run's figures and sends them. `send(seq, series)` returns once a batch is stored, or raises."""

    def __init__(
        self,
        directory: RunDirectory,
        meter: Meter,
        send: Callable[[int, Series], Awaitable[None]],
        period_seconds: float,
    ) -> None:
        self._state = directory.path / STATE
        self._meter = meter
        self._send = send
        self._period_seconds = period_seconds
        self._waiting: list[tuple[int, dict[str, float]]] = []
        self._woken = asyncio.Event()

    async def run(self, gone: asyncio.Event) -> None:
        """Sample until the program is gone, then send what is left; raises a group of what `send` raises."""
        async with asyncio.TaskGroup() as tasks:
            sampling = tasks.create_task(self._sample(gone))
            sampling.add_done_callback(lambda _: self._woken.set())
            while not (sampling.done() and not self._waiting):
                await self._woken.wait()
                self._woken.clear()
                await self._flush()

    async def _sample(self, gone: asyncio.Event) -> None:
        await asyncio.to_thread(self._meter.read)
        pause = min(FIRST_SECONDS, self._period_seconds)
        while not gone.is_set():
            try:
                async with asyncio.timeout(pause):
                    await gone.wait()
            except TimeoutError:
                pause = self._period_seconds
                self._keep(await asyncio.to_thread(self._meter.read))
            self._woken.set()

    def _keep(self, figures: dict[str, float]) -> None:
        self._waiting.append((now_us(), figures))
        if len(self._waiting) > KEPT_SAMPLES:
            logger.warning("the server is away for long: a sample of system metrics is dropped")
            del self._waiting[0]

    async def _flush(self) -> None:
        sent = await asyncio.to_thread(read, self._state, Sent) or Sent(0, 0)
        if sent.series is not None:  # whether it was stored is not known
            await self._send(sent.seq, sent.series)
        while self._waiting:
            samples, self._waiting = self._waiting, []
            series = columns(samples, sent.next_step)
            sent = Sent(sent.seq + 1, sent.next_step + len(samples), series)
            await self._note(sent)
            await self._send(sent.seq, series)
        if sent.series is not None:
            await self._note(Sent(sent.seq, sent.next_step))

    async def _note(self, sent: Sent) -> None:
        try:
            await asyncio.to_thread(write_atomically, self._state, msgspec.json.encode(sent))
        except OSError:
            logger.exception("%s cannot be written, figures are sent all the same", self._state)


def columns(samples: Iterable[tuple[int, Mapping[str, float]]], first_step: int) -> Series:
    """Return samples (`time_us`, figures) as series; their steps count on from `first_step`."""
    series: Series = {}
    for step, (time_us, figures) in enumerate(samples, first_step):
        for name, value in figures.items():
            column = series.setdefault(name, {"step": [], "value": [], "time_us": []})
            column["step"].append(step)
            column["value"].append(value)
            column["time_us"].append(time_us)
    return series


def last_seq(directory: RunDirectory) -> int:
    """Return the seq of the run's last batch of figures, 0 if there was none."""
    sent = read(directory.path / STATE, Sent)
    return 0 if sent is None else sent.seq
