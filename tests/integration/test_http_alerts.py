"""Alert rules and webhooks over HTTP, from a rule to a signed alert, through a crash too."""

import hmac
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tachograph
from tests.api import Api, Json, accepted, refused, serving, until
from tests.integration.alerting import Receiver
from tests.servers import NatsServer, PostgresServer


@pytest.fixture(scope="module")
def api(postgres_server: PostgresServer, nats_server: NatsServer, servers_home: Path) -> Iterator[Api]:
    allowed = {"TACHOGRAPH_WEBHOOK_ALLOW_PRIVATE": "1"}
    with serving(postgres_server, nats_server, servers_home, roles=("alerter",), environment=allowed) as api:
        yield api


def test_from_a_rule_to_a_signed_alert_over_http(api: Api, receiver: Receiver) -> None:
    project = api.project()
    path = f"/projects/{project.id}"
    hook = accepted(api.client.post(f"{path}/webhooks", json={"url": receiver.url}), 201)
    condition = {"when": "threshold", "metric": "loss", "side": "above", "value": 2.0}
    rule = accepted(api.client.post(f"{path}/alerts", json={"name": "diverged", "condition": condition}), 201)
    assert accepted(api.client.get(f"{path}/alerts")) == [rule]
    run = project.started()
    accepted(project.log(run, 1, {"loss": {"step": [1, 2, 3], "value": [1.0, 3.0, 4.0]}}), 202)
    until(lambda: receiver.requests, "the alert is told")
    ((headers, body),) = receiver.requests
    at, _, said = headers["Tachograph-Signature"].partition(",v1=")
    assert said == hmac.digest(hook["secret"].encode(), at[2:].encode() + b"." + body, "sha256").hex()
    alert = json.loads(body)
    assert (alert["type"], alert["data"]["rule"], alert["data"]["run"]) == ("alert.fired", rule["id"], run["id"])
    assert (alert["data"]["metric"], alert["data"]["step"], alert["data"]["value"]) == ("loss", 2, "3.0")
    accepted(project.log(run, 2, {"loss": {"step": [4, 5, 6, 7], "value": [1.0, 5.0, 1.0, 6.0]}}), 202)

    def fired(**asked: Any) -> list[Any]:
        return [one["value"] for one in accepted(api.client.get(f"{path}/alerts/fired", params=asked))["items"]]

    until(lambda: len(fired()) == 3, "all three are listed")
    assert sorted(fired()) == sorted(fired(rule=rule["id"], run=run["id"])) == ["3.0", "5.0", "6.0"]
    assert fired(run=hook["id"]) == []
    assert fired()[-1] == "3.0"
    first = accepted(api.client.get(f"{path}/alerts/fired", params={"limit": 2}))
    rest = accepted(api.client.get(f"{path}/alerts/fired", params={"limit": 2, "cursor": first["next_cursor"]}))
    assert [one["value"] for one in first["items"] + rest["items"]] == fired()
    assert rest["next_cursor"] is None

    def log(state: str) -> list[Json]:
        items = accepted(api.client.get(f"{path}/webhooks/{hook['id']}/deliveries"))["items"]
        return [one for one in items if one["state"] == state]

    until(lambda: len(log("delivered")) == 3, "they are in the log")
    accepted(api.client.post(f"{path}/webhooks/{hook['id']}/test"), 202)
    until(lambda: len(log("delivered")) == 4, "the test too")
    assert json.loads(receiver.requests[-1][1])["type"] == "webhook.test"
    (listed,) = accepted(api.client.get(f"{path}/webhooks"))
    assert listed == hook | {"secret": None}
    with api.other_tenant() as other:
        refused(other.get(f"{path}/alerts"), 404)
        refused(other.get(f"{path}/alerts/fired"), 404)
        refused(other.post(f"{path}/webhooks/{hook['id']}/test"), 404)
    for kind, one in (("alerts", rule), ("webhooks", hook)):
        removals = [api.client.delete(f"{path}/{kind}/{one['id']}", headers={"Idempotency-Key": kind}) for _ in "ab"]
        assert [answer.status_code for answer in removals] == [204, 204]
        assert len({answer.headers["tachograph-position"] for answer in removals}) == 1
        refused(api.client.delete(f"{path}/{kind}/{one['id']}"), 404)
        assert accepted(api.client.get(f"{path}/{kind}")) == []


