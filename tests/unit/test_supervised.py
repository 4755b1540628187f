"""Tasks that must not end."""

import asyncio

import pytest

from events import supervised


async def test_what_must_not_end_begins_again(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(supervised, "PAUSE_SECONDS", 0.0)
    begun: asyncio.Queue[int] = asyncio.Queue()

    async def work() -> None:
        begun.put_nowait(1)
        raise KeyError("a fault of ours")

    task = supervised.supervised("work", work)
    for _ in range(2):
        await begun.get()
    task.cancel()
    await asyncio.wait({task})
    assert "work failed" in caplog.text
