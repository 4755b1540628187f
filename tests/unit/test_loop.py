"""When a role's steps begin: at once for what comes alone, together for what comes close together."""

import asyncio

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
