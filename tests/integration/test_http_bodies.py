"""Bodies that cannot be right: each is refused by name, and nothing of it is stored."""

from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
import pytest

from tests.api import Api, Project, accepted, refused

JSON = {"content-type": "application/json"}
MSGPACK = {"content-type": "application/msgpack"}
LIFECYCLE_BYTES = 256 << 10


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"{", 400),
        (b'{"name": "a"', 400),
        (b"\xff\xfe\x00", 400),
        (b'{"name": NaN}', 400),
        (b'{"name": "\\ud800"}', 400),
        (b"[]", 422),
        (b"null", 422),
        (b'"name"', 422),
        (b"{}", 422),
        (b"[" * 100_000, 422),
        (b'{"name":' + b"[" * 100_000, 422),
    ],
)
def test_what_is_no_document_of_the_right_shape_is_refused(api: Api, body: bytes, status: int):
    before = accepted(api.client.get("/projects"))
    refused(api.client.post("/projects", content=body, headers=JSON), status)
    assert accepted(api.client.get("/projects")) == before


@pytest.mark.parametrize(
    ("body", "path", "possible"),
    [
        ({"name": "a", "conditions": {}}, "$", ["name", "condition", "workflow", "run"]),
        (
            {"name": "a", "condition": {"when": "never"}},
            "$.condition.when",
            ["event", "status", "nan", "threshold", "no_improvement"],
        ),
        (
            {"name": "a", "condition": {"when": "threshold", "metric": "m", "side": "over", "value": 1}},
            "$.condition.side",
            ["above", "below"],
        ),
        (
            {"name": "a", "condition": {"when": "threshold", "metric": "m", "value": 1}},
            "$.condition",
            ["above", "below"],
        ),
        (
            {"name": "a", "condition": {"metric": "m"}},
            "$.condition",
            ["event", "status", "nan", "threshold", "no_improvement"],
        ),
    ],
)
def test_what_a_field_can_say_is_told_where_it_said_something_else_or_nothing(
    project: Project, body: Any, path: str, possible: list[str]
):
    problem = refused(project.api.post(f"/projects/{project.id}/alerts", json=body), 422)
    (error,) = problem["errors"]
    assert (error["path"], error["expected"]) == (path, possible)
    assert problem["detail"].endswith(f"; possible: {', '.join(possible)}")


@pytest.mark.parametrize(
    ("body", "path", "limit"),
    [
        ({"name": 3}, "$.name", None),
        ({"name": None}, "$.name", None),
        ({"name": ""}, "$.name", 1),
        ({"name": "x" * 251}, "$.name", 250),
        ({"name": "a\0b"}, "$.name", None),
        ({"name": "a\nb"}, "$.name", None),
        ({"name": "a\n"}, "$.name", None),
        ({"name": "a\x7f"}, "$.name", None),
        ({"name": "/a"}, "$.name", None),
        ({"name": "a", "nam": 1}, "$", None),
        ({"name": "a", "description": "x" * 65_537}, "$.description", 65_536),
        ({"name": "a", "description": ["x"]}, "$.description", None),
    ],
)
def test_a_wrong_field_is_named_with_its_limit(api: Api, body: Any, path: str, limit: int | None):
    problem = refused(api.client.post("/projects", json=body), 422)
    assert [error["path"] for error in problem["errors"]] == [path]
    assert problem.get("limit") == limit


@pytest.mark.parametrize("name", ["a/b", "a:b", "a\\b", "..", " a"])
def test_a_name_that_cannot_stand_in_a_path_is_refused_with_the_rule(api: Api, name: str):
    problem = refused(api.client.post("/projects", json={"name": name}), 422)
    assert "a project's name stands in paths: no slash, backslash, colon" in problem["detail"]


