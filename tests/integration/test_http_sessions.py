"""Sessions of browsers: what the cookie opens, from which pages, and until when."""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from tests.api import Api, Project, accepted, refused, replica, until
from tests.integration.credentials import issued


@contextmanager
def browser(api: Api, key: str) -> Iterator[httpx.Client]:
    """A client that has logged in, and sends what a page of the service would."""
    with api.as_caller(None) as client:
        client.headers["Sec-Fetch-Site"] = "same-origin"
        accepted(client.post("/login", json={"api_key": key}))
        yield client


def test_a_session_is_its_key_in_a_cookie_that_no_script_reads(api: Api, project: Project):
    made = issued(api, "member")
    with api.as_caller(None) as client:
        answer = client.post("/login", json={"api_key": made["api_key"]})
        accepted(answer)
        parts = answer.headers["set-cookie"].split("; ")
        assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(parts)
        assert "Secure" not in parts
        assert made["api_key"] not in answer.text + answer.headers["set-cookie"]
        me = accepted(client.get("/me"))
        assert (me["key"]["id"], me["role"]) == (made["key"]["id"], "member")
        secret = client.cookies["tachograph_session"]
    refused(httpx.get(f"{api.url}/api/v1/me", headers={"Authorization": f"Bearer {secret}"}), 401)
    refused(httpx.get(f"{api.url}/api/v1/me", headers={"Cookie": f"tachograph_session={made['api_key']}"}), 401)
    origin = {"Origin": api.url.replace("http:", "https:")}
    answer = httpx.post(f"{api.url}/api/v1/login", json={"api_key": made["api_key"]}, headers=origin)
    assert "Secure" in answer.headers["set-cookie"].split("; ")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "same-origin"}, 201),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "none"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "OURS"}, 403),
        ({"Origin": "OURS"}, 201),
        ({"Origin": "https://elsewhere.example"}, 403),
        ({"Origin": "null"}, 403),
        ({}, 403),
    ],
)
def test_with_a_cookie_only_our_own_pages_change_anything(
    api: Api, project: Project, headers: dict[str, str], status: int
):
    with browser(api, api.key) as client:
        del client.headers["Sec-Fetch-Site"]
        ours = {name: api.url if value == "OURS" else value for name, value in headers.items()}
        accepted(client.get("/me", headers=ours))
        answer = client.post(f"/projects/{project.id}/runs", json={}, headers=ours)
        assert answer.status_code == status, answer.text


def test_nobody_is_logged_in_by_a_page_of_somebody_else(api: Api):
    asked = {"json": {"api_key": api.key}, "headers": {"Origin": "https://elsewhere.example"}}
    answer = httpx.post(f"{api.url}/api/v1/login", **asked)
    refused(answer, 403)
    assert "set-cookie" not in answer.headers


def test_what_is_no_key_opens_no_session(api: Api):
    for key in ("tg_wrong", "tgr_AAAA", "tgs_AAAA"):
        refused(httpx.post(f"{api.url}/api/v1/login", json={"api_key": key}), 401)
    refused(httpx.post(f"{api.url}/api/v1/login", json={"api_key": "x" * 251}), 422)


def test_a_session_ends_with_its_logout_in_every_replica(api: Api):
    with replica(api) as other, browser(api, api.key) as client:
        secret = client.cookies["tachograph_session"]
        cookie = {"Cookie": f"tachograph_session={secret}"}
        accepted(httpx.get(f"{other.url}/api/v1/me", headers=cookie))
        assert client.post("/logout").status_code == 204
        assert "tachograph_session" not in client.cookies
        refused(httpx.get(f"{api.url}/api/v1/me", headers=cookie), 401)
        there = f"{other.url}/api/v1/me"
        until(lambda: httpx.get(there, headers=cookie).status_code == 401, "the other replica hears of it", 2)
    accepted(api.client.get("/me"))


def test_a_session_ends_with_its_key(api: Api):
    made = issued(api, "viewer")
    with browser(api, made["api_key"]) as client:
        accepted(client.get("/me"))
        accepted(api.client.delete(f"/keys/{made['key']['id']}"))
        refused(client.get("/me"), 401)
