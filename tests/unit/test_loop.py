"""When a role's steps begin: at once for what comes alone, together for what comes close; and what is said of them."""

import asyncio
import logging

import pytest

from workers import loop
from workers.loop import Runner

NEVER = 3_600.0


class Steps:
    """A role that only counts its steps; it never has anything to do."""

    name = "steps"
    pause_seconds = NEVER
    gather_seconds = NEVER

    def __init__(self) -> None:
        self.begun: asyncio.Queue[int] = asyncio.Queue()
        self.stopped = False

    async def start(self) -> None:
        """Nothing is needed."""

    async def step(self) -> int:
        """Say that a step began."""
        self.begun.put_nowait(1)
        return 0

    async def stop(self) -> None:
        """Say so."""
        self.stopped = True


async def test_what_comes_alone_is_done_at_once():
    role = Steps()
    runner = Runner(role)
    running = asyncio.create_task(runner.run())
    await role.begun.get()  # the first look, which nobody asked for
    runner.nudge()
    await role.begun.get()
    runner.stop()
    await running
    assert role.stopped


async def test_what_comes_close_behind_a_nudge_waits_to_be_done_together():
    role = Steps()
    runner = Runner(role)
    runner.nudge()
    running = asyncio.create_task(runner.run())
    await role.begun.get()
    for _ in range(100):
        runner.nudge()
        await asyncio.sleep(0)
    assert role.begun.empty()
    runner.stop()  # does not wait for the end of the gathering
    await running
    assert role.begun.empty()
    assert role.stopped


class Broken(Steps):
    """A role that fails until it is mended."""

    gather_seconds = 0.0

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error: Exception | None = error

    async def step(self) -> int:
        """Fail, or say that a step began."""
        if self.error is not None:
            self.begun.put_nowait(0)
            raise self.error
        return await super().step()


@pytest.mark.parametrize(
    ("error", "tracebacks"), [(ConnectionError("the database is away"), 0), (KeyError("a fault of ours"), 2)]
)
async def test_a_failure_is_told_by_its_cause_and_so_is_its_end(
    error: Exception, tracebacks: int, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    role = Broken(error)
    runner = Runner(role)
    running = asyncio.create_task(runner.run())
    for _ in range(2):
        await role.begun.get()
    assert runner.trouble == f"{type(error).__name__}: {error}"
    role.error = None
    await role.begun.get()
    assert (runner.failures, runner.trouble) == (0, None)
    runner.stop()
    await running
    assert f"steps failed (2 in a row); again in 0.2 s: {type(error).__name__}: {error}" in caplog.text
    assert "steps works again, after it failed 2 times in a row" in caplog.text
    assert caplog.text.count("Traceback") == tracebacks


async def test_whoever_fails_every_other_step_is_not_tried_again_ever_faster(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loop, "BACKOFF_SECONDS", (0.0, 0.0, 0.0, NEVER))
    failures, enough = 0, asyncio.Event()

    class Flickering(Steps):
        async def step(self) -> int:
            nonlocal failures
            self.begun.put_nowait(1)
            if self.begun.qsize() % 2:
                return 1
            failures += 1
            if failures == 4:
                enough.set()
            raise ConnectionError("away")

    role = Flickering()
    role.gather_seconds = 0.0
    runner = Runner(role)
    running = asyncio.create_task(runner.run())
    await enough.wait()
    await asyncio.sleep(0)
    assert runner.failures == 4
    runner.stop()
    await running
    assert failures == 4


async def test_a_step_that_does_not_end_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loop, "LONG_STEP_SECONDS", 0.0)
    ending = asyncio.Event()

    class Slow(Steps):
        async def step(self) -> int:
            self.begun.put_nowait(1)
            await ending.wait()
            return 0

    role = Slow()
    runner = Runner(role)
    running = asyncio.create_task(runner.run())
    await role.begun.get()
    await asyncio.sleep(0)
    assert runner.trouble is not None
    assert "one step has taken" in runner.trouble
    runner.stop()
    ending.set()
    await running
    assert runner.trouble is None