def test_names_at_the_limit_and_with_any_other_letters_are_taken(api: Api, project: Project):
    for name in ("é" * 250, "🦊 run № 1", "a/b: c", "Ω"):
        assert project.create(name=name)["name"] == name
        assert accepted(api.client.get(f"/projects/{project.id}/runs"))["items"][0]["name"] == name


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"mode": "remote"}, "$.mode"),
        ({"command": "train"}, "$.command"),
        ({"command": ["a\0b"]}, "$.command[0]"),
        ({"command": ["x"] * 1_001}, "$.command"),
        ({"mode": "managed"}, "$.command"),
        ({"workflow": "nowhere"}, "$.workflow"),
        ({"tags": ["ok", "a\n"]}, "$.tags[1]"),
        ({"tags": ["x"] * 101}, "$.tags"),
        ({"alias": "a\0"}, "$.alias"),
        ({"path": "../up"}, "$.path"),
        ({"path": "a/\0"}, "$.path"),
        ({"path": "~root"}, "$.path"),
        ({"config": []}, "$.config"),
        ({"environment": {"A B": "1"}}, "$.environment"),
        ({"environment": {"A\n": "1"}}, "$.environment"),
        ({"environment": {"API_TOKEN": "hunter2"}}, "$.environment.API_TOKEN"),
        ({"resources": {"count": 0}}, "$.resources.count"),
        ({"resources": {"count": 1.5}}, "$.resources.count"),
        ({"liveness": {"beat_seconds": 20.0}}, "$.liveness"),
        ({"estimate_seconds": -1}, "$.estimate_seconds"),
        ({"external_id": "a\n"}, "$.external_id"),
        ({"external_id": "a/b"}, "$.external_id"),
    ],
)
def test_a_run_is_not_created_from_a_wrong_field(api: Api, project: Project, body: Any, path: str):
    problem = refused(api.client.post(f"/projects/{project.id}/runs", json=body), 422)
    assert problem["errors"][0]["path"].startswith(path)
    assert "hunter2" not in str(problem)
    assert project.head()["position"] == 1


@pytest.mark.parametrize(
    ("field", "written", "path", "said"),
    [
        ("resources", '{"count": 1025}', "$.resources.count", "<= 1024"),
        ("resources", f'{{"count": {10**30}}}', "$.resources.count", ""),
        ("resources", '{"count": -1}', "$.resources.count", ">= 1"),
        ("resources", '{"count": 0}', "$.resources.count", ">= 1"),
        ("resources", '{"count": "NaN"}', "$.resources.count", "Expected `int`"),
        ("resources", '{"count": true}', "$.resources.count", "Expected `int`"),
        ("resources", '{"count": 1e999}', "$.resources.count", ""),
        ("resources", '{"accelerator": ""}', "$.resources.accelerator", ""),
        ("resources", '{"accelerator": "a\\u0000"}', "$.resources.accelerator", ""),
        ("resources", '{"memory": 1}', "$.resources", "memory"),
        ("estimate_seconds", "-0.5", "$.estimate_seconds", "> 0"),
        ("estimate_seconds", '"NaN"', "$.estimate_seconds", "Expected `float"),
        ("estimate_seconds", "1e999", "$", ""),
        ("estimate_seconds", "1e300", "$.estimate_seconds", "<= "),
        ("retries", "-1", "$.retries", ">= 0"),
        ("retries", "1000000", "$.retries", "<= "),
    ],
)
@pytest.mark.parametrize("what", ["runs", "workflows"])
def test_absurd_resources_are_refused_by_field_and_limit(
    api: Api, project: Project, what: str, field: str, written: str, path: str, said: str
):
    content = f'{{"name": "n", "{field}": {written}}}'
    answer = api.client.post(
        f"/projects/{project.id}/{what}", content=content, headers={"Content-Type": "application/json"}
    )
    (error,) = refused(answer, 422)["errors"]
    assert error["path"].startswith(path)
    assert said in error["message"]
    assert project.head()["position"] == 1


def test_a_number_that_json_does_not_know_is_refused(api: Api, project: Project):
    for written in ("NaN", "Infinity", "-Infinity"):
        content = f'{{"resources": {{"count": {written}}}}}'
        refused(api.client.post(f"/projects/{project.id}/runs", content=content), 400)
    assert project.head()["position"] == 1


