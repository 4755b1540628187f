"""Descriptions of all this: OpenAPI of the routes, and the JSON Schemas of events, where their `dataschema` says."""

from typing import Final

import msgspec
from litestar import Response, Router, get

from events.errors import NotFound
from service.access import NOTHING
from service.commands.migrate import ROOT

OPENAPI: Final = msgspec.Raw((ROOT / "schemas" / "openapi.json").read_bytes())
SCHEMAS: Final = {path.name: path.read_bytes() for path in (ROOT / "schemas" / "events").glob("*.json")}


@get("/schema/openapi.json", needs=NOTHING, tags=["system"], media_type="application/vnd.oai.openapi+json")
async def openapi() -> msgspec.Raw:
    """This description."""
    return OPENAPI


@get("/schema/events", needs=NOTHING, tags=["system"])
async def event_schemas() -> dict[str, list[str]]:
    """What can happen: each type of event, with the paths of the schemas of its versions."""
    listed: dict[str, list[str]] = {}
    for name in sorted(SCHEMAS):
        listed.setdefault(name.removesuffix(".json").rpartition(".v")[0], []).append(f"/schema/events/{name}")
    return listed


@get("/schema/events/{name:str}", needs=NOTHING, tags=["system"], media_type="application/schema+json")
async def event_schema(name: str) -> Response[bytes]:
    """The JSON Schema of an event's data, `<type>.v<version>.json`."""
    if name not in SCHEMAS:
        raise NotFound(f"no event has the schema {name!r}")
    return Response(SCHEMAS[name])


ROUTES = Router(path="", route_handlers=[openapi, event_schemas, event_schema])
