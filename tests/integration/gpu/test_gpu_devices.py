"""Accelerators: each is one run's alone, and another's once that has ended.

There is no GPU where these tests run: a stand-in for NVIDIA's driver tells the worker of two.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api import until
from tests.integration.gpu.system import System

DRIVER = """
class NVMLError(Exception): pass
class NVMLError_LibraryNotFound(NVMLError): pass
class NVMLError_DriverNotLoaded(NVMLError): pass
def nvmlInit(): pass
def nvmlShutdown(): pass
def nvmlDeviceGetCount(): return 2
def nvmlDeviceGetHandleByIndex(index): return index
def nvmlDeviceGetHandleByUUID(uuid): return int(uuid[-1])
def nvmlDeviceGetUUID(handle): return f"GPU-stand-in-{handle}"
def nvmlDeviceGetName(handle): return "Stand-in 80GB"
def nvmlDeviceGetTemperature(handle, sensor): return 40 + handle
NVML_TEMPERATURE_GPU = 0
def refused(handle): raise NVMLError("not supported")
nvmlDeviceGetUtilizationRates = nvmlDeviceGetMemoryInfo = nvmlDeviceGetPowerUsage = refused
"""
DEVICES = {"GPU-stand-in-0", "GPU-stand-in-1"}


@pytest.fixture
def gpus(system: System, tmp_path: Path) -> Iterator[None]:
    (tmp_path / "driver").mkdir()
    (tmp_path / "driver" / "pynvml.py").write_text(DRIVER)
    with system.worker_with(PYTHONPATH=str(tmp_path / "driver"), CUDA_VISIBLE_DEVICES="0,1"):
        yield


class Holder:
    """A run that says which devices it sees, and keeps them until it is let go."""

    def __init__(self, system: System, mark: Path, count: int = 1) -> None:
        self.system, self._mark = system, mark
        script = f'echo "$CUDA_VISIBLE_DEVICES"; while [ ! -e {mark} ]; do sleep 0.02; done'
        self.run = system.start("sh", "-c", script, resources={"accelerator": "gpu", "count": count})

    def sees(self) -> list[str]:
        """The devices, once it runs."""
        until(lambda: self.system.printed(self.run), "the program says what it sees")
        (said,) = (line["text"] for line in self.system.client.logs(self.run, stream="stdout")["lines"])
        return str(said).split(",")

    def let_go(self) -> None:
        self._mark.touch()
        assert self.system.wait(self.run)["status"] == "completed"


def test_runs_at_the_same_time_see_different_devices_and_the_next_gets_what_was_released(
    system: System, gpus: None, tmp_path: Path
) -> None:
    first, second = Holder(system, tmp_path / "a"), Holder(system, tmp_path / "b")
    seen = [first.sees(), second.sees()]
    assert {device for one in seen for device in one} == DEVICES
    assert [len(one) for one in seen] == [1, 1]
    assert [system.client.run(one.run)["accelerators"] for one in (first, second)] == [
        [f"gpu:{device}"] for (device,) in seen
    ]
    third = Holder(system, tmp_path / "c")
    until(lambda: (system.client.run(third.run)["waiting"] or {}).get("reason") == "no_free_slots", "the third waits")
    first.let_go()
    assert third.sees() == seen[0]
    both = Holder(system, tmp_path / "d", count=2)
    system.client.kill(second.run, grace_seconds=0)
    assert system.wait(second.run)["status"] == "killed"
    assert system.client.run(both.run)["status"] == "queued"
    third.let_go()
    assert set(both.sees()) == DEVICES
    warm = {f"system/gpu_{number}/temperature_celsius" for number in range(2)}
    until(lambda: warm <= {one["name"] for one in system.client.metrics(both.run)}, "figures of both devices")
    both.let_go()


def test_a_worker_that_comes_back_knows_whose_its_devices_are(system: System, gpus: None, tmp_path: Path) -> None:
    first = Holder(system, tmp_path / "a")
    held = first.sees()
    system.worker.stop(10.0)
    system.worker.start()
    second = Holder(system, tmp_path / "b")
    assert {*held, *second.sees()} == DEVICES
    first.let_go()
    second.let_go()


def test_more_accelerators_than_any_worker_has_are_waited_for_and_that_is_said(system: System) -> None:
    run = system.start("true", resources={"accelerator": "cpu", "count": 1_024})
    until(lambda: (system.client.run(run)["waiting"] or {}).get("reason") == "no_worker", "it says why it waits")
    assert "1024 x cpu" in system.client.run(run)["waiting"]["detail"]
    system.client.kill(run)
    assert system.wait(run)["status"] == "killed"
