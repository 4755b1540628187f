"""Routes that are called directly: both ways to them lead to the same answers, and all of these are counted."""

import json
import re
from typing import Any

import httpx
import pytest

from events.ids import uuid7
from tests.api import Api, Json, Project, accepted, refused

POINT = {"a": {"step": [1], "value": [1.0]}}
CHANGING = {"date", "ratelimit"}
JSON_BODY = {"content-type": "application/json"}


def on_both_ways(api: Api, method: str, path: str, **request: Any) -> list[httpx.Response]:
    """Ask by the shortcut, and by the framework, which a slash at the end leaves the route to."""
    return [api.client.request(method, f"{path}{slash}", **request) for slash in ("", "/")]


def said(answer: httpx.Response) -> tuple[int, dict[str, str], bytes]:
    headers = {name: value for name, value in answer.headers.items() if name not in CHANGING}
    return answer.status_code, headers, answer.content


BODIES = [
    ("a batch", "metrics", {"epoch": 1, "seq": 1, "series": POINT}, 202),
    ("the same batch again", "metrics", {"epoch": 1, "seq": 1, "series": POINT}, 202),
    ("a batch of an epoch that never was", "metrics", {"epoch": 7, "seq": 2, "series": POINT}, 409),
    ("a batch of another shape", "metrics", {"epoch": 1, "seq": "2", "series": POINT}, 422),
    ("lines", "logs", {"epoch": 1, "seq": 3, "lines": [{"text": "x"}]}, 202),
    ("a command that the run cannot take", "claim", {"worker": str(uuid7())}, 422),
]


@pytest.mark.parametrize(("what", "rest", "body", "status"), BODIES)
@pytest.mark.parametrize("accept", ["application/json", "application/msgpack"])
def test_a_shortcut_leads_to_the_same_answer(
    api: Api, project: Project, what: str, rest: str, body: Json, status: int, accept: str
):
    run = project.started()
    accepted(project.log(run, 1, POINT), 202)
    accepted(project.write(run, 3, "x"), 202)
    headers = {**JSON_BODY, "accept": accept}
    short, long = on_both_ways(
        api, "POST", f"/runs/{run['id']}/{rest}", content=json.dumps(body).encode(), headers=headers
    )
    assert said(short) == said(long), what
    assert short.status_code == status


def test_a_shortcut_lets_nobody_in_whom_the_framework_would_not(api: Api, project: Project):
    run = project.started()
    for headers in ({"authorization": "Bearer tg_wrong"}, {"authorization": ""}, {"host": 'a"b'}):
        short, long = on_both_ways(
            api, "POST", f"/runs/{run['id']}/metrics", content=b"{}", headers={**JSON_BODY, **headers}
        )
        assert said(short) == said(long)
        assert short.status_code == (400 if "host" in headers else 401)
    for path in (f"/runs/{uuid7()}/metrics", "/runs/x/metrics", "/runs/a%2Fb/metrics"):
        short, long = on_both_ways(api, "POST", path, content=b"{}", headers=JSON_BODY)
        assert said(short) == said(long)
        assert short.status_code == 404
    for method, path in (("PUT", f"/runs/{run['id']}/metrics"), ("POST", "/runs//metrics")):
        short, long = on_both_ways(api, method, path)
        assert said(short) == said(long)
        refused(short, 405)


def counted(api: Api, status: int) -> float:
    """Return how many batches of metrics were answered with a status."""
    figures = httpx.get(f"{api.url}/metrics", headers={"X-API-Key": api.key}).text
    series = rf'tachograph_http_requests_total{{method="POST",route="[^"]*/metrics",status="{status}"}} (\S+)'
    return sum(float(number) for number in re.findall(series, figures))


def test_batches_are_counted_whether_they_are_taken_or_not(api: Api, project: Project):
    run = project.started()
    before = {status: counted(api, status) for status in (202, 409, 422)}
    accepted(project.log(run, 1, POINT), 202)
    refused(project.log(run, 2, POINT, epoch=7), 409)
    refused(project.log(run, 2, {"": POINT["a"]}), 422)
    assert {status: counted(api, status) - many for status, many in before.items()} == {202: 1, 409: 1, 422: 1}
