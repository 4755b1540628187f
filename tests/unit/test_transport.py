"""What the service writes in one turn of the event loop leaves together."""

import asyncio

from service.http.transport import GATHERED_BYTES, Gathering


class Written(asyncio.Transport):
    """Takes down what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


async def test_a_head_and_its_body_leave_in_one_piece():
    below = Written()
    transport = Gathering(below, asyncio.get_running_loop())
    transport.write(b"head")
    transport.write(b"body")
    assert below.writes == []
    await asyncio.sleep(0)
    transport.write(b"next")
    await asyncio.sleep(0)
    assert below.writes == [b"headbody", b"next"]


async def test_what_is_large_is_not_held_back():
    below = Written()
    transport = Gathering(below, asyncio.get_running_loop())
    transport.write(b"head")
    transport.write(b"x" * GATHERED_BYTES)
    assert [len(one) for one in below.writes] == [4 + GATHERED_BYTES]
    await asyncio.sleep(0)
    assert len(below.writes) == 1


async def test_closing_sends_what_was_gathered_and_nothing_after_that():
    below = Written()
    transport = Gathering(below, asyncio.get_running_loop())
    transport.write(b"bye")
    transport.close()
    transport.write(b"too late")
    await asyncio.sleep(0)
    assert below.writes == [b"bye"]
    assert below.closed
