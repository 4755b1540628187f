"""Run tokens, credentials and secrets."""

import base64
from uuid import uuid4

import pytest

from service import auth
from service.keys import Keys
from service.problems import Invalid
from service.recipes import check_environment


async def nobody(*_: object) -> None:
    return None


class NoKeys:
    """A database without API keys."""

    fetchrow = staticmethod(nobody)


async def test_a_run_token_says_whose_it_is() -> None:
    keys = Keys(NoKeys(), b"k" * 32)
    organisation, run = uuid4(), uuid4()
    principal = await keys.principal(keys.run_token(organisation, run, 3))
    assert principal is not None
    assert (principal.organisation_id, principal.run_id, principal.epoch) == (organisation, run, 3)
    assert principal.actor == f"run:{run}"


async def test_an_altered_foreign_or_expired_token_opens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = Keys(NoKeys(), b"k" * 32)
    token = keys.run_token(uuid4(), uuid4(), 1)
    flipped = token[:40] + ("A" if token[40] != "A" else "B") + token[41:]
    assert await keys.principal(flipped) is None
    assert await keys.principal(token[:30]) is None
    assert await keys.principal("tgr_") is None
    assert await keys.principal("tgr_é") is None
    assert await Keys(NoKeys(), b"x" * 32).principal(token) is None
    monkeypatch.setattr("service.keys.TOKEN_SECONDS", -1)
    assert await keys.principal(keys.run_token(uuid4(), uuid4(), 1)) is None


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"authorization": "Bearer tg_x"}, "tg_x"),
        ({"authorization": "bearer tg_x"}, "tg_x"),
        ({"x-api-key": "tg_x"}, "tg_x"),
        ({"authorization": "Basic " + base64.b64encode(b"api:tg_x").decode()}, "tg_x"),
        ({"authorization": "Basic " + base64.b64encode(b"root:tg_x").decode()}, None),
        ({"authorization": "Basic ???"}, None),
        ({"authorization": "Bearer"}, None),
        ({"authorization": "Digest x"}, None),
        ({}, None),
    ],
)
def test_a_credential_is_taken_from_any_of_three_headers(headers: dict[str, str], expected: str | None) -> None:
    assert auth.credential(headers.get("x-api-key"), headers.get("authorization")) == expected


def test_a_literal_secret_is_refused() -> None:
    check_environment({"EPOCHS": "3"})
    with pytest.raises(Invalid, match="secrets"):
        check_environment({"WANDB_API_KEY": "x"})
