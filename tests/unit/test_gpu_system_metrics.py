"""What a run uses of the machine: read from real processes, sent once each, kept while nobody takes it."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import api
from tests.api import SECONDS
from workers.gpu.records import RunDirectory
from workers.gpu.system_metrics import KEPT_SAMPLES, Meter, Series, SystemMetrics, columns, gpu_figures, last_seq

CHILD = "x = bytearray(50_000_000); print('up', flush=True); exec('while True: pass')"
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}])"


@pytest.fixture
def busy() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        yield process
        os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    found = RunDirectory(tmp_path / "run")
    found.create()
    return found


def test_figures_are_those_of_the_whole_process_tree(busy: subprocess.Popen[bytes], directory: RunDirectory) -> None:
    meter = Meter(busy.pid, (), directory.work)
    first = meter.read()
    assert "system/cpu_percent" not in first
    figures = api.until(lambda: used if (used := meter.read())["system/cpu_percent"] else None, "it had a processor")
    assert figures["system/processes"] == 2
    assert figures["system/memory_bytes"] > 50_000_000
    assert figures["system/disk_free_bytes"] > 0
    assert {
        "system/disk_read_bytes_per_second",
        "system/disk_written_bytes_per_second",
        "system/network_received_bytes_per_second",
        "system/network_sent_bytes_per_second",
    } <= set(figures)


def test_a_tree_that_is_gone_uses_nothing(directory: RunDirectory) -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    figures = Meter(process.pid, (), directory.work).read()
    assert (figures["system/processes"], figures["system/memory_bytes"]) == (0, 0)


def test_devices_that_no_driver_knows_have_no_figures() -> None:
    assert gpu_figures(()) == {}
    assert gpu_figures(("GPU-no-such-device",)) == {}


def test_samples_become_columns_whose_steps_go_on() -> None:
    samples = [(10, {"system/a": 1.0, "system/b": 2.0}), (20, {"system/a": 3.0})]
    assert columns(samples, 7) == {
        "system/a": {"step": [7, 8], "value": [1.0, 3.0], "time_us": [10, 20]},
        "system/b": {"step": [7], "value": [2.0], "time_us": [10]},
    }


class Counting(Meter):
    """Counts its readings, so that each point is known again."""

    count = 0

    def read(self) -> dict[str, float]:
        self.count += 1
        return {"system/n": float(self.count)}


class Server:
    """Takes batches, or holds them up."""

    def __init__(self) -> None:
        self.taken: list[tuple[int, Series]] = []
        self.open = asyncio.Event()

    async def take(self, seq: int, series: Series) -> None:
        await self.open.wait()
        self.taken.append((seq, series))

    def values(self) -> list[float]:
        return [value for _, series in self.taken for value in series["system/n"]["value"]]


async def until(look: Callable[[], object]) -> None:
    while not look():  # noqa: ASYNC110
        await asyncio.sleep(0.005)


async def test_what_could_not_be_sent_is_sent_later_in_order_and_once(directory: RunDirectory) -> None:
    server, gone = Server(), asyncio.Event()
    meter = Counting(0, (), directory.work)
    async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as tasks:
        tasks.create_task(SystemMetrics(directory, meter, server.take, 0.01).run(gone))
        await until(lambda: meter.count > 5)
        server.open.set()
        await until(lambda: meter.count > 10)
        gone.set()
    assert server.values() == [float(n) for n in range(2, meter.count + 1)]
    assert [seq for seq, _ in server.taken] == list(range(1, len(server.taken) + 1))
    steps = [step for _, series in server.taken for step in series["system/n"]["step"]]
    assert steps == list(range(len(steps)))
    assert last_seq(directory) == len(server.taken)


async def test_a_successor_repeats_the_batch_that_may_be_lost_and_goes_on_behind_it(directory: RunDirectory) -> None:
    away, gone = Server(), asyncio.Event()
    meter = Counting(0, (), directory.work)
    async with asyncio.timeout(SECONDS):
        first = asyncio.create_task(SystemMetrics(directory, meter, away.take, 0.01).run(gone))
        await until(lambda: last_seq(directory) == 1)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        back = Server()
        back.open.set()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(SystemMetrics(directory, meter, back.take, 0.01).run(gone))
            await until(lambda: len(back.taken) > 2)
            gone.set()
    assert [seq for seq, _ in back.taken] == list(range(1, len(back.taken) + 1))
    assert back.values()[0] == 2.0
    steps = [step for _, series in back.taken for step in series["system/n"]["step"]]
    assert steps == list(range(len(steps)))


async def test_no_more_waits_than_its_bound(directory: RunDirectory, caplog: pytest.LogCaptureFixture) -> None:
    server, gone = Server(), asyncio.Event()
    meter = Counting(0, (), directory.work)
    async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as tasks:
        tasks.create_task(SystemMetrics(directory, meter, server.take, 0.0001).run(gone))
        await until(lambda: "dropped" in caplog.text)
        server.open.set()
        gone.set()
    sending = len(server.taken[0][1]["system/n"]["step"])
    assert len(server.values()) <= sending + KEPT_SAMPLES + 1  # one may have come since
    assert len(server.values()) < meter.count - 1
