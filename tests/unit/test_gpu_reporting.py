"""What the server's answers mean for an attempt."""

from typing import Any

import pytest

import tachograph
from workers.gpu.answers import is_passing
from workers.gpu.reporting import Calls, Standing, standing_of


@pytest.mark.parametrize(
    ("status", "epoch", "kill_requested", "expected"),
    [
        ("starting", 2, False, Standing.OURS),
        ("running", 2, False, Standing.OURS),
        ("running", 2, True, Standing.KILLED),
        ("idle", 2, True, Standing.KILLED),
        ("crashed", 2, False, Standing.OURS),  # our next heartbeat recovers it
        ("completed", 2, False, Standing.OVER),
        ("failed", 2, False, Standing.OVER),
        ("killed", 2, False, Standing.STOP),
        ("queued", 2, False, Standing.STOP),
        ("deleted", 2, False, Standing.STOP),
        ("running", 3, False, Standing.STOP),
        ("completed", 3, False, Standing.STOP),
    ],
)
def test_where_an_attempt_stands(status: str, epoch: int, *, kill_requested: bool, expected: Standing) -> None:
    run: Any = {"status": status, "epoch": epoch, "kill_requested": kill_requested}
    assert standing_of(run, 2) is expected


@pytest.mark.parametrize(
    ("error", "passing"),
    [
        (tachograph.ConnectionFailed("refused"), True),
        (tachograph.ServerError(503, {}), True),
        (tachograph.TooManyRequests(429, {}), True),
        (tachograph.Conflict(409, {}), False),
        (tachograph.Invalid(422, {}), False),
        (tachograph.Gone(410, {}), False),
        (tachograph.Unauthorized(401, {}), False),
        (tachograph.NotConfigured("no key"), False),
    ],
)
def test_which_errors_pass(error: tachograph.Error, *, passing: bool) -> None:
    assert is_passing(error) is passing


async def test_a_call_is_repeated_until_it_is_answered() -> None:
    answers: list[Any] = [tachograph.ConnectionFailed("away"), tachograph.ServerError(500, {}), "stored"]

    def call(word: str) -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return f"{word} {answer}"

    calls = Calls(1, seconds=10)
    assert await calls.until_answered(call, "it is") == "it is stored"
    assert (answers, calls.pending) == ([], 0)
    calls.close()


async def test_a_final_answer_is_not_asked_for_again() -> None:
    asked = []

    def call() -> None:
        asked.append(1)
        raise tachograph.Conflict(409, {"state": "completed"})

    calls = Calls(1, seconds=10)
    with pytest.raises(tachograph.Conflict):
        await calls.until_answered(call)
    assert len(asked) == 1
    calls.close()
