"""Holds the answers that tests get to the description of the API: formats, statuses and the documents themselves.

    httpx.Client(..., event_hooks={"response": [as_described]})

Of each route and status the first answers are looked at, as far as they are JSON of a moderate size.
"""

import json
import re
from collections import Counter
from functools import cache
from typing import Any, Final

import httpx
from jsonschema import Draft202012Validator

from stack.process import ROOT

DOCUMENT: Final = json.loads((ROOT / "schemas" / "openapi.json").read_text())
LOOKED_AT: Final = 25
MAX_BYTES: Final = 32 << 10
PROBLEM: Final = "application/problem+json"

_seen: Counter[tuple[str, str, str]] = Counter()


def as_described(answer: httpx.Response) -> None:
    """Fail where an answer is not what the description says."""
    method, path = answer.request.method.lower(), answer.request.url.path.rstrip("/")
    template = _template(path)
    if template is None or method not in DOCUMENT["paths"][template]:
        assert answer.status_code in {400, 401, 403, 404, 405} or method == "options", (method, path)
        return
    responses = DOCUMENT["paths"][template][method]["responses"]
    status = str(answer.status_code) if answer.status_code < 400 or str(answer.status_code) in responses else "default"
    assert status in responses, f"{method} {template} is not said to answer {status}"
    described = responses[status] if status != "default" else DOCUMENT["components"]["responses"]["Problem"]
    key = (method, template, status)
    _seen[key] += 1
    media_type = answer.headers.get("content-type", "").partition(";")[0]
    if method == "head" or _seen[key] > LOOKED_AT or answer.status_code in {204, 304}:
        return
    offered = {name.partition(";")[0] for name in described.get("content", {})}
    assert media_type in offered or "application/octet-stream" in offered, f"{key} answers {media_type}"
    documents = offered & {"application/json", PROBLEM}
    if media_type in documents and int(answer.headers.get("content-length", MAX_BYTES)) < MAX_BYTES:
        _check(*key, media_type, json.loads(answer.read()))


def _check(method: str, template: str, status: str, media_type: str, document: Any) -> None:
    wrong = next(_validator(method, template, status, media_type).iter_errors(document), None)
    assert wrong is None, f"{method} {template} {status}: {wrong.json_path}: {wrong.message[:500]}"


@cache
def _validator(method: str, template: str, status: str, media_type: str) -> Draft202012Validator:
    response = DOCUMENT["paths"][template][method]["responses"][status]
    if status == "default":
        response = DOCUMENT["components"]["responses"]["Problem"]
    schema = response["content"][media_type]["schema"]
    return Draft202012Validator({**schema, "components": DOCUMENT["components"]})


@cache
def _templates() -> list[tuple[re.Pattern[str], str]]:
    """Return each path of the description as a pattern, those with fewer variables first."""
    ordered = sorted(DOCUMENT["paths"], key=lambda path: path.count("{"))
    return [(re.compile(re.sub(r"\\{name\\}", ".+", _open(path)), re.DOTALL), path) for path in ordered]


def _open(path: str) -> str:
    return re.sub(r"\\\{(?!name)\w+\\\}", "[^/]+", re.escape(path))


def _template(path: str) -> str | None:
    return next((template for pattern, template in _templates() if pattern.fullmatch(path)), None)
