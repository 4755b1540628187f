"""Turns: one at a time for each stream, in the order of arrival, and nobody waits for ever."""

import asyncio
from uuid import uuid4

import pytest

from events.errors import Busy
from events.turns import Turns

STREAM, OTHER = uuid4(), uuid4()


async def test_callers_take_turns_in_the_order_in_which_they_came():
    turns = Turns()
    inside: list[int] = []
    ended: list[int] = []

    async def change(number: int) -> None:
        async with turns.of(STREAM):
            inside.append(number)
            assert len(inside) == len(ended) + 1
            await asyncio.sleep(0)
            ended.append(number)

    await asyncio.gather(*(change(number) for number in range(50)))
    assert ended == list(range(50))


async def test_streams_do_not_wait_for_one_another():
    turns = Turns()
    async with turns.of(STREAM), turns.of(OTHER):
        pass


async def test_whoever_fails_or_goes_away_gives_the_turn_on():
    turns = Turns()
    with pytest.raises(ZeroDivisionError):
        async with turns.of(STREAM):
            raise ZeroDivisionError
    async with turns.of(STREAM):
        waiting = asyncio.create_task(turns.of(STREAM).__aenter__())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    async with turns.of(STREAM):
        pass


async def test_a_turn_that_does_not_come_is_refused():
    turns = Turns(wait_seconds=0.01)
    async with turns.of(STREAM):
        with pytest.raises(Busy, match=str(STREAM)):
            async with turns.of(STREAM):
                raise AssertionError("two at once")
    async with turns.of(STREAM):
        pass


async def test_a_queue_in_which_nobody_stands_is_forgotten():
    turns = Turns()
    async with turns.of(STREAM):
        assert len(turns._queues) == 1
    assert not turns._queues
