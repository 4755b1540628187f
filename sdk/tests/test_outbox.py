"""Requests wait in order, in memory and on disk, and are never lost in silence."""

import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tachograph._frames import JSON, Batch, Header, Numbers, Request, decode, encode
from tachograph._outbox import Outbox
from tachograph._spool import Spool, read

HEADER = Header(url="http://127.0.0.1:1", run_id="run-1", epoch=1, source="sdk")
SIZE = 200


def request(number: int, size: int = 0) -> Request:
    return Request("POST", "/x", f"key-{number}", b"x" * size, JSON, points=number, lines=1)


def outbox_in(directory: Path, *, memory: int = 3 * SIZE, disk: int = 1 << 20) -> Outbox:
    names = iter(range(100))
    return Outbox(lambda: Spool(directory / f"{next(names)}.spool", HEADER), memory_bytes=memory, disk_bytes=disk)


def put(outbox: Outbox, one: Request) -> bool:
    return outbox.put(Batch(0, Numbers(), [one]))


def drained(outbox: Outbox) -> list[str]:
    keys = []
    while outbox.left().requests:
        head = outbox.head()
        assert head is not None
        keys.append(head.key)
        outbox.drop(head)
    return keys


def read_by_a_thread(outbox: Outbox) -> list[str]:
    """Return what a reader gets until nothing is left and it is told to go."""
    got = []

    def reader() -> None:
        while (head := outbox.head()) is not None:
            got.append(head.key)
            outbox.drop(head)

    thread = threading.Thread(target=reader)
    thread.start()
    assert outbox.wait_until_empty(time.monotonic() + 120)
    outbox.close()
    thread.join(120)
    return got


@given(st.lists(st.booleans(), max_size=60))
def test_order_holds_however_puts_and_takes_alternate(tmp_path_factory, puts):
    outbox = outbox_in(tmp_path_factory.mktemp("spool"))
    sent, taken = 0, []
    for more in puts:
        if more:
            assert put(outbox, request(sent))
            sent += 1
        elif outbox.left().requests:
            head = outbox.head()
            taken.append(head.key)
            outbox.drop(head)
    assert taken + drained(outbox) == [f"key-{number}" for number in range(sent)]
    outbox.keep()


def test_the_overflow_goes_to_a_file_that_only_its_owner_reads(tmp_path):
    outbox = outbox_in(tmp_path)
    for number in range(10):
        assert put(outbox, request(number))
    (file,) = tmp_path.glob("*.spool")
    assert file.stat().st_mode & 0o777 == 0o600
    assert outbox.left() == (10, 45, 10)
    assert drained(outbox) == [f"key-{number}" for number in range(10)]
    assert outbox.keep() is None
    assert not list(tmp_path.glob("*"))


def test_the_file_gives_its_space_back_when_it_is_drained(tmp_path):
    outbox = outbox_in(tmp_path)
    for number in range(20):
        put(outbox, request(number, 10_000))
    (file,) = tmp_path.glob("*.spool")
    full = file.stat().st_size
    drained(outbox)
    assert file.stat().st_size < full / 100
    outbox.keep()


def test_what_fits_nowhere_is_refused(tmp_path):
    outbox = outbox_in(tmp_path, memory=0, disk=10_000)
    answers = [put(outbox, request(number, 1_000)) for number in range(20)]
    assert answers == sorted(answers, reverse=True)
    assert 5 <= sum(answers) < 10
    assert drained(outbox) == [f"key-{number}" for number in range(sum(answers))]
    outbox.keep()


def test_a_disk_that_refuses_is_no_exception(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    outbox = outbox_in(tmp_path / "file")
    assert [put(outbox, request(number)) for number in range(5)] == [True] * 3 + [False] * 2
    assert "cannot write to disk" in caplog.text
    assert outbox.left().requests == 3
    assert outbox.keep() is None
    assert "could not be kept" in caplog.text


def test_what_is_left_is_kept_in_one_file_in_order(tmp_path):
    outbox = outbox_in(tmp_path)
    for number in range(8):
        put(outbox, request(number))
    head = outbox.head()
    outbox.drop(head)
    path = outbox.keep()
    assert [path] == list(tmp_path.glob("*.spool"))
    with path.open("rb") as file:
        header, frames = read(file)
        assert header == HEADER
        assert [decode(frame).requests for frame in frames] == [[request(number)] for number in range(1, 8)]


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_torn_end_is_left_out(tmp_path, cut):
    spool = Spool(tmp_path / "a.spool", HEADER)
    for number in range(3):
        spool.append([encode(Batch(0, Numbers(), [request(number)]))])
    spool.close(keep=True)
    content = (tmp_path / "a.spool").read_bytes()
    (tmp_path / "a.spool").write_bytes(content[:-cut])
    with (tmp_path / "a.spool").open("rb") as file:
        _, frames = read(file)
        assert [decode(frame).requests[0].key for frame in frames] == ["key-0", "key-1"]


def test_a_damaged_file_is_counted_as_lost(tmp_path, caplog):
    outbox = outbox_in(tmp_path, memory=SIZE)
    for number in range(5):
        put(outbox, request(number))
    (file,) = tmp_path.glob("*.spool")
    content = bytearray(file.read_bytes())
    content[-20] ^= 0xFF
    file.write_bytes(bytes(content))
    assert read_by_a_thread(outbox) == ["key-0", "key-1", "key-2", "key-3"]
    assert outbox.keep() is None
    assert (outbox.points_lost, outbox.lines_lost) == (4, 1)
    assert "1 requests lost" in caplog.text


def test_a_reader_waits_for_what_comes_and_leaves_when_told(tmp_path):
    outbox = outbox_in(tmp_path)
    for number in range(3):
        put(outbox, request(number))
    assert read_by_a_thread(outbox) == ["key-0", "key-1", "key-2"]
    assert outbox.keep() is None


def test_discarding_says_what_was_there_and_refuses_the_rest(tmp_path):
    outbox = outbox_in(tmp_path)
    for number in range(6):
        put(outbox, request(number))
    assert outbox.discard() == (6, 15, 6)
    assert outbox.left() == (0, 0, 0)
    assert not put(outbox, request(7))
    outbox.keep()
