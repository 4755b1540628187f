"""Heads over HTTP, of a project and of the organisation: signed, and verified against when handed back."""

import asyncio

import asyncpg

from tests.api import Api, accepted, refused


def test_a_head_is_signed_and_verified_against(api: Api) -> None:
    project, other = api.project(), api.project()
    project.started()
    shown = accepted(api.client.get(f"/projects/{project.id}/audit"))
    head = shown["head"]
    assert (head["position"], head["chain"], head["ledger"]) == (shown["position"], shown["chain"], project.id)
    assert len(shown["public_key"]) == 64
    path = f"/projects/{project.id}/audit/verify"
    report = accepted(api.client.post(path, json={"head": head}))
    assert (report["verified"], report["head"], report["rows"] > 2) == (True, shown["position"], True)
    assert project.verified()["head"] is None
    assert accepted(api.client.post(path, json={}))["verified"]

    refused = api.client.post(f"/projects/{other.id}/audit/verify", json={"head": head})
    assert refused.status_code == 422
    assert refused.headers["content-type"] == "application/problem+json"
    assert f"not of {other.id}" in refused.json()["detail"]
    altered = {**head, "position": head["position"] + 1}
    assert api.client.post(path, json={"head": altered}).status_code == 422
    assert api.client.post(path, json={"head": {**head, "chain": "short"}}).status_code == 422


def test_an_organisations_own_ledger_is_verified_too(api: Api) -> None:
    project = api.project()
    shown = accepted(api.client.get("/organisation/audit"))
    head = shown["head"]
    assert (head["position"], head["chain"], head["ledger"]) == (
        shown["position"], shown["chain"], shown["organisation_id"]
    )  # fmt: skip
    path = "/organisation/audit/verify"
    accepted(
        api.client.post(
            "/organisation/credits", json={"kind": "grant", "micro_credits": 1_000_000, "reason": "a gift"}
        ),
        201,
    )
    report = accepted(api.client.post(path, json={"head": head}))
    assert (report["verified"], report["head"]) == (True, shown["position"]), report
    assert report["position"] > shown["position"]
    assert report["rows"] > 2
    assert accepted(api.client.post(path))["verified"]

    foreign = accepted(api.client.get(f"/projects/{project.id}/audit"))["head"]
    assert f"not of {shown['organisation_id']}" in refused(api.client.post(path, json={"head": foreign}), 422)["detail"]
    with api.other_tenant() as tenant:
        others = accepted(tenant.get("/organisation/audit"))
        assert others["organisation_id"] != shown["organisation_id"]
        assert accepted(tenant.post(path))["position"] == others["position"]
        refused(tenant.post(path, json={"head": head}), 422)

    asyncio.run(_tamper(api, "update projection.api_key set label = 'another'"))
    report = accepted(api.client.post(path))
    assert not report["verified"]
    assert "label differ from a fresh fold" in report["first_bad"]["reason"]


async def _tamper(api: Api, statement: str) -> None:
    superuser = await asyncpg.connect(api.database.superuser_url)
    await superuser.execute(statement)
    await superuser.close()


def test_the_signing_key_is_private(api: Api) -> None:
    api.project().head()
    assert (api.home / "signing.key").stat().st_mode & 0o777 == 0o600
