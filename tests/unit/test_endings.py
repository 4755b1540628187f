"""When a request has ended, its answer is closed and its place is free, without the garbage collector."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from service.http.endings import at_end, end


class Answer:
    """A generator that says whether it was closed, and holds a place."""

    def __init__(self) -> None:
        self.scope: dict[str, Any] = {}
        self.closed = False
        self.left = 0
        self.chunks = self._chunks()
        at_end(self.scope, self.chunks, self._leave)

    async def _chunks(self) -> AsyncGenerator[int]:
        try:
            for number in range(10):
                yield number
        finally:
            await asyncio.sleep(0)
            self.closed = True

    def _leave(self) -> None:
        self.left += 1


async def test_an_answer_that_was_never_begun_gives_its_place_back() -> None:
    answer = Answer()
    await end(answer.scope)
    assert answer.left == 1
    with pytest.raises(StopAsyncIteration):
        await anext(answer.chunks)


async def test_an_answer_whose_reader_was_cancelled_is_closed() -> None:
    answer = Answer()

    async def read() -> None:
        async for _ in answer.chunks:
            await asyncio.Event().wait()

    reading = asyncio.create_task(read())
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    assert not answer.closed  # the answer is still referred to, as by a traceback in a cycle
    await end(answer.scope)
    assert (answer.closed, answer.left) == (True, 1)
    await end(answer.scope)
    assert answer.left == 1


async def test_a_request_that_holds_nothing_ends_with_nothing() -> None:
    await end({})
