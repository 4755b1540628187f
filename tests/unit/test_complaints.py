"""A client that tries again every second says so once a minute."""

import logging

import pytest

from events.complaints import AGAIN_SECONDS, Complaints


async def test_the_same_is_said_once_a_minute_and_when_it_is_over(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    now = 1_000.0
    complaints = Complaints(logging.getLogger("test"), lambda: now)
    for _ in range(100):
        await complaints.error(OSError("refused"))
        await complaints.error(TimeoutError())
    assert caplog.messages == ["NATS: refused", "NATS: TimeoutError"]
    now += AGAIN_SECONDS
    await complaints.error(OSError("refused"))
    await complaints.reconnected()
    await complaints.error(OSError("refused"))
    assert caplog.messages[2:] == ["NATS: refused", "NATS: connected again", "NATS: refused"]