@pytest.mark.parametrize(
    ("verb", "body"),
    [
        ("start", {"pid": "1"}),
        ("start", {"pid": 10**30}),
        ("heartbeat", {}),
        ("heartbeat", {"epoch": -1}),
        ("heartbeat", {"epoch": "1"}),
        ("finish", {"epoch": 1}),
        ("finish", {"epoch": 1, "status": "crashed"}),
        ("finish", {"epoch": 1, "status": "completed", "cause": "boredom"}),
        ("finish", {"epoch": 1, "status": "completed", "last_seq": {"sdk": 10**30}}),
        ("finish", {"epoch": 1, "status": "completed", "exit_code": 10**30}),
        ("finish", {"epoch": 1, "status": "completed", "last_seq": {"sdk": "1"}}),
        ("progress", {"epoch": 1, "done": -1}),
        ("progress", {"epoch": 1, "done": 1, "total": 0}),
        ("progress", {"epoch": 1, "done": "NaN"}),
        ("primary-metric", {"name": "a", "mode": "best"}),
        ("primary-metric", {"name": "", "mode": "min"}),
        ("kill", {"grace_seconds": -1}),
        ("kill", {"grace_seconds": 3_601}),
        ("kill", []),
        ("archive", {"archived": "yes"}),
        ("claim", {"worker": "w", "command_id": "c", "slots": []}),
        ("report", {"report": "dancing", "epoch": 1}),
        ("report", {"epoch": 1}),
    ],
)
def test_a_command_with_a_wrong_body_does_nothing(api: Api, project: Project, verb: str, body: Any):
    run = project.started()
    before = project.head()
    refused(api.client.post(f"/runs/{run['id']}/{verb}", json=body), 422)
    assert project.head() == before


@pytest.mark.parametrize("verb", ["start", "progress", "close"])
def test_a_command_without_its_body_is_refused_as_every_route_refuses_it(api: Api, project: Project, verb: str):
    run = project.started()
    before = project.head()
    elsewhere = refused(api.client.post("/projects"), 422)
    here = refused(api.client.post(f"/runs/{run['id']}/{verb}"), 422)
    assert elsewhere["detail"] == "$: a JSON body is needed"
    assert (here["type"], here["errors"]) == (elsewhere["type"], elsewhere["errors"])
    assert project.head() == before


@pytest.mark.parametrize(
    ("verb", "body", "possible"),
    [
        ("kill", {"grace": 1}, ["grace_seconds", "reason"]),
        ("archive", {"archive": False}, ["archived"]),
        ("reproduce", {"resources": {"gpu": 1}}, ["accelerator", "count"]),
    ],
)
def test_a_body_that_may_be_left_out_is_held_to_its_fields(project: Project, verb: str, body: Any, possible: list[str]):
    run = project.started()
    (error,) = refused(project.api.post(f"/runs/{run['id']}/{verb}", json=body), 422)["errors"]
    assert error["expected"] == possible


@pytest.mark.parametrize(
    "patch",
    [
        {"config": {"seed": 10**30}},
        {"summary": {"seed": -(10**30)}},
        {"status": "completed"},
        {"tags": "a"},
        {"notes": None},
        {"notes": "x" * 65_537},
    ],
)
def test_an_edit_with_a_wrong_body_does_nothing(api: Api, project: Project, patch: Any):
    run = project.started()
    before = project.head()
    refused(api.client.patch(f"/runs/{run['id']}", json=patch), 422)
    assert project.head() == before


def test_numbers_that_no_float_can_hold_are_refused(api: Api, project: Project):
    run = project.started()
    before = project.head()
    refused(api.client.patch(f"/runs/{run['id']}", content=b'{"config": {"x": 1e999}}', headers=JSON), 422)
    assert project.head() == before


