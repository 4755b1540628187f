"""What in a description no longer holds for who relied on an older one. Pure.

    breaks = list(api_breaks(older_openapi, newer_openapi))

Of what we take, nothing may be refused that was taken; of what we give, nothing may be missing that was there; an
event is both, since it was written and is read for ever. More may always be given (a field, a value of an enumeration),
and may be taken where it can be left out.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

Document = Mapping[str, Any]

METHODS: Final = ("get", "put", "post", "patch", "delete")
TYPES: Final = {"array", "boolean", "integer", "null", "number", "object", "string"}
UPPER: Final = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
LOWER: Final = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")


class Comparison:
    """Two documents, of which parts are compared; what refers to itself is compared once."""

    def __init__(self, older: Document, newer: Document) -> None:
        self._older = older
        self._newer = newer
        self._compared: set[tuple[str, str, bool, bool]] = set()

    def breaks(self, older: Any, newer: Any, where: str, *, taken: bool, given: bool) -> Iterator[str]:
        """Yield what differs to somebody's harm between two schemas that we take, give, or both."""
        names = (older.get("$ref", ""), newer.get("$ref", ""))
        if all(names):
            key = (*names, taken, given)
            if key in self._compared:
                return
            self._compared.add(key)
        older, newer = _resolved(self._older, older), _resolved(self._newer, newer)
        were, are = _alternatives(self._older, older), _alternatives(self._newer, newer)
        if taken:
            yield from (f"{where}: {name} is no longer taken" for name in were if not _takes(are, name))
        if given:
            yield from (
                f"{where}: may be {name} now" for name in are if name in TYPES and not {name, "any"} & were.keys()
            )
        for name in were.keys() & are.keys():
            yield from self._one(were[name], are[name], where, taken=taken, given=given)

    def _one(self, older: Any, newer: Any, where: str, *, taken: bool, given: bool) -> Iterator[str]:
        had, has = older.get("properties", {}), newer.get("properties", {})
        for name in had:
            if name not in has:
                yield f"{where}.{name}: is gone"
            else:
                yield from self.breaks(had[name], has[name], f"{where}.{name}", taken=taken, given=given)
        must, needs = set(older.get("required", ())), set(newer.get("required", ()))
        if taken:
            yield from (f"{where}.{name}: is required now" for name in sorted(needs - must))
            yield from _narrower(older, newer, where)
        for part in ("items", "additionalProperties"):
            if isinstance(older.get(part), dict) and isinstance(newer.get(part), dict):
                yield from self.breaks(older[part], newer[part], f"{where}[]", taken=taken, given=given)


def _narrower(older: Any, newer: Any, where: str) -> Iterator[str]:
    for bound in UPPER:
        if bound in newer and newer[bound] < older.get(bound, float("inf")):
            yield f"{where}: {bound} is {newer[bound]} now"
    for bound in LOWER:
        if bound in newer and newer[bound] > older.get(bound, float("-inf")):
            yield f"{where}: {bound} is {newer[bound]} now"


def _resolved(document: Document, schema: Any) -> Any:
    while "$ref" in schema:
        found: Any = document
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part.replace("~1", "/").replace("~0", "~")]
        schema = found
    return schema


def _alternatives(document: Document, schema: Any) -> dict[str, Any]:
    """Return what a schema may be, by name: each type, each value of an enumeration, each tagged object."""
    found: dict[str, Any] = {}
    for alternative in schema.get("anyOf") or schema.get("oneOf") or [schema]:
        one = _resolved(document, alternative)
        if one.get("anyOf") or one.get("oneOf"):
            found |= _alternatives(document, one)
        elif "enum" in one:
            found |= {repr(value): {} for value in one["enum"]}
        elif "const" in one:
            found[repr(one["const"])] = {}
        elif isinstance(one.get("type"), list):
            found |= dict.fromkeys(one["type"], one)
        else:
            found[_named(one)] = one
    return found


def _takes(alternatives: dict[str, Any], name: str) -> bool:
    """Return whether something is among what is taken; any text takes the values of an enumeration of texts."""
    any_text = set(alternatives.get("string", {"pattern"})) <= {"type", "default", "description"}
    return name in alternatives or "any" in alternatives or (name.startswith("'") and any_text)


def _named(schema: Any) -> str:
    kind = str(schema.get("type", "any"))
    for name in ("type", "when"):
        tag = schema.get("properties", {}).get(name, {})
        values = tag.get("enum", [tag["const"]] if "const" in tag else [])
        if len(values) == 1:
            return f"{kind} {values[0]}"
    return kind


def schema_breaks(older: Document, newer: Document, name: str) -> Iterator[str]:
    """Yield what differs between two JSON Schemas of an event."""
    yield from Comparison(older, newer).breaks(older, newer, name, taken=True, given=True)


def api_breaks(older: Document, newer: Document) -> Iterator[str]:
    """Yield what differs between two OpenAPI documents."""
    comparison = Comparison(older, newer)
    for path, operations in older["paths"].items():
        for method in METHODS:
            if method in operations:
                route = f"{method.upper()} {path}"
                found = newer["paths"].get(path, {}).get(method)
                if found is None:
                    yield f"{route}: is gone"
                else:
                    yield from _route(comparison, operations[method], found, route)


def _route(comparison: Comparison, older: Any, newer: Any, route: str) -> Iterator[str]:
    were, are = ({(one["in"], one["name"]): one for one in found.get("parameters", ())} for found in (older, newer))
    yield from (f"{route} ?{name}: is gone" for where, name in were if (where, name) not in are)
    for key, parameter in are.items():
        required = parameter.get("required", False)
        if required and not were.get(key, {}).get("required", False):
            yield f"{route} ?{key[1]}: is required now"
        if key in were:
            where = f"{route} ?{key[1]}"
            yield from comparison.breaks(were[key]["schema"], parameter["schema"], where, taken=True, given=False)
    took, takes = (found.get("requestBody", {}) for found in (older, newer))
    if takes.get("required") and not took.get("required"):
        yield f"{route}: a body is required now"
    yield from _contents(comparison, took, takes, f"{route} body", taken=True)
    for status, answer in older.get("responses", {}).items():
        if status.startswith("2"):
            if status not in newer.get("responses", {}):
                yield f"{route}: no longer answers {status}"
            else:
                now = newer["responses"][status]
                yield from _contents(comparison, answer, now, f"{route} {status}", taken=False)


def _contents(comparison: Comparison, older: Any, newer: Any, where: str, *, taken: bool) -> Iterator[str]:
    for media, content in older.get("content", {}).items():
        if media not in newer.get("content", {}):
            yield f"{where}: {media} is gone"
        elif "schema" in content:
            now = newer["content"][media].get("schema", {})
            yield from comparison.breaks(content["schema"], now, where, taken=taken, given=not taken)


def subject_breaks(older: Document, newer: Document) -> Iterator[str]:
    """Yield what differs between two AsyncAPI documents: subjects and messages that are gone."""
    for name, channel in older["channels"].items():
        now = newer["channels"].get(name, {})
        if now.get("address") != channel["address"]:
            yield f"{name}: {channel['address']} is gone"
        yield from (f"{name}: {one} is gone" for one in channel.get("messages", ()) if one not in now["messages"])
