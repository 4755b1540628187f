"""What a client may conclude from an answer, or from none; the fault suite rests on it."""

import httpx
import pytest

from tests.fault.operations import Operation, Violation


def operation() -> Operation:
    return Operation("client", "what", httpx.Request("POST", "http://service/runs"))


def answer(status: int, content: bytes = b"{}") -> httpx.Response:
    return httpx.Response(status, content=content)


@pytest.mark.parametrize(
    ("answers", "outcome"),
    [
        ([answer(201)], "ok"),
        ([answer(409)], "fail"),
        ([None], "unknown"),
        ([answer(503)], "unknown"),
        ([None, answer(201)], "ok"),
        ([None, answer(409)], "unknown"),
        ([answer(201), None], "ok"),
        ([answer(409), None], "fail"),
    ],
)
def test_an_outcome_follows_from_all_answers(answers: list[httpx.Response | None], outcome: str) -> None:
    one = operation()
    for told in answers:
        one.told(told)
    assert one.outcome == outcome


@pytest.mark.parametrize("second", [answer(200), answer(201, b'{"other": 1}'), answer(409)])
def test_another_answer_to_an_acknowledged_request_is_a_violation(second: httpx.Response) -> None:
    one = operation()
    one.told(answer(201))
    with pytest.raises(Violation, match="on repetition"):
        one.told(second)


def test_a_server_at_fault_is_a_violation() -> None:
    with pytest.raises(Violation, match="500"):
        operation().told(answer(500))