def nested(depth: int) -> bytes:
    return b'{"config":' + b'{"a":' * depth + b"1" + b"}" * depth + b"}"


def test_documents_are_nested_at_most_a_hundred_deep(api: Api, project: Project):
    run = project.started()
    path = f"/runs/{run['id']}"
    before = project.head()
    packed = b"\x81\xa6config" + b"\x81\xa1a" * 20_000 + b"\x01"
    refused(api.client.patch(path, content=packed, headers=MSGPACK), 422)
    for depth in (100, 900, 20_000):
        refused(api.client.patch(path, content=nested(depth), headers=JSON), 422)
    assert project.head() == before
    deep = accepted(api.client.patch(path, content=nested(99), headers=JSON))["config"]
    assert accepted(api.client.get(path))["config"] == deep
    assert project.events(run)[-1]["data"]["patch"] == deep
    wide = {str(index): [{}] for index in range(5_000)}
    assert accepted(api.client.patch(path, json={"summary": wide}))["summary"] == wide


def sized(body: bytes, size: int) -> Iterator[bytes]:
    yield body
    for start in range(len(body), size, 65_536):
        yield b" " * min(65_536, size - start)


@pytest.mark.parametrize("headers", [JSON, MSGPACK])
def test_a_body_over_the_limit_is_refused_with_the_limit(api: Api, project: Project, headers: dict[str, str]):
    run = project.started()
    before = project.head()
    notes = "x" * (LIFECYCLE_BYTES + 1)
    encode = msgspec.json.encode if headers is JSON else msgspec.msgpack.encode
    body = encode({"summary": {"text": notes}})
    chunks = (body[start : start + 65_536] for start in range(0, len(body), 65_536))
    for content in (body, chunks):
        problem = refused(api.client.patch(f"/runs/{run['id']}", content=content, headers=headers), 413)
        assert problem["limit"] == LIFECYCLE_BYTES
    assert project.head() == before


def test_a_body_of_exactly_the_limit_is_taken(api: Api, project: Project):
    run = project.started()
    body = b'{"notes": "at the limit"}'
    path = f"/runs/{run['id']}"
    whole = b"".join(sized(body, LIFECYCLE_BYTES))
    assert accepted(api.client.patch(path, content=whole, headers=JSON))["notes"] == "at the limit"
    accepted(api.client.patch(path, content=sized(body, LIFECYCLE_BYTES), headers=JSON))
    refused(api.client.patch(path, content=whole + b" ", headers=JSON), 413)
    refused(api.client.patch(path, content=sized(body, LIFECYCLE_BYTES + 1), headers=JSON), 413)


@pytest.mark.parametrize("text", ["a\0b", "\x01\x1b[31m", "🦊" * 1_000, "\u202egnp.exe"])
def test_texts_are_kept_as_they_came(api: Api, project: Project, text: str):
    run = project.started(notes=text, config={text: text})
    accepted(project.write(run, 1, text), 202)
    accepted(api.client.patch(f"/runs/{run['id']}", json={"summary": {"text": text}}))
    shown = accepted(api.client.get(f"/runs/{run['id']}"))
    assert (shown["notes"], shown["config"], shown["summary"]) == (text, {text: text}, {"text": text})
    assert [line["text"] for line in accepted(api.client.get(f"/runs/{run['id']}/logs"))["lines"]] == [text]
    created, *_, logged, _ = project.events(run)
    assert created["data"]["notes"] == text
    assert logged["data"]["lines"][0]["text"] == text


def test_text_that_a_column_cannot_hold_is_refused(api: Api):
    refused(api.client.post("/projects", json={"name": "nul", "description": "a\0b"}), 422)
    worker = {"name": "nul", "host": {"a": "\0"}, "slots": [{"id": "cpu:0"}]}
    refused(api.client.post("/workers", json=worker), 422)
    refused(api.client.get("/projects/nul"), 404)
    with httpx.Client(base_url=api.url) as anybody:
        assert accepted(anybody.get("/readyz"))["ready"]