def test_an_imported_webhook_sends_nothing_until_its_address_is_given_again(
    api: Api, receiver: Receiver, tmp_path: Path
) -> None:
    source, project = api.project(), api.project()
    body = {"url": receiver.url, "types": ["run.completed"]}
    made = accepted(api.client.post(f"/projects/{source.id}/webhooks", json=body), 201)
    with tachograph.Client(api.url, api.key) as client:
        client.export_archive(tmp_path / "p.zip", project=source.id)
        report = client.import_archive(project.id, tmp_path / "p.zip")["report"]
    assert report is not None
    (told,) = report["definitions"]
    path = f"/projects/{project.id}/webhooks"
    assert (told["kind"], told["outcome"]) == ("webhook", "new")
    assert f"{path}/{told['id']}" in told["why"]
    (listed,) = accepted(api.client.get(path))
    host = receiver.url.removesuffix("/hook?a=1")
    assert listed == {"id": told["id"], "url": host, "types": ["run.completed"], "secret": None, "in_force": False}
    refused(api.client.post(f"{path}/{told['id']}/test"), 409)
    problem = refused(api.client.patch(f"{path}/{told['id']}", json={"types": ["run.failed"]}), 422)
    assert problem["errors"][0]["path"] == "$.url"

    project.finished()  # nobody is told
    again = {"Idempotency-Key": f"set {told['id']}"}
    answers = [api.client.patch(f"{path}/{told['id']}", json={"url": receiver.url}, headers=again) for _ in "ab"]
    hook, same = [accepted(answer) for answer in answers]
    assert hook == same
    assert (hook["url"], hook["in_force"], hook["types"]) == (receiver.url, True, ["run.completed"])
    assert hook["secret"] != made["secret"]
    run = project.finished()
    until(lambda: receiver.requests, "the run's end is told")
    ((headers, sent),) = receiver.requests
    at, _, said = headers["Tachograph-Signature"].partition(",v1=")
    assert said == hmac.digest(hook["secret"].encode(), at[2:].encode() + b"." + sent, "sha256").hex()
    assert json.loads(sent)["subject"].endswith(run["id"])


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("alerts", {"name": "a", "condition": {"when": "event", "types": ["run.unheard_of"]}}),
        ("alerts", {"name": "a", "condition": {"when": "event", "types": []}}),
        ("alerts", {"name": "a", "condition": {"when": "status", "statuses": []}}),
        ("alerts", {"name": "a", "condition": {"when": "nan", "metric": ""}}),
        ("alerts", {"name": "a", "condition": {"when": "no_improvement", "metric": "m", "mode": "min"}}),
        ("alerts", {"name": "a", "condition": {"when": "moon"}}),
        ("webhooks", {"url": "ftp://example.org/"}),
        ("webhooks", {"url": "https://user:word@example.org/"}),
        ("webhooks", {"url": "http://exa mple.org/"}),
        ("webhooks", {"url": "http://example.org:99999/"}),
        ("webhooks", {"url": "http://example.org/", "types": ["run.unheard_of"]}),
    ],
)
def test_what_cannot_be_meant_is_refused(api: Api, route: str, body: Any) -> None:
    refused(api.client.post(f"/projects/{api.project().id}/{route}", json=body), 422)


def test_the_alerter_killed_between_firing_and_remembering_fires_once(
    postgres_server: PostgresServer, nats_server: NatsServer, servers_home: Path, receiver: Receiver
) -> None:
    crashing = {"TACHOGRAPH_WEBHOOK_ALLOW_PRIVATE": "1", "TACHOGRAPH_CRASH_AT": "alerter.after_fire"}
    with serving(postgres_server, nats_server, servers_home, roles=("alerter",), environment=crashing) as api:
        alerter = api.processes["alerter"]
        project = api.project()
        path = f"/projects/{project.id}"
        accepted(api.client.post(f"{path}/webhooks", json={"url": receiver.url}), 201)
        condition = {"when": "event", "types": ["run.completed"]}
        accepted(api.client.post(f"{path}/alerts", json={"name": "a", "condition": condition}), 201)
        runs = [project.finished()["id"] for _ in range(2)]
        until(lambda: alerter.restarts >= 2, "the alerter was killed twice at its crash point")
        assert alerter.environment is not None
        del alerter.environment["TACHOGRAPH_CRASH_AT"]
        if alerter.failure is not None:
            alerter.start()
        runs.append(project.finished()["id"])
        until(lambda: len(receiver.requests) >= 3, "every alert is told")
        assert sorted(json.loads(body)["data"]["run"] for _, body in receiver.requests) == sorted(runs)
