"""Output files -> batches: every line once, in order, whatever happens in between."""

import asyncio
import os
from pathlib import Path

import pytest

from tests.api import SECONDS, eventually
from workers.gpu import shipping
from workers.gpu.records import RunDirectory
from workers.gpu.shipping import Batch, LogShipper, last_seq


class Away(Exception):
    """The agent died, or the server took nothing."""


class Server:
    """Stores a batch once by its seq, as the real one does; refuses the same seq with other lines."""

    def __init__(self) -> None:
        self.batches: dict[int, Batch] = {}
        self.lose_answer_of: set[int] = set()
        self.refuse: set[int] = set()

    async def send(self, batch: Batch) -> None:
        if batch.seq in self.refuse:
            self.refuse.discard(batch.seq)
            raise Away
        assert self.batches.setdefault(batch.seq, batch) == batch
        if batch.seq in self.lose_answer_of:
            self.lose_answer_of.discard(batch.seq)
            raise Away

    def texts(self, stream: str) -> list[str]:
        return [line.text for _, batch in sorted(self.batches.items()) for line in batch.lines if line.stream == stream]


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    directory = RunDirectory(tmp_path / "run")
    directory.create()
    return directory


def over() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


async def ship(directory: RunDirectory, server: Server, ended: asyncio.Event) -> None:
    """Ship with agents that die on every fault, until one gets through."""
    for _ in range(20):
        try:
            await LogShipper(directory, server.send).run(ended)
        except Away:
            continue
        return
    raise AssertionError("never got through")


async def test_all_lines_arrive_once_and_in_order(directory: RunDirectory) -> None:
    directory.stdout.write_text("".join(f"out {i}\n" for i in range(2500)) + "no end")
    directory.stderr.write_text("".join(f"err {i}\n" for i in range(10)))
    server = Server()
    await ship(directory, server, over())
    assert server.texts("stdout") == [f"out {i}" for i in range(2500)] + ["no end"]
    assert server.texts("stderr") == [f"err {i}" for i in range(10)]
    assert sorted(server.batches) == list(range(1, len(server.batches) + 1))
    assert all(len(batch.lines) <= shipping.BATCH_LINES for batch in server.batches.values())
    assert last_seq(directory) == len(server.batches)


@pytest.mark.parametrize("fault", ["refuse", "lose_answer_of"])
async def test_a_batch_is_repeated_byte_for_byte_after_a_crash(directory: RunDirectory, fault: str) -> None:
    directory.stdout.write_text("".join(f"{i}\n" for i in range(5000)))
    server = Server()
    getattr(server, fault).update({1, 2, 4})
    ended = over()
    await ship(directory, server, ended)
    assert server.texts("stdout") == [str(i) for i in range(5000)]


async def test_growing_files_are_followed_and_a_crash_in_between_doubles_nothing(directory: RunDirectory) -> None:
    server, ended = Server(), asyncio.Event()
    server.lose_answer_of = {2, 3}
    shipper = asyncio.create_task(ship(directory, server, ended))
    expected = []
    with directory.stdout.open("ab", buffering=0) as out:
        for i in range(30):
            out.write(f"line {i}".encode())
            await asyncio.sleep(0.01)
            out.write(b"\n")
            expected.append(f"line {i}")
    ended.set()
    await asyncio.wait_for(shipper, SECONDS)
    assert server.texts("stdout") == expected


async def test_a_batch_is_bounded_in_bytes(directory: RunDirectory) -> None:
    directory.stdout.write_text(("x" * 5000 + "\n") * 300)
    server = Server()
    await ship(directory, server, over())
    assert len(server.texts("stdout")) == 300
    largest = max(sum(len(line.text) for line in batch.lines) for batch in server.batches.values())
    assert largest <= shipping.BATCH_BYTES + 5000


async def test_a_flood_on_one_stream_does_not_starve_the_other(directory: RunDirectory) -> None:
    directory.stdout.write_text("flood\n" * 20_000)
    directory.stderr.write_text("help\n")
    server = Server()
    await ship(directory, server, over())
    first = next(seq for seq, batch in sorted(server.batches.items()) if any(x.stream == "stderr" for x in batch.lines))
    assert first <= 2


async def test_a_run_without_output_sends_nothing(directory: RunDirectory) -> None:
    server = Server()
    await ship(directory, server, over())
    assert server.batches == {}
    assert last_seq(directory) == 0


async def test_a_line_has_the_time_at_which_its_file_was_written(directory: RunDirectory) -> None:
    directory.stdout.write_text("long ago\n")
    os.utime(directory.stdout, ns=(0, 1_700_000_000_000_000_000))
    server = Server()
    await ship(directory, server, over())
    assert [line.time_us for line in server.batches[1].lines] == [1_700_000_000_000_000]


async def test_a_state_that_cannot_be_written_costs_no_line(directory: RunDirectory) -> None:
    directory.stdout.write_text("a\nb\n")
    (directory.path / "ship.json.tmp").mkdir()  # in the way of every write
    server = Server()
    ended = asyncio.Event()
    shipping = asyncio.create_task(ship(directory, server, ended))

    async def stored() -> bool:
        return server.texts("stdout") == ["a", "b"]

    await eventually(stored, "the first lines are sent")
    with directory.stdout.open("a") as file:
        file.write("c\n")
    ended.set()
    await shipping
    assert server.texts("stdout") == ["a", "b", "c"]
    assert server.texts("log") == ["the worker's disk takes no more: Is a directory"]
