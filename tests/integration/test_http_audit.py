"""The head of a project over HTTP: signed, and verified against when it is handed back."""

from tests.api import Api, accepted


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


def test_the_signing_key_is_private(api: Api) -> None:
    api.project().head()
    assert (api.home / "signing.key").stat().st_mode & 0o777 == 0o600
